//! Takes a table apart key by key: a missing key gives its default, a wrong one is written down and gives its default too, so
//! that the rest is still read. A key that nobody asked for is a problem of its own. No key is named here.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::Problem;

/// From which edit distance on a key is no misspelling any more: three changes turn one short key into another.
const TYPO_EDITS_MAX: usize = 2;

/// How much of a wrong value is shown.
const SHOWN_CHARS_MAX: usize = 60;

/// What was found while reading.
#[derive(Debug, Default)]
pub(super) struct Notes {
    problems: RefCell<Vec<Problem>>,
    /// Every key that was asked for, lists and names blotted out: `routes[].path`, `policies.*.qps`.
    known: RefCell<BTreeSet<String>>,
    unknown: RefCell<Vec<Unknown>>,
    origins: BTreeMap<String, Origin>,
}

/// Where a value came from, if not from the file as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A variable put over the file.
    Variable(String),
    /// A text of the file with variables in it. They may be secrets, so errors show this instead.
    Template(String),
    /// A text whose variables could not be filled in; the problem is noted already.
    Broken,
}

#[derive(Debug)]
struct Unknown {
    path: String,
    key: String,
    siblings: Vec<&'static str>,
}

impl Notes {
    pub(super) fn add(&self, key: String, message: String) {
        self.problems.borrow_mut().push(Problem { key, message });
    }

    pub(super) fn came_from(&mut self, path: String, origin: Origin) {
        self.origins.insert(path, origin);
    }

    /// All problems. Unknown keys come last: what they are near to is known only when everything was read.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let known = self.known.into_inner();
        let unknown = self.unknown.into_inner();
        let mut problems = self.problems.into_inner();
        problems.extend(unknown.into_iter().map(|unknown| {
            let message = match self.origins.get(&unknown.path) {
                Some(Origin::Variable(name)) => format!("(from {name}) {}", unknown.hint(&known)),
                _ => unknown.hint(&known),
            };
            Problem {
                key: unknown.path,
                message,
            }
        }));
        problems
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    /// How a wrong value is told.
    fn shown(&self, path: &str, value: &Value, secret: bool) -> String {
        match self.origins.get(path) {
            Some(Origin::Variable(name)) if secret => format!("is what {name} holds"),
            Some(Origin::Variable(name)) => format!("is {} (from {name})", short(value)),
            Some(Origin::Template(text)) => format!("is {}", short(&Value::String(text.clone()))),
            _ if secret => "is not right".into(),
            _ => format!("is {}", short(value)),
        }
    }
}

impl Unknown {
    fn hint(&self, known: &BTreeSet<String>) -> String {
        let distance = |other: &str| strsim::damerau_levenshtein(&self.key, other);
        let nearest = self.siblings.iter().min_by_key(|other| distance(other));
        if let Some(nearest) = nearest.filter(|other| distance(other) <= TYPO_EDITS_MAX) {
            return format!("there is no such key; did you mean `{nearest}`?");
        }
        let elsewhere = known
            .iter()
            .find(|path| path.rsplit('.').next() == Some(&self.key));
        match elsewhere {
            Some(path) => format!("there is no such key here; did you mean `{path}`?"),
            None => format!(
                "there is no such key; the keys here are: {}",
                self.siblings.join(", ")
            ),
        }
    }
}

fn short(value: &Value) -> String {
    let text = masked(value.to_string());
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text;
    }
    let mut start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    start.push('…');
    start
}

/// Without the user and password of a URL, wherever somebody put one.
fn masked(text: String) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text;
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => text,
    }
}

