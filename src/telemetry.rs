//! What tollgate says about itself: log lines and metrics. Every metric is named here, nowhere else; what they count is up to
//! their callers.

pub mod labels;
pub mod logging;
mod metrics;
mod render;
mod stripes;

pub use labels::{Drained, LoadEnd, Refill, StatusClass, StoreOp, SyncEnd, UpstreamError, WayOut};
pub use metrics::{Levels, Metrics, MoneyLevels, RouteMetrics, UnitId, UpstreamMetrics};
pub(crate) use render::CONTENT_TYPE;
