//! The lifecycle of an account: overdue by word and by debt, suspended, reactivated, closed, purged.

use std::time::Duration;

use tollgate::policy::{Deadline, End, Policy, Resume};
use tollgate::proto::v1::{self, AccountState, EntryKind};
use tonic::{Code, Status};

use super::{Api, at, recharge, refused, said, usd, violations};

const DAY: u64 = 86_400;

/// Suspended after a day; two capabilities are reactivated one by one; purged after ten days.
fn strict() -> Policy {
    Policy {
        suspend_after: Some(Deadline {
            ms: DAY * 1_000,
            end: End::Excluded,
        }),
        resume: Resume::Reactivate,
        capabilities: vec!["vision*".into(), "text*".into()],
        purge_after_ms: Some(10 * DAY * 1_000),
        ..Policy::default()
    }
}

fn mark(request: &str, note: &str) -> v1::MarkOverdueRequest {
    v1::MarkOverdueRequest {
        account_id: "a".into(),
        request_id: request.into(),
        note: note.into(),
    }
}

fn clear(request: &str) -> v1::ClearOverdueRequest {
    v1::ClearOverdueRequest {
        account_id: "a".into(),
        request_id: request.into(),
        note: String::new(),
    }
}

fn close(account: &str, request: &str) -> v1::CloseAccountRequest {
    v1::CloseAccountRequest {
        account_id: account.into(),
        request_id: request.into(),
        note: "moved away".into(),
    }
}

impl Api {
    async fn reactivate(&self, request: &str, capability: &str) -> Result<v1::Account, Status> {
        let request = v1::ReactivateCapabilityRequest {
            account_id: "a".into(),
            request_id: request.into(),
            capability: capability.into(),
        };
        let answer = self.accounts().reactivate_capability(request).await?;
        Ok(answer.into_inner().account.unwrap())
    }

    async fn purge(&self, account: &str, etag: &str) -> Result<v1::PurgeAccountResponse, Status> {
        let request = v1::PurgeAccountRequest {
            account_id: account.into(),
            etag: etag.into(),
        };
        let answer = self.accounts().purge_account(request).await?;
        Ok(answer.into_inner())
    }
}

#[tokio::test]
async fn an_account_is_overdue_by_word_until_that_is_taken_back() {
    let (api, _) = Api::under(strict()).await;
    api.account("a", 5).await;
    let marked = api.accounts().mark_overdue(mark("1", "bill 7")).await;
    let marked = marked.unwrap().into_inner();
    let entry = marked.entry.unwrap();
    assert_eq!(
        (entry.kind(), entry.amount.clone()),
        (EntryKind::OverdueMarked, usd(0))
    );
    assert_eq!(
        (entry.note.as_str(), entry.request_id.as_str()),
        ("bill 7", "1")
    );
    let account = marked.account.unwrap();
    assert_eq!(
        (account.state(), account.debt.clone()),
        (AccountState::Overdue, usd(0))
    );
    assert_eq!(
        (account.mark_overdue_time, account.overdue_time),
        (at(0), at(0))
    );
    let day = i64::try_from(DAY).unwrap();
    assert_eq!(
        (account.suspend_time, account.purge_time),
        (at(day), at(11 * day))
    );
    assert_eq!(account.refusal_reason, "ACCOUNT_OVERDUE");
    let again = api.accounts().mark_overdue(mark("1", "bill 7")).await;
    assert!(again.unwrap().into_inner().replayed);
    let other = api.accounts().mark_overdue(mark("1", "bill 8")).await;
    assert_eq!(
        refused(other),
        said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );
    let cleared = api.accounts().clear_overdue(clear("2")).await;
    let account = cleared.unwrap().into_inner().account.unwrap();
    assert_eq!(
        (account.state(), account.mark_overdue_time),
        (AccountState::Active, None)
    );
    assert_eq!(
        (account.suspend_time, account.refusal_reason.as_str()),
        (None, "")
    );
    let twice = api.accounts().clear_overdue(clear("3")).await;
    assert_eq!(
        refused(twice),
        said(Code::FailedPrecondition, "NOT_OVERDUE")
    );
    assert_eq!(
        violations(api.accounts().mark_overdue(mark("", "x")).await),
        ["request_id"]
    );
    let long = mark("4", &"x".repeat(1_001));
    assert_eq!(
        violations(api.accounts().mark_overdue(long).await),
        ["note"]
    );
}

