//! Placeholder.
use crate::gate::{Charge, End};
use crate::refusal::Reason;
use std::time::Duration;
/// Metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics;
impl Metrics {
    /// A decision.
    pub fn decided(&self, _refused: Option<Reason>) {}
    /// Its time.
    pub fn decision_time(&self, _took: Duration) {}
    /// A charge.
    pub fn charged(&self, _end: End, _charge: &Charge) {}
}
