//! A1: the rules of Alibaba Cloud Visual Intelligence, under the preset `alibaba-visual`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tollgate::clock::Timestamp;
use tollgate::id::AccountId;
use tollgate::licence::{Licence, Signer};
use tollgate::proto::v1;
use tonic::Code;

use super::acts::lasts;
use super::backend::{money, refused, said, text};
use super::world::{DAY, HOUR, NS, PASSES, SECOND, World};

const OVERDUE: &str = "ACCOUNT_OVERDUE";
const SUSPENDED: &str = "ACCOUNT_SUSPENDED";
const REACTIVATION: &str = "REACTIVATION_REQUIRED";
const NO_MONEY: &str = "INSUFFICIENT_BALANCE";

/// `flat` and `metered` also have a price in points: ten for what costs 1.
const POINTS: &str = r#"
[[prices]]
pattern = "flat"
unit = "points"
rates.request = "10"
"#;

async fn visual() -> World {
    World::configured("alibaba-visual", POINTS).await
}

/// Overdue by 3 from the mark on: 1 was paid in and 4 spent.
async fn overdue_by_3() -> World {
    let world = visual().await;
    world.recharge("1").await;
    world.spend("4").await;
    world.mark();
    world
}

#[tokio::test]
async fn a1_01_overdue_is_a_bill_that_the_balance_does_not_cover() {
    let world = visual().await;
    world.recharge("1").await;
    world.check_now("flat", PASSES).await;
    assert_eq!(world.state().await, "ACTIVE", "at zero all is paid");
    world.mark();
    world.at(HOUR);
    world.late("2").await;
    let account = world.a().await;
    assert_eq!(world.state().await, "OVERDUE");
    assert_eq!(text(&account.debt), "2.00");
    assert_eq!(account.overdue_time, world.instant(HOUR));

    world.at(2 * HOUR);
    world.late("1").await;
    world.recharge("2").await;
    let since = world.a().await.overdue_time;
    assert_eq!(since, world.instant(HOUR), "one instant an episode");
    world.recharge("1").await;
    assert_eq!(world.state().await, "ACTIVE");
    assert_eq!(world.a().await.overdue_time, None);
    world.at(3 * HOUR);
    world.late("1").await;
    let since = world.a().await.overdue_time;
    assert_eq!(since, world.instant(3 * HOUR), "another episode");
    world.recharge("10").await;

    world.at(4 * HOUR);
    world.mark_overdue().await;
    assert_eq!(world.state().await, "OVERDUE", "the backend says so");
    assert_eq!(world.a().await.overdue_time, world.instant(4 * HOUR));
    world.check_now("flat", OVERDUE).await;
    // Said once more, or owed as well: it began with the first of them.
    world.at(5 * HOUR);
    world.mark_overdue().await;
    world.late("20").await;
    assert_eq!(world.a().await.overdue_time, world.instant(4 * HOUR));
    world.clear_overdue().await;
    let since = world.a().await.overdue_time;
    assert_eq!(since, world.instant(5 * HOUR), "what is left is the debt");
    world.recharge("20").await;
    assert_eq!(world.state().await, "ACTIVE");
    world.check_now("flat", PASSES).await;
}

#[tokio::test]
async fn a1_02_overdue_is_told_at_once_and_once() {
    let world = overdue_by_3().await;
    let told = world.events("account.overdue").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].time, world.instant(0), "at once");
    assert_eq!(text(&told[0].amount), "3.00");
    world.at(HOUR);
    world.late("1").await;
    world.recharge("2").await;
    world.mark_overdue().await;
    assert_eq!(world.events("account.overdue").await.len(), 1, "once");
    world.clear_overdue().await;
    world.recharge("2").await;
    world.late("5").await;
    let kinds = ["account.overdue", "account.resumed"];
    let story = world.story(&kinds).await;
    let expected = ["account.overdue", "account.resumed", "account.overdue"];
    assert_eq!(story, expected, "another episode, another word");
}

