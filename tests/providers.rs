//! Conformance with the providers' billing rules (`src/policy/rules.md`): one file a provider, one test a rule, named by its id.
//!
//! Each goes through the edges that everybody uses, the proxy and the control API, on a clock that the test moves. Where the billing
//! backend carries a rule out, its test is about what the sidecar offers it for that.

mod acts;
mod backend;
mod stories;
mod table;
mod world;

mod ai12z;
mod alibaba_visual;
mod common;
mod openai_prepaid;
mod tencent_apigw;
mod xiaomi_mimo;
