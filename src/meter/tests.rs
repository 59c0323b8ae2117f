//! Tests of the meter: requests, responses from fixtures, and both cut anywhere.

mod api;
mod fixtures;
mod requests;
mod responses;
