//! What tollgate says about itself: log lines and metrics. Every metric is named here, nowhere else; what they count is up to
//! their callers.

pub mod labels;
pub mod logging;
mod metrics;
mod registry;
mod watched;
mod webhooks;

pub use labels::{Delivery, Drained, LicenceOutcome, Passage, StatusClass, StoreOp, UpstreamError};
pub use metrics::{Levels, Metrics, RouteMetrics, UpstreamMetrics};
pub(crate) use registry::CONTENT_TYPE;
pub use watched::Watched;
pub use webhooks::WebhookMetrics;
