//! The whole process over loopback: the real binary before a stand-in model, over a real store, with the real command line beside
//! it. One call on its own is tested with the proxy; here is what only a process shows: many at once, its end, its return.

mod demo;
mod end;
mod input;
mod money;
mod outage;
pub(crate) mod process;
mod rate;
mod sdk;
pub(crate) mod wire;

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::sync::watch;
use tollgate::demo::standin;

use self::process::Process;
use crate::support::redis::Server;

/// Which store a case runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Embedded,
    Redis,
}

/// Makes two tests of each case: one for each store.
macro_rules! on_both_stores {
    ($($case:ident)*) => {$(
        mod $case {
            #[tokio::test]
            async fn on_embedded() {
                super::$case(crate::system::Kind::Embedded).await;
            }

            #[tokio::test]
            async fn on_redis() {
                super::$case(crate::system::Kind::Redis).await;
            }
        }
    )*};
}
use on_both_stores;

/// A stand-in model, a store, and the configuration of the processes that stand between them.
struct System {
    redis: Option<Server>,
    _dir: TempDir,
    config: PathBuf,
    env: Vec<(String, String)>,
    // The stand-in ends with it.
    _standin: watch::Sender<bool>,
}

impl System {
    /// `env` is put over the configuration.
    async fn new(kind: Kind, env: &[(&str, &str)]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let settings = standin::Settings::new(([127, 0, 0, 1], 0).into());
        let upstream = standin::serve(settings, stopped).await.unwrap().local_addr;
        let redis = match kind {
            Kind::Embedded => None,
            Kind::Redis => Some(Server::start().await),
        };
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("tollgate.toml");
        let store = match &redis {
            None => "kind = \"embedded\"".to_owned(),
            Some(redis) => format!("kind = \"redis\"\nurl = \"{}\"", redis.url()),
        };
        let data_dir = dir.path().join("data");
        let written = CONFIG
            .replace("STORE", &store)
            .replace("DATA_DIR", data_dir.to_str().unwrap())
            .replace("UPSTREAM", &upstream.to_string());
        std::fs::write(&config, written).unwrap();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            redis,
            _dir: dir,
            config,
            env: env.iter().map(owned).collect(),
            _standin: stop,
        }
    }

    /// Starts a process, and waits until it serves.
    async fn serve(&self) -> Process {
        Process::serve(&self.config, &self.env).await
    }

    /// Another process over the same store, with a data directory of its own.
    async fn serve_beside(&self, name: &str) -> Process {
        let dir = self.config.with_file_name(name);
        let mut env = self.env.clone();
        let data_dir = "TOLLGATE_STORE__DATA_DIR".to_owned();
        env.push((data_dir, dir.to_str().unwrap().to_owned()));
        Process::serve(&self.config, &env).await
    }

    fn redis(&mut self) -> &mut Server {
        self.redis.as_mut().expect("this case runs over Redis")
    }
}

/// `flat` costs 1 a call and holds 1; `demo-model` costs by its tokens and holds more than it costs; `long` costs 0.10 for each
/// token out, of which the policy `small` holds too little. The waits are longer than a busy machine takes: no case is about them
/// unless it sets them.
const CONFIG: &str = r#"
[store]
STORE
data_dir = "DATA_DIR"

[sync]
refill_wait = "5s"

[engine]
load_wait = "5s"

[proxy]
listen = "127.0.0.1:0"
workers = 2

[control]
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"

[log]
format = "json"

[[upstreams]]
name = "standin"
url = "http://UPSTREAM"

[[routes]]
path = "/"
upstream = "standin"

[[routes]]
host = "small.test"
path = "/"
upstream = "standin"
inspect_bytes_max = "64KiB"
body_bytes_max = "1MiB"

[[prices]]
pattern = "flat"
unit = "USD"
rates.request = "1"

[[prices]]
pattern = "demo-model"
unit = "USD"
max_output = 1000
rates.input = { price = "2.50", per = "million" }
rates.output = { price = "10.00", per = "million" }

[[prices]]
pattern = "long"
unit = "USD"
rates.output = "0.10"

[policies.default]

[policies.small]
hold = { fixed = "0.50" }

[policies.paced]
qps = 10
burst = 5
"#;
