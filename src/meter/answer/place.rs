//! Where things stand in a response, by API: the one table of the keys that matter.

use super::super::Api;
use super::super::said::Part;

/// Where a value stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Place {
    #[default]
    Elsewhere,

    // The whole text, by shape, and what stands for a whole text within an event.
    /// OpenAI chat completions, completions, embeddings: a body or a chunk.
    Chat,
    /// OpenAI responses: a body.
    Response,
    /// OpenAI responses: an event.
    ResponseEvent,
    /// The response as of an event. Its text was in earlier events.
    ResponseAsOf,
    /// Anthropic messages: a body.
    Message,
    /// Anthropic messages: an event.
    MessageEvent,
    /// The message as of its start.
    MessageStart,

    /// What kind of text it is.
    Type,
    /// An error, unless it is null.
    Error,

    // Usage.
    Usage,
    InputDetails,
    OutputDetails,
    CacheCreation,
    Part(Part),

    // Generated text.
    Choices,
    Choice,
    /// A chat message, or a change of it.
    Turn,
    Calls,
    Call,
    Function,
    Output,
    Item,
    /// Text, or a list of blocks of it.
    Content,
    Block,
    Text,
    /// `reasoning`, and `reasoning_content`: some servers write both, with the same text.
    Reasoning,
    ReasoningContent,
    /// The input of a tool, which is generated JSON of any shape.
    ToolInput,
}

impl Place {
    /// The place of a whole body, or of an event's data.
    pub(super) const fn root(api: Api, event: bool) -> Self {
        match (api, event) {
            (Api::OpenAiChat | Api::OpenAiCompletions | Api::OpenAiEmbeddings, _) => Self::Chat,
            (Api::OpenAiResponses, false) => Self::Response,
            (Api::OpenAiResponses, true) => Self::ResponseEvent,
            (Api::AnthropicMessages, false) => Self::Message,
            (Api::AnthropicMessages, true) => Self::MessageEvent,
            (Api::Opaque, _) => Self::Elsewhere,
        }
    }

    /// The place of a member of the object here.
    #[inline]
    pub(super) fn member(self, key: &[u8], api: Api) -> Self {
        match self {
            Self::Elsewhere => Self::Elsewhere,
            Self::Chat | Self::Response | Self::ResponseEvent | Self::ResponseAsOf => self.top(key),
            Self::Message | Self::MessageEvent | Self::MessageStart => self.top(key),
            Self::Usage | Self::InputDetails | Self::OutputDetails | Self::CacheCreation => {
                self.part(key, api)
            }
            _ => self.text(key),
        }
    }

    /// The place of an element of the array here.
    #[inline]
    pub(super) const fn element(self) -> Self {
        match self {
            Self::Choices => Self::Choice,
            Self::Calls => Self::Call,
            Self::Output => Self::Item,
            Self::Content => Self::Block,
            Self::ToolInput => Self::ToolInput,
            _ => Self::Elsewhere,
        }
    }

    fn top(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::ResponseEvent, b"usage") | (Self::MessageStart, b"error") => Self::Elsewhere,
            (_, b"usage") => Self::Usage,
            (_, b"error") => Self::Error,
            (Self::MessageStart | Self::ResponseAsOf, _) => Self::Elsewhere,
            (_, b"type" | b"object") => Self::Type,
            (Self::Chat, b"choices") => Self::Choices,
            (Self::Response, b"output") => Self::Output,
            (Self::ResponseEvent, b"response") => Self::ResponseAsOf,
            (Self::ResponseEvent, b"delta") => Self::Text,
            (Self::Message, b"content") => Self::Content,
            (Self::MessageEvent, b"message") => Self::MessageStart,
            (Self::MessageEvent, b"delta" | b"content_block") => Self::Block,
            _ => Self::Elsewhere,
        }
    }

    fn text(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Choice, b"delta" | b"message") => Self::Turn,
            (Self::Choice, b"text") => Self::Text,
            (Self::Turn, b"content") => Self::Content,
            (Self::Turn, b"refusal") => Self::Text,
            (Self::Turn, b"reasoning") => Self::Reasoning,
            (Self::Turn, b"reasoning_content") => Self::ReasoningContent,
            (Self::Turn, b"tool_calls") => Self::Calls,
            (Self::Turn, b"function_call") => Self::Function,
            (Self::Turn, b"audio") => Self::Block,
            (Self::Call, b"function" | b"custom") => Self::Function,
            (Self::Function, b"arguments" | b"input") => Self::Text,
            (Self::Item, b"content" | b"summary") => Self::Content,
            (Self::Item, b"arguments" | b"input" | b"code") => Self::Text,
            (Self::Block, b"text" | b"refusal" | b"partial_json" | b"transcript") => Self::Text,
            (Self::Block, b"thinking") => Self::Content,
            (Self::Block, b"input") | (Self::ToolInput, _) => Self::ToolInput,
            _ => Self::Elsewhere,
        }
    }

    fn part(self, key: &[u8], api: Api) -> Self {
        let part = match (api, self, key) {
            (Api::AnthropicMessages | Api::OpenAiResponses, Self::Usage, b"input_tokens") => {
                Part::Input
            }
            (Api::AnthropicMessages | Api::OpenAiResponses, Self::Usage, b"output_tokens") => {
                Part::Output
            }
            (Api::AnthropicMessages, Self::Usage, b"cache_read_input_tokens") => Part::Cached,
            (Api::AnthropicMessages, Self::Usage, b"cache_creation_input_tokens") => {
                Part::CacheWrite
            }
            (Api::AnthropicMessages, Self::Usage, b"cache_creation") => return Self::CacheCreation,
            (_, Self::CacheCreation, b"ephemeral_5m_input_tokens") => Part::CacheWriteShort,
            (_, Self::CacheCreation, b"ephemeral_1h_input_tokens") => Part::CacheWriteLong,
            (Api::AnthropicMessages, ..) => return Self::Elsewhere,
            (Api::OpenAiResponses, Self::Usage, b"input_tokens_details") => {
                return Self::InputDetails;
            }
            (Api::OpenAiResponses, Self::Usage, b"output_tokens_details") => {
                return Self::OutputDetails;
            }
            (_, Self::InputDetails, b"cached_tokens") => Part::Cached,
            (_, Self::OutputDetails, b"reasoning_tokens") => Part::Reasoning,
            (Api::OpenAiResponses, ..) => return Self::Elsewhere,
            (_, Self::Usage, b"prompt_tokens") => Part::Input,
            (_, Self::Usage, b"completion_tokens") => Part::Output,
            // Servers that leave out the details may have these beside the sums.
            (_, Self::Usage, b"cached_tokens") => Part::Cached,
            (_, Self::Usage, b"reasoning_tokens") => Part::Reasoning,
            (_, Self::Usage, b"prompt_tokens_details") => return Self::InputDetails,
            (_, Self::Usage, b"completion_tokens_details") => return Self::OutputDetails,
            _ => return Self::Elsewhere,
        };
        Self::Part(part)
    }
}
