//! A whole process in this one: what it leaves behind when it stops.

use tollgate::app;
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::gate::{Caller, HoldRequest};
use tollgate::id::{AccountId, KeyId};
use tollgate::ledger::{Action, Command};
use tollgate::policy::Overrides;
use tollgate::store::embedded::Embedded;
use tollgate::store::{KeyRecord, Store as _};

use crate::support::node::amount;
use crate::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_that_are_open_when_it_stops_end_by_policy_and_are_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let written = format!(
        r#"
        store.data_dir = "{}"
        proxy.listen = "127.0.0.1:0"
        control.listen = "127.0.0.1:0"
        admin.listen = "127.0.0.1:0"
        policies.default.unsettled = "charge"
        "#,
        dir.path().display()
    );
    let config = config::parse(&written, std::iter::empty()).unwrap();
    let running = app::start(config, Clock::system()).await.unwrap();
    let account = AccountId::new("a").unwrap();
    let books = &running.core.books;
    books
        .open(
            account.clone(),
            "USD".into(),
            None,
            None,
            Overrides::default(),
            None,
        )
        .await
        .unwrap();
    let action = Action::Recharge {
        amount: amount("5"),
        order_id: "o".into(),
        priority: 0,
        expires: None,
        note: String::new(),
    };
    let done = books
        .run(
            &account,
            Command {
                idempotency_key: Some("k".into()),
                action,
            },
        )
        .await
        .unwrap();
    let id = KeyId::new("k").unwrap();
    let key = KeyRecord {
        id: id.clone(),
        account: account.clone(),
        digest: "d".into(),
        name: String::new(),
        hint: String::new(),
        created: Clock::system().now().wall,
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        service: String::new(),
        budgets: Vec::new(),
    };
    running
        .core
        .store
        .put_key(done.snapshot.version, key)
        .await
        .unwrap();
    let request = HoldRequest {
        caller: Caller::Key(account.clone(), id),
        model: None,
        amount: Some(amount("2")),
        input: None,
        max_output: None,
        ttl: None,
        request_id: "r".into(),
    };
    running.core.gate.hold(request).await.unwrap();
    running.stop().await.unwrap();

    let open = async || Embedded::open(dir.path(), Clock::system()).ok();
    let store = until("the data directory is free", open).await;
    let snapshot = store.read(&account, &[]).await.unwrap().unwrap();
    assert_eq!(
        (snapshot.spend, snapshot.unleased),
        (amount("2"), amount("3"))
    );
}
