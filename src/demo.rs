//! What `tollgate demo` needs beyond the product itself. Nothing here is used when serving for real.

pub mod standin;
