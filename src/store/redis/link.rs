//! The way to Redis: commands out, replies in, each with a bound on its time, each on a history that is known. Knows scripts and how
//! to load them again, and nothing of accounts.

mod ask;
mod dial;
mod history;
mod node;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use std::vec;

use redis::aio::PubSub;
use redis::{FromRedisValue, Value};

use super::super::StoreError;
use super::Settings;
use super::names::Names;
use super::scripts::{READ, eval};
use crate::clock::Clock;
pub(super) use ask::{Ask, Read, Reply, Round, take};
use dial::{Address, Dialer};
use history::Histories;
pub(super) use history::Standing;
use node::Node;

/// The way to Redis. See the module.
pub(super) struct Link {
    means: Means,
    address: Address,
    node: Node,
}

/// What it takes to have a connection and to judge it.
struct Means {
    dialer: Dialer,
    histories: Histories,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// There were accounts: a Redis without any has lost them.
    seen_accounts: AtomicBool,
}

impl Link {
    /// Prepares the way; nothing is sent yet. An error says what about the settings cannot work.
    pub(super) fn new(settings: &Settings, names: &Names, clock: Clock) -> Result<Self, String> {
        let (address, login) = dial::read_url(&settings.url)?;
        let means = Means {
            dialer: Dialer::new(login),
            histories: Histories::new(names.histories(), settings.fence, clock),
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            seen_accounts: AtomicBool::new(false),
        };
        Ok(Self {
            means,
            node: Node::new(address.clone()),
            address,
        })
    }

    /// Sends commands in one go.
    pub(super) async fn send(&self, asks: Vec<Ask>) -> Round {
        let all: Vec<&Ask> = asks.iter().collect();
        match self.node.send(&self.means, &all).await {
            Ok((replies, reordered)) => Round {
                replies: replies.into_iter().map(Ok).collect(),
                reordered,
            },
            Err(error) => Round {
                replies: vec![Err(error); asks.len()],
                reordered: false,
            },
        }
    }

    /// Sends one command and reads its reply.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        ask: impl Into<Ask>,
    ) -> Result<T, StoreError> {
        take(self.reply(ask).await?)
    }

    /// Sends one command. The reply may be an error of Redis; it tells the history it came on.
    pub(super) async fn reply(&self, ask: impl Into<Ask>) -> Result<Reply, StoreError> {
        let round = self.send(vec![ask.into()]).await;
        let none = || Err(StoreError::Corrupt("no reply to a command".into()));
        round.replies.into_iter().next().unwrap_or_else(none)
    }

    /// Reads several things as they were at one instant. All their keys carry one hash tag.
    pub(super) async fn at_once(&self, reads: &[Read]) -> Result<vec::IntoIter<Value>, StoreError> {
        if reads.is_empty() {
            return Ok(Vec::new().into_iter());
        }
        let keys: Vec<&str> = reads.iter().map(|read| read.key.as_str()).collect();
        let mut command = eval(&READ, &keys);
        for read in reads {
            command
                .arg(read.name)
                .arg(read.arguments.len())
                .arg(&read.arguments);
        }
        let replies: Vec<Value> = self.ask(command).await?;
        Ok(replies.into_iter())
    }

    /// How it stands with the history that a command on this key would be sent on now. Connects if need be.
    pub(super) async fn standing_of(&self, _key: &str) -> Result<Standing, StoreError> {
        self.node.standing(&self.means).await
    }

    /// There are accounts: should Redis be without any later on, then it has lost them, and is not simply new.
    pub(super) fn saw_accounts(&self) {
        self.means.seen_accounts.store(true, Relaxed);
    }

    /// A connection for subscriptions.
    pub(super) async fn subscription(&self) -> Result<PubSub, StoreError> {
        self.means.dialer.subscription(&self.address).await
    }
}
