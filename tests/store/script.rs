//! The same commands, whatever the store: entries and books to the last byte.

use tollgate::books::{Books, CommandError, Configure};
use tollgate::catalog::{Catalog, Layer};
use tollgate::ledger::{Action, Command, InvoiceLine, PlanRef};
use tollgate::policy::{
    AutoRecharge, Deadline, End, Enforcement, Mode, Overrides, Policy, Refunds, Resume,
};

use super::*;

/// One call: how much later, how much was spent by then, and what is asked.
type Step = (u64, i64, Action);

const HOUR: u64 = 3_600_000;

fn rules() -> Layer {
    let strict = Policy {
        suspend_after: Some(Deadline {
            ms: 24 * HOUR,
            end: End::Excluded,
        }),
        purge_after_ms: Some(24 * HOUR),
        resume: Resume::Reactivate,
        capabilities: vec!["face".into(), "text".into()],
        low_balance: Some(nano(20)),
        alerts: vec![nano(50)],
        credit_expires_after_ms: Some(1_000 * HOUR),
        credit_expiring_ms: Some(10 * HOUR),
        refunds: Refunds::PaidRemaining,
        enforcement: Enforcement::Enforce,
        purchase_max: Some(nano(1_000)),
        ..Policy::default()
    };
    let invoiced = Policy {
        mode: Mode::CreditThenInvoice,
        invoice_limit: nano(500),
        auto_recharge: Some(AutoRecharge {
            below: nano(5),
            amount: nano(100),
            cool_down_ms: HOUR,
            monthly_max: None,
        }),
        ..Policy::default()
    };
    Layer {
        policies: [("default".into(), strict), ("invoiced".into(), invoiced)].into(),
        ..Layer::default()
    }
}

fn recharge(order: &str, amount: i64) -> Action {
    Action::Recharge {
        amount: nano(amount),
        order_id: order.into(),
        priority: 0,
        expires: None,
        note: "card".into(),
    }
}

fn grant(amount: i64, expires_in_hours: u64) -> Action {
    Action::Grant {
        amount: nano(amount),
        order_id: None,
        priority: -1,
        expires: Some(NOON.plus(Duration::from_millis(expires_in_hours * HOUR))),
        note: "welcome".into(),
    }
}

fn late(amount: i64) -> Action {
    Action::LateCharge {
        amount: nano(amount),
        key: Some(key_id("k")),
        model: Some(ModelName::new("m").unwrap()),
        note: "late".into(),
    }
}

fn adjust(amount: i64) -> Action {
    Action::Adjust {
        amount: nano(amount),
        note: "wrong price".into(),
    }
}

fn correct(sequence: u64, amount: i64) -> Action {
    Action::Correct {
        sequence,
        amount: nano(amount),
        note: "wrong price".into(),
    }
}

fn begin(id: &str, orders: &[&str]) -> Action {
    Action::BeginRefund {
        refund_id: id.into(),
        orders: orders.iter().map(|order| (*order).into()).collect(),
        reason: "asked".into(),
    }
}

fn complete(id: &str, close: bool) -> Action {
    Action::CompleteRefund {
        refund_id: id.into(),
        close,
    }
}

fn reactivate(capability: &str) -> Action {
    Action::ReactivateCapability {
        capability: capability.into(),
    }
}

fn close_invoice(id: &str) -> Action {
    Action::CloseInvoicePeriod {
        invoice_id: id.into(),
        lines: vec![InvoiceLine {
            model: Some(ModelName::new("m").unwrap()),
            amount: nano(7),
        }],
    }
}

fn settle(id: &str) -> Action {
    Action::SettleInvoice {
        invoice_id: id.into(),
    }
}

fn policy(name: &str) -> Action {
    Action::Configure(Configure {
        policy: Some(name.into()),
        ..Configure::default()
    })
}

fn plan(name: &str, unit: &str) -> Action {
    Action::AddPlan {
        plan: PlanRef {
            name: name.into(),
            unit: unit.into(),
            scope: vec!["m*".into()],
            priority: 1,
        },
    }
}

fn note() -> String {
    "why".into()
}

