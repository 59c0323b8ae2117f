//! How Redis is reached: what an operator writes, read into addresses and a login. Nothing is connected here.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ::redis::{ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo};
use rustls::pki_types::ServerName;

use super::super::StoreError;
use super::link::{Address, Dialer, Sentinels, Tls};

/// Which Redis, and how long to wait for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub reach: Reach,
    /// Who we are there, if the URL does not say.
    pub login: Login,
    /// TLS, if it is spoken with files of our own. A `rediss://` URL without it trusts the public authorities.
    pub tls: Option<TlsFiles>,
    /// In front of every key: two tollgates with different prefixes share a Redis and nothing else. No braces.
    pub prefix: String,
    /// How long a connection may take to be made. Default 500 ms.
    pub connect_timeout: Duration,
    /// How long a reply may take. Default 500 ms: a hundred times what a healthy Redis needs.
    pub response_timeout: Duration,
    /// How long a Redis that was restarted or failed over is given no new work, while replicas tell it what they know: the time
    /// of a lease. Default 30 s.
    pub fence: Duration,
}

/// The one way to Redis.
#[derive(Clone, PartialEq, Eq)]
pub enum Reach {
    /// One server: `redis://[user:password@]host:port/db`, `rediss://…` with TLS, or `unix:///path`.
    Server(String),
    /// The master that sentinels name.
    Sentinels {
        /// Each `host:port`. With TLS if there are TLS files.
        sentinels: Vec<String>,
        /// What they call it.
        master: String,
        /// Who we are to the sentinels themselves.
        login: Login,
    },
    /// A cluster: some of its nodes, each `redis://host:port` or `rediss://host:port`.
    Cluster(Vec<String>),
}

/// A user of Redis' ACL. Without a user's name the password is the default user's.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
}

