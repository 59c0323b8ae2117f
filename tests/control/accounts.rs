//! AccountService.

use prost_types::FieldMask;
use tollgate::proto::v1;
use tonic::Code;

use super::{Api, recharge, refused, said, usd, violations};

fn create(account: v1::Account, request_id: &str) -> v1::CreateAccountRequest {
    v1::CreateAccountRequest {
        account: Some(account),
        request_id: request_id.into(),
    }
}

fn named(id: &str, unit: &str) -> v1::Account {
    v1::Account {
        account_id: id.into(),
        unit: unit.into(),
        ..v1::Account::default()
    }
}

#[tokio::test]
async fn an_account_is_opened_once_and_shows_what_it_has() {
    let api = Api::start().await;
    let first = api
        .accounts()
        .create_account(create(named("a", "USD"), "r1"))
        .await
        .unwrap();
    assert!(!first.get_ref().replayed);
    let again = api
        .accounts()
        .create_account(create(named("a", "USD"), "r1"))
        .await
        .unwrap();
    assert!(again.get_ref().replayed);
    let other = api
        .accounts()
        .create_account(create(named("a", "USD"), "r2"))
        .await;
    assert_eq!(refused(other), said(Code::AlreadyExists, "ACCOUNT_EXISTS"));
    let other_unit = api
        .accounts()
        .create_account(create(named("a", "EUR"), "r1"))
        .await;
    assert_eq!(
        refused(other_unit),
        said(Code::AlreadyExists, "ACCOUNT_EXISTS")
    );

    api.credit()
        .recharge(recharge("a", "r", "o", 5))
        .await
        .unwrap();
    let account = api.get("a").await;
    assert_eq!(account.balance, usd(5));
    assert_eq!(account.available, usd(5));
    assert_eq!(
        (account.held, account.debt, account.spend),
        (usd(0), usd(0), usd(0))
    );
    assert_eq!(
        (account.cumulative_recharge, account.lifetime_credit),
        (usd(5), usd(5))
    );
    assert_eq!(
        (account.state, account.last_entry_sequence),
        (v1::AccountState::Active.into(), 2)
    );
    assert_eq!(
        (account.unit.as_str(), account.policy_id.as_str()),
        ("USD", "default")
    );
    assert_eq!(account.credits.len(), 1);
    assert!(account.as_of.is_some() && account.create_time.is_some());
}

#[tokio::test]
async fn what_is_held_and_spent_is_seen_at_once() {
    let api = Api::start().await;
    api.account("a", 5).await;
    api.call("a").await;
    let terms = crate::support::node::terms();
    let call = crate::support::node::call("sk-secret-a", "flat", &terms);
    let ticket = api.node.core.gate.admit(&call).await.unwrap();
    let account = api.get("a").await;
    assert_eq!((account.balance, account.spend), (usd(4), usd(1)));
    assert_eq!((account.held, account.available), (usd(1), usd(3)));
    assert_eq!(
        account.credits[0].remaining,
        usd(4),
        "spend no entry has summed yet is taken off"
    );
    drop(ticket);
}

#[tokio::test]
async fn below_zero_is_debt_and_overdue() {
    let api = Api::start().await;
    api.account("a", 1).await;
    let late = v1::LateChargeRequest {
        account_id: "a".into(),
        request_id: "l".into(),
        amount: usd(3),
        ..v1::LateChargeRequest::default()
    };
    let answer = api.credit().late_charge(late).await.unwrap().into_inner();
    let account = answer.account.unwrap();
    assert_eq!((account.balance, account.debt), (usd(-2), usd(2)));
    assert_eq!(account.state, i32::from(v1::AccountState::Overdue));
    assert!(account.overdue_time.is_some());
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let api = Api::start().await;
    let check = async |account: v1::Account, field: &str| {
        let answer = api.accounts().create_account(create(account, "")).await;
        assert_eq!(violations(answer), [field]);
    };
    check(named("", "USD"), "account.account_id").await;
    check(named("a b", "USD"), "account.account_id").await;
    check(named("a", ""), "account.unit").await;
    let overrides = v1::Overrides {
        qps: Some(0),
        ..v1::Overrides::default()
    };
    let wrong = v1::Account {
        overrides: Some(overrides),
        ..named("a", "USD")
    };
    check(wrong, "account.overrides.qps").await;
    let none = v1::CreateAccountRequest::default();
    assert_eq!(
        violations(api.accounts().create_account(none).await),
        ["account"]
    );
    let unknown = v1::Account {
        policy_id: "gold".into(),
        ..named("a", "USD")
    };
    let answer = api.accounts().create_account(create(unknown, "")).await;
    assert_eq!(refused(answer), said(Code::NotFound, "POLICY_NOT_FOUND"));
    let request = v1::GetAccountRequest {
        account_id: "a".into(),
    };
    let gone = api.accounts().get_account(request).await;
    assert_eq!(refused(gone), said(Code::NotFound, "ACCOUNT_NOT_FOUND"));
}