/// Sixty calls, of every kind, with refusals among them.
fn script() -> Vec<Step> {
    let configure = Configure {
        tier: Some("gold".into()),
        recipients: Some(vec!["a@example.com".into(), "b@example.com".into()]),
        ..Configure::default()
    };
    let rate = Action::BuyQpsPlan {
        plan_id: "fast".into(),
        qps: 50,
        burst: None,
        effective: None,
        expires: Some(NOON.plus(Duration::from_millis(30 * HOUR))),
        order_id: "q".into(),
        price: Some(nano(7)),
    };
    let bought = Action::BuyPlan {
        amount: nano(30),
        order_id: "p".into(),
        priority: 5,
        expires: None,
        price: Some(nano(9)),
        note: note(),
    };
    let invoiced = |order: &str, amount| Action::SetInvoicedAmount {
        order_id: order.into(),
        amount: nano(amount),
    };
    let void = |order: &str| Action::Void {
        order_id: order.into(),
        note: note(),
    };
    let first = [
        (0, 0, Action::Configure(configure)),
        (0, 0, recharge("a", 100)),
        (0, 0, recharge("a", 100)),
        (0, 0, recharge("huge", 1_001)),
        (0, 0, grant(10, 2)),
        (1, 12, Action::Observe),
        (1, 3, correct(5, 4)),
        (0, 0, correct(5, 1_000)),
        (0, 0, correct(77, 1)),
        (1, 5, adjust(-6)),
        (0, 0, adjust(0)),
        (0, 0, adjust(9)),
        (0, 0, plan("p", "tok")),
        (0, 0, plan("p", "img")),
        (0, 0, bought),
        (0, 0, rate),
        (0, 0, Action::MarkOverdue { note: note() }),
        (5, 1, reactivate("face")),
        (20, 0, Action::Observe),
        (0, 0, Action::ClearOverdue { note: note() }),
        (0, 0, Action::ClearOverdue { note: note() }),
        (0, 0, reactivate("voice")),
        (0, 0, reactivate("face")),
        (0, 0, reactivate("text")),
        (1, 150, late(40)),
        (0, 0, recharge("b", 20)),
        (25, 0, Action::Observe),
        (0, 0, reactivate("face")),
        (0, 0, recharge("c", 400)),
        (0, 0, reactivate("*")),
    ];
    let second = [
        (1, 10, invoiced("c", 50)),
        (0, 0, invoiced("none", 1)),
        (0, 0, begin("r1", &["none"])),
        (0, 0, begin("r1", &["c"])),
        (0, 0, begin("r2", &[])),
        (0, 0, recharge("d", 5)),
        (1, 4, late(3)),
        (0, 0, complete("r9", false)),
        (0, 0, complete("r1", false)),
        (0, 0, recharge("d", 200)),
        (0, 0, void("none")),
        (0, 0, void("c")),
        (0, 0, begin("r3", &[])),
        (
            0,
            0,
            Action::CancelRefund {
                refund_id: "r3".into(),
                note: note(),
            },
        ),
        (0, 0, Action::RemovePlan { name: "p".into() }),
        (0, 0, Action::RemovePlan { name: "p".into() }),
        (0, 0, close_invoice("i0")),
        (0, 0, policy("invoiced")),
        (1, 300, Action::Observe),
        (0, 0, close_invoice("i1")),
        (0, 0, close_invoice("i1")),
        (0, 0, policy("default")),
        (1, 20, settle("i1")),
        (0, 0, settle("i1")),
        (0, 0, recharge("e", 500)),
        (0, 0, policy("default")),
        (1_100, 1, Action::Observe),
        (0, 0, Action::CloseAccount { note: note() }),
        (0, 0, recharge("f", 5)),
        (0, 2, late(1)),
    ];
    first.into_iter().chain(second).collect()
}

/// What became of each call, and what stands in the end, as JSON.
async fn run(f: &Fixture) -> (Vec<String>, Vec<String>) {
    let clock = Clock::manual(NOON);
    let catalog = Arc::new(Catalog::new(rules()).unwrap());
    let books = Books::new(
        Arc::clone(&f.store),
        catalog,
        clock.clone(),
        Default::default(),
    );
    let id = account("script");
    let opened = books.open(
        id.clone(),
        "USD".into(),
        None,
        None,
        Overrides::default(),
        None,
    );
    opened.await.unwrap();
    let mut speakers = [Speaker::new("script", "r-1"), Speaker::new("script", "r-2")];
    let mut answers = Vec::new();
    for (number, (hours, spent, action)) in script().into_iter().enumerate() {
        clock.advance(Duration::from_millis(hours * HOUR));
        // Two replicas lease, spend, and give back what they have not spent before a refund is paid out.
        let ends = matches!(action, Action::CompleteRefund { .. });
        let mut held = 0;
        for speaker in &mut speakers {
            speaker.spend += spent / 2;
            let back = if ends { i64::MAX / 2 } else { 0 };
            let answer = speaker
                .say(&*f.store, back, if ends { 0 } else { 3 }, 0)
                .await;
            held += answer.standing.committed.nanos() - answer.standing.spend.nanos();
        }
        let spent = snapshot(&*f.store, "script").await.spent();
        assert_eq!(spent.held, nano(held), "call {number}");
        let command = Command {
            idempotency_key: (action != Action::Observe).then(|| format!("k{number}")),
            action,
        };
        let done = books.run(&id, command.clone()).await;
        if let Ok(done) = &done
            && done.entry.is_some()
        {
            let again = books.run(&id, command).await.unwrap();
            assert!(again.replayed && again.entry == done.entry, "call {number}");
        }
        answers.push(match done {
            Ok(done) => serde_json::to_string(&done.entry).unwrap(),
            Err(CommandError::Store(error)) => panic!("call {number}: {error}"),
            Err(error) => error.to_string(),
        });
    }
    let entries = f.store.entries(&id, 0, 1_000).await.unwrap();
    let mut stands: Vec<_> = entries
        .iter()
        .map(|entry| serde_json::to_string(entry).unwrap())
        .collect();
    let book = snapshot(&*f.store, "script").await.book;
    assert_eq!(book.invariants(), Ok(()));
    let sum: i64 = entries.iter().map(|entry| entry.amount.nanos()).sum();
    assert_eq!(
        book.balance(book.absorbed),
        nano(sum),
        "money in less money out is what is left"
    );
    stands.push(serde_json::to_string(&book).unwrap());
    (answers, stands)
}

pub(super) async fn the_same_commands_give_the_same_ledger(f: &Fixture) {
    let (answers, stands) = run(f).await;
    let (due_answers, due_stands) = run(&embedded::fixture()).await;
    assert_eq!(answers, due_answers);
    assert_eq!(stands, due_stands);
    assert_eq!(answers.len(), 60);
    // It is worth something: every kind of entry is there, and a good part is refused, each time in words of its own.
    let kinds: std::collections::BTreeSet<_> = stands[..stands.len() - 1]
        .iter()
        .filter_map(|json| {
            Some(
                json.split_once("\"kind\":\"")?
                    .1
                    .split_once('"')?
                    .0
                    .to_owned(),
            )
        })
        .collect();
    assert_eq!(kinds.len(), 23, "{kinds:?}\n{answers:#?}");
    let refused = answers
        .iter()
        .filter(|answer| !answer.starts_with('{') && *answer != "null");
    assert_eq!(refused.count(), 22, "{answers:#?}");
}
