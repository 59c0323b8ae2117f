//! KeyService.

use prost_types::FieldMask;
use tollgate::proto::v1;
use tollgate::refusal::Reason;
use tonic::Code;

use super::{Api, refused, said, violations};
use crate::support::node::{call, terms};

fn create(id: &str, secret: &str) -> v1::CreateKeyRequest {
    v1::CreateKeyRequest {
        key: Some(v1::Key {
            account_id: "a".into(),
            key_id: id.into(),
            ..v1::Key::default()
        }),
        secret: secret.into(),
    }
}

async fn reason(api: &Api, secret: &str) -> Option<Reason> {
    let terms = terms();
    let admitted = api
        .node
        .core
        .gate
        .admit(&call(secret, "flat", &terms))
        .await;
    admitted.err().map(|refusal| refusal.reason)
}

#[tokio::test]
async fn a_made_key_calls_at_once_and_its_secret_is_shown_once() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let made = api
        .keys()
        .create_key(create("", ""))
        .await
        .unwrap()
        .into_inner();
    let key = made.key.unwrap();
    assert!(made.secret.starts_with("sk-") && made.secret.len() >= 43);
    assert_eq!(key.hint, made.secret[..6]);
    assert_eq!(reason(&api, &made.secret).await, None);
    let request = v1::GetKeyRequest {
        account_id: "a".into(),
        key_id: key.key_id.clone(),
    };
    let read = api
        .keys()
        .get_key(request)
        .await
        .unwrap()
        .into_inner()
        .key
        .unwrap();
    assert_eq!(read, key);
    assert!(!format!("{read:?}").contains(&made.secret));
}

#[tokio::test]
async fn a_key_refused_before_it_was_made_is_good_after() {
    let api = Api::start().await;
    api.account("a", 5).await;
    assert_eq!(
        reason(&api, "sk-brought-along").await,
        Some(Reason::KeyUnknown)
    );
    api.keys()
        .create_key(create("k1", "sk-brought-along"))
        .await
        .unwrap();
    assert_eq!(reason(&api, "sk-brought-along").await, None);
}

#[tokio::test]
async fn neither_ids_nor_secrets_are_used_twice() {
    let api = Api::start().await;
    api.account("a", 5).await;
    api.keys()
        .create_key(create("k1", "sk-brought-along"))
        .await
        .unwrap();
    let id = api.keys().create_key(create("k1", "sk-another-one")).await;
    assert_eq!(refused(id), said(Code::AlreadyExists, "KEY_EXISTS"));
    let secret = api
        .keys()
        .create_key(create("k2", "sk-brought-along"))
        .await;
    assert_eq!(refused(secret), said(Code::AlreadyExists, "SECRET_IN_USE"));
    let revoke = v1::RevokeKeyRequest {
        account_id: "a".into(),
        key_id: "k1".into(),
    };
    api.keys().revoke_key(revoke).await.unwrap();
    let id = api.keys().create_key(create("k1", "sk-another-one")).await;
    assert_eq!(refused(id), said(Code::AlreadyExists, "KEY_EXISTS"));
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_and_for_good() {
    let api = Api::start().await;
    api.account("a", 5).await;
    assert_eq!(reason(&api, "sk-secret-a").await, None);
    let revoke = v1::RevokeKeyRequest {
        account_id: "a".into(),
        key_id: "k-a".into(),
    };
    let first = api
        .keys()
        .revoke_key(revoke.clone())
        .await
        .unwrap()
        .into_inner()
        .key
        .unwrap();
    assert_eq!(first.state, i32::from(v1::KeyState::Revoked));
    assert_eq!(reason(&api, "sk-secret-a").await, Some(Reason::KeyRevoked));
    let again = api
        .keys()
        .revoke_key(revoke)
        .await
        .unwrap()
        .into_inner()
        .key
        .unwrap();
    assert_eq!(again, first, "revoked once, at its first time");
    let update = v1::UpdateKeyRequest {
        key: Some(v1::Key {
            display_name: "x".into(),
            ..first.clone()
        }),
        update_mask: None,
    };
    assert_eq!(
        refused(api.keys().update_key(update).await),
        said(Code::FailedPrecondition, "KEY_REVOKED")
    );
    let list = async |active_only| {
        let request = v1::ListKeysRequest {
            account_id: "a".into(),
            active_only,
            ..v1::ListKeysRequest::default()
        };
        api.keys()
            .list_keys(request)
            .await
            .unwrap()
            .into_inner()
            .keys
            .len()
    };
    assert_eq!((list(false).await, list(true).await), (1, 0));
}

#[tokio::test]
async fn an_update_sets_what_its_mask_names_and_minds_its_etag() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let request = v1::GetKeyRequest {
        account_id: "a".into(),
        key_id: "k-a".into(),
    };
    let read = api
        .keys()
        .get_key(request)
        .await
        .unwrap()
        .into_inner()
        .key
        .unwrap();
    let update = async |key: v1::Key, paths: &[&str]| {
        let paths = paths.iter().map(ToString::to_string).collect();
        let request = v1::UpdateKeyRequest {
            key: Some(key),
            update_mask: Some(FieldMask { paths }),
        };
        api.keys().update_key(request).await
    };
    let narrowed = v1::Key {
        models: vec!["other*".into()],
        qps: Some(3),
        ..read.clone()
    };
    let set = update(narrowed.clone(), &["models"])
        .await
        .unwrap()
        .into_inner()
        .key
        .unwrap();
    assert_eq!(
        (set.models.as_slice(), set.qps),
        (["other*".to_owned()].as_slice(), None)
    );
    assert_eq!(
        reason(&api, "sk-secret-a").await,
        Some(Reason::ModelNotAllowed)
    );
    let stale = update(narrowed, &["qps"]).await;
    assert_eq!(refused(stale), said(Code::Aborted, "ETAG_MISMATCH"));
    let cleared = v1::Key {
        models: Vec::new(),
        ..set
    };
    update(cleared, &["models"]).await.unwrap();
    assert_eq!(reason(&api, "sk-secret-a").await, None);
}

