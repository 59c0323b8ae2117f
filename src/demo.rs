//! What `tollgate demo` needs beyond the product itself. Nothing here is used when serving for real.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::app::{self, Core, ServeError};
use crate::books::CommandError;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::engine::digest;
use crate::id::{AccountId, KeyId};
use crate::ledger::{Action, Command};
use crate::money::Amount;
use crate::policy::Overrides;
use crate::store::{KeyRecord, StoreError, Stored};

pub mod standin;

/// What the demo account begins with.
const MONEY: Amount = Amount::from_nanos(5_000_000_000);

/// Below this the demo's account sends `balance.low`.
const LOW: Amount = Amount::from_nanos(1_000_000_000);

/// The secret of the demo's key.
const SECRET: &str = "sk-demo";

/// Why the demo does not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The sidecar.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// What the options make of the configuration.
    #[error("{0}")]
    Config(String),
    /// The stand-in endpoint.
    #[error("the stand-in endpoint: {0}")]
    Standin(std::io::Error),
    /// A directory, the terminal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The demo's account.
    #[error("the demo's account: {0}")]
    Account(#[from] CommandError),
    /// The demo's key.
    #[error("the demo's key: {0}")]
    Key(#[from] StoreError),
    /// A name of the demo's.
    #[error(transparent)]
    Name(#[from] crate::id::NameError),
}

/// Serves the demo until SIGTERM or SIGINT. Blocks.
pub fn run(options: Options) -> Result<(), DemoError> {
    app::runtime()?.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), DemoError> {
    let temporary = match options.data_dir {
        Some(_) => None,
        None => Some(TemporaryDir::new()?),
    };
    let data_dir = options
        .data_dir
        .as_deref()
        .or(temporary.as_ref().map(|dir| dir.0.as_path()));
    let data_dir = data_dir.unwrap_or(Path::new("."));
    let (stop, stopped) = watch::channel(false);
    let (upstream, standin) = match &options.upstream {
        Some(url) => (url.clone(), None),
        None => {
            let settings = standin::Settings {
                listen: options.upstream_listen,
                token_delay: Duration::ZERO,
            };
            let running = standin::serve(settings, stopped)
                .await
                .map_err(DemoError::Standin)?;
            (format!("http://{}", running.local_addr), Some(running))
        }
    };
    let config = configuration(&options, data_dir, &upstream)?;
    crate::telemetry::logging::init(&config.log).map_err(ServeError::from)?;
    let told_to_stop = app::stop_signal()?;
    let running = app::start(config, Clock::system()).await?;
    prepare(&running.core).await?;
    announce(&running, &upstream)?;
    told_to_stop.await;
    running.stop().await?;
    // The stand-in may have gone by itself.
    let _ = stop.send(true);
    if let Some(standin) = standin {
        let _ = standin.join.await;
    }
    Ok(())
}

/// The demo is a configuration like any other.
fn configuration(options: &Options, data_dir: &Path, upstream: &str) -> Result<Config, DemoError> {
    let Options {
        proxy_listen,
        control_listen,
        admin_listen,
        ..
    } = options;
    let quoted = |text: &str| toml::Value::String(text.into()).to_string();
    let (data_dir, upstream) = (quoted(&data_dir.display().to_string()), quoted(upstream));
    let written = format!(
        r#"
        [store]
        kind = "embedded"
        data_dir = {data_dir}

        [proxy]
        listen = "{proxy_listen}"

        [control]
        listen = "{control_listen}"

        [admin]
        listen = "{admin_listen}"

        [log]
        filter = "warn"

        [[upstreams]]
        name = "model"
        url = {upstream}

        [[routes]]
        name = "demo"
        path = "/"
        upstream = "model"

        [[prices]]
        pattern = "demo-model"
        unit = "USD"
        max_output = 1000
        [prices.rates]
        input = {{ price = "2.50", per = "million" }}
        cached_input = {{ price = "1.25", per = "million" }}
        output = {{ price = "10.00", per = "million" }}

        [[prices]]
        pattern = "demo-embedding"
        unit = "USD"
        [prices.rates]
        input = {{ price = "0.10", per = "million" }}

        [[prices]]
        pattern = "demo-expensive"
        unit = "USD"
        max_output = 1000
        [prices.rates]
        request = {{ price = "4.00" }}
        output = {{ price = "0.10" }}

        [policies.default]
        low_balance = "{LOW}"
        hold = {{ capped = "4.00" }}
        "#
    );
    config::parse(&written, std::iter::empty()).map_err(|problems| {
        let mut all = String::new();
        for problem in problems {
            // Writing into a string cannot fail.
            let _ = writeln!(all, "{}: {}", problem.key, problem.message);
        }
        DemoError::Config(all)
    })
}

/// The account and its key, unless an earlier demo left them in the data directory.
async fn prepare(core: &Core) -> Result<(), DemoError> {
    let account = AccountId::new("demo")?;
    if core.store.read(&account, &[]).await?.is_some() {
        return Ok(());
    }
    let (name, unit) = (Some("Demo".to_owned()), "USD".to_owned());
    core.books
        .open(
            account.clone(),
            unit,
            name,
            None,
            Overrides::default(),
            Some("demo-account".into()),
        )
        .await?;
    let action = Action::Recharge {
        amount: MONEY,
        order_id: "demo-order-1".into(),
        priority: 0,
        expires: None,
        note: "what the demo begins with".into(),
    };
    let command = Command {
        idempotency_key: Some("demo-recharge-1".into()),
        action,
    };
    let done = core.books.run(&account, command).await?;
    let key = KeyRecord {
        id: KeyId::new("demo-key")?,
        account: account.clone(),
        digest: digest(SECRET.as_bytes()),
        name: "Demo".into(),
        hint: SECRET.into(),
        created: core.clock.now().wall,
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        service: String::new(),
        budgets: Vec::new(),
    };
    match core.store.put_key(done.snapshot.version, key).await? {
        Stored::At(_) => Ok(()),
        Stored::Conflict => {
            Err(StoreError::Unavailable("another process changes the demo's account".into()).into())
        }
    }
}

fn announce(running: &app::Running, upstream: &str) -> Result<(), std::io::Error> {
    let (proxy, control, admin) = (
        running.proxy_addr,
        &running.control_addr,
        running.admin_addr,
    );
    let binary = std::env::current_exe()
        .map_or_else(|_| "tollgate".into(), |path| path.display().to_string());
    let flag = match control {
        config::Listen::Tcp(address) if address.port() == 9002 => String::new(),
        other => format!(" --control http://{other}"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        r#"
  proxy     http://{proxy}      clients call here, with the key {SECRET}
  control   http://{control}      the billing backend and the commands below
  admin     http://{admin}      /healthz /readyz /metrics
  upstream  {upstream}

Try:

  curl http://{proxy}/v1/chat/completions -H 'authorization: Bearer {SECRET}' -H 'content-type: application/json'     -d '{{"model":"demo-model","messages":[{{"role":"user","content":"Hello, who pays for this?"}}]}}'

  {binary} account get demo{flag}

  {binary} usage demo{flag}

ready"#
    )?;
    out.flush()
}

/// A directory that goes with the demo.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn new() -> Result<Self, std::io::Error> {
        let random: [u8; 8] = app::random().map_err(std::io::Error::other)?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let dir = std::env::temp_dir().join(format!("tollgate-demo-{name}"));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the demo is told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keeps the balances for the next time. Without it they are in a temporary directory.
    pub data_dir: Option<PathBuf>,
    /// Where clients call.
    pub proxy_listen: SocketAddr,
    /// The control API.
    pub control_listen: SocketAddr,
    /// Health, readiness and metrics.
    pub admin_listen: SocketAddr,
    /// Where the stand-in answers.
    pub upstream_listen: SocketAddr,
    /// A real endpoint instead of the stand-in.
    pub upstream: Option<String>,
}
