//! `RateLimitService` as the wire has it: which descriptors stand for which keys, and how many calls one question counts as.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as common;
use envoy_types::pb::envoy::service::ratelimit::v3 as api;
use envoy_types::pb::google::protobuf::{UInt64Value, value::Kind};

use api::rate_limit_response::Code;
use api::rate_limit_service_client::RateLimitServiceClient;
use common::rate_limit_descriptor::Entry;
use tonic::transport::Channel;

use crate::support::beside::{Beside, Plan};
use crate::support::node::amount;
use crate::support::until;
use tollgate::policy::Policy;

/// The more exact one stands first: of two that fit, the first one counts.
const WRITTEN: &str = r#"
[[envoy.rate_limit.callers]]
domain = "shop"
entries.team = "search"
entries.tier = "gold"
account = "a"
key = "k-a"
model = "flat"

[[envoy.rate_limit.callers]]
entries.team = "search"
account = "b"
key = "k-b"
model = "flat"

[[envoy.rate_limit.callers]]
entries.team = "nobody"
account = "a"
key = "k-none"
model = "flat"
"#;

/// A descriptor of these entries, that adds so many hits of its own.
fn descriptor(entries: &[(&str, &str)], hits: Option<u64>) -> common::RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry {
        key: (*key).into(),
        value: (*value).into(),
    };
    common::RateLimitDescriptor {
        entries: entries.iter().map(entry).collect(),
        hits_addend: hits.map(|value| UInt64Value { value }),
        ..Default::default()
    }
}

/// Both accounts have 10.
async fn beside() -> Beside {
    let plan = Plan {
        money: "10",
        written: WRITTEN,
        ..Plan::default()
    };
    let beside = plan.start().await;
    beside.node.account("b", "10").await;
    beside
}

async fn client(beside: &Beside) -> RateLimitServiceClient<Channel> {
    let at = format!("http://{}", beside.envoy);
    let channel = Channel::from_shared(at).unwrap().connect().await.unwrap();
    RateLimitServiceClient::new(channel)
}

async fn ask(
    beside: &Beside,
    domain: &str,
    descriptors: Vec<common::RateLimitDescriptor>,
    hits_addend: u32,
) -> api::RateLimitResponse {
    let request = api::RateLimitRequest {
        domain: domain.into(),
        descriptors,
        hits_addend,
    };
    let answer = client(beside).await.should_rate_limit(request).await;
    answer.unwrap().into_inner()
}

fn said(answer: &api::RateLimitResponse) -> &str {
    let headers = answer.response_headers_to_add.iter();
    let mut reasons = headers.filter(|header| header.key == "x-tollgate-reason");
    match (answer.overall_code(), reasons.next()) {
        (Code::Ok, None) => "OK",
        (Code::OverLimit, Some(reason)) => &reason.value,
        other => panic!("{other:?}: {answer:?}"),
    }
}

/// Whose call it was, as the answer's metadata says.
fn whose(answer: &api::RateLimitResponse) -> Option<(&str, &str)> {
    let fields = &answer.dynamic_metadata.as_ref()?.fields;
    let text = |name: &str| match fields[name].kind.as_ref() {
        Some(Kind::StringValue(text)) => text.as_str(),
        other => panic!("{name}: {other:?}"),
    };
    Some((text("account"), text("key")))
}

async fn left(beside: &Beside) -> [String; 2] {
    let b = tollgate::id::AccountId::new("b").unwrap();
    let left = [
        beside.node.balance(&beside.account).await,
        beside.node.balance(&b).await,
    ];
    left.map(|left| left.to_string())
}