#[tokio::test]
async fn wrong_keys_are_named() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let check = async |edit: &dyn Fn(&mut v1::Key), secret: &str, field: &str| {
        let mut request = create("k9", secret);
        edit(request.key.as_mut().unwrap());
        assert_eq!(violations(api.keys().create_key(request).await), [field]);
    };
    check(&|_| (), "short", "secret").await;
    check(&|_| (), "has a space", "secret").await;
    check(&|key| key.qps = Some(0), "", "key.qps").await;
    check(&|key| key.key_id = "a b".into(), "", "key.key_id").await;
    check(&|key| key.models = vec!["a*b".into()], "", "key.models[0]").await;
    let past = prost_types::Timestamp {
        seconds: 1,
        nanos: 0,
    };
    check(&|key| key.expire_time = Some(past), "", "key.expire_time").await;
    let request = v1::GetKeyRequest {
        account_id: "a".into(),
        key_id: "nobody".into(),
    };
    assert_eq!(
        refused(api.keys().get_key(request).await),
        said(Code::NotFound, "KEY_NOT_FOUND")
    );
    let mut stranger = create("k9", "");
    stranger.key.as_mut().unwrap().account_id = "nobody".into();
    assert_eq!(
        refused(api.keys().create_key(stranger).await),
        said(Code::NotFound, "ACCOUNT_NOT_FOUND")
    );
}

#[tokio::test]
async fn a_page_token_with_another_filter_is_refused() {
    let api = Api::start().await;
    api.account("a", 0).await;
    for n in 0..3 {
        api.keys()
            .create_key(create(&format!("k{n}"), ""))
            .await
            .unwrap();
    }
    let list = async |token: &str, active_only| {
        let request = v1::ListKeysRequest {
            account_id: "a".into(),
            page_size: 3,
            page_token: token.into(),
            active_only,
            ..v1::ListKeysRequest::default()
        };
        api.keys().list_keys(request).await
    };
    let first = list("", false).await.unwrap().into_inner();
    assert_eq!(first.keys.len(), 3);
    let other = list(&first.next_page_token, true).await;
    assert_eq!(
        refused(other),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
    let second = list(&first.next_page_token, false)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (second.keys.len(), second.next_page_token.as_str()),
        (1, "")
    );
}

#[tokio::test]
async fn a_key_has_a_service_and_budgets() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let budget = |units, period: v1::BudgetPeriod| v1::Budget {
        amount: super::usd(units),
        period: period.into(),
        capability: String::new(),
    };
    let key = |id: &str| v1::Key {
        account_id: "a".into(),
        key_id: id.into(),
        service: "web".into(),
        budgets: vec![budget(2, v1::BudgetPeriod::Day)],
        ..v1::Key::default()
    };
    let create = async |key| {
        let request = v1::CreateKeyRequest {
            key: Some(key),
            secret: String::new(),
        };
        api.keys().create_key(request).await
    };
    let made = create(key("w")).await.unwrap().into_inner().key.unwrap();
    assert_eq!(
        (made.service.as_str(), made.budgets),
        ("web", key("w").budgets)
    );
    let update = async |edit: v1::Key, path: &str| {
        let request = v1::UpdateKeyRequest {
            key: Some(edit),
            update_mask: Some(FieldMask {
                paths: vec![path.into()],
            }),
        };
        let answer = api.keys().update_key(request).await?;
        Ok::<_, tonic::Status>(answer.into_inner().key.unwrap())
    };
    let cleared = v1::Key {
        budgets: Vec::new(),
        ..key("w")
    };
    assert!(update(cleared, "budgets").await.unwrap().budgets.is_empty());
    let moved = v1::Key {
        service: "batch".into(),
        ..key("w")
    };
    assert_eq!(update(moved, "service").await.unwrap().service, "batch");
    let list = v1::ListKeysRequest {
        account_id: "a".into(),
        service: "batch".into(),
        ..v1::ListKeysRequest::default()
    };
    let listed = api.keys().list_keys(list).await.unwrap().into_inner().keys;
    assert_eq!((listed.len(), listed[0].key_id.as_str()), (1, "w"));
    for (wrong, field) in [
        (budget(0, v1::BudgetPeriod::Day), "key.budgets[0].amount"),
        (
            budget(1, v1::BudgetPeriod::Unspecified),
            "key.budgets[0].period",
        ),
    ] {
        let wrong = v1::Key {
            budgets: vec![wrong],
            ..key("x")
        };
        assert_eq!(violations(create(wrong).await), [field]);
    }
    let long = v1::Key {
        service: "x".repeat(65),
        ..key("x")
    };
    assert_eq!(violations(create(long).await), ["key.service"]);
}
