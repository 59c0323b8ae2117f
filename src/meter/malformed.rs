//! What can be wrong with a request's body, and how it is said. Finding it is up to the scanner
//! and the request's reader.

use std::fmt;

/// Why a request's body was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The offset of the byte, or of the value or key, that is at fault, from 0.
    pub at: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is JSON so far, but not an object.
    NotAnObject,
    /// A byte that cannot stand there.
    Unexpected {
        /// The byte.
        byte: u8,
        /// What could.
        wanted: &'static str,
    },
    /// A string is not UTF-8.
    NotUtf8,
    /// A control character in a string that is not escaped.
    Control {
        /// The character.
        byte: u8,
    },
    /// Half a surrogate pair.
    LoneSurrogate,
    /// Values nest deeper than is read.
    TooDeep,
    /// The body ended before the object did.
    Truncated,
    /// The field stands there twice. Servers differ in which they take, so the one that is priced
    /// might not be the one that is served.
    Duplicate(Field),
    /// A key that only some servers take for the field: those that ignore case.
    Spelling(Field),
    /// The field's value cannot be used.
    Wrong {
        /// The field.
        field: Field,
        /// Its value, or the beginning of it.
        found: String,
    },
}

/// A field that pricing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `model`
    Model,
    /// `max_tokens`
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
    /// `max_output_tokens`
    MaxOutputTokens,
    /// `n`
    N,
    /// `best_of`
    BestOf,
    /// `prompt`
    Prompt,
    /// `stream`
    Stream,
    /// `stream_options`
    StreamOptions,
    /// `stream_options.include_usage`
    IncludeUsage,
}

impl Field {
    /// Its key in the object where it stands.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::N => "n",
            Self::BestOf => "best_of",
            Self::Prompt => "prompt",
            Self::Stream => "stream",
            Self::StreamOptions => "stream_options",
            Self::IncludeUsage => "include_usage",
        }
    }

    /// What its value may be.
    pub const fn wanted(self) -> &'static str {
        match self {
            Self::Model => "a string of at most 256 bytes",
            Self::MaxTokens | Self::MaxCompletionTokens | Self::MaxOutputTokens => {
                "a whole number from 0, or null"
            }
            Self::N | Self::BestOf => "a whole number from 1, or null",
            Self::Prompt => "a string or an array",
            Self::Stream | Self::IncludeUsage => "true, false or null",
            Self::StreamOptions => "an object or null",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the request body is refused at byte {}: {}",
            self.at, self.fault
        )
    }
}

impl std::error::Error for Malformed {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("it must be a JSON object"),
            Self::Unexpected { byte, wanted } => {
                write!(f, "`{}` where {wanted} must stand", byte.escape_ascii())
            }
            Self::NotUtf8 => f.write_str("the string is not UTF-8"),
            Self::Control { byte } => {
                write!(
                    f,
                    "control character {byte:#04x} in a string: write \\u{byte:04x}"
                )
            }
            Self::LoneSurrogate => f.write_str("half a surrogate pair: write both halves"),
            Self::TooDeep => {
                write!(
                    f,
                    "values nest deeper than {} levels",
                    super::scan::DEPTH_MAX
                )
            }
            Self::Truncated => f.write_str("the body ends before the JSON object does"),
            Self::Duplicate(field) => {
                write!(f, "`{}` stands there twice: give it once", field.key())
            }
            Self::Spelling(field) => {
                let key = field.key();
                write!(f, "some servers read this key as `{key}`: write `{key}`")
            }
            Self::Wrong { field, found } => {
                write!(f, "`{}` is {found}: give {}", field.key(), field.wanted())
            }
        }
    }
}
