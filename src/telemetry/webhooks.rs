//! What is counted of each webhook endpoint. Endpoints are the operator's own few, named in the configuration.

use std::time::Duration;

use metrics::{Counter, Gauge};

use super::labels::{Delivery, Label as _};
use super::registry::{Named, Registry, count};

/// One endpoint's counters.
#[derive(Debug)]
pub struct WebhookMetrics {
    deliveries: Box<[Counter]>,
    dropped: Counter,
    restarts: Counter,
    sending: Gauge,
    waiting: Gauge,
    disabled: Gauge,
    lag: Gauge,
}

impl WebhookMetrics {
    pub(super) fn new(registry: &Registry, endpoint: &str) -> Self {
        const DELIVERIES: Named = (
            "tollgate_webhook_deliveries_total",
            "Events that were sent to a webhook endpoint: taken, not taken and to be tried again, or given up.",
        );
        const DROPPED: Named = (
            "tollgate_webhook_dead_letters_dropped_total",
            "Dead letters that made room for younger ones.",
        );
        const RESTARTS: Named = (
            "tollgate_webhook_restarts_total",
            "How often the task that sends to an endpoint died and was started again.",
        );
        let labels = [("endpoint", endpoint)];
        let gauge = |name, help| registry.gauge_of((name, help), &labels);
        Self {
            deliveries: registry.counters::<Delivery>(DELIVERIES, &labels, "result"),
            dropped: registry.counter(DROPPED, &labels),
            restarts: registry.counter(RESTARTS, &labels),
            sending: gauge(
                "tollgate_webhook_sending",
                "1 on the replica that sends to an endpoint.",
            ),
            waiting: gauge(
                "tollgate_webhook_waiting",
                "Events that wait in the memory of the replica that sends to an endpoint.",
            ),
            disabled: gauge(
                "tollgate_webhook_disabled",
                "1 while nothing is sent to an endpoint, as it said that it is gone; on the replica that would.",
            ),
            lag: gauge(
                "tollgate_webhook_lag_seconds",
                "How long ago the oldest event happened that an endpoint has not taken; on the replica that sends.",
            ),
        }
    }

    /// A try ended.
    pub fn delivery(&self, result: Delivery) {
        if let Some(counter) = self.deliveries.get(result.index()) {
            counter.increment(1);
        }
    }

    /// Dead letters made room.
    pub fn dropped(&self, letters: u64) {
        self.dropped.increment(letters);
    }

    /// The task died.
    pub fn restarted(&self) {
        self.restarts.increment(1);
    }

    /// How it stands on the replica that sends; all zero on the others.
    pub fn standing(&self, sending: bool, waiting: usize, disabled: bool, lag: Duration) {
        self.sending.set(u8::from(sending));
        self.waiting
            .set(count(u64::try_from(waiting).unwrap_or(u64::MAX)));
        self.disabled.set(u8::from(disabled));
        self.lag.set(lag);
    }
}
