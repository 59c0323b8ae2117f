//! CreditService.

use tollgate::proto::v1;
use tonic::Code;

use super::{Api, recharge, refused, said, usd, violations};

#[tokio::test]
async fn the_same_recharge_sent_twice_counts_once() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let first = api
        .credit()
        .recharge(recharge("a", "r1", "o1", 5))
        .await
        .unwrap()
        .into_inner();
    let again = api
        .credit()
        .recharge(recharge("a", "r1", "o1", 5))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(first.entry, again.entry, "the first answer is given again");
    assert_eq!(again.account.unwrap().balance, usd(5));
    let other = api.credit().recharge(recharge("a", "r1", "o1", 6)).await;
    assert_eq!(
        refused(other),
        said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );
    let order = api.credit().recharge(recharge("a", "r2", "o1", 5)).await;
    assert_eq!(refused(order), said(Code::AlreadyExists, "ORDER_REUSED"));
    let grant = v1::GrantRequest {
        account_id: "a".into(),
        request_id: "r1".into(),
        amount: usd(5),
        ..v1::GrantRequest::default()
    };
    let grant = api.credit().grant(grant).await;
    assert_eq!(
        refused(grant),
        said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );
    assert_eq!(api.get("a").await.balance, usd(5));
}

#[tokio::test]
async fn a_recharge_pays_debt_first_and_a_grant_does_not() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let late = v1::LateChargeRequest {
        account_id: "a".into(),
        request_id: "l1".into(),
        amount: usd(3),
        key_id: "gone".into(),
        model: "m".into(),
        note: "after the fact".into(),
    };
    let late = api.credit().late_charge(late).await.unwrap().into_inner();
    let entry = late.entry.unwrap();
    assert_eq!((entry.debt_made, entry.amount), (usd(3), usd(-3)));
    assert_eq!((entry.key_id.as_str(), entry.model.as_str()), ("gone", "m"));
    let grant = v1::GrantRequest {
        account_id: "a".into(),
        request_id: "g1".into(),
        amount: usd(1),
        ..v1::GrantRequest::default()
    };
    let granted = api.credit().grant(grant).await.unwrap().into_inner();
    assert_eq!(granted.account.unwrap().debt, usd(3));
    let paid = api
        .credit()
        .recharge(recharge("a", "r1", "o1", 5))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(paid.entry.unwrap().debt_paid, usd(3));
    let account = paid.account.unwrap();
    assert_eq!((account.debt, account.balance), (usd(0), usd(3)));
    assert_eq!(account.cumulative_recharge, usd(5), "gifts do not count");
}

#[tokio::test]
async fn an_adjustment_goes_up_or_down_and_says_why() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let adjust = async |id: &str, units: i64, note: &str| {
        let request = v1::AdjustRequest {
            account_id: "a".into(),
            request_id: id.into(),
            amount: usd(units),
            note: note.into(),
        };
        api.credit().adjust(request).await
    };
    adjust("1", 5, "goodwill").await.unwrap();
    let down = adjust("2", -2, "typo").await.unwrap().into_inner();
    assert_eq!(down.account.unwrap().balance, usd(3));
    assert_eq!(violations(adjust("3", 0, "x").await), ["amount"]);
    assert_eq!(violations(adjust("4", 1, "").await), ["note"]);
}

#[tokio::test]
async fn what_does_not_count_once_or_is_no_money_is_refused() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let check = async |request: v1::RechargeRequest, field: &str| {
        assert_eq!(violations(api.credit().recharge(request).await), [field]);
    };
    check(recharge("", "r", "o", 1), "account_id").await;
    check(recharge("a", "", "o", 1), "request_id").await;
    check(recharge("a", "r", "", 1), "order_id").await;
    check(recharge("a", "r", "o", 0), "amount").await;
    check(recharge("a", "r", "o", -1), "amount").await;
    let mut wrong = recharge("a", "r", "o", 1);
    wrong.amount = None;
    check(wrong.clone(), "amount").await;
    wrong.amount = Some(v1::Amount {
        unit: String::new(),
        nanos: i64::MIN,
    });
    check(wrong.clone(), "amount.nanos").await;
    wrong.amount = Some(v1::Amount {
        unit: "EUR".into(),
        nanos: 1,
    });
    check(wrong.clone(), "amount.unit").await;
    assert_eq!(
        refused(api.credit().recharge(wrong).await),
        said(Code::InvalidArgument, "UNIT_MISMATCH")
    );
    let mut past = recharge("a", "r", "o", 1);
    past.expire_time = Some(prost_types::Timestamp {
        seconds: 1,
        nanos: 0,
    });
    check(past, "expire_time").await;
    let mut note = recharge("a", "r", "o", 1);
    note.note = "x".repeat(1_001);
    check(note, "note").await;
    let unknown = api.credit().recharge(recharge("nobody", "r", "o", 1)).await;
    assert_eq!(refused(unknown), said(Code::NotFound, "ACCOUNT_NOT_FOUND"));
    assert_eq!(
        api.get("a").await.last_entry_sequence,
        1,
        "none of them left a trace"
    );
    let most = v1::Amount {
        unit: String::new(),
        nanos: i64::MAX,
    };
    let mut huge = recharge("a", "h1", "h1", 1);
    huge.amount = Some(most);
    api.credit().recharge(huge.clone()).await.unwrap();
    (huge.request_id, huge.order_id) = ("h2".into(), "h2".into());
    let over = api.credit().recharge(huge).await;
    assert_eq!(refused(over), said(Code::OutOfRange, "AMOUNT_OUT_OF_RANGE"));
}

#[tokio::test]
async fn many_recharges_at_once_all_count_once() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let sent = (0..20).map(|n| {
        let mut client = api.credit();
        // Each is sent twice, at the same time.
        let request = recharge("a", &format!("r{}", n / 2), &format!("o{}", n / 2), 1);
        tokio::spawn(async move { client.recharge(request).await })
    });
    for sent in sent.collect::<Vec<_>>() {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(api.get("a").await.balance, usd(10));
}

#[tokio::test]
async fn blocks_come_in_pages_with_their_place_in_the_burn_order() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    for (n, priority) in [(1, 5), (2, 0), (3, 9)] {
        let mut request = recharge("a", &format!("r{n}"), &format!("o{n}"), n);
        request.priority = priority;
        api.credit().recharge(request).await.unwrap();
    }
    let page = async |token: String| {
        let request = v1::ListCreditBlocksRequest {
            account_id: "a".into(),
            page_size: 2,
            page_token: token,
            ..v1::ListCreditBlocksRequest::default()
        };
        api.credit()
            .list_credit_blocks(request)
            .await
            .unwrap()
            .into_inner()
    };
    let first = page(String::new()).await;
    let second = page(first.next_page_token.clone()).await;
    assert_eq!(second.next_page_token, "");
    let blocks = first.credit_blocks.iter().chain(&second.credit_blocks);
    let seen: Vec<_> = blocks
        .map(|block| (block.block_id, block.burn_rank, block.order_id.as_str()))
        .collect();
    assert_eq!(seen, [(1, 2, "o1"), (2, 1, "o2"), (3, 3, "o3")]);
}
