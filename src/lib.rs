//! Tollgate.
pub mod books;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod demo;
pub mod id;
pub mod ledger;
pub mod money;
pub mod policy;
pub mod pricing;
pub mod proto;
pub mod refusal;
pub mod route;
pub mod store;
pub mod usage;
