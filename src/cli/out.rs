//! Answers on the terminal: records as aligned tables for people, as JSON for programs. Amounts are decimal strings in both.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Map, Value};

use super::failure::Failure;
use crate::money::Amount;
use crate::usage::{Counts, Meter};

/// One value of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    None,
    Text(String),
    Number(u64),
    /// A figure that was worked out, never an amount.
    Real(f64),
    Flag(bool),
    Amount(Amount),
    List(Vec<String>),
    /// In a table, a column for each meter that any record has.
    Counts(Counts),
    /// For programs only, as is the next.
    Nested(Vec<Record>),
    Record(Box<Record>),
}

impl Cell {
    /// A text that may be missing, which the API says by leaving it empty.
    pub(super) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() {
            Self::None
        } else {
            Self::Text(text)
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::Real(number) => (*number).into(),
            Self::Flag(flag) => (*flag).into(),
            Self::Amount(amount) => amount.to_string().into(),
            Self::List(items) => items.clone().into(),
            Self::Counts(counts) => {
                let counted =
                    counted(counts).map(|(meter, count)| (meter.name().into(), count.into()));
                Value::Object(counted.collect())
            }
            Self::Nested(records) => records.iter().map(Record::to_json).collect(),
            Self::Record(record) => record.to_json(),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Self::None => "-".into(),
            Self::Text(text) => printable(text),
            Self::Number(number) => number.to_string(),
            Self::Real(number) => number.to_string(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.into(),
            Self::Amount(amount) => amount.to_string(),
            Self::List(items) if items.is_empty() => "-".into(),
            Self::List(items) => printable(&items.join(", ")),
            Self::Counts(counts) => {
                let counted =
                    counted(counts).map(|(meter, count)| format!("{count} {}", meter.name()));
                counted.collect::<Vec<_>>().join(", ")
            }
            Self::Nested(records) if records.is_empty() => "-".into(),
            Self::Nested(records) => format!("{} (--json shows them)", records.len()),
            Self::Record(_) => "(--json shows it)".into(),
        }
    }
}

fn counted(counts: &Counts) -> impl Iterator<Item = (Meter, u64)> {
    let all = Meter::ALL
        .into_iter()
        .map(|meter| (meter, counts.get(meter)));
    all.filter(|(_, count)| *count > 0)
}

/// What is said by others may hold what a terminal takes for a command: escaped.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| {
        let escaped: String = if c.is_control() {
            c.escape_default().collect()
        } else {
            c.into()
        };
        escaped
    };
    text.chars().map(escape).collect()
}

/// Named values, in the order in which people read them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record(pub(super) Vec<(&'static str, Cell)>);

impl Record {
    fn get(&self, name: &str) -> &Cell {
        let found = self.0.iter().find(|(field, _)| *field == name);
        found.map_or(&Cell::None, |(_, cell)| cell)
    }

    /// Whether there is something under a name.
    pub(super) fn has(&self, name: &str) -> bool {
        *self.get(name) != Cell::None
    }

    fn to_json(&self) -> Value {
        let fields = self.0.iter();
        let fields = fields.map(|(name, cell)| ((*name).to_owned(), cell.to_json()));
        Value::Object(fields.collect::<Map<_, _>>())
    }

    /// The named values alone.
    pub(super) fn pick(self, names: &[&str]) -> Self {
        let picked = self.0.into_iter().filter(|(name, _)| names.contains(name));
        Self(picked.collect())
    }

    /// The same with more at its end.
    pub(super) fn with(mut self, name: &'static str, cell: Cell) -> Self {
        self.0.push((name, cell));
        self
    }
}

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) json: bool,
}

impl Out {
    /// One thing: a line for each of its values, or a JSON object.
    pub(super) fn record(self, record: &Record) -> Result<(), Failure> {
        if self.json {
            return print(&pretty(&record.to_json()));
        }
        let width = record
            .0
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        let lines = record.0.iter().map(|(name, cell)| {
            let text = cell.to_text();
            format!("{name:width$}  {text}\n")
        });
        print(&lines.collect::<String>())
    }

    /// Many things: a table of the named columns, or a JSON array of everything.
    pub(super) fn table(self, records: &[Record], columns: &[&'static str]) -> Result<(), Failure> {
        if self.json {
            let array: Value = records.iter().map(Record::to_json).collect();
            return print(&pretty(&array));
        }
        print(&table(records, columns))
    }

    /// One of a stream of things: a line of JSON, or of text.
    pub(super) fn line(self, record: &Record) -> Result<(), Failure> {
        if self.json {
            return print(&format!("{}\n", record.to_json()));
        }
        let texts = record.0.iter().map(|(_, cell)| cell.to_text());
        print(&format!("{}\n", texts.collect::<Vec<_>>().join("  ")))
    }

    /// A remark for people: not part of the answer, so not on standard output.
    pub(super) fn remark(self, text: &str) {
        let _unsaid = writeln!(io::stderr(), "{}", printable(text));
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Failure::local),
    }
}