fn update(account: v1::Account, paths: &[&str]) -> v1::UpdateAccountRequest {
    v1::UpdateAccountRequest {
        account: Some(account),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
    }
}

#[tokio::test]
async fn an_update_sets_what_its_mask_names() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let overrides = v1::Overrides {
        qps: Some(10),
        burst: Some(5),
        low_balance: usd(1),
        ..v1::Overrides::default()
    };
    let mut wanted = named("a", "");
    wanted.overrides = Some(overrides.clone());
    let set = api
        .accounts()
        .update_account(update(wanted.clone(), &["overrides"]))
        .await;
    let set = set.unwrap().into_inner().account.unwrap();
    assert_eq!(set.overrides, Some(overrides.clone()));
    let in_force = set.effective_policy.unwrap();
    assert_eq!(
        (in_force.qps, in_force.burst, in_force.low_balance),
        (Some(10), Some(5), usd(1))
    );

    wanted.overrides = Some(v1::Overrides {
        qps: Some(20),
        ..v1::Overrides::default()
    });
    let set = api
        .accounts()
        .update_account(update(wanted, &["overrides.qps"]))
        .await
        .unwrap();
    let set = set.into_inner().account.unwrap();
    assert_eq!(
        set.overrides,
        Some(v1::Overrides {
            qps: Some(20),
            ..overrides
        })
    );

    let wrong = api
        .accounts()
        .update_account(update(named("a", ""), &["balance"]))
        .await;
    assert_eq!(violations(wrong), ["update_mask"]);
    let entries = api.get("a").await.last_entry_sequence;
    let same = api
        .accounts()
        .update_account(update(named("a", ""), &["display_name"]))
        .await;
    assert_eq!(
        same.unwrap().into_inner().account.unwrap().display_name,
        "a"
    );
    assert_eq!(
        api.get("a").await.last_entry_sequence,
        entries,
        "nothing changed, nothing written"
    );
}

#[tokio::test]
async fn an_etag_is_current_until_the_rules_change() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let read = api.get("a").await;
    api.credit()
        .recharge(recharge("a", "r", "o", 5))
        .await
        .unwrap();
    let rename = async |name: &str, etag: &str| {
        let account = v1::Account {
            display_name: name.into(),
            etag: etag.into(),
            ..named("a", "")
        };
        let answer = api.accounts().update_account(update(account, &[])).await?;
        Ok::<_, tonic::Status>(answer.into_inner().account.unwrap())
    };
    let first = rename("one", &read.etag).await.unwrap();
    assert_ne!(first.etag, read.etag);
    let second = rename("two", &read.etag).await;
    assert_eq!(refused(second), said(Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(api.get("a").await.display_name, "one");
    assert_eq!(rename("two", "").await.unwrap().display_name, "two");
}

#[tokio::test]
async fn accounts_come_in_pages() {
    let api = Api::start().await;
    for name in ["b", "a", "d", "c", "e"] {
        api.open(name).await.unwrap();
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListAccountsRequest {
            page_size: 2,
            page_token: token,
            ..v1::ListAccountsRequest::default()
        };
        let page = api
            .accounts()
            .list_accounts(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.accounts.len() <= 2);
        seen.extend(page.accounts.into_iter().map(|account| account.account_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    for (page_size, page_token) in [(-1, ""), (0, "nonsense")] {
        let request = v1::ListAccountsRequest {
            page_size,
            page_token: page_token.into(),
            ..v1::ListAccountsRequest::default()
        };
        let answer = api.accounts().list_accounts(request).await;
        assert_eq!(refused(answer).0, Code::InvalidArgument);
    }
}
