//! Which API a path calls.

use crate::meter::Api;

#[test]
fn the_end_of_the_path_tells_the_api() {
    for (path, want) in [
        ("/v1/chat/completions", Api::OpenAiChat),
        ("/openai/deployments/x/chat/completions/", Api::OpenAiChat),
        ("/v1/completions", Api::OpenAiCompletions),
        ("/v1/embeddings", Api::OpenAiEmbeddings),
        ("/v1/responses", Api::OpenAiResponses),
        ("/v1/messages", Api::AnthropicMessages),
        ("/v1/messages/count_tokens", Api::Opaque),
        ("/v1/notcompletions", Api::Opaque),
        ("/v1/models", Api::Opaque),
        ("", Api::Opaque),
    ] {
        assert_eq!(Api::of_path(path), want, "{path}");
        assert_eq!(want.has_json_request(), want != Api::Opaque, "{path}");
    }
}