/// One table on its way to a checked value. Dropped, it tells of every key that was not asked for.
pub(super) struct Reader<'a> {
    notes: &'a Notes,
    /// Where it stands: `routes[2]`, empty for the whole file.
    path: String,
    /// The same with lists and names blotted out: `routes[]`.
    kind: String,
    table: Table,
    keys: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(notes: &'a Notes, table: Table) -> Self {
        let (path, kind) = (String::new(), String::new());
        Self {
            notes,
            path,
            kind,
            table,
            keys: Vec::new(),
        }
    }

    /// A key's value as `parse` reads it, `None` if there is none or it is wrong. `parse` fails with what to write instead.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        self.parsed(key, &value, false, parse)
    }

    /// The same for a value that is never shown.
    pub(super) fn read_secret<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        self.parsed(key, &value, true, parse)
    }

    /// A key that must be there.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            self.problem(key, &format!("is missing; write {key} = {example}"));
        }
        self.read(key, parse)
    }

    /// Every entry of a table whose keys are the operator's own words, as `parse` reads name and value.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        secret: bool,
        mut parse: impl FnMut(&str, &Value) -> Result<T, String>,
    ) -> Vec<T> {
        let table = self.take_table(key).unwrap_or_default();
        let entry = |(name, value): (String, Value)| {
            let path = format!("{key}.{name}");
            self.parsed(&path, &value, secret, |value| parse(&name, value))
        };
        table.into_iter().filter_map(entry).collect()
    }

    /// A table, if it is there.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Reader<'a>> {
        let table = self.take_table(key)?;
        Some(self.inner(key, key, table))
    }

    /// A table, empty if it is not there.
    pub(super) fn section_or_empty(&mut self, key: &'static str) -> Reader<'a> {
        let table = self.take_table(key).unwrap_or_default();
        self.inner(key, key, table)
    }

    /// The tables of a table whose keys are the operator's own words.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<(String, Reader<'a>)> {
        let table = self.take_table(key).unwrap_or_default();
        let mut readers = Vec::with_capacity(table.len());
        for (name, value) in table {
            let path = format!("{key}.{name}");
            if let Some(table) = self.parsed(&path, &value, false, table_of) {
                let reader = self.inner(&path, &format!("{key}.*"), table);
                readers.push((name, reader));
            }
        }
        readers
    }

    /// The tables of a list.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<Reader<'a>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let items = |value: &Value| {
            let hint = || format!("write [[{key}]] above each of its tables");
            value.as_array().cloned().ok_or_else(hint)
        };
        let items = self.parsed(key, &value, false, items).unwrap_or_default();
        let mut readers = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{key}[{index}]");
            if let Some(table) = self.parsed(&path, item, false, table_of) {
                readers.push(self.inner(&path, &format!("{key}[]"), table));
            }
        }
        readers
    }

    /// Writes down what is wrong with a key, or with the whole table if the key is empty.
    pub(super) fn problem(&self, key: &str, message: &str) {
        self.notes.add(join(&self.path, key), message.into());
    }

    /// Whether a key stands here that was not read yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn take_table(&mut self, key: &'static str) -> Option<Table> {
        let value = self.take(key)?;
        self.parsed(key, &value, false, table_of)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.keys.push(key);
        let kind = join(&self.kind, key);
        self.notes.known.borrow_mut().insert(kind);
        self.table.remove(key)
    }

    fn parsed<T>(
        &self,
        key: &str,
        value: &Value,
        secret: bool,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let path = join(&self.path, key);
        if self.notes.origins.get(&path) == Some(&Origin::Broken) {
            return None;
        }
        parse(value)
            .inspect_err(|hint| {
                let shown = self.notes.shown(&path, value, secret);
                self.notes.add(path, format!("{shown}; {hint}"));
            })
            .ok()
    }

    fn inner(&self, key: &str, kind: &str, table: Table) -> Reader<'a> {
        Reader {
            notes: self.notes,
            path: join(&self.path, key),
            kind: join(&self.kind, kind),
            table,
            keys: Vec::new(),
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut unknown = self.notes.unknown.borrow_mut();
        for key in self.table.keys() {
            unknown.push(Unknown {
                path: join(&self.path, key),
                key: key.clone(),
                siblings: self.keys.clone(),
            });
        }
    }
}

fn table_of(value: &Value) -> Result<Table, String> {
    let hint = || "write a table: [section] on a line, its keys below".into();
    value.as_table().cloned().ok_or_else(hint)
}

fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", _) => key.into(),
        (_, "") => path.into(),
        _ => format!("{path}.{key}"),
    }
}
