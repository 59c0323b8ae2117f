//! What a request's body says about its price, read as it streams in. The body is not kept.

use super::Api;
use super::malformed::{Fault, Field, Malformed};
use super::scan::{Kind, Scanner, Sink};

/// The longest name of a model that is read, in bytes: ten times the longest one known.
pub const MODEL_MAX: usize = 256;
/// How much of a value that cannot be used is shown, in bytes: enough to recognise it.
const SHOWN_MAX: usize = 40;

/// What a request says about its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The model, unescaped, of at most [`MODEL_MAX`] bytes.
    pub model: Option<String>,
    /// The most output tokens of one choice; the larger one if two fields say so.
    pub max_output: Option<u64>,
    /// How many answers are generated, at least 1: the larger of `n` and `best_of`, for each prompt.
    pub choices: u64,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream is to end with its usage.
    pub include_usage: bool,
}

/// A change of a body, by the offset of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub at: usize,
    /// How many bytes to leave out there.
    pub remove: usize,
    /// What to put in their place.
    pub insert: &'static [u8],
}

impl Edit {
    /// The body with the change made; `None` if it does not reach that far.
    pub fn of(&self, body: &[u8]) -> Option<Vec<u8>> {
        let end = self.at.checked_add(self.remove)?;
        let (before, after) = (body.get(..self.at)?, body.get(end..)?);
        Some([before, self.insert, after].concat())
    }
}

/// Reads a JSON request body as it streams in. It keeps what it found, and none of the body.
pub struct RequestScan {
    /// `None` for an API whose requests are not read.
    scanner: Option<Scanner<Place>>,
    reader: Reader,
    failed: Option<Malformed>,
}

