//! The Lua scripts, and how they are called: by their digest, all of them loaded anew by whoever meets a Redis that has lost one.

use std::sync::LazyLock;

use redis::{Cmd, Script};

use super::link::in_one_slot;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!($file)));)*
        /// Loads every script: a Redis that has lost one has lost all.
        pub(super) fn load_all() -> Vec<Cmd> {
            let load = |code: &str| redis::cmd("SCRIPT").arg("LOAD").arg(code).to_owned();
            vec![$(load(include_str!($file)),)*]
        }
    };
}

scripts! {
    PUBLISH = "publish.lua";
    COMMIT = "commit.lua";
    LAPSE = "lapse.lua";
    PURGE = "purge.lua";
    PUT_KEY = "put_key.lua";
    PUT_DOCUMENT = "put_document.lua";
    TOUCH = "touch.lua";
    RELAY = "relay.lua";
    DRAIN = "drain.lua";
    READ = "read.lua";
}

/// Told apart from them, as it is sent whole: on each new connection, before any digest could be asked for.
pub(super) const HISTORY: &str = include_str!("history.lua");

/// A call of a script; its arguments follow. All its keys are in one slot, or a cluster would refuse it.
pub(super) fn eval<K: AsRef<str>>(script: &Script, keys: &[K]) -> Cmd {
    debug_assert!(in_one_slot(keys), "keys of several slots");
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len());
    for key in keys {
        command.arg(key.as_ref());
    }
    command
}