#[tokio::test]
async fn a_descriptor_stands_for_the_first_key_whose_entries_it_has() {
    let beside = beside().await;
    let search = ("team", "search");
    let gold = ("tier", "gold");
    let other = ("path", "/v1");
    let a = Some(("a", "k-a"));
    let b = Some(("b", "k-b"));
    for (domain, entries, want, whom) in [
        ("shop", &[search, gold][..], "OK", a),
        // In any order, and with more than is asked for.
        ("shop", &[other, gold, search], "OK", a),
        // Not all that the first one asks for, or in another domain: the second.
        ("shop", &[search], "OK", b),
        ("elsewhere", &[search, gold], "OK", b),
        ("shop", &[search, ("tier", "silver")], "OK", b),
        // Of nobody, and of no call: not limited.
        ("shop", &[("team", "mail")], "OK", None),
        ("shop", &[gold], "OK", None),
        // A model that nobody pays for, and a key that is not there.
        (
            "shop",
            &[("team", "mail"), ("model", "flat")],
            "KEY_UNKNOWN",
            None,
        ),
        ("shop", &[("team", "nobody")], "KEY_UNKNOWN", None),
        // The descriptor's own model before the caller's; its own secret before both.
        (
            "shop",
            &[search, gold, ("model", "none-such")],
            "MODEL_NOT_PRICED",
            None,
        ),
        (
            "shop",
            &[search, gold, ("api_key", "Bearer sk-b"), ("model", "flat")],
            "OK",
            b,
        ),
    ] {
        let answer = ask(&beside, domain, vec![descriptor(entries, None)], 0).await;
        assert_eq!(
            (said(&answer), whose(&answer)),
            (want, whom),
            "{domain} {entries:?}"
        );
        assert_eq!(answer.statuses.len(), 1);
    }
    assert_eq!(
        left(&beside).await,
        ["8.00", "6.00"],
        "each paid for its own"
    );
    // Of several descriptors the first that names a caller is the call; each has a status.
    let several = vec![
        descriptor(&[("team", "mail")], None),
        descriptor(&[search], None),
        descriptor(&[search, gold], None),
    ];
    let answer = ask(&beside, "shop", several, 0).await;
    assert_eq!((said(&answer), whose(&answer)), ("OK", b));
    assert_eq!(answer.statuses.len(), 3);
    assert_eq!(left(&beside).await, ["8.00", "5.00"]);
}

#[tokio::test]
async fn hits_are_calls_by_the_descriptor_or_by_the_request() {
    let beside = beside().await;
    let gold = |hits| vec![descriptor(&[("team", "search"), ("tier", "gold")], hits)];
    // The descriptor's own hits, those of the request, and what is left of the 10.
    for (own, all, want, rest) in [
        (None, 0, "OK", "9.00"),
        (None, 2, "OK", "7.00"),
        (Some(3), 1, "OK", "4.00"),
        // A call is one call at least.
        (Some(0), 2, "OK", "3.00"),
        // All or nothing, however much is asked for.
        (None, 4, "INSUFFICIENT_BALANCE", "3.00"),
        (Some(u64::MAX), 0, "INSUFFICIENT_BALANCE", "3.00"),
        (None, 3, "OK", "0.00"),
        (None, 0, "INSUFFICIENT_BALANCE", "0.00"),
    ] {
        let answer = ask(&beside, "shop", gold(own), all).await;
        assert_eq!(said(&answer), want, "{own:?} {all}");
        assert_eq!(left(&beside).await[0], rest, "{own:?} {all}");
    }
    assert_eq!(beside.held(), amount("0"), "nothing waits for an end");
    let hour = beside.node.core.clock.now().wall.hour().0;
    let hours = [hour - 1, hour + 1].map(tollgate::clock::Hour);
    let store = &beside.node.core.store;
    let rows = store.usage(&beside.account, hours[0], hours[1]).await;
    let rows = rows.unwrap();
    let tallies = rows.iter().map(|row| &row.tally);
    let counted = tallies.fold((0, 0), |(calls, cost), tally| {
        (calls + tally.calls(), cost + tally.cost_nanos)
    });
    assert_eq!(counted, (5, 10_000_000_000), "five questions that cost ten");
}

#[tokio::test]
async fn the_limit_of_the_key_s_account_applies_and_is_shown() {
    let plan = Plan {
        written: WRITTEN,
        policy: Policy {
            qps: Some(1),
            burst: Some(2),
            ..Policy::default()
        },
        ..Plan::default()
    };
    let beside = plan.start().await;
    beside.node.account("b", "10").await;
    let gold = || vec![descriptor(&[("team", "search"), ("tier", "gold")], None)];
    let first = ask(&beside, "shop", gold(), 0).await;
    assert_eq!(said(&first), "OK");
    let limit = first.statuses[0].current_limit.clone().unwrap();
    assert_eq!((limit.requests_per_unit, limit.name.as_str()), (1, "qps"));
    let refused = until("calls come faster than one a second", async || {
        let answer = ask(&beside, "shop", gold(), 0).await;
        (said(&answer) != "OK").then_some(answer)
    })
    .await;
    assert_eq!(said(&refused), "QPS_EXCEEDED");
    assert_eq!(refused.statuses[0].code(), Code::OverLimit);
    // Another key's account has its own.
    let other = vec![descriptor(&[("team", "search")], None)];
    assert_eq!(said(&ask(&beside, "shop", other, 0).await), "OK");
}