#[tokio::test]
async fn capabilities_are_reactivated_one_by_one_once_the_debt_is_paid() {
    let (api, clock) = Api::under(strict()).await;
    api.open("a").await.unwrap();
    api.late("a", "l", 3).await;
    let nothing = api.reactivate("0", "*").await;
    assert_eq!(
        refused(nothing),
        said(Code::FailedPrecondition, "ACCOUNT_OVERDUE")
    );
    clock.advance(Duration::from_secs(DAY));
    assert_eq!(api.get("a").await.state(), AccountState::Suspended);
    let paid = api.credit().recharge(recharge("a", "r", "o", 5)).await;
    let paid = paid.unwrap().into_inner().account.unwrap();
    assert_eq!(paid.state(), AccountState::ReactivationRequired);
    assert_eq!(paid.pending_capabilities, ["vision*", "text*"]);
    assert_eq!(paid.refusal_reason, "REACTIVATION_REQUIRED");
    assert_eq!(violations(api.reactivate("1", "").await), ["capability"]);
    assert_eq!(
        violations(api.reactivate("1", "sound").await),
        ["capability"]
    );
    let one = api.reactivate("1", "vision*").await.unwrap();
    assert_eq!(
        (one.pending_capabilities, one.reactivated_capabilities),
        (vec!["text*".into()], vec!["vision*".to_owned()])
    );
    let two = api.reactivate("2", "text*").await.unwrap();
    assert_eq!(
        (two.state(), two.pending_capabilities.len()),
        (AccountState::Active, 0)
    );
    let done = api.reactivate("3", "text*").await;
    assert_eq!(
        refused(done),
        said(Code::FailedPrecondition, "NOT_SUSPENDED")
    );
}

#[tokio::test]
async fn a_closed_account_takes_no_money_and_late_charges_still_land() {
    let (api, _) = Api::under(Policy::default()).await;
    api.account("a", 5).await;
    let closed = api.accounts().close_account(close("a", "c")).await;
    let account = closed.unwrap().into_inner().account.unwrap();
    assert_eq!(
        (account.state(), account.close_time),
        (AccountState::Closed, at(0))
    );
    let paid = api.credit().recharge(recharge("a", "r2", "o2", 1)).await;
    assert_eq!(
        refused(paid),
        said(Code::FailedPrecondition, "ACCOUNT_CLOSED")
    );
    let late = api.late("a", "l", 2).await.account.unwrap();
    assert_eq!(
        (late.balance.clone(), late.state()),
        (usd(3), AccountState::Closed)
    );
}

#[tokio::test]
async fn only_what_is_over_is_purged_and_then_nothing_of_it_is_left() {
    let (api, clock) = Api::under(strict()).await;
    api.account("a", 5).await;
    api.account("b", 5).await;
    api.call("a").await;
    assert_eq!(
        refused(api.purge("a", "").await),
        said(Code::FailedPrecondition, "NOT_PURGEABLE")
    );
    api.accounts().close_account(close("a", "c")).await.unwrap();
    assert_eq!(
        refused(api.purge("a", "old").await),
        said(Code::Aborted, "ETAG_MISMATCH")
    );
    let etag = api.get("a").await.etag;
    let gone = api.purge("a", &etag).await.unwrap();
    assert_eq!((gone.purge_time, gone.replayed), (at(0), false));
    let again = api.purge("a", "").await.unwrap();
    assert_eq!((again.purge_time, again.replayed), (at(0), true));
    let read = v1::GetAccountRequest {
        account_id: "a".into(),
    };
    let read = api.accounts().get_account(read).await;
    assert_eq!(refused(read), said(Code::NotFound, "ACCOUNT_NOT_FOUND"));
    assert_eq!(
        refused(api.open("a").await),
        said(Code::FailedPrecondition, "ACCOUNT_PURGED")
    );
    // The key's secret is nobody's any more, and the other account is as it was.
    let terms = crate::support::node::terms();
    let call = crate::support::node::call("sk-secret-a", "flat", &terms);
    assert!(api.node.core.gate.admit(&call).await.is_err());
    api.call("b").await;
    let all = api
        .accounts()
        .list_accounts(v1::ListAccountsRequest::default())
        .await;
    let all = all.unwrap().into_inner().accounts;
    assert_eq!(
        all.iter()
            .map(|account| account.account_id.as_str())
            .collect::<Vec<_>>(),
        ["b"]
    );
    // Its events stay in the feed, which goes on.
    let mut events = v1::event_service_client::EventServiceClient::new(api.channel.clone());
    let events = events
        .list_events(v1::ListEventsRequest::default())
        .await
        .unwrap();
    assert!(
        events
            .into_inner()
            .events
            .iter()
            .any(|event| event.account_id == "a")
    );

    // Suspended for long enough is over, too.
    api.late("b", "l", 9).await;
    clock.advance(Duration::from_secs(11 * DAY));
    assert_eq!(api.get("b").await.state(), AccountState::PurgeEligible);
    assert!(!api.purge("b", "").await.unwrap().replayed);
}

