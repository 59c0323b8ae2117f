//! The Prometheus text format. Figures are written as decimals straight from integers, so that money passes no float on its way
//! out; what a reader makes of them is its own affair. Which metrics there are is not known here.

use std::fmt::{Display, Write as _};

use super::labels::Label;
use super::stripes::{BUCKETS, Count};

/// What the page says it is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page being written: families one after the other, each with its samples.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    pub(super) fn counter(&mut self, name: &'static str, help: &str) {
        self.head(name, help, "counter");
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str) {
        self.head(name, help, "gauge");
    }

    /// A counter with one label and all its values.
    pub(super) fn family<L: Label>(
        &mut self,
        name: &'static str,
        help: &str,
        label: &str,
        counts: &[Count],
    ) {
        self.counter(name, help);
        for (value, count) in L::ALL.iter().zip(counts) {
            self.sample(&[(label, value.name())], count.get());
        }
    }

    /// The head of a histogram; [`Page::buckets`] follow it.
    pub(super) fn histogram(&mut self, name: &'static str, help: &str) {
        self.head(name, help, "histogram");
    }

    /// The samples of a histogram, from the count of each bucket and the sum of all, in nanoseconds.
    pub(super) fn buckets(
        &mut self,
        label: Option<(&str, &str)>,
        bucket: impl Fn(usize) -> u64,
        nanos: u64,
    ) {
        let mut total: u64 = 0;
        let up_to = |page: &mut Self, end: &str, total| {
            let labels: Vec<_> = label.into_iter().chain([("le", end)]).collect();
            page.line("_bucket", &labels, total);
        };
        for (place, end) in BUCKETS.into_iter().enumerate() {
            total = total.wrapping_add(bucket(place));
            up_to(self, &Decimal(end.into()).to_string(), total);
        }
        total = total.wrapping_add(bucket(BUCKETS.len()));
        up_to(self, "+Inf", total);
        self.line("_sum", label.as_slice(), Decimal(nanos.into()));
        self.line("_count", label.as_slice(), total);
    }

    /// A sample of the family above.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// A sample in units or seconds, from thousand-millionths.
    pub(super) fn nanos(&mut self, labels: &[(&str, &str)], nanos: i128) {
        self.line("", labels, Decimal(nanos));
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn head(&mut self, name: &'static str, help: &str, kind: &str) {
        self.family = name;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let family = self.family;
        self.put(format_args!("{family}{suffix}"));
        for (place, (name, text)) in labels.iter().enumerate() {
            let mark = if place == 0 { '{' } else { ',' };
            self.put(format_args!("{mark}{name}=\"{}\"", Escaped(text)));
        }
        let mark = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{mark} {value}\n"));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// Thousand-millionths as the shortest exact decimal.
struct Decimal(i128);

impl Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const WHOLE: u128 = 1_000_000_000;
        let size = self.0.unsigned_abs();
        let (whole, rest) = (size.div_euclid(WHOLE), size.rem_euclid(WHOLE));
        let sign = if self.0 < 0 { "-" } else { "" };
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{rest:09}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// A label's value: a route's name may hold anything.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::stripes::Histogram;
    use super::*;

    #[test]
    fn decimals_are_exact_and_short() {
        let check = |nanos: i128, text: &str| assert_eq!(Decimal(nanos).to_string(), text);
        check(0, "0");
        check(250, "0.00000025");
        check(1_000_000_000, "1");
        check(-1_500_000_000, "-1.5");
        check(-1, "-0.000000001");
        check(
            i128::from(i64::MAX) * 1_000,
            "9223372036854.775807".to_owned().as_str(),
        );
    }

    #[test]
    fn a_histogram_adds_its_buckets_up() {
        let histogram = Histogram::default();
        for nanos in [100, 300, 300, 2_000_000_000] {
            histogram.record(Duration::from_nanos(nanos));
        }
        let mut page = Page::default();
        page.histogram("h", "Help.");
        page.buckets(
            Some(("op", "x")),
            |n| histogram.bucket(n),
            histogram.nanos(),
        );
        let text = page.finish();
        for line in [
            "# HELP h Help.",
            "# TYPE h histogram",
            "h_bucket{op=\"x\",le=\"0.00000025\"} 1",
            "h_bucket{op=\"x\",le=\"0.0000005\"} 3",
            "h_bucket{op=\"x\",le=\"1\"} 3",
            "h_bucket{op=\"x\",le=\"+Inf\"} 4",
            "h_sum{op=\"x\"} 2.0000007",
            "h_count{op=\"x\"} 4",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let mut page = Page::default();
        page.gauge("g", "Help.");
        page.sample(&[("a", "x\"y\\z\n"), ("b", "c")], 7);
        let text = page.finish();
        assert!(
            text.ends_with("g{a=\"x\\\"y\\\\z\\n\",b=\"c\"} 7\n"),
            "{text}"
        );
    }
}
