//! What a usage object says, and the meters it comes to. Finding it is up to the answer's reader.

use super::Api;
use crate::usage::{Counts, Meter};

/// A number in a usage object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Input,
    Output,
    Cached,
    Reasoning,
    CacheWrite,
    /// Parts of what is written to a cache, for those who leave out its sum.
    CacheWriteShort,
    CacheWriteLong,
}

/// The meters of a usage that somebody else has read out of an answer, by the names that its API gives the numbers, without what
/// they stand in: `prompt_tokens`, `cached_tokens`. Of an API that is not known, the names are those of the meters. `None` if it
/// says nothing.
pub fn usage_of(api: Api, number: impl Fn(&str) -> Option<u64>) -> Option<Counts> {
    let names: &[(&str, Part)] = match api {
        Api::OpenAiChat | Api::OpenAiCompletions | Api::OpenAiEmbeddings => &[
            ("prompt_tokens", Part::Input),
            ("completion_tokens", Part::Output),
            ("cached_tokens", Part::Cached),
            ("reasoning_tokens", Part::Reasoning),
        ],
        Api::OpenAiResponses => &[
            ("input_tokens", Part::Input),
            ("output_tokens", Part::Output),
            ("cached_tokens", Part::Cached),
            ("reasoning_tokens", Part::Reasoning),
        ],
        Api::AnthropicMessages => &[
            ("input_tokens", Part::Input),
            ("output_tokens", Part::Output),
            ("cache_read_input_tokens", Part::Cached),
            ("cache_creation_input_tokens", Part::CacheWrite),
        ],
        Api::Opaque => {
            let mut counts = None;
            for meter in Meter::ALL {
                if let Some(number) = number(meter.name()) {
                    counts
                        .get_or_insert_with(Counts::default)
                        .set(meter, number);
                }
            }
            return counts;
        }
    };
    let mut said = Said::NONE;
    for (name, part) in names {
        if let Some(number) = number(name) {
            said.set(*part, number);
        }
    }
    said.is_usage().then(|| said.counts(api))
}

/// The numbers of a usage object: absent and null are `None`, 0 is a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
    reasoning: Option<u64>,
    cache_write: Option<u64>,
    cache_write_short: Option<u64>,
    cache_write_long: Option<u64>,
}

impl Said {
    /// Nothing said.
    pub(super) const NONE: Self = Self {
        input: None,
        output: None,
        cached: None,
        reasoning: None,
        cache_write: None,
        cache_write_short: None,
        cache_write_long: None,
    };

    pub(super) const fn set(&mut self, part: Part, count: u64) {
        let slot = match part {
            Part::Input => &mut self.input,
            Part::Output => &mut self.output,
            Part::Cached => &mut self.cached,
            Part::Reasoning => &mut self.reasoning,
            Part::CacheWrite => &mut self.cache_write,
            Part::CacheWriteShort => &mut self.cache_write_short,
            Part::CacheWriteLong => &mut self.cache_write_long,
        };
        *slot = Some(count);
    }

    /// Whether it says how many tokens went in or came out; without either it says nothing.
    pub(super) const fn is_usage(&self) -> bool {
        self.input.is_some() || self.output.is_some()
    }

    /// What holds when `later` is said after this: running totals, so what is said again replaces,
    /// and what is not said again stands.
    pub(super) fn then(self, later: Self) -> Self {
        Self {
            input: later.input.or(self.input),
            output: later.output.or(self.output),
            cached: later.cached.or(self.cached),
            reasoning: later.reasoning.or(self.reasoning),
            cache_write: later.cache_write.or(self.cache_write),
            cache_write_short: later.cache_write_short.or(self.cache_write_short),
            cache_write_long: later.cache_write_long.or(self.cache_write_long),
        }
    }

    /// The meters, disjoint. Anthropic's are so already; OpenAI's input includes what was cached,
    /// and its output the reasoning. A part larger than its whole leaves nothing of the whole.
    pub(super) fn counts(&self, api: Api) -> Counts {
        let count = |said: Option<u64>| said.unwrap_or(0);
        let [input, output] = [count(self.input), count(self.output)];
        let [cached, reasoning] = [count(self.cached), count(self.reasoning)];
        let counts = Counts::default()
            .with(Meter::CachedInput, cached)
            .with(Meter::Reasoning, reasoning);
        if api == Api::AnthropicMessages {
            let parts = count(self.cache_write_short).saturating_add(count(self.cache_write_long));
            return counts
                .with(Meter::Input, input)
                .with(Meter::Output, output)
                .with(Meter::CacheWrite, self.cache_write.unwrap_or(parts));
        }
        counts
            .with(Meter::Input, input.saturating_sub(cached))
            .with(Meter::Output, output.saturating_sub(reasoning))
    }
}
