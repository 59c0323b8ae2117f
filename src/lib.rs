//! Tollgate.
pub mod admin;
pub mod books;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod id;
pub mod ledger;
pub mod money;
pub mod policy;
pub mod pricing;
pub mod refusal;
pub mod route;
pub mod store;
pub mod telemetry;
pub mod usage;
