//! A real Envoy, by the configurations of `deploy/envoy`, between real clients and the stand-in model, asking tollgate.

mod crowds;
mod ends;
mod faults;
mod files;
mod istio;
mod limits;
mod lines;
mod plans;
mod refusals;
mod repeats;
mod ways;