#[tokio::test]
async fn a1_03_when_plan_points_are_used_up_or_expired_money_pays() {
    let world = visual().await;
    world.mark();
    world.buy_plan("pack", 25, Some(DAY)).await;
    world.check_now("flat", PASSES).await;
    world.check_now("flat", PASSES).await;
    let left = (world.left("pack").await, world.balance().await);
    let expected = ("5.00".to_owned(), "0.00".to_owned());
    assert_eq!(left, expected, "the plan alone paid, without any money");
    world.check_now("flat", NO_MONEY).await;
    world.recharge("100").await;
    world.check_now("flat", PASSES).await;
    let left = (world.left("pack").await, world.balance().await);
    let expected = ("0.00".to_owned(), "99.50".to_owned());
    assert_eq!(left, expected, "half from the plan, half from money");
    world.check_now("flat", PASSES).await;
    assert_eq!(world.balance().await, "98.50", "no refusal: as you go");

    world.buy_plan("pack", 15, Some(DAY)).await;
    world.check(&[(DAY - NS, "flat", PASSES)]).await;
    assert_eq!(world.balance().await, "98.50", "its last instant");
    world.check(&[(DAY, "flat", PASSES)]).await;
    assert_eq!(world.balance().await, "97.50", "expired: as you go");

    let whole = |o: &mut v1::Overrides| o.set_plan_shortfall(v1::PlanShortfall::Whole);
    world.otherwise(whole).await;
    world.buy_plan("pack", 5, None).await;
    world.check_now("flat", PASSES).await;
    let left = (world.left("pack").await, world.balance().await);
    let expected = ("5.00".to_owned(), "96.50".to_owned());
    assert_eq!(left, expected, "a plan that cannot pay all pays nothing");
}

#[tokio::test]
async fn a1_04_when_a_qps_plan_expires_the_default_rate_applies() {
    let world = visual().await;
    world.otherwise(|o| o.qps = Some(2)).await;
    world.recharge("1000").await;
    world.mark();
    world.buy_qps_plan("fast", 20, HOUR, 2 * HOUR).await;
    world.at(HOUR - NS);
    assert_eq!(world.passes("flat", 45).await, 2, "not yet");
    world.at(HOUR);
    assert_eq!(world.passes("flat", 45).await, 0, "nothing is earned yet");
    // A twentieth of a second earns one call, where the default rate needs half a second.
    world.at(HOUR + SECOND / 20);
    assert_eq!(world.passes("flat", 45).await, 1);
    world.at(2 * HOUR - NS);
    assert_eq!(world.passes("flat", 45).await, 20, "still");
    // All of the burst has come back when it expires, and is more than the default allows.
    world.buy_qps_plan("again", 20, 3 * HOUR, 4 * HOUR).await;
    world.at(3 * HOUR);
    world.check_now("flat", PASSES).await;
    world.at(4 * HOUR);
    assert_eq!(world.passes("flat", 45).await, 2, "over, and clamped");

    // To the instant: by the call's own time, whatever was written down by then.
    let world = visual().await;
    world.otherwise(|o| o.qps = Some(5)).await;
    world.recharge("1000").await;
    world.mark();
    world.buy_qps_plan("fast", 20, HOUR, 2 * HOUR).await;
    for (offset, limit) in [
        (HOUR - NS, "5"),
        (HOUR, "20"),
        (HOUR + NS, "20"),
        (2 * HOUR - NS, "20"),
        (2 * HOUR, "5"),
        (2 * HOUR + NS, "5"),
    ] {
        world.at(offset);
        let seen = world.call("flat").await;
        assert_eq!(seen.said(), PASSES, "at {offset}");
        let told = seen.0.header("x-ratelimit-limit-requests");
        assert_eq!(told, Some(limit), "at {offset}");
    }
}

#[tokio::test]
async fn a1_05_plans_are_unavailable_while_overdue_and_their_time_runs_on() {
    let world = visual().await;
    world
        .otherwise(|o| {
            o.qps = Some(2);
            // So that calls pass at all while the account is overdue.
            o.grace = lasts(20 * HOUR, true);
        })
        .await;
    world.recharge("1").await;
    world.mark();
    world.buy_plan("long", 1_000, Some(DAY)).await;
    world.buy_plan("short", 100, Some(2 * HOUR)).await;
    world.buy_qps_plan("fast", 20, 0, DAY).await;
    world.at(HOUR);
    world.late("5").await;
    assert_eq!(world.passes("flat", 45).await, 2, "the default rate");
    assert_eq!(world.balance().await, "-6.00", "and money pays");
    for plan in world.plans().await {
        assert_eq!(plan.remaining, plan.lifetime_credit, "{plan:?}");
        assert_eq!(plan.state(), v1::PlanState::Unavailable);
    }
    world.at(3 * HOUR);
    world.recharge("6").await;
    assert_eq!(world.left("short").await, "0.00", "its time ran on");
    // A full burst is earned by a second of it.
    let at_once = world.passes("flat", 45).await;
    world.at(3 * HOUR + SECOND);
    assert_eq!(world.passes("flat", 45).await, 20, "the rate is back");
    let points = 1_000 - 10 * (20 + at_once);
    let left = (world.left("long").await, world.balance().await);
    assert_eq!(left, (format!("{points}.00"), "0.00".to_owned()));
}

