//! Tollgate.
pub mod books;
pub mod catalog;
pub mod clock;
pub mod id;
pub mod ledger;
pub mod meter;
pub mod money;
pub mod policy;
pub mod pricing;
pub mod refusal;
pub mod route;
pub mod store;
pub mod usage;
