//! What the stand-in takes for language: words, counted, echoed and cut. No JSON of any one API here.

use serde::Deserialize;

use super::knobs::Knobs;

/// What each message costs besides its words, as chat templates do.
const TOKENS_PER_MESSAGE: u64 = 3;

/// Of what was said last, how much is said back.
const ECHO_WORDS_MAX: usize = 16;

/// One message of a conversation.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

/// What a message says: a text, or parts of which some are texts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message. What is not a text (an image, a tool's call) counts nothing.
#[derive(Debug, Deserialize)]
pub(super) struct Part {
    #[serde(default)]
    text: Option<String>,
}

impl Content {
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        let (text, parts) = match self {
            Self::Text(text) => (Some(text), &[][..]),
            Self::Parts(parts) => (None, parts.as_slice()),
        };
        let texts = text
            .into_iter()
            .chain(parts.iter().filter_map(|part| part.text.as_ref()));
        texts.flat_map(|text| text.split_whitespace())
    }

    /// What it counts as one message.
    pub(super) fn tokens(&self) -> u64 {
        count(self.words()).saturating_add(TOKENS_PER_MESSAGE)
    }
}

pub(super) fn count<'a>(words: impl Iterator<Item = &'a str>) -> u64 {
    u64::try_from(words.count()).unwrap_or(u64::MAX)
}

/// The input tokens of a conversation.
pub(super) fn input_tokens(messages: &[Message]) -> u64 {
    messages
        .iter()
        .map(|message| {
            let content = message.content.as_ref();
            content.map_or(TOKENS_PER_MESSAGE, Content::tokens)
        })
        .fold(0, u64::saturating_add)
}

/// What the stand-in says, and whether it was cut short.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Saying {
    /// The tokens: words, each but the first after a space.
    pub(super) tokens: Vec<String>,
    /// The limit was reached first.
    pub(super) cut: bool,
}

impl Saying {
    /// Says what was last said by the user, or as many words as the knob asks for; no more than `max`.
    pub(super) fn new(messages: &[Message], knobs: &Knobs, max: Option<u64>) -> Self {
        let last = messages.iter().rev().find(|message| message.role == "user");
        let said = last.and_then(|message| message.content.as_ref());
        let said = said.into_iter().flat_map(Content::words);
        let echo = "Hello from the stand-in model. You said:"
            .split(' ')
            .chain(said.take(ECHO_WORDS_MAX));
        match knobs.output_tokens {
            None => Self::cut(echo, max),
            Some(tokens) => {
                let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
                let patter = "one two three four five six seven eight nine ten";
                Self::cut(patter.split(' ').cycle().take(tokens), max)
            }
        }
    }

    fn cut<'a>(words: impl Iterator<Item = &'a str>, max: Option<u64>) -> Self {
        let max = max.and_then(|max| usize::try_from(max).ok());
        let mut words = words.enumerate().map(|(index, word)| match index {
            0 => word.to_owned(),
            _ => format!(" {word}"),
        });
        let tokens = words.by_ref().take(max.unwrap_or(usize::MAX)).collect();
        Self {
            tokens,
            cut: words.next().is_some(),
        }
    }

    pub(super) fn text(&self) -> String {
        self.tokens.concat()
    }

    /// The output tokens of one such answer.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.tokens.len()).unwrap_or(u64::MAX)
    }
}