#[tokio::test]
async fn a1_06_calls_fail_as_soon_as_the_account_is_overdue() {
    let world = visual().await;
    world.recharge("2").await;
    let call = world.begin("flat", 0).await;
    world.late("1.5").await;
    world.check_now("flat", NO_MONEY).await;
    world.mark();
    world.late("0.500000001").await;
    world
        .check(&[(0, "flat", OVERDUE), (0, "free", OVERDUE)])
        .await;
    world.answer(call).await;
    assert_eq!(world.balance().await, "-1.000000001", "in flight: it lands");
    world.check(&[(NS, "flat", OVERDUE)]).await;
}

#[tokio::test]
async fn a1_07_after_24_hours_the_account_is_suspended() {
    let world = overdue_by_3().await;
    world
        .check(&[
            (0, "flat", OVERDUE),
            (DAY - NS, "flat", OVERDUE),
            (DAY, "flat", SUSPENDED),
            (DAY + NS, "flat", SUSPENDED),
        ])
        .await;
    assert_eq!(world.state().await, "SUSPENDED");
    assert_eq!(world.a().await.suspend_time, world.instant(DAY));
    world.told("account.suspended", 1).await;
    world.check(&[(30 * DAY, "flat", SUSPENDED)]).await;
    world.told("account.suspended", 1).await;
}

#[tokio::test]
async fn a1_08_before_24_hours_service_resumes_with_the_top_up() {
    let world = overdue_by_3().await;
    world.check(&[(DAY - NS, "flat", OVERDUE)]).await;
    world.recharge("13").await;
    world.check_now("flat", PASSES).await;
    world.check(&[(2 * DAY, "flat", PASSES)]).await;
    assert_eq!(world.state().await, "ACTIVE");
    assert!(world.events("account.suspended").await.is_empty());
}

#[tokio::test]
async fn a1_09_reactivation_after_24_hours() {
    let world = overdue_by_3().await;
    let capabilities = v1::Patterns {
        patterns: vec!["face*".into(), "ocr*".into()],
    };
    world
        .otherwise(|o| o.capabilities = Some(capabilities))
        .await;
    world.at(DAY);
    let owing = refused(world.reactivate("face*").await);
    assert_eq!(owing, said(Code::FailedPrecondition, "ACCOUNT_OVERDUE"));
    world.recharge("2").await;
    world.check_now("face-detect", SUSPENDED).await;
    world.recharge("11").await;
    assert_eq!(world.state().await, "REACTIVATION_REQUIRED");
    world.check_now("face-detect", REACTIVATION).await;
    world.reactivate("face*").await.unwrap();
    world.check_now("face-detect", PASSES).await;
    world.check_now("ocr-read", REACTIVATION).await;
    world.check(&[(10 * DAY, "ocr-read", REACTIVATION)]).await;
    assert_eq!(world.a().await.pending_capabilities, ["ocr*"]);
    world.reactivate("ocr*").await.unwrap();
    world.check_now("ocr-read", PASSES).await;
    world.check_now("flat", PASSES).await;
    assert_eq!(world.state().await, "ACTIVE");
    let kinds = [
        "account.suspended",
        "account.reactivation_required",
        "account.resumed",
    ];
    assert_eq!(world.story(&kinds).await, kinds);

    // Under the preset as it is, nothing is listed: the account is reactivated as a whole.
    let world = overdue_by_3().await;
    world.at(DAY);
    world.recharge("13").await;
    world.check_now("face-detect", REACTIVATION).await;
    // Nor while the backend says that something is open.
    world.mark_overdue().await;
    let open = refused(world.reactivate("*").await);
    assert_eq!(open.0, Code::FailedPrecondition, "{open:?}");
    world.clear_overdue().await;
    world.check_now("face-detect", REACTIVATION).await;
    world.reactivate("*").await.unwrap();
    world.check_now("face-detect", PASSES).await;
}

