//! The commands of the lifecycle, of the real binary against a real control API over the embedded store.

use serde_json::{Value, json};
use tokio::sync::watch;
use tollgate::catalog::Layer;
use tollgate::clock::Clock;
use tollgate::control::{Listen, Running, Settings, Signing, serve};
use tollgate::licence::Signer;
use tollgate::policy::Policy;

use super::{Fixture, json_of, stderr, stdout};
use crate::support::node::{Node, layer};

struct Real {
    fixture: Fixture,
    _running: Running,
    _stop: watch::Sender<bool>,
    _node: Node,
    _dir: tempfile::TempDir,
}

impl Real {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let (pem, key_file) = (pair.serialize_pem(), dir.path().join("licences.pem"));
        std::fs::write(&key_file, &pem).unwrap();
        let public_key = Signer::from_pem("2026", pem.as_bytes())
            .unwrap()
            .public_key();
        let layer = Layer {
            licence_keys: [("2026".to_owned(), public_key)].into(),
            ..layer(Policy::default())
        };
        let node = Node::embedded_under(Clock::system(), layer);
        let settings = Settings {
            listen: Listen::Tcp("127.0.0.1:0".parse().unwrap()),
            token: Some("t0ken".into()),
            tls: None,
            drain: std::time::Duration::from_secs(5),
            signing: Some(Signing {
                kid: "2026".into(),
                key_file,
                public_key,
            }),
        };
        let (stop, stopping) = watch::channel(false);
        let running = serve(node.core.clone(), settings, stopping).await.unwrap();
        let fixture = Fixture {
            control: super::Control::default(),
            at: running.local_addr.unwrap(),
        };
        Self {
            fixture,
            _running: running,
            _stop: stop,
            _node: node,
            _dir: dir,
        }
    }

    async fn json(&self, line: &str) -> Value {
        json_of(&self.fixture.run(&format!("{line} --json")).await)
    }

    /// Runs a line for its exit code and the reason on standard error.
    async fn fails(&self, line: &str, exit: i32, reason: &str) {
        let failed = self.fixture.run(line).await;
        assert_eq!(
            failed.status.code(),
            Some(exit),
            "{line}: {}",
            stderr(&failed)
        );
        let said = stderr(&failed);
        assert!(said.contains(&format!("[{reason}]")), "{line}: {said}");
    }

    async fn table(&self, line: &str) -> Vec<Vec<String>> {
        let shown = self.fixture.run(line).await;
        assert!(shown.status.success(), "{line}: {}", stderr(&shown));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        stdout(&shown).lines().map(words).collect()
    }
}

#[tokio::test]
async fn an_account_from_its_opening_to_its_end() {
    let real = Real::start().await;
    let made = real
        .json("account create a --unit USD --tier gold --recipient ops --recipient owner --suspend-after 24h:inclusive --resume reactivate")
        .await;
    assert_eq!(
        (&made["tier"], &made["recipients"]),
        (&json!("gold"), &json!(["ops", "owner"]))
    );
    assert_eq!(made["rules"]["suspend_after"], "86400s:inclusive");
    real.json("credit recharge a 10 --order-id o1").await;
    let marked = real.json("account mark-overdue a --note late").await;
    assert_eq!(
        (&marked["entry"]["kind"], &marked["account"]["state"]),
        (&json!("overdue_marked"), &json!("OVERDUE"))
    );
    assert_eq!(marked["account"]["refused"], "ACCOUNT_OVERDUE");
    let listed = real.table("account list --state overdue").await;
    assert_eq!(
        (listed.len(), listed[1][0].as_str(), listed[1][1].as_str()),
        (2, "a", "OVERDUE")
    );
    real.fails("account reactivate a *", 4, "ACCOUNT_OVERDUE")
        .await;
    real.json("account clear-overdue a").await;
    real.fails("account reactivate a *", 4, "NOT_SUSPENDED")
        .await;
    let cleared = real
        .json("account update a --clear suspend_after --clear tier")
        .await;
    assert_eq!(
        (&cleared["tier"], &cleared["rules"]["suspend_after"]),
        (&Value::Null, &Value::Null)
    );
    real.fails("account purge a", 4, "NOT_PURGEABLE").await;
    let closed = real.json("account close a --request-id c").await;
    assert_eq!(closed["account"]["state"], "CLOSED");
    assert_eq!(
        real.json("account close a --request-id c").await["replayed"],
        true
    );
    assert_eq!(real.json("account purge a").await["purged"], "a");
    real.fails("account get a", 3, "ACCOUNT_NOT_FOUND").await;
    real.fails("account create a --unit USD", 4, "ACCOUNT_PURGED")
        .await;
}

