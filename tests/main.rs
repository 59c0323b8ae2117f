//! The one integration-test binary: everything here goes through the crate's public face.

mod gate;
mod proxy;
mod store;
mod support;
