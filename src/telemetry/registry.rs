//! Where metrics are registered: a Prometheus recorder of our own instead of the process's global one, and the one place where
//! figures become the floats that Prometheus reads. Which metrics there are is not known here.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::labels::Label;

/// What the page says it is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The upper ends of the buckets of every histogram, in seconds: 250 ns to 1 s. Decisions lie at their beginning, waits for a
/// first load or a lease at their end.
const BUCKETS: [f64; 21] = [
    0.000_000_25,
    0.000_000_5,
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
];

/// Recorders may filter by these; ours does not.
const METADATA: Metadata<'static> = Metadata::new("tollgate", Level::INFO, None);

/// A name and what it means, as both stand on the page.
pub(super) type Named = (&'static str, &'static str);

/// Metrics by name and labels. Registering looks up and locks, so it happens once; counting goes by the handles.
#[derive(Debug)]
pub(super) struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Registry {
    #[expect(
        clippy::expect_used,
        reason = "the only error is an empty list of buckets"
    )]
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        Self { recorder, handle }
    }

    pub(super) fn counter(&self, (name, help): Named, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder
            .describe_counter(KeyName::from_const_str(name), None, help.into());
        self.recorder
            .register_counter(&key(name, labels), &METADATA)
    }

    pub(super) fn gauge(&self, named: Named) -> Gauge {
        self.gauge_of(named, &[])
    }

    pub(super) fn gauge_of(&self, (name, help): Named, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder
            .describe_gauge(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A histogram of durations; the bounds are [`BUCKETS`].
    pub(super) fn histogram(
        &self,
        (name, help): Named,
        labels: &[(&'static str, &str)],
    ) -> Histogram {
        self.recorder
            .describe_histogram(KeyName::from_const_str(name), None, help.into());
        self.recorder
            .register_histogram(&key(name, labels), &METADATA)
    }

    /// A counter for each value of a label, beside labels that all of them share.
    pub(super) fn counters<L: Label>(
        &self,
        named: Named,
        shared: &[(&'static str, &str)],
        label: &'static str,
    ) -> Box<[Counter]> {
        let counter = |value: &L| {
            let labels = [shared, &[(label, value.name())]].concat();
            self.counter(named, &labels)
        };
        L::ALL.iter().map(counter).collect()
    }

    /// Everything in the Prometheus text format.
    pub(super) fn render(&self) -> String {
        self.handle.render()
    }

    /// Puts the samples of histograms into their buckets; until then each is kept.
    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let label = |(name, value): &(&'static str, &str)| {
        // A route's name may hold anything. The exporter takes a backslash before another, a quote or a line's end for an
        // escape that was made already; given twice, each is told as what it is.
        let value: SharedString = value.replace('\\', "\\\\").into();
        metrics::Label::new(*name, value)
    };
    Key::from_parts(name, labels.iter().map(label).collect::<Vec<_>>())
}

/// A count as Prometheus reads it: exact to 2^53.
#[expect(
    clippy::as_conversions,
    reason = "what is beyond 2^53 is rounded, which a gauge allows"
)]
pub(super) const fn count(count: u64) -> f64 {
    count as f64
}

/// Units of money from nano-units, for a reader: rounded to the nearest float, and never read back by us.
#[expect(
    clippy::as_conversions,
    clippy::float_arithmetic,
    reason = "the text format has floats only; money leaves here and does not come back"
)]
pub(super) const fn units(nanos: i128) -> f64 {
    nanos as f64 / 1_000_000_000.0
}
