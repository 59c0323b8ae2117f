//! The one multiplexed connection: commands out, replies in, each with a bound on its time. Connects when first needed and again
//! after any failure; knows scripts and how to load them again, and nothing of accounts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, PoisonError};
use std::time::Duration;
use std::vec;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, Script, ServerErrorKind, Value,
};
use tokio::time::timeout;

use super::super::StoreError;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!($file)));)*
        /// Loads every script: a Redis that has lost one has lost all.
        fn load_all() -> Vec<Cmd> {
            let load = |code: &str| redis::cmd("SCRIPT").arg("LOAD").arg(code).to_owned();
            vec![$(load(include_str!($file)),)*]
        }
    };
}

scripts! {
    PUBLISH = "publish.lua";
    COMMIT = "commit.lua";
    LAPSE = "lapse.lua";
    PUT_KEY = "put_key.lua";
    PUT_DOCUMENT = "put_document.lua";
    TOUCH = "touch.lua";
    RELAY = "relay.lua";
    DRAIN = "drain.lua";
    READ = "read.lua";
}

/// A call of a script; its arguments follow.
pub(super) fn eval<K: AsRef<str>>(script: &Script, keys: &[K]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len());
    for key in keys {
        command.arg(key.as_ref());
    }
    command
}

/// A command that only reads, for [`Link::at_once`].
pub(super) struct Read {
    name: &'static str,
    key: String,
    arguments: Vec<String>,
}

impl Read {
    /// The command of that name on a key.
    pub(super) fn new<T: AsRef<str>>(name: &'static str, key: String, arguments: &[T]) -> Self {
        let arguments = arguments
            .iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        Self {
            name,
            key,
            arguments,
        }
    }

    /// The command of that name on a key, which says it all.
    pub(super) fn all(name: &'static str, key: String) -> Self {
        Self {
            name,
            key,
            arguments: Vec::new(),
        }
    }
}

/// The replies to some commands, errors among them, in the commands' order.
pub(super) struct Round {
    pub(super) replies: Vec<Value>,
    /// Redis had lost its scripts: some commands ran later than others that came after them.
    pub(super) reordered: bool,
}

fn pipeline(commands: Vec<Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline
}

/// Reads a reply.
pub(super) fn take<T: FromRedisValue>(reply: Value) -> Result<T, StoreError> {
    if let Value::ServerError(error) = &reply {
        let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
        // A key of another kind is a foreign one; anything else (no memory, read-only, loading) passes.
        return Err(match error.code() {
            "WRONGTYPE" => StoreError::Corrupt(text),
            _ => StoreError::Unavailable(text),
        });
    }
    redis::from_redis_value(reply).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// The connection, and what it takes to have another.
pub(super) struct Link {
    client: Client,
    connect_timeout: Duration,
    response_timeout: Duration,
    slot: std::sync::Mutex<Slot>,
    /// One connects, the others wait for what comes of it: the last failure.
    connecting: tokio::sync::Mutex<StoreError>,
    failures: AtomicU64,
}

#[derive(Default)]
struct Slot {
    connection: Option<MultiplexedConnection>,
    /// Which connection it is, so that a late failure of an old one does not drop its successor.
    number: u64,
}

impl Link {
    pub(super) fn new(
        client: Client,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Self {
        let never = StoreError::Unavailable("not connected yet".into());
        Self {
            client,
            connect_timeout,
            response_timeout,
            slot: std::sync::Mutex::default(),
            connecting: tokio::sync::Mutex::new(never),
            failures: AtomicU64::new(0),
        }
    }

    /// Sends commands in one go. An error means that all of them may or may not have been carried out.
    pub(super) async fn send(&self, commands: Vec<Cmd>) -> Result<Round, StoreError> {
        let commands = pipeline(commands);
        let mut replies = self.round_trip(&commands).await?;
        let lost = |reply: &Value| match reply {
            Value::ServerError(error) => error.kind() == Some(ServerErrorKind::NoScript),
            _ => false,
        };
        let reordered = replies.iter().any(lost);
        if reordered {
            for loaded in self.round_trip(&pipeline(load_all())).await? {
                take::<String>(loaded)?;
            }
            let both = commands.cmd_iter().zip(&replies);
            let again = both
                .filter(|(_, reply)| lost(reply))
                .map(|(command, _)| command.clone());
            let late = self.round_trip(&pipeline(again.collect())).await?;
            let slots = replies.iter_mut().filter(|reply| lost(reply));
            for (slot, reply) in slots.zip(late) {
                *slot = reply;
            }
        }
        Ok(Round { replies, reordered })
    }

    /// Sends one command and reads its reply.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        let replies = self.send(vec![command]).await?.replies;
        take(replies.into_iter().next().unwrap_or_default())
    }

    /// Reads several things as they were at one instant. All their keys carry one hash tag.
    pub(super) async fn at_once(&self, reads: &[Read]) -> Result<vec::IntoIter<Value>, StoreError> {
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

    async fn round_trip(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let replies = self.exchange(commands).await?;
        if replies.len() == commands.len() {
            return Ok(replies);
        }
        Err(StoreError::Corrupt(format!(
            "{} replies to {} commands",
            replies.len(),
            commands.len()
        )))
    }

    async fn exchange(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let (mut connection, number) = match timeout(self.connect_timeout, self.connection()).await
        {
            Ok(connected) => connected?,
            Err(_) => return Err(self.too_slow("connecting", self.connect_timeout)),
        };
        let sent = connection.send_packed_commands(commands, 0, commands.len());
        match timeout(self.response_timeout, sent).await {
            Ok(Ok(replies)) => {
                if replies.iter().any(is_demoted) {
                    self.give_up(number);
                }
                Ok(replies)
            }
            Ok(Err(error)) => {
                self.give_up(number);
                Err(StoreError::Unavailable(error.to_string()))
            }
            Err(_) => {
                // It may be cut off without a word: the next call tries another.
                self.give_up(number);
                Err(self.too_slow("answering", self.response_timeout))
            }
        }
    }

    fn too_slow(&self, doing: &str, limit: Duration) -> StoreError {
        let address = self.client.get_connection_info().addr();
        let limit = limit.as_millis();
        StoreError::Unavailable(format!(
            "Redis at {address} took longer than {limit} ms {doing}"
        ))
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), StoreError> {
        if let Some(connected) = self.current() {
            return Ok(connected);
        }
        let before = self.failures.load(Relaxed);
        let mut failure = self.connecting.lock().await;
        if let Some(connected) = self.current() {
            return Ok(connected);
        }
        if self.failures.load(Relaxed) != before {
            // Whoever waited here fails with the one it waited for, instead of trying in its turn.
            return Err(failure.clone());
        }
        // Our own timeouts are around every wait.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        match connecting.await {
            Ok(connection) => {
                let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
                slot.number = slot.number.saturating_add(1);
                slot.connection = Some(connection.clone());
                Ok((connection, slot.number))
            }
            Err(error) => {
                *failure = StoreError::Unavailable(error.to_string());
                self.failures.fetch_add(1, Relaxed);
                Err(failure.clone())
            }
        }
    }

    fn current(&self) -> Option<(MultiplexedConnection, u64)> {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.connection
            .clone()
            .map(|connection| (connection, slot.number))
    }

    fn give_up(&self, number: u64) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.number == number {
            slot.connection = None;
        }
    }
}

/// After a failover the old master refuses to be written to: a new connection may find the new one behind the same name.
fn is_demoted(reply: &Value) -> bool {
    match reply {
        Value::ServerError(error) => error.kind() == Some(ServerErrorKind::ReadOnly),
        _ => false,
    }
}