/// A column: its heading, its texts, and how they are aligned.
struct Column {
    heading: String,
    texts: Vec<String>,
    right: bool,
}

impl Column {
    fn new(heading: &str, cells: &[&Cell]) -> Self {
        let amounts = cells.iter().any(|cell| matches!(cell, Cell::Amount(_)));
        let numbers = cells.iter().any(|cell| matches!(cell, Cell::Number(_)));
        let mut texts: Vec<String> = cells.iter().map(|cell| cell.to_text()).collect();
        if amounts {
            align_points(&mut texts);
        }
        Self {
            heading: heading.into(),
            texts,
            right: amounts || numbers,
        }
    }

    fn width(&self) -> usize {
        let texts = self.texts.iter().chain([&self.heading]);
        texts.map(|text| text.chars().count()).max().unwrap_or(0)
    }

    fn pad(&self, text: &str) -> String {
        let width = self.width();
        if self.right {
            format!("{text:>width$}")
        } else {
            format!("{text:width$}")
        }
    }
}

/// Puts decimal points below each other.
fn align_points(texts: &mut [String]) {
    let places = |text: &str| text.split_once('.').map_or(0, |(_, places)| places.len());
    let most = texts.iter().map(|text| places(text)).max().unwrap_or(0);
    for text in texts {
        let missing = most.saturating_sub(places(text));
        text.push_str(&" ".repeat(missing));
    }
}

fn table(records: &[Record], names: &[&'static str]) -> String {
    let columns: Vec<Column> = names
        .iter()
        .flat_map(|name| {
            let cells: Vec<&Cell> = records.iter().map(|record| record.get(name)).collect();
            if cells.iter().any(|cell| matches!(cell, Cell::Counts(_))) {
                return meters(&cells);
            }
            vec![Column::new(name, &cells)]
        })
        .collect();
    let head: Vec<String> = columns
        .iter()
        .map(|column| column.pad(&column.heading))
        .collect();
    let mut text = format!("{}\n", head.join("  ").trim_end());
    for row in 0..records.len() {
        let cells = columns.iter().filter_map(|column| {
            let text = column.texts.get(row)?;
            Some(column.pad(text))
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn meters(cells: &[&Cell]) -> Vec<Column> {
    let mut by_meter: BTreeMap<usize, (Meter, Vec<Cell>)> = BTreeMap::new();
    for meter in Meter::ALL {
        let counts = cells.iter().map(|cell| match cell {
            Cell::Counts(counts) => Cell::Number(counts.get(meter)),
            _ => Cell::None,
        });
        let counts: Vec<Cell> = counts.collect();
        if counts.iter().any(|cell| matches!(cell, Cell::Number(1..))) {
            by_meter.insert(meter.index(), (meter, counts));
        }
    }
    let columns = by_meter.into_values().map(|(meter, counts)| {
        let cells: Vec<&Cell> = counts.iter().collect();
        Column::new(meter.name(), &cells)
    });
    columns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, balance: &str, counts: Counts) -> Record {
        Record(vec![
            ("id", Cell::text(id)),
            ("balance", Cell::Amount(balance.parse().unwrap())),
            ("counts", Cell::Counts(counts)),
            ("note", Cell::None),
        ])
    }

    #[test]
    fn points_stand_below_each_other_and_meters_have_columns() {
        let none = Counts::default();
        let records = [
            record("demo", "4.9999", none.with(Meter::Input, 5)),
            record("a\u{1b}[2J", "-10", none.with(Meter::Output, 12)),
        ];
        let expected = "\
id            balance    input  output  note
demo            4.9999      5       0  -
a\\u{1b}[2J    -10.00        0      12  -
";
        let text = table(&records, &["id", "balance", "counts", "note"]);
        let squeezed = |text: &str| {
            let lines = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.map(|words| words.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&text), squeezed(expected));
        let points: Vec<_> = text.lines().skip(1).map(|line| line.find('.')).collect();
        assert_eq!(points[0], points[1], "{text}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
        assert_eq!(table(&[], &["id", "note"]), "id  note\n");
    }

    #[test]
    fn programs_get_decimal_strings_and_nulls() {
        let record = record(
            "demo",
            "-0.000000001",
            Counts::default().with(Meter::Input, 5),
        );
        let json = record.to_json().to_string();
        let expected = r#"{"balance":"-0.000000001","counts":{"input":5},"id":"demo","note":null}"#;
        assert_eq!(json, expected);
    }
}
