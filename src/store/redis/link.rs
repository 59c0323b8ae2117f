//! The way to Redis: commands out, replies in, each with a bound on its time, each on a history that is known. Knows scripts and how
//! to load them again, and nothing of accounts.
//!
//! The `redis` crate speaks the protocol on connections that are made here. Its own reconnecting and routing are not used: a
//! command must know on which history it is sent, and a connection that was made again unseen may be to another one.

mod ask;
mod cluster;
mod dial;
mod history;
mod node;
mod send;
mod sentinel;
mod slots;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use futures_util::FutureExt as _;
use redis::aio::PubSub;
use redis::{FromRedisValue, Value};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::StoreError;
use super::names::Names;
use super::scripts::{READ, eval};
use super::settings::{Directions, Settings, Way};
use crate::clock::Clock;
pub(super) use ask::{Ask, Read, Reply, Round, take};
use cluster::{Cluster, LOOK_INTERVAL};
pub(super) use dial::{Address, Dialer, Tls};
use history::Histories;
pub use history::Standing;
use node::{Node, Target, later};
pub(super) use sentinel::Sentinels;
pub(super) use slots::in_one_slot;

/// The way to Redis. See the module.
pub(super) struct Link {
    means: Arc<Means>,
    place: Place,
    /// Follows what Redis, sentinels or a cluster say of themselves.
    follower: JoinHandle<()>,
}

/// Where commands go.
#[derive(Clone)]
enum Place {
    One(Arc<Node>),
    Many(Arc<Cluster>),
}

/// What it takes to have a connection and to judge it.
struct Means {
    dialer: Dialer,
    histories: Histories,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// Where a subscription was made, and what tells that it is not the right place any more.
pub(super) struct Post {
    address: Address,
    place: PostPlace,
}

enum PostPlace {
    /// Where the connection for commands is.
    One(Arc<Node>),
    Many(Arc<Cluster>),
}

impl Post {
    /// Ends when the master is another one, or the node has left its cluster: it may still be there and say nothing.
    pub(super) async fn lost(&self) {
        let Self { address, place } = self;
        match place {
            PostPlace::One(node) => {
                let mut made = node.made();
                while !node.is_elsewhere(address) {
                    // It cannot fail: the node is here.
                    let _ = made.changed().await;
                }
            }
            PostPlace::Many(cluster) => {
                while cluster.reading() == 0 || cluster.has(address) {
                    sleep(LOOK_INTERVAL).await;
                }
            }
        }
    }
}

impl Link {
    /// Prepares the way; nothing is waited for. An error says what about the settings cannot work. Must be called on a tokio runtime.
    pub(super) fn new(
        settings: &Settings,
        names: &Names,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let Directions { way, dialer } = settings.directions()?;
        let means = Arc::new(Means {
            dialer,
            histories: Histories::new(names.histories(), settings.fence, clock),
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
        });
        let with = Arc::clone(&means);
        let one = |target| Arc::new(Node::new(target, false));
        let place = match way {
            Way::Server(address) => Place::One(one(Target::Server(address))),
            Way::Master(sentinels) => Place::One(one(Target::Master(sentinels))),
            Way::Cluster(seeds) => Place::Many(Arc::new(Cluster::new(seeds))),
        };
        let followed = place.clone();
        let follow = move || {
            let (place, means) = (followed.clone(), Arc::clone(&with));
            async move {
                match place {
                    Place::One(node) => node.watch(&means).await,
                    Place::Many(cluster) => cluster.look_after(&means).await,
                }
            }
        };
        Ok(Self {
            means,
            place,
            follower: tokio::spawn(forever(follow)),
        })
    }

    /// Sends commands in one go. The whole takes no longer than a connection and a reply may.
    pub(super) async fn send(&self, asks: Vec<Ask>) -> Round {
        let node = match &self.place {
            Place::One(node) => node,
            Place::Many(cluster) => {
                return send::send(&self.means, cluster, &asks, self.until()).await;
            }
        };
        let all: Vec<&Ask> = asks.iter().collect();
        match node.send(&self.means, &all, false, self.until()).await {
            Ok((replies, reordered)) => Round {
                replies: replies.into_iter().map(Ok).collect(),
                reordered,
            },
            Err(failure) => Round {
                replies: vec![Err(failure.error); asks.len()],
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
    pub(super) async fn standing_of(&self, key: &str) -> Result<Standing, StoreError> {
        let until = self.until();
        let node = match &self.place {
            Place::One(node) => Arc::clone(node),
            Place::Many(cluster) => {
                if cluster.reading() == 0 {
                    cluster.read(&self.means, 0, until).await?;
                }
                let node = cluster.node_for(Some(key.as_bytes()), None);
                let none = || StoreError::Unavailable("no node of the cluster has its slot".into());
                node.ok_or_else(none)?
            }
        };
        node.standing(&self.means, until).await
    }

    /// There are accounts: should Redis be without any later on, then it has lost them, and is not simply new.
    pub(super) fn saw_accounts(&self) {
        self.means.histories.saw_accounts();
    }

    /// A connection for subscriptions. What is published to any node of a cluster is heard at each, so each time another one is
    /// taken.
    pub(super) async fn subscription(&self) -> Result<(PubSub, Post), StoreError> {
        let (address, place) = match &self.place {
            Place::One(node) => {
                let place = PostPlace::One(Arc::clone(node));
                (node.locate(self.until()).await?, place)
            }
            Place::Many(cluster) => {
                let none = || StoreError::Unavailable("the cluster has no seeds".into());
                let address = cluster.next_address().ok_or_else(none)?;
                (address, PostPlace::Many(Arc::clone(cluster)))
            }
        };
        let connection = self.means.dialer.subscription(&address).await?;
        Ok((connection, Post { address, place }))
    }

    fn until(&self) -> Instant {
        let Means {
            connect_timeout,
            response_timeout,
            ..
        } = *self.means;
        later(connect_timeout.saturating_add(response_timeout))
    }
}

/// What follows has no end of its own, and a panic is none either.
async fn forever<F: Future<Output = ()>>(follow: impl Fn() -> F) {
    while AssertUnwindSafe(follow()).catch_unwind().await.is_err() {
        tracing::error!("following what Redis says of itself panicked; starting over");
        sleep(LOOK_INTERVAL).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
