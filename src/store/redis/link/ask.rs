//! What is asked of Redis, and what it says: commands that are made for the connection they go out on, and their replies.

use redis::{Arg, Cmd, FromRedisValue, Value};

use super::super::super::StoreError;
use super::history::Standing;

/// A command to be, with the key that says which node it is for. It is made when the connection is known, and made again for
/// another one.
pub(in super::super) struct Ask {
    pub(super) key: Option<Vec<u8>>,
    make: Make,
}

enum Make {
    Always(Cmd),
    For(Box<dyn Fn(&Standing) -> Cmd + Send + Sync>),
}

impl From<Cmd> for Ask {
    /// A command that is the same on every history. Its key is its first argument; of a script's call, the script's first key.
    fn from(command: Cmd) -> Self {
        let first = |at| match command.args_iter().nth(at) {
            Some(Arg::Simple(key)) => Some(key.to_vec()),
            _ => None,
        };
        let called = matches!(command.args_iter().next(), Some(Arg::Simple(b"EVALSHA")));
        let key = if called { first(3) } else { first(1) };
        Self {
            key,
            make: Make::Always(command),
        }
    }
}

impl Ask {
    /// A command that depends on the history it is sent on. All its keys are in the slot of `key`.
    pub(in super::super) fn with(
        key: String,
        make: impl Fn(&Standing) -> Cmd + Send + Sync + 'static,
    ) -> Self {
        Self {
            key: Some(key.into_bytes()),
            make: Make::For(Box::new(make)),
        }
    }

    /// A command without keys that any node does as well as another.
    pub(in super::super) fn anywhere(command: Cmd) -> Self {
        Self {
            key: None,
            make: Make::Always(command),
        }
    }

    /// A command without keys, for the node that has this one.
    pub(in super::super) fn beside(key: String, command: Cmd) -> Self {
        Self {
            key: Some(key.into_bytes()),
            make: Make::Always(command),
        }
    }

    pub(super) fn make(&self, standing: &Standing) -> Cmd {
        match &self.make {
            Make::Always(command) => command.clone(),
            Make::For(make) => make(standing),
        }
    }
}

/// A command that only reads, for [`super::Link::at_once`].
pub(in super::super) struct Read {
    pub(super) name: &'static str,
    pub(super) key: String,
    pub(super) arguments: Vec<String>,
}

impl Read {
    /// The command of that name on a key.
    pub(in super::super) fn new<T: AsRef<str>>(
        name: &'static str,
        key: String,
        arguments: &[T],
    ) -> Self {
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
    pub(in super::super) fn all(name: &'static str, key: String) -> Self {
        Self {
            name,
            key,
            arguments: Vec::new(),
        }
    }
}

/// A reply, which may be an error of Redis; and the history that the command was sent on.
#[derive(Clone, Debug)]
pub(in super::super) struct Reply {
    pub(in super::super) value: Value,
    pub(in super::super) standing: Standing,
}

impl From<Reply> for Value {
    fn from(reply: Reply) -> Self {
        reply.value
    }
}

/// The replies to some commands, in the commands' order.
#[derive(Debug)]
pub(in super::super) struct Round {
    /// An error means that this command may or may not have been carried out.
    pub(in super::super) replies: Vec<Result<Reply, StoreError>>,
    /// Some commands may have run later than others that came after them: Redis had lost its scripts, or they went to several
    /// nodes, or to another one than they were sent to.
    pub(in super::super) reordered: bool,
}

/// Reads a reply.
pub(in super::super) fn take<T: FromRedisValue>(reply: impl Into<Value>) -> Result<T, StoreError> {
    let reply = reply.into();
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