impl RequestScan {
    /// A reader of one body.
    pub fn new(api: Api) -> Self {
        Self {
            scanner: api.has_json_request().then(Scanner::new),
            reader: Reader::new(api),
            failed: None,
        }
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// From the first byte that makes the body something else than a JSON object in UTF-8 with
    /// usable fields; and again on every later call.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if let Some(malformed) = &self.failed {
            return Err(malformed.clone());
        }
        let Some(scanner) = &mut self.scanner else {
            return Ok(());
        };
        let read = scanner.feed(bytes, &mut self.reader);
        self.failed = read.as_ref().err().cloned();
        read
    }

    /// The body has ended.
    ///
    /// # Errors
    /// If the object is not closed, or the body was refused before.
    pub fn end(&mut self) -> Result<(), Malformed> {
        if self.failed.is_none()
            && let Some(scanner) = &self.scanner
            && !scanner.done()
        {
            self.failed = Some(Malformed {
                at: scanner.at(),
                fault: Fault::Truncated,
            });
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// What was found so far.
    pub const fn facts(&self) -> &RequestFacts {
        &self.reader.facts
    }

    /// Whether nothing more can be learnt that pricing needs: every field that the API has was
    /// seen, or the object is closed. What comes after must still be fed and an error heeded:
    /// a field may stand there a second time.
    pub fn settled(&self) -> bool {
        self.scanner.as_ref().is_none_or(Scanner::done) || self.reader.complete()
    }

    /// The edit that makes a stream report its usage, if the request streams and did not ask.
    /// It merges `include_usage` into `stream_options` and leaves every other byte as it is. To be
    /// asked once [`settled`](Self::settled); before, it is `None` while a later byte may change
    /// it. Of use only while the bytes from its place on are still in hand.
    pub fn usage_edit(&self) -> Option<Edit> {
        if self.failed.is_some() || !self.settled() {
            return None;
        }
        self.reader.usage_edit()
    }
}

#[derive(Clone, Copy, Default)]
enum Place {
    #[default]
    Elsewhere,
    Root,
    Field(Field),
    /// One of several prompts.
    Prompt,
}

/// Where `stream_options` and the `include_usage` in it stand.
#[derive(Clone, Copy, Default)]
struct Options {
    /// The first byte of the top object's members.
    top: usize,
    /// The value of `stream_options`: its first byte and the one after it, and whether it is null.
    value: Option<(usize, usize)>,
    null: bool,
    /// Whether it has members.
    members: bool,
    /// The value of `include_usage`.
    include: Option<(usize, usize)>,
}

struct Reader {
    api: Api,
    facts: RequestFacts,
    n: u64,
    best_of: u64,
    prompts: u64,
    /// The fields whose key, and whose value, was seen: one bit each.
    keys: u16,
    values: u16,
    /// What a scalar says, as far as it is of use; whether there was more.
    said: Vec<u8>,
    longer: bool,
    /// Where the value now read began.
    begun: usize,
    options: Options,
}

impl Reader {
    const fn new(api: Api) -> Self {
        Self {
            api,
            facts: RequestFacts {
                model: None,
                max_output: None,
                choices: 1,
                stream: false,
                include_usage: false,
            },
            n: 1,
            best_of: 1,
            prompts: 0,
            keys: 0,
            values: 0,
            said: Vec::new(),
            longer: false,
            begun: 0,
            options: Options {
                top: 0,
                value: None,
                null: false,
                members: false,
                include: None,
            },
        }
    }

    fn complete(&self) -> bool {
        let all = fields(self.api)
            .iter()
            .fold(0, |all, field| all | bit(*field));
        self.values & all == all
    }

    fn usage_edit(&self) -> Option<Edit> {
        let asks = matches!(self.api, Api::OpenAiChat | Api::OpenAiCompletions)
            && self.facts.stream
            && !self.facts.include_usage;
        if !asks {
            return None;
        }
        let options = &self.options;
        let put = |at, insert| Edit {
            at,
            remove: 0,
            insert,
        };
        let replace = |(from, to): (usize, usize), insert| Edit {
            at: from,
            remove: to.saturating_sub(from),
            insert,
        };
        Some(match (options.value, options.include) {
            (_, Some(value)) => replace(value, b"true"),
            (Some(value), None) if options.null => replace(value, br#"{"include_usage":true}"#),
            (Some((from, _)), None) if options.members => {
                put(from.saturating_add(1), br#""include_usage":true,"#)
            }
            (Some((from, _)), None) => put(from.saturating_add(1), br#""include_usage":true"#),
            // The top object is not empty: it has `stream`.
            (None, None) => put(options.top, br#""stream_options":{"include_usage":true},"#),
        })
    }

    /// A scalar of use has ended before byte `end`.
    fn scalar(&mut self, field: Field, kind: Kind, end: usize) -> Result<(), Fault> {
        let number = || -> Option<u64> { std::str::from_utf8(&self.said).ok()?.parse().ok() };
        match (field, kind) {
            (Field::Model, Kind::Text) if !self.longer => {
                let model = String::from_utf8(std::mem::take(&mut self.said));
                self.facts.model = Some(model.map_err(|_| Fault::NotUtf8)?);
            }
            (Field::MaxTokens | Field::MaxCompletionTokens | Field::MaxOutputTokens, kind) => {
                match (kind, number()) {
                    (Kind::Null, _) => {}
                    (Kind::Number, Some(max)) if !self.longer => {
                        self.facts.max_output = self.facts.max_output.max(Some(max));
                    }
                    _ => return Err(self.wrong(field, kind)),
                }
            }
            (Field::N | Field::BestOf, kind) => {
                let count = match (kind, number()) {
                    (Kind::Null, _) => 1,
                    (Kind::Number, Some(count)) if count > 0 && !self.longer => count,
                    _ => return Err(self.wrong(field, kind)),
                };
                *if field == Field::N {
                    &mut self.n
                } else {
                    &mut self.best_of
                } = count;
                self.count();
            }
            (Field::Stream, Kind::True | Kind::False | Kind::Null) => {
                self.facts.stream = kind == Kind::True;
            }
            (Field::IncludeUsage, Kind::True | Kind::False | Kind::Null) => {
                self.facts.include_usage = kind == Kind::True;
                self.options.include = Some((self.begun, end));
            }
            (Field::StreamOptions, Kind::Null) => {
                self.options.null = true;
                self.options.value = Some((self.begun, end));
            }
            (Field::Prompt, _) => {}
            (field, kind) => return Err(self.wrong(field, kind)),
        }
        self.values |= bit(field);
        Ok(())
    }

    fn count(&mut self) {
        self.facts.choices = self.n.max(self.best_of).saturating_mul(self.prompts.max(1));
    }

    /// That the field cannot be this.
    fn wrong(&self, field: Field, kind: Kind) -> Fault {
        let said = self
            .said
            .get(..self.said.len().min(SHOWN_MAX))
            .unwrap_or_default();
        let more = if self.longer || said.len() < self.said.len() {
            "…"
        } else {
            ""
        };
        let said = String::from_utf8_lossy(said);
        let found = match kind {
            Kind::Object => "an object".to_owned(),
            Kind::Array => "an array".to_owned(),
            Kind::Text => format!("\"{}{more}\"", said.escape_debug()),
            Kind::Number => format!("{said}{more}"),
            Kind::True => "true".to_owned(),
            Kind::False => "false".to_owned(),
            Kind::Null => "null".to_owned(),
        };
        Fault::Wrong { field, found }
    }
}

impl Sink for Reader {
    type Place = Place;
    const STRICT: bool = true;

    fn root(&self) -> Place {
        Place::Root
    }

    fn member(&mut self, parent: Place, key: &[u8]) -> Result<Place, Fault> {
        let fields = match parent {
            Place::Root => fields(self.api),
            Place::Field(Field::StreamOptions) => {
                self.options.members = true;
                &[Field::IncludeUsage]
            }
            _ => return Ok(Place::Elsewhere),
        };
        for &field in fields {
            let name = field.key().as_bytes();
            if key == name {
                if self.keys & bit(field) != 0 {
                    return Err(Fault::Duplicate(field));
                }
                self.keys |= bit(field);
                return Ok(Place::Field(field));
            }
            if folds_to(key, name) {
                return Err(Fault::Spelling(field));
            }
        }
        Ok(Place::Elsewhere)
    }

    fn element(&self, parent: Place) -> Place {
        match parent {
            Place::Field(Field::Prompt) => Place::Prompt,
            _ => Place::Elsewhere,
        }
    }

    fn begin(&mut self, place: Place, kind: Kind, at: usize) -> Result<(), Fault> {
        self.begun = at;
        match (place, kind) {
            (Place::Elsewhere, _) => {}
            (Place::Root, Kind::Object) => self.options.top = at.saturating_add(1),
            (Place::Root, _) => return Err(Fault::NotAnObject),
            (Place::Prompt, Kind::Text | Kind::Array) => {
                self.prompts = self.prompts.saturating_add(1);
                self.count();
            }
            (Place::Prompt, _) | (Place::Field(Field::Prompt), Kind::Array) => {}
            (Place::Field(Field::StreamOptions), Kind::Object) => {
                self.options.value = Some((at, at));
            }
            (Place::Field(field), Kind::Object | Kind::Array) => {
                return Err(self.wrong(field, kind));
            }
            (Place::Field(_), _) => {
                self.said.clear();
                self.longer = false;
            }
        }
        Ok(())
    }

    fn text(&mut self, place: Place, piece: &[u8]) -> Result<(), Fault> {
        let max = match place {
            Place::Field(Field::Model) => MODEL_MAX,
            Place::Field(Field::Prompt) | Place::Elsewhere | Place::Root | Place::Prompt => {
                return Ok(());
            }
            Place::Field(_) => SHOWN_MAX,
        };
        let room = max.saturating_sub(self.said.len());
        self.longer |= piece.len() > room;
        self.said
            .extend_from_slice(piece.get(..room).unwrap_or(piece));
        Ok(())
    }

    fn end(&mut self, place: Place, kind: Kind, at: usize) -> Result<(), Fault> {
        match (place, kind) {
            (Place::Field(Field::StreamOptions), Kind::Object) => {
                if let Some((_, end)) = &mut self.options.value {
                    *end = at;
                }
                self.values |= bit(Field::StreamOptions);
                Ok(())
            }
            (Place::Field(field), kind) => self.scalar(field, kind, at),
            _ => Ok(()),
        }
    }
}

/// The fields of the API's requests that pricing reads.
const fn fields(api: Api) -> &'static [Field] {
    match api {
        Api::OpenAiChat => &[
            Field::Model,
            Field::MaxTokens,
            Field::MaxCompletionTokens,
            Field::N,
            Field::Stream,
            Field::StreamOptions,
        ],
        Api::OpenAiCompletions => &[
            Field::Model,
            Field::MaxTokens,
            Field::N,
            Field::BestOf,
            Field::Prompt,
            Field::Stream,
            Field::StreamOptions,
        ],
        Api::OpenAiEmbeddings => &[Field::Model],
        Api::OpenAiResponses => &[Field::Model, Field::MaxOutputTokens, Field::Stream],
        Api::AnthropicMessages => &[Field::Model, Field::MaxTokens, Field::Stream],
        Api::Opaque => &[],
    }
}

const fn bit(field: Field) -> u16 {
    match field {
        Field::Model => 1,
        Field::MaxTokens => 1 << 1,
        Field::MaxCompletionTokens => 1 << 2,
        Field::MaxOutputTokens => 1 << 3,
        Field::N => 1 << 4,
        Field::BestOf => 1 << 5,
        Field::Prompt => 1 << 6,
        Field::Stream => 1 << 7,
        Field::StreamOptions => 1 << 8,
        Field::IncludeUsage => 1 << 9,
    }
}

/// Whether a reader that ignores case (as Go's `encoding/json` does, with the two letters outside
/// ASCII that Unicode folds into it: ſ and the Kelvin sign) takes `key` for `name`.
fn folds_to(key: &[u8], name: &[u8]) -> bool {
    let mut key = key;
    for letter in name {
        let (folded, rest) = match key {
            [0xC5, 0xBF, rest @ ..] => (b's', rest),
            [0xE2, 0x84, 0xAA, rest @ ..] => (b'k', rest),
            [byte, rest @ ..] => (byte.to_ascii_lowercase(), rest),
            [] => return false,
        };
        if folded != *letter {
            return false;
        }
        key = rest;
    }
    key.is_empty()
}
