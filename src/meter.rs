//! Bytes of requests and responses in, facts and usage out: incremental readers for each API
//! shape. Nothing here does input or output, knows a price, or holds a body.
//!
//! A [`RequestScan`] is fed a request's body and says what pricing needs of it; a [`ResponseScan`]
//! is fed the response's and says what was used, which it passes on untouched (but for the usage
//! that only the proxy asked for). Both stand on one JSON scanner that is fed bytes, cut anywhere,
//! and tells where each value stands. Bodies are read as they are: a compressed one must be
//! decoded first, or its encoding not be asked for.

mod answer;
mod events;
mod malformed;
mod request;
mod response;
mod said;
mod scan;
mod short;
#[cfg(test)]
mod tests;

pub use malformed::{Fault, Field, Malformed};
pub use request::{Edit, MODEL_MAX, RequestFacts, RequestScan};
pub use response::{EVENT_MAX, Reading, ResponseScan};
pub use said::usage_of;

/// Which API a route speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI's `/chat/completions`, and all who speak it.
    OpenAiChat,
    /// OpenAI's older `/completions`.
    OpenAiCompletions,
    /// OpenAI's `/embeddings`.
    OpenAiEmbeddings,
    /// OpenAI's `/responses`.
    OpenAiResponses,
    /// Anthropic's `/messages`.
    AnthropicMessages,
    /// Anything else: bodies are not read.
    Opaque,
}

impl Api {
    /// The API that is called at a path (without its query), by the path's end.
    pub fn of_path(path: &str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.ends_with("/chat/completions") {
            Self::OpenAiChat
        } else if path.ends_with("/completions") {
            Self::OpenAiCompletions
        } else if path.ends_with("/embeddings") {
            Self::OpenAiEmbeddings
        } else if path.ends_with("/responses") {
            Self::OpenAiResponses
        } else if path.ends_with("/messages") {
            Self::AnthropicMessages
        } else {
            Self::Opaque
        }
    }

    /// Whether its requests are JSON objects that a [`RequestScan`] reads.
    pub const fn has_json_request(self) -> bool {
        !matches!(self, Self::Opaque)
    }
}
