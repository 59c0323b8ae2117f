//! Which rule of which provider is decided by what, and where its test is. No code.
#![doc = ""]
#![doc = include_str!("rules.md")]