#[tokio::test]
async fn accounts_are_listed_by_state_tenant_and_policy() {
    let (api, _) = Api::under(Policy::default()).await;
    for name in ["a", "b", "c", "d"] {
        api.open(name).await.unwrap();
    }
    api.late("b", "l", 1).await;
    api.late("d", "l", 1).await;
    api.accounts().close_account(close("c", "c")).await.unwrap();
    let list = async |states: &[AccountState], page_size, page_token: &str| {
        let request = v1::ListAccountsRequest {
            states: states.iter().map(|state| (*state).into()).collect(),
            page_size,
            page_token: page_token.into(),
            ..v1::ListAccountsRequest::default()
        };
        let page = api.accounts().list_accounts(request).await?.into_inner();
        let names = page.accounts.into_iter().map(|account| account.account_id);
        Ok::<_, Status>((names.collect::<Vec<_>>(), page.next_page_token))
    };
    let (overdue, closed) = (AccountState::Overdue, AccountState::Closed);
    let (names, next) = list(&[overdue], 1, "").await.unwrap();
    assert_eq!(names, ["b"]);
    let (names, end) = list(&[overdue], 1, &next).await.unwrap();
    assert_eq!(
        (names.as_slice(), end.as_str()),
        (["d".to_owned()].as_slice(), "")
    );
    assert_eq!(
        list(&[overdue, closed], 0, "").await.unwrap().0,
        ["b", "c", "d"]
    );
    let changed = list(&[closed], 1, &next).await;
    assert_eq!(
        refused(changed),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
    let unknown = v1::ListAccountsRequest {
        states: vec![99],
        ..v1::ListAccountsRequest::default()
    };
    assert_eq!(
        violations(api.accounts().list_accounts(unknown).await),
        ["states[0]"]
    );
    let none = v1::ListAccountsRequest {
        tenant_id: "t".into(),
        ..v1::ListAccountsRequest::default()
    };
    let none = api
        .accounts()
        .list_accounts(none)
        .await
        .unwrap()
        .into_inner();
    assert!(none.accounts.is_empty());
}

#[tokio::test]
async fn tier_and_recipients_are_set_and_bounded() {
    let (api, _) = Api::under(Policy::default()).await;
    api.open("a").await.unwrap();
    let update = async |account: v1::Account, paths: &[&str]| {
        let request = v1::UpdateAccountRequest {
            account: Some(v1::Account {
                account_id: "a".into(),
                ..account
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(ToString::to_string).collect(),
            }),
        };
        let answer = api.accounts().update_account(request).await?;
        Ok::<_, Status>(answer.into_inner().account.unwrap())
    };
    let given = v1::Account {
        tier: "gold".into(),
        notification_recipients: vec!["owner".into(), "ops@example.com".into()],
        ..v1::Account::default()
    };
    let set = update(given.clone(), &[]).await.unwrap();
    assert_eq!(
        (set.tier.as_str(), set.notification_recipients.len()),
        ("gold", 2)
    );
    let cleared = update(v1::Account::default(), &["tier"]).await.unwrap();
    assert_eq!(
        (cleared.tier.as_str(), cleared.notification_recipients.len()),
        ("", 2)
    );
    let many = v1::Account {
        notification_recipients: vec!["x".into(); 33],
        ..given.clone()
    };
    assert_eq!(
        violations(update(many, &[]).await),
        ["account.notification_recipients"]
    );
    let tenant = v1::Account {
        tenant_id: "nobody".into(),
        ..given
    };
    assert_eq!(
        refused(update(tenant, &["tenant_id"]).await),
        said(Code::NotFound, "TENANT_NOT_FOUND")
    );
    // A grace that outlasts the suspension is wrong as a whole.
    let deadline = |hours: i64| {
        Some(v1::Deadline {
            after: Some(prost_types::Duration {
                seconds: hours * 3_600,
                nanos: 0,
            }),
            inclusive: false,
        })
    };
    let wrong = v1::Account {
        overrides: Some(v1::Overrides {
            grace: deadline(48),
            suspend_after: deadline(24),
            ..v1::Overrides::default()
        }),
        ..v1::Account::default()
    };
    assert_eq!(
        violations(update(wrong, &["overrides"]).await),
        ["account.overrides"]
    );
}
