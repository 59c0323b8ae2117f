//! Tests of the meter: requests, responses from fixtures, and both cut anywhere.

mod api;
mod fixtures;
mod generated;
mod requests;
mod responses;
