//! Who the master is, by the sentinels' word.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::RedisError;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::super::StoreError;
use super::ask::take;
use super::dial::{Address, Dialer, lost};
use super::node::later;

/// Between two attempts to listen to a sentinel: one in good health is found at the second or third.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// How often the sentinels are asked though none has said anything, for a word that was lost.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// The sentinels of a master.
pub(in super::super) struct Sentinels {
    addresses: Vec<Address>,
    pub(super) master: String,
    dialer: Dialer,
}

/// What a sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    /// The failover it knows of; a higher one is later.
    epoch: u64,
    master: Address,
}

impl Word {
    /// Of two sentinels' words, the one to believe.
    fn or(self, other: Self) -> Self {
        if other.epoch > self.epoch {
            other
        } else {
            self
        }
    }
}

impl Sentinels {
    pub(in super::super) fn new(addresses: Vec<Address>, master: String, dialer: Dialer) -> Self {
        Self {
            addresses,
            master,
            dialer,
        }
    }

    /// Where the master is. All sentinels are asked at once, and of those that answer until `patience`, the one that knows the
    /// latest failover is believed: one that is cut off from the others goes on naming the old master, and so do all but the one
    /// that led a failover, for a second or two.
    pub(super) async fn find(&self, patience: Instant) -> Result<Address, StoreError> {
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|one| self.ask(one)).collect();
        let (mut latest, mut failure): (Option<Word>, _) = (None, None);
        while let Ok(Some(said)) = timeout_at(patience, asked.next()).await {
            match said {
                Ok(word) => {
                    latest = Some(match latest {
                        Some(known) => known.or(word),
                        None => word,
                    })
                }
                Err(error) => failure = Some(error),
            }
        }
        latest.map(|word| word.master).ok_or_else(|| {
            let none = || StoreError::Unavailable("no sentinel answers in time".into());
            failure.unwrap_or_else(none)
        })
    }

    /// Tells of the master whenever a sentinel says that it is another one, and now and then, for as long as it is polled. An old
    /// master that lives goes on taking writes for some ten seconds, which are lost: so nobody waits until it refuses them.
    pub(super) async fn watch(&self, patience: Duration, master: impl Fn(&Address)) {
        loop {
            for sentinel in &self.addresses {
                if let Err(error) = self.watch_at(sentinel, patience, &master).await {
                    tracing::debug!(%error, "no word from a sentinel");
                }
                sleep(WATCH_PAUSE).await;
            }
        }
    }

    async fn watch_at(
        &self,
        sentinel: &Address,
        patience: Duration,
        master: &impl Fn(&Address),
    ) -> Result<(), StoreError> {
        let failed = |error: RedisError| lost(sentinel, &error);
        let late = |_| lost(sentinel, &"it does not answer in time");
        let connecting = async {
            let (mut sink, stream) = self.dialer.subscription(sentinel).await?.split();
            sink.subscribe("+switch-master").await.map_err(failed)?;
            Ok::<_, StoreError>((sink, stream))
        };
        let (mut sink, mut stream) = timeout(patience, connecting).await.map_err(late)??;
        loop {
            // Also what was said before anybody listened.
            if let Ok(found) = self.find(later(patience)).await {
                master(&found);
            }
            match timeout(WATCH_INTERVAL, stream.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(lost(sentinel, &"it closed the connection")),
                Err(_) => timeout(patience, sink.ping::<redis::Value>())
                    .await
                    .map_err(late)?
                    .map(drop)
                    .map_err(failed)?,
            }
        }
    }

    async fn ask(&self, sentinel: &Address) -> Result<Word, StoreError> {
        let mut wire = self.dialer.wire(sentinel).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("MASTER").arg(&self.master);
        let said = wire.exchange(vec![command]).await;
        let said = said.map_err(|error| lost(sentinel, &error))?;
        let fields = take::<HashMap<String, String>>(said.into_iter().next().unwrap_or_default());
        let fields = fields.map_err(|error| {
            lost(
                sentinel,
                &format!("asked for the master `{}`: {error}", self.master),
            )
        })?;
        let number = |name: &str| fields.get(name).and_then(|text| text.parse::<u64>().ok());
        let port = number("port").and_then(|port| u16::try_from(port).ok());
        let word = fields.get("ip").zip(port).map(|(host, port)| Word {
            epoch: number("config-epoch").unwrap_or_default(),
            master: Address::Tcp(host.clone(), port),
        });
        word.ok_or_else(|| lost(sentinel, &"it names no address of the master"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_the_latest_failover_is_believed() {
        let word = |epoch, port| Word {
            epoch,
            master: Address::Tcp("10.0.0.1".into(), port),
        };
        let (old, new) = (word(3, 1), word(4, 2));
        assert_eq!(old.clone().or(new.clone()), new);
        assert_eq!(new.clone().or(old), new);
    }
}