#[tokio::test]
async fn money_back_by_refund_correction_and_void() {
    let real = Real::start().await;
    real.json("account create a --unit USD").await;
    real.json("credit recharge a 10 --order-id o1").await;
    real.json("credit recharge a 5 --order-id o2").await;
    let late = real.json("credit late-charge a 2").await;
    let sequence = &late["entry"]["sequence"];
    let corrected = real
        .json(&format!("credit correct a {sequence} 1.50 --note price"))
        .await;
    assert_eq!(
        (
            &corrected["entry"]["kind"],
            &corrected["account"]["balance"]
        ),
        (&json!("correction"), &json!("14.50"))
    );
    real.fails(
        &format!("credit correct a {sequence} 1 --note price"),
        4,
        "NOT_CORRECTABLE",
    )
    .await;
    let voided = real.json("credit void a o2 --note fraud").await;
    assert_eq!(
        (&voided["entry"]["amount"], &voided["account"]["balance"]),
        (&json!("-5.00"), &json!("9.50"))
    );
    let blocks = real.json("credit blocks a --kind paid --order-id o1").await;
    assert_eq!(blocks.as_array().unwrap().len(), 1);
    real.json("account set-invoiced a o1 4").await;
    let shown = real.table("refund show a").await;
    let total = shown.last().unwrap();
    assert_eq!(
        (total[0].as_str(), total[3].as_str()),
        ("total", "5.50"),
        "{shown:?}"
    );
    let begun = real.json("refund begin a r1 --reason asked").await;
    assert_eq!(
        (&begun["refundable"], &begun["account"]["state"]),
        (&json!("5.50"), &json!("FROZEN"))
    );
    real.fails("refund begin a r2", 4, "REFUND_IN_PROGRESS")
        .await;
    real.fails("credit recharge a 1 --order-id o3", 4, "REFUND_IN_PROGRESS")
        .await;
    real.fails("refund complete a r2", 3, "REFUND_NOT_FOUND")
        .await;
    real.json("refund cancel a r1").await;
    real.json("refund begin a r3").await;
    let done = real.json("refund complete a r3 --close").await;
    assert_eq!(
        (&done["refunded"], &done["account"]["state"]),
        (&json!("5.50"), &json!("CLOSED"))
    );
    let moved = real.json("ledger list a --moving --kind refund").await;
    assert_eq!(moved[0]["amount"], "-5.50");
    real.json("account create b --unit USD").await;
    real.json("credit recharge b 10 --order-id o1").await;
    real.json("credit recharge b 5 --order-id o2").await;
    real.json("refund begin b r1").await;
    real.json("refund complete b r1").await;
    let back = real.json("ledger list b --order-id o2 --kind refund").await;
    assert_eq!(
        (&back[0]["order"], &back[0]["allocations"][1]),
        (
            &json!("o1, o2"),
            &json!({"block": 2, "amount": "5.00", "order": "o2"})
        )
    );
}

