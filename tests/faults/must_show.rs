//! What has to be shown of three replicas on one Redis: that they serve exactly what is paid for, lose nothing to `kill -9`, hold
//! one rate, and ask no more of Redis the more they serve.

mod cost;
mod kills;
mod money;
mod rate;
