//! Every refusal and problem in every dialect.

use super::*;

const DIALECTS: [Dialect; 4] = [
    Dialect::Openai,
    Dialect::Anthropic,
    Dialect::Gemini,
    Dialect::Problem,
];

fn parsed(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

/// Status, the dialect's own word for the reason, and where it stands.
fn check(dialect: Dialect, pointer: &str, cases: &[(Reason, u16, &str)]) {
    for &(reason, status, word) in cases {
        let response = refusal(dialect, &Refusal::new(reason), "r-1");
        let label = format!("{dialect:?} {reason:?}");
        assert_eq!(response.status(), status, "{label}");
        assert_eq!(parsed(&response).pointer(pointer).unwrap(), word, "{label}");
        assert_eq!(response.headers()[REASON_HEADER], reason.name(), "{label}");
        assert_eq!(response.headers()[REQUEST_ID_HEADER], "r-1", "{label}");
        assert!(!response.headers().contains_key(RETRY_AFTER), "{label}");
    }
}

#[test]
fn openai_says_it_by_code() {
    check(
        Dialect::Openai,
        "/error/code",
        &[
            (Reason::InsufficientBalance, 429, "insufficient_quota"),
            (Reason::AccountOverdue, 429, "insufficient_quota"),
            (Reason::QpsExceeded, 429, "rate_limit_exceeded"),
            (Reason::ConcurrencyExceeded, 429, "rate_limit_exceeded"),
            (Reason::AccountSuspended, 429, "billing_not_active"),
            (Reason::ReactivationRequired, 429, "billing_not_active"),
            (Reason::RefundInProgress, 429, "billing_not_active"),
            (Reason::AccountClosed, 403, "account_deactivated"),
            (Reason::KeyUnknown, 401, "invalid_api_key"),
            (Reason::KeyRevoked, 401, "invalid_api_key"),
            (Reason::KeyExpired, 401, "invalid_api_key"),
            (Reason::KeyLimitExceeded, 429, "insufficient_quota"),
            (Reason::ModelNotAllowed, 403, "model_not_found"),
            (Reason::ModelNotPriced, 404, "model_not_found"),
            (Reason::StateUnavailable, 503, "state_unavailable"),
        ],
    );
    let rate = refusal(Dialect::Openai, &Refusal::new(Reason::QpsExceeded), "r");
    assert_eq!(parsed(&rate)["error"]["type"], "requests");
    let balance = refusal(
        Dialect::Openai,
        &Refusal::new(Reason::InsufficientBalance),
        "r",
    );
    assert_eq!(parsed(&balance)["error"]["type"], "insufficient_quota");
    assert_eq!(parsed(&balance)["error"]["param"], Value::Null);
}

#[test]
fn anthropic_says_it_by_type() {
    check(
        Dialect::Anthropic,
        "/error/type",
        &[
            (Reason::InsufficientBalance, 402, "billing_error"),
            (Reason::AccountOverdue, 402, "billing_error"),
            (Reason::QpsExceeded, 429, "rate_limit_error"),
            (Reason::ConcurrencyExceeded, 429, "rate_limit_error"),
            (Reason::AccountSuspended, 403, "permission_error"),
            (Reason::ReactivationRequired, 403, "permission_error"),
            (Reason::RefundInProgress, 403, "permission_error"),
            (Reason::AccountClosed, 403, "permission_error"),
            (Reason::KeyUnknown, 401, "authentication_error"),
            (Reason::KeyRevoked, 401, "authentication_error"),
            (Reason::KeyExpired, 401, "authentication_error"),
            (Reason::KeyLimitExceeded, 402, "billing_error"),
            (Reason::ModelNotAllowed, 403, "permission_error"),
            (Reason::ModelNotPriced, 404, "not_found_error"),
            (Reason::StateUnavailable, 503, "api_error"),
        ],
    );
    let body = parsed(&refusal(
        Dialect::Anthropic,
        &Refusal::new(Reason::KeyUnknown),
        "req_7",
    ));
    assert_eq!(body["type"], "error");
    assert_eq!(body["request_id"], "req_7");
}

#[test]
fn gemini_says_it_by_status() {
    check(
        Dialect::Gemini,
        "/error/status",
        &[
            (Reason::InsufficientBalance, 429, "RESOURCE_EXHAUSTED"),
            (Reason::QpsExceeded, 429, "RESOURCE_EXHAUSTED"),
            (Reason::AccountClosed, 403, "PERMISSION_DENIED"),
            (Reason::KeyRevoked, 401, "UNAUTHENTICATED"),
            (Reason::ModelNotPriced, 404, "NOT_FOUND"),
            (Reason::StateUnavailable, 503, "UNAVAILABLE"),
        ],
    );
    let wait = Refusal::after(Reason::QpsExceeded, Duration::from_millis(36_500));
    let body = parsed(&refusal(Dialect::Gemini, &wait, "r"));
    assert_eq!(body["error"]["code"], 429);
    assert_eq!(body["error"]["details"][0]["reason"], "QPS_EXCEEDED");
    assert_eq!(body["error"]["details"][1]["retryDelay"], "36.500s");
}

#[test]
fn all_others_say_it_by_problem_details() {
    check(
        Dialect::Problem,
        "/type",
        &[
            (Reason::InsufficientBalance, 402, "about:blank"),
            (Reason::QpsExceeded, 429, QUOTA_EXCEEDED),
            (Reason::ConcurrencyExceeded, 429, QUOTA_EXCEEDED),
            (Reason::KeyLimitExceeded, 429, QUOTA_EXCEEDED),
            (Reason::KeyUnknown, 401, "about:blank"),
            (Reason::StateUnavailable, 503, "about:blank"),
        ],
    );
    let response = refusal(Dialect::Problem, &Refusal::new(Reason::QpsExceeded), "r");
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    assert_eq!(parsed(&response)["violated-policies"], json!(["qps"]));
    assert_eq!(parsed(&response)["status"], 429);
}

#[test]
fn only_what_waiting_mends_may_be_tried_again() {
    for dialect in DIALECTS {
        for reason in Reason::ALL {
            let response = refusal(dialect, &Refusal::new(reason), "r");
            let waits = matches!(
                reason,
                Reason::QpsExceeded | Reason::ConcurrencyExceeded | Reason::StateUnavailable
            );
            let told_not_to = response.headers().get(SHOULD_RETRY).is_some();
            assert_eq!(told_not_to, !waits, "{dialect:?} {reason:?}");
        }
    }
}

#[test]
fn the_wait_is_rounded_up_and_at_least_one() {
    for (nanos, seconds, millis) in [
        (0, "1", "1"),
        (1, "1", "1"),
        (1_000_000_000, "1", "1000"),
        (1_000_000_001, "2", "1001"),
        (36_000_000_000, "36", "36000"),
    ] {
        let wait = Refusal::after(Reason::QpsExceeded, Duration::from_nanos(nanos));
        for dialect in DIALECTS {
            let response = refusal(dialect, &wait, "r");
            assert_eq!(response.headers()[RETRY_AFTER], seconds, "{nanos}");
            let in_millis = response.headers().get(RETRY_AFTER_MS);
            let reads_millis = matches!(dialect, Dialect::Openai | Dialect::Anthropic);
            let expected = reads_millis.then(|| HeaderValue::from_static(millis));
            assert_eq!(in_millis, expected.as_ref(), "{dialect:?} {nanos}");
        }
    }
}

#[test]
fn problems_have_a_status_and_words_in_every_dialect() {
    let cases = [
        (
            Problem::BadRequest {
                message: "`model` is missing".into(),
                param: Some("model"),
            },
            400,
            "`model` is missing",
        ),
        (Problem::MethodNotAllowed, 405, "method"),
        (Problem::NotFound, 404, "route"),
        (Problem::ClientTimeout, 408, "in time"),
        (Problem::TooLarge { bytes_max: 77 }, 413, "77 bytes"),
        (Problem::HeadersTooLarge, 431, "headers"),
        (Problem::UpstreamUnreachable, 502, "upstream"),
        (Problem::UpstreamTimeout, 504, "upstream"),
    ];
    for dialect in DIALECTS {
        for (case, status, words) in &cases {
            let response = problem(dialect, case, "r-2");
            assert_eq!(response.status(), *status, "{dialect:?} {case:?}");
            let body = parsed(&response);
            let said = match dialect {
                Dialect::Problem => &body["detail"],
                _ => &body["error"]["message"],
            };
            assert!(said.as_str().unwrap().contains(words), "{body}");
            assert!(!response.headers().contains_key(REASON_HEADER));
        }
    }
    let field = problem(Dialect::Openai, &cases[0].0, "r");
    assert_eq!(parsed(&field)["error"]["param"], "model");
}

#[test]
fn a_path_tells_the_dialect() {
    for (path, dialect) in [
        ("/v1/chat/completions", Dialect::Openai),
        ("/v1/chat/completions/", Dialect::Openai),
        ("/openai/v1/embeddings", Dialect::Openai),
        ("/v1/images/generations", Dialect::Openai),
        ("/v1/messages", Dialect::Anthropic),
        ("/v1/messages/count_tokens", Dialect::Anthropic),
        ("/v1beta/models/gemini-x:generateContent", Dialect::Gemini),
        ("/v2/chat", Dialect::Problem),
        ("/", Dialect::Problem),
    ] {
        assert_eq!(Dialect::of_path(path), dialect, "{path}");
    }
}

#[test]
fn the_id_of_a_request_is_said_however_long_it_may_be() {
    let id = "x".repeat(128);
    let wrong = Problem::NotFound;
    for dialect in [
        Dialect::Openai,
        Dialect::Anthropic,
        Dialect::Gemini,
        Dialect::Problem,
    ] {
        let refused = refusal(dialect, &Refusal::new(Reason::KeyUnknown), &id);
        for response in [refused, problem(dialect, &wrong, &id)] {
            assert_eq!(response.headers()["x-request-id"], id, "{dialect:?}");
            // Where Anthropic's libraries look for it.
            let own = response.headers().get("request-id");
            let expected = (dialect == Dialect::Anthropic).then_some(id.as_str());
            assert_eq!(own.map(|id| id.to_str().unwrap()), expected, "{dialect:?}");
        }
    }
}