#[tokio::test]
async fn plans_rates_and_licences() {
    let real = Real::start().await;
    real.json("account create a --unit USD").await;
    let bought = real
        .json("plan buy a vision 100 --unit points --order-id p1 --model flat --price 9.90")
        .await;
    assert_eq!(
        (&bought["plan"]["remaining"], &bought["plan"]["unit"]),
        (&json!("100.00"), &json!("points"))
    );
    real.fails(
        "plan buy a vision 0 --unit points --order-id p2",
        2,
        "FIELD_INVALID",
    )
    .await;
    real.fails(
        "plan buy a vision 1 --unit points --order-id p1",
        4,
        "ORDER_REUSED",
    )
    .await;
    let plans = real.table("plan list a --usable").await;
    assert_eq!((plans.len(), plans[1][0].as_str()), (2, "vision"));
    assert_eq!(
        real.json("account get a").await["plans"][0]["plan"],
        "vision"
    );
    let rate = real
        .json("plan qps buy a fast 50 --order-id q1 --expires 2099-01-01T00:00:00Z --price 4.50")
        .await;
    assert_eq!(
        (&rate["entry"]["price"], &rate["qps_plan"]["price"]),
        (&json!("4.50"), &json!("4.50"))
    );
    let inner = real.table("account list --inner").await;
    assert_eq!(inner[2][0], "a!vision");
    let rates = real.json("plan qps list a --state active").await;
    assert_eq!(
        (&rates[0]["qps"], &rates[0]["plan_state"]),
        (&json!(50), &json!("active"))
    );
    real.fails("plan qps buy a fast 0 --order-id q2", 2, "FIELD_INVALID")
        .await;
    let issued = real
        .json("licence issue a --id lic-1 --expires 2099-01-01T00:00:00Z --model flat")
        .await;
    assert!(
        issued["token"].as_str().unwrap().starts_with("tgl1."),
        "{issued}"
    );
    real.fails(
        "licence issue a --expires 2000-01-01T00:00:00Z",
        2,
        "FIELD_INVALID",
    )
    .await;
    assert_eq!(real.json("licence revoke lic-1").await["state"], "revoked");
    let licences = real.json("licence list --state revoked").await;
    assert_eq!(licences[0]["licence"], "lic-1");
    assert_eq!(licences[0]["token"], Value::Null, "it was shown once");
}

#[tokio::test]
async fn tenants_policies_invoices_and_estimates() {
    let real = Real::start().await;
    let presets = real.json("policy list --origin built_in").await;
    let preset = |name: &str| {
        let all = presets.as_array().unwrap();
        all.iter().any(|policy| policy["policy"] == name)
    };
    assert!(
        preset("alibaba-visual") && preset("openai-prepaid"),
        "{presets}"
    );
    let policy = real.json("policy set afterwards --mode credit_then_invoice --invoice-limit 10 --alert 5 --alert 2").await;
    assert_eq!(
        (&policy["mode"], &policy["alerts"]),
        (&json!("credit_then_invoice"), &json!(["5.00", "2.00"]))
    );
    let tenant = real
        .json("tenant set partner --policy afterwards --qps 7")
        .await;
    assert_eq!(
        (&tenant["rules"], &tenant["policy"]),
        (&json!({"qps": 7}), &json!("afterwards"))
    );
    real.fails("tenant set partner --policy none", 3, "POLICY_NOT_FOUND")
        .await;
    assert_eq!(real.table("tenant list").await.len(), 2);
    let made = real
        .json("account create a --unit USD --tenant partner")
        .await;
    assert_eq!(
        (&made["tenant"], &made["qps"]),
        (&json!("partner"), &json!(7))
    );
    real.json("credit late-charge a 3").await;
    let closed = real.json("invoice close a inv-1").await;
    assert_eq!(
        (
            &closed["invoice"]["invoiced"],
            &closed["account"]["invoiced_outstanding"]
        ),
        (&json!("3.00"), &json!("3.00"))
    );
    real.fails("invoice close a inv-1", 4, "INVOICE_EXISTS")
        .await;
    let settled = real.table("invoice settle a inv-1").await;
    let amounts = settled.iter().filter(|line| line[0] == "amount");
    let amounts: Vec<_> = amounts.map(|line| line[1].as_str()).collect();
    assert_eq!(amounts, ["3.00"], "{settled:?}");
    let invoices = real.table("invoice list a --state settled").await;
    assert_eq!((invoices.len(), invoices[1][0].as_str()), (2, "inv-1"));
    let estimate = real.json("usage estimate a 10 --model flat").await;
    assert_eq!(
        (&estimate[0]["requests"], &estimate[0]["basis"]),
        (&json!(10), &json!("price"))
    );
    real.fails(
        "usage estimate a 10 --model nobody-knows",
        4,
        "MODEL_NOT_PRICED",
    )
    .await;
    let series = real
        .json("usage series a --step month --by model --by service")
        .await;
    assert_eq!(
        (&series["rows"], &series["total"]["calls"]),
        (&json!([]), &json!(0))
    );
    assert_eq!(real.table("usage series a").await[0][0], "start");
    assert_eq!(real.table("usage a").await[0][0], "hour");
    assert_eq!(real.fixture.run("usage").await.status.code(), Some(2));
    real.json("tenant delete partner").await;
    real.fails("tenant get partner", 3, "TENANT_NOT_FOUND")
        .await;
}
