//! The official Python clients through `tollgate demo`: what they see, and that the balance is lower by exactly usage × price.

use serde_json::{Value, json};
use tollgate::money::Amount;

use super::process::Process;
use crate::sdk::Sdk;
use crate::support::node::amount as units;

/// What the demo's prices make of a usage object of either SDK, whose cached input is nothing here.
fn cost(usage: &Value) -> Amount {
    let count = |names: [&str; 2]| names.iter().find_map(|name| usage[name].as_i64()).unwrap();
    let input = count(["prompt_tokens", "input_tokens"]);
    let output = count(["completion_tokens", "output_tokens"]);
    assert!(input > 0 && output > 0, "{usage}");
    Amount::from_nanos(input * 2_500 + output * 10_000)
}

async fn balance(process: &Process) -> Amount {
    process.show("demo").await.balance
}

/// Runs a script that succeeds, and expects the balance to fall by what its usage costs: the one the SDK saw, or the one given
/// for a client that did not ask for it.
async fn check(
    process: &Process,
    sdk: &Sdk,
    script: &str,
    options: &[&str],
    unseen: Option<Value>,
) {
    let before = balance(process).await;
    let seen = sdk.run(script, options).await;
    assert_eq!(seen["ok"], true, "{script} {options:?}: {seen}");
    assert_eq!(
        seen["text"], "Hello from the stand-in model. You said: Say hello",
        "{seen}"
    );
    let usage = match unseen {
        Some(usage) => {
            assert_eq!(
                seen["usage"],
                Value::Null,
                "it did not ask for usage: {seen}"
            );
            assert_eq!(seen["usage_chunks"], 0, "{seen}");
            usage
        }
        None => seen["usage"].clone(),
    };
    let spent = before.checked_sub(balance(process).await).unwrap();
    assert_eq!(spent, cost(&usage), "{script} {options:?}: {seen}");
}

/// Runs a script that is refused, and expects fields of the SDK's own exception.
async fn refused(sdk: &Sdk, script: &str, options: &[&str], expected: Value) {
    let seen = sdk.run(script, options).await;
    for (field, value) in expected.as_object().unwrap() {
        let got = seen.pointer(field).unwrap_or(&Value::Null);
        assert_eq!(got, value, "{script} {options:?} {field} in {seen}");
    }
}

#[tokio::test]
async fn the_official_clients_are_charged_to_the_nano_unit_and_refused_in_their_own_words() {
    let process = Process::demo(&[]).await;
    let sdk = Sdk {
        at: process.proxy,
        key: "sk-demo",
    };
    check(&process, &sdk, "chat.py", &[], None).await;
    check(
        &process,
        &sdk,
        "chat.py",
        &["--mode", "stream", "--include-usage"],
        None,
    )
    .await;
    let unseen = json!({"prompt_tokens": 5, "completion_tokens": 9});
    check(
        &process,
        &sdk,
        "chat.py",
        &["--mode", "stream"],
        Some(unseen),
    )
    .await;
    check(&process, &sdk, "messages.py", &[], None).await;
    check(&process, &sdk, "messages.py", &["--mode", "stream"], None).await;

    let stranger = Sdk {
        key: "sk-nobody",
        ..sdk
    };
    let expected = json!({
        "/exception": "AuthenticationError", "/status": 401, "/code": "invalid_api_key",
        "/headers/x-tollgate-reason": "KEY_UNKNOWN",
    });
    refused(&stranger, "chat.py", &[], expected).await;
    let expected = json!({
        "/exception": "AuthenticationError", "/status": 401, "/body/error/type": "authentication_error",
    });
    refused(&stranger, "messages.py", &[], expected).await;

    // Dearer than its hold: it passes and takes the balance below zero.
    let seen = sdk
        .run(
            "chat.py",
            &[
                "--model",
                "demo-expensive",
                "--prompt",
                "one two three four",
            ],
        )
        .await;
    assert_eq!(seen["ok"], true, "{seen}");
    assert!(balance(&process).await < units("0.1"), "{seen}");
    process
        .cli("credit late-charge demo 1 --request-id late")
        .await;
    // The SDK would try a 429 again by itself; it is told not to, or this would take seconds and end the same.
    let expected = json!({
        "/exception": "RateLimitError", "/status": 429, "/code": "insufficient_quota", "/type": "insufficient_quota",
        "/headers/x-should-retry": "false", "/headers/x-tollgate-reason": "ACCOUNT_OVERDUE",
    });
    refused(&sdk, "chat.py", &[], expected).await;
    let expected = json!({
        "/ok": false, "/status": 402, "/body/error/type": "billing_error", "/headers/x-should-retry": "false",
    });
    refused(&sdk, "messages.py", &[], expected).await;
    process.terminate().await;
}
