//! The one integration-test binary: everything here goes through the crate's public face.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test that overflows has failed, which is what it is for"
)]

// `cfg(test)` is always true here. It tells clippy that helpers in these modules are tests too, and may unwrap.
#[cfg(test)]
mod admin;
#[cfg(test)]
mod app;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod control;
#[cfg(test)]
mod envoy;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod forward_auth;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod hot;
#[cfg(test)]
mod licences;
#[cfg(test)]
mod local;
#[cfg(test)]
mod providers;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod sdk;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod store;
#[cfg(test)]
mod support;
#[cfg(test)]
mod system;
#[cfg(test)]
mod webhooks;