#[tokio::test]
async fn a1_10_suspension_protection_by_credit_limit_or_by_duration() {
    let world = visual().await;
    world.otherwise(|o| o.credit_limit = money("5")).await;
    world.recharge("1").await;
    world.mark();
    world.late("5").await;
    world.check_now("flat", PASSES).await;
    world.check_now("free", PASSES).await;
    assert_eq!(world.balance().await, "-5.00");
    world.check_now("flat", NO_MONEY).await;
    world.late("0.000000001").await;
    world.check_now("free", OVERDUE).await;
    world.recharge("0.000000001").await;
    world.check(&[(3 * DAY, "free", PASSES)]).await;
    assert_eq!(world.balance().await, "-5.00");
    // Once it is suspended, a part of the debt does not bring it back, also where the rest is within the limit.
    world.late("2").await;
    world.check(&[(5 * DAY, "free", SUSPENDED)]).await;
    world.recharge("4").await;
    world.check_now("free", SUSPENDED).await;
    assert_eq!(world.state().await, "SUSPENDED");

    let world = visual().await;
    world.otherwise(|o| o.grace = lasts(2 * HOUR, true)).await;
    world.recharge("1").await;
    world.spend("4").await;
    world.mark();
    world
        .check(&[
            (0, "flat", PASSES),
            (2 * HOUR - NS, "flat", PASSES),
            (2 * HOUR, "flat", PASSES),
            (2 * HOUR + NS, "flat", OVERDUE),
            (DAY, "flat", SUSPENDED),
        ])
        .await;
    assert_eq!(world.balance().await, "-6.00");

    // By duration, with a bound: beyond it calls fail at once, and go on once it is paid down to it.
    let world = visual().await;
    world
        .otherwise(|o| {
            o.grace = lasts(2 * HOUR, true);
            o.grace_limit = money("5");
        })
        .await;
    world.recharge("1").await;
    world.spend("6").await;
    world.check_now("free", PASSES).await;
    world.late("0.000000001").await;
    world.check_now("free", OVERDUE).await;
    world.recharge("0.000000001").await;
    world.check_now("free", PASSES).await;
}

#[tokio::test]
async fn a1_11_an_offline_licence_is_valid_from_its_activation_until_it_expires() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("licences.pem");
    std::fs::write(&key_file, pair.serialize_pem()).unwrap();
    let public = STANDARD.encode(pair.public_key_raw());
    let more = format!(
        "[licences]\nkeys.k1 = \"{public}\"\n[licences.signing]\nkid = \"k1\"\nkey_file = \"{}\"\n",
        key_file.display()
    );
    let world = World::configured("alibaba-visual", &more).await;
    world.mark();
    let licence = v1::Licence {
        licence_id: "sdk-1".into(),
        account_id: "a".into(),
        models: vec!["face*".into()],
        activate_time: world.instant(HOUR),
        expire_time: world.instant(30 * DAY),
        ..v1::Licence::default()
    };
    let request = v1::IssueLicenceRequest {
        licence: Some(licence),
    };
    let issued = world.licences().issue_licence(request).await.unwrap();
    let token = issued.into_inner().token;
    let check = async |offset: i64, want: &str| {
        world.at(offset);
        let seen = world.call_as(&token, "face-detect", 0).await;
        assert_eq!(seen.said(), want, "at {offset}");
    };
    check(HOUR - NS, "KEY_UNKNOWN").await;
    check(HOUR, PASSES).await;
    world.late("5").await;
    world.check_now("face-detect", OVERDUE).await;
    check(2 * HOUR, PASSES).await;
    check(3 * DAY, PASSES).await;
    assert_eq!(world.state().await, "SUSPENDED", "which does not touch it");
    assert_eq!(world.balance().await, "-5.00", "nor it the money");
    let seen = world.call_as(&token, "flat", 0).await;
    assert_eq!(seen.said(), "MODEL_NOT_ALLOWED");
    check(30 * DAY - NS, PASSES).await;
    check(30 * DAY, "KEY_EXPIRED").await;

    // No store: what is signed needs no account, which here there is none of.
    let signer = Signer::from_pem("k1", pair.serialize_pem().as_bytes()).unwrap();
    let elsewhere = Licence {
        id: "sdk-2".into(),
        kid: String::new(),
        account: AccountId::new("nobody").unwrap(),
        activates: world.now(),
        expires: Timestamp::from_nanos(world.now().nanos() + HOUR),
        models: Vec::new(),
    };
    let other = Licence {
        id: "sdk-3".into(),
        ..elsewhere.clone()
    };
    let token = signer.sign(elsewhere).unwrap();
    let seen = world.call_as(&token, "face-detect", 0).await;
    assert_eq!(seen.said(), PASSES);
    // Every word as it should be, under a signature that is another's.
    let other = signer.sign(other).unwrap();
    let (words, _) = other.rsplit_once('.').unwrap();
    let (_, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{words}.{signature}");
    let seen = world.call_as(&forged, "face-detect", 0).await;
    assert_eq!(seen.said(), "KEY_UNKNOWN");
    let forged = token.replacen("tgl1.e", "tgl1.f", 1);
    let seen = world.call_as(&forged, "face-detect", 0).await;
    assert_eq!(seen.said(), "KEY_UNKNOWN");
}
