//! The one integration-test binary: everything here goes through the crate's public face.

mod control;
mod gate;
mod store;
mod support;
