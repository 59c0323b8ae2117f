//! Who the master is, by the sentinels' word.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::super::super::StoreError;
use super::ask::take;
use super::dial::{Address, Dialer, lost};

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

impl Sentinels {
    pub(in super::super) fn new(addresses: Vec<Address>, master: String, dialer: Dialer) -> Self {
        Self {
            addresses,
            master,
            dialer,
        }
    }

    /// Where the master is. All sentinels are asked at once, and of those that answer, the one that knows the latest failover is
    /// believed: one that is cut off from the others goes on naming the old master. A majority is enough, as a failover takes one;
    /// fewer will have to do at `patience`, half of the time there is.
    pub(super) async fn find(&self, patience: Instant) -> Result<Address, StoreError> {
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|one| self.ask(one)).collect();
        let majority = self.addresses.len().div_euclid(2).saturating_add(1);
        let (mut words, mut failure): (Vec<Word>, _) = (Vec::new(), None);
        while words.len() < majority {
            match timeout_at(patience, asked.next()).await {
                Ok(Some(Ok(word))) => words.push(word),
                Ok(Some(Err(error))) => failure = Some(error),
                Ok(None) | Err(_) => break,
            }
        }
        let latest = words.into_iter().max_by_key(|word| word.epoch);
        latest.map(|word| word.master).ok_or_else(|| {
            let none = || StoreError::Unavailable("no sentinel answers in time".into());
            failure.unwrap_or_else(none)
        })
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