/// PEM files. They are read again for each connection, so that a renewed certificate is taken up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Trust these authorities and no others.
    pub ca: Option<PathBuf>,
    /// Show this certificate, with its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What the servers' certificates must name, if not the host they are reached by.
    pub server_name: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reach: Reach::Server("redis://127.0.0.1:6379".into()),
            login: Login::default(),
            tls: None,
            prefix: "tg:".into(),
            connect_timeout: Duration::from_millis(500),
            response_timeout: Duration::from_millis(500),
            fence: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for Settings {
    /// Without where Redis is, which may have a password in it, and without the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

/// Where to go, and with what.
pub(super) struct Directions {
    pub(super) way: Way,
    pub(super) dialer: Dialer,
}

/// The way, as addresses.
pub(super) enum Way {
    Server(Address),
    Master(Sentinels),
    Cluster(Vec<Address>),
}

impl Settings {
    /// Whether they can work, as far as can be known without asking anybody. Reads the files.
    pub fn check(&self) -> Result<(), StoreError> {
        self.directions().map(drop)
    }

    /// Reads what can be known without asking anybody. An error says what cannot work, and shows no password.
    pub(super) fn directions(&self) -> Result<Directions, StoreError> {
        let wrong = |what| StoreError::Unavailable(format!("the settings of Redis: {what}"));
        self.read().map_err(wrong)
    }

    fn read(&self) -> Result<Directions, String> {
        if self.prefix.contains(['{', '}']) {
            return Err(format!("prefix `{}` has braces in it", self.prefix));
        }
        let files = self.tls.as_ref();
        let tls = |spoken: bool| match (spoken, files) {
            (false, Some(_)) => Err("TLS files are for a URL that begins with rediss://".into()),
            (false, None) => Ok(None),
            (true, files) => Tls::new(&files.cloned().unwrap_or_default())
                .map(Some)
                .map_err(|error| error.to_string()),
        };
        let dialer =
            |found, spoken| Ok::<_, String>(Dialer::new(self.log_in(found)?, tls(spoken)?));
        Ok(match &self.reach {
            Reach::Server(url) => {
                let url = Url::read(url)?;
                Directions {
                    way: Way::Server(url.address),
                    dialer: dialer(url.login, url.tls)?,
                }
            }
            Reach::Sentinels {
                sentinels,
                master,
                login,
            } => {
                let spoken = files.is_some();
                let addresses: Vec<Address> = sentinels
                    .iter()
                    .map(|sentinel| Address::read(sentinel, SENTINEL_PORT))
                    .collect::<Result<_, _>>()?;
                if addresses.is_empty() || master.is_empty() {
                    return Err("a master's name and one sentinel or more are needed".into());
                }
                let to_sentinels =
                    Dialer::new(login.over(RedisConnectionInfo::default()), tls(spoken)?);
                Directions {
                    way: Way::Master(Sentinels::new(addresses, master.clone(), to_sentinels)),
                    dialer: dialer(RedisConnectionInfo::default(), spoken)?,
                }
            }
            Reach::Cluster(seeds) => {
                let seeds: Vec<Url> = seeds
                    .iter()
                    .map(|url| Url::read(url))
                    .collect::<Result<_, _>>()?;
                let first = seeds.first().ok_or("a cluster needs one seed or more")?;
                let spoken = first.tls;
                for seed in &seeds {
                    seed.is_seed(spoken)?;
                }
                Directions {
                    way: Way::Cluster(seeds.into_iter().map(|seed| seed.address).collect()),
                    dialer: dialer(RedisConnectionInfo::default(), spoken)?,
                }
            }
        })
    }

    fn log_in(&self, found: RedisConnectionInfo) -> Result<RedisConnectionInfo, String> {
        let told = found.username().is_some() || found.password().is_some();
        if told && self.login != Login::default() {
            return Err("the URL has a user or password in it, and there is another".into());
        }
        Ok(self.login.over(found))
    }
}

/// The port of a sentinel that names none.
const SENTINEL_PORT: u16 = 26_379;

impl Login {
    fn over(&self, mut info: RedisConnectionInfo) -> RedisConnectionInfo {
        if let Some(user) = &self.user {
            info = info.set_username(user);
        }
        if let Some(password) = &self.password {
            info = info.set_password(password);
        }
        info
    }
}

/// A URL, read.
struct Url {
    address: Address,
    login: RedisConnectionInfo,
    tls: bool,
}

impl Url {
    fn read(url: &str) -> Result<Self, String> {
        // TLS is ours, so the crate that reads the rest is not told of it.
        let (tls, plain) = match url.strip_prefix("rediss://") {
            Some(rest) => (true, format!("redis://{rest}")),
            None => (false, url.to_owned()),
        };
        if plain.contains('#') {
            // `#insecure` would trust anybody.
            return Err("a URL of Redis has no fragment; leave out what follows the #".into());
        }
        let info = plain
            .into_connection_info()
            .map_err(|error| error.to_string())?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp(host.clone(), *port),
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            _ => return Err("this kind of address is not known".into()),
        };
        let login = info.redis_settings().clone();
        Ok(Self {
            address,
            login,
            tls,
        })
    }

    /// Whether it does for a node of a cluster; the nodes found through it are reached alike.
    fn is_seed(&self, tls: bool) -> Result<(), String> {
        let address = &self.address;
        if matches!(address, Address::Unix(_)) {
            return Err(format!(
                "{address}: nodes of a cluster are reached over TCP"
            ));
        }
        if self.tls != tls {
            return Err(format!("{address}: all nodes speak TLS, or none does"));
        }
        if self.login.db() != 0 {
            return Err(format!("{address}: a cluster has no database but 0"));
        }
        if self.login.username().is_some() || self.login.password().is_some() {
            return Err(format!(
                "{address}: user and password are the same for all nodes; leave them out of the URL"
            ));
        }
        Ok(())
    }
}

impl Address {
    /// Reads `host:port`, `host` or `[::1]:port`.
    pub(super) fn read(text: &str, port: u16) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not host:port");
        let (host, port) = match text.rsplit_once(':') {
            // An IPv6 address has no port without brackets around it.
            Some((host, last)) if !last.ends_with(']') => {
                let port = last.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(wrong)?)
            }
            _ => (text, port),
        };
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:%".contains(&b);
        let fits = bracketed.is_some() || !host.contains(':');
        if host.is_empty() || !fits || !host.bytes().all(plain) {
            return Err(wrong());
        }
        Ok(Self::Tcp(host.into(), port))
    }
}

impl Tls {
    /// Reads the files, to see that they will do.
    pub(super) fn new(files: &TlsFiles) -> Result<Self, String> {
        let name = files.server_name.as_deref().map(|name| {
            let read = ServerName::try_from(name.to_owned());
            read.map_err(|_| format!("`{name}` is no name that a certificate could have"))
        });
        let tls = Self {
            ca: files.ca.clone(),
            identity: files.identity.clone(),
            name: name.transpose()?,
        };
        tls.connector().map_err(|error| error.to_string())?;
        Ok(tls)
    }
}
