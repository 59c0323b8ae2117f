//! Each provider's preset at work: what an operator types, and what callers see. Copied from runs, by `tests/providers/stories.rs`.

#[doc = include_str!("stories/alibaba_visual.md")]
pub mod alibaba_visual {}

#[doc = include_str!("stories/tencent_apigw.md")]
pub mod tencent_apigw {}

#[doc = include_str!("stories/xiaomi_mimo.md")]
pub mod xiaomi_mimo {}

#[doc = include_str!("stories/openai_prepaid.md")]
pub mod openai_prepaid {}

#[doc = include_str!("stories/ai12z.md")]
pub mod ai12z {}
