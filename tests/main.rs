//! The tests that need more than one module: each edge over real sockets, each store, the official clients.

// `cfg(test)` is always true here. It tells clippy that helpers in these modules are tests too, and may unwrap.
#[cfg(test)]
mod cli;
#[cfg(test)]
mod sdk;
