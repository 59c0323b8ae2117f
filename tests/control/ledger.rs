//! LedgerService.

use tollgate::proto::v1;
use tonic::Code;
use tonic::transport::Channel;
use v1::ledger_service_client::LedgerServiceClient;

use super::{Api, recharge, refused, said, usd, violations};

fn client(api: &Api) -> LedgerServiceClient<Channel> {
    LedgerServiceClient::new(api.channel.clone())
}

/// An account with its opening and nine recharges.
async fn ten_entries() -> Api {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    for n in 1..10 {
        let request = recharge("a", &format!("r{n}"), &format!("o{n}"), n);
        api.credit().recharge(request).await.unwrap();
    }
    api
}

async fn all(api: &Api, mut request: v1::ListEntriesRequest) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        let page = client(api)
            .list_entries(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(page.entries.len() <= 4);
        seen.extend(page.entries.iter().map(|entry| entry.sequence));
        if page.next_page_token.is_empty() {
            return seen;
        }
        request.page_token = page.next_page_token;
    }
}

fn list(edit: impl FnOnce(&mut v1::ListEntriesRequest)) -> v1::ListEntriesRequest {
    let mut request = v1::ListEntriesRequest {
        account_id: "a".into(),
        page_size: 4,
        ..v1::ListEntriesRequest::default()
    };
    edit(&mut request);
    request
}

#[tokio::test]
async fn entries_come_in_pages_both_ways_and_by_kind() {
    let api = ten_entries().await;
    let up: Vec<u64> = (1..=10).collect();
    let down: Vec<u64> = (1..=10).rev().collect();
    assert_eq!(all(&api, list(|_| ())).await, up);
    assert_eq!(
        all(&api, list(|request| request.newest_first = true)).await,
        down
    );
    let of = |kind: v1::EntryKind| list(|request| request.kinds = vec![kind.into()]);
    assert_eq!(all(&api, of(v1::EntryKind::Configuration)).await, [1]);
    assert_eq!(all(&api, of(v1::EntryKind::Recharge)).await, up[1..]);
    assert_eq!(all(&api, of(v1::EntryKind::Expiry)).await, [0_u64; 0]);
    let first = client(&api)
        .list_entries(list(|_| ()))
        .await
        .unwrap()
        .into_inner();
    let at = first.entries[2].time;
    let early = all(&api, list(|request| request.end_time = at)).await;
    let late = all(&api, list(|request| request.start_time = at)).await;
    assert_eq!((early, late), (up[..2].to_vec(), up[2..].to_vec()));
    let entry = &first.entries[1];
    assert_eq!(
        (entry.order_id.as_str(), entry.request_id.as_str()),
        ("o1", "r1")
    );
    assert_eq!(
        (entry.amount.clone(), entry.balance.clone(), entry.block_id),
        (usd(1), usd(1), 1)
    );
}

#[tokio::test]
async fn a_page_token_with_another_filter_is_refused() {
    let api = ten_entries().await;
    let first = client(&api)
        .list_entries(list(|_| ()))
        .await
        .unwrap()
        .into_inner();
    let token = first.next_page_token;
    let check = async |edit: &dyn Fn(&mut v1::ListEntriesRequest), reason: &str| {
        let request = list(|request| {
            request.page_token = token.clone();
            edit(request);
        });
        assert_eq!(
            refused(client(&api).list_entries(request).await),
            said(Code::InvalidArgument, reason)
        );
    };
    check(
        &|request| request.newest_first = true,
        "PAGE_TOKEN_MISMATCH",
    )
    .await;
    check(&|request| request.kinds = vec![2], "PAGE_TOKEN_MISMATCH").await;
    check(
        &|request| request.page_token.push('!'),
        "PAGE_TOKEN_INVALID",
    )
    .await;
    let wider = list(|request| {
        request.page_token = token.clone();
        request.page_size = 1_000;
    });
    assert_eq!(
        client(&api)
            .list_entries(wider)
            .await
            .unwrap()
            .into_inner()
            .entries
            .len(),
        6
    );
    let unknown = list(|request| request.kinds = vec![99]);
    assert_eq!(
        violations(client(&api).list_entries(unknown).await),
        ["kinds[0]"]
    );
}

async fn verify(api: &Api) -> v1::VerifyLedgerResponse {
    let request = v1::VerifyLedgerRequest {
        account_id: "a".into(),
    };
    client(api)
        .verify_ledger(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_ledger_adds_up_with_and_without_what_it_has_not_summed() {
    let api = Api::start().await;
    api.account("a", 5).await;
    api.call("a").await;
    api.call("a").await;
    let proof = verify(&api).await;
    assert_eq!(proof.findings, []);
    assert!(proof.ok);
    assert_eq!(
        (proof.spend.clone(), proof.usage_sum, proof.spend_after),
        (usd(2), usd(2), usd(2))
    );
    assert_eq!(
        (proof.entries_sum, proof.unabsorbed, proof.balance),
        (usd(5), usd(2), usd(3))
    );
    // The next command sums the spend up in an entry.
    api.credit()
        .recharge(recharge("a", "r", "o", 1))
        .await
        .unwrap();
    let proof = verify(&api).await;
    assert!(proof.ok, "{:?}", proof.findings);
    assert_eq!(
        (proof.entries_sum, proof.unabsorbed, proof.balance),
        (usd(4), usd(0), usd(4))
    );
    assert_eq!(proof.lifetime_credit, usd(6));
}

#[tokio::test]
async fn a_ledger_that_was_tampered_with_is_found_out() {
    use tollgate::id::AccountId;
    use tollgate::money::Amount;
    use tollgate::store::Commit;

    let api = ten_entries().await;
    let store = &api.node.core.store;
    let id = AccountId::new("a").unwrap();
    let read = store.read(&id, &[]).await.unwrap().unwrap();
    let mut book = read.book.clone();
    // An entry that claims one unit more than the book took in, and a balance that nobody has.
    let mut entry = store.entries(&id, 9, 1).await.unwrap().remove(0);
    book.entries += 1;
    entry.sequence = book.entries;
    entry.amount = Amount::from_units(1).unwrap();
    entry.balance = Amount::from_units(1_000).unwrap();
    book.debt = Amount::from_units(7).unwrap();
    let commit = Commit {
        expected: read.version,
        book,
        credit_delta: Amount::ZERO,
        entries: vec![entry],
        events: Vec::new(),
        claims: Vec::new(),
        restore: None,
    };
    store.commit(commit).await.unwrap();
    let proof = verify(&api).await;
    assert!(!proof.ok);
    let kinds: Vec<_> = proof
        .findings
        .iter()
        .map(|finding| (finding.kind(), finding.sequence))
        .collect();
    let expected = [
        (v1::FindingKind::RunningBalance, 11),
        (v1::FindingKind::EntriesSum, 0),
        (v1::FindingKind::Book, 0),
    ];
    assert_eq!(kinds, expected);
    let unknown = v1::VerifyLedgerRequest {
        account_id: "b".into(),
    };
    let unknown = client(&api).verify_ledger(unknown).await;
    assert_eq!(refused(unknown), said(Code::NotFound, "ACCOUNT_NOT_FOUND"));
}

#[tokio::test]
async fn entries_are_found_by_order_key_and_whether_money_moved() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let late = v1::LateChargeRequest {
        account_id: "a".into(),
        request_id: "l".into(),
        amount: usd(1),
        key_id: "k-a".into(),
        model: "flat".into(),
        ..v1::LateChargeRequest::default()
    };
    api.credit().late_charge(late).await.unwrap();
    let list = async |edit: &dyn Fn(&mut v1::ListEntriesRequest)| {
        let mut request = v1::ListEntriesRequest {
            account_id: "a".into(),
            ..v1::ListEntriesRequest::default()
        };
        edit(&mut request);
        let mut client = LedgerServiceClient::new(api.channel.clone());
        let page = client.list_entries(request).await?.into_inner();
        let kinds = page.entries.iter().map(v1::Entry::kind).collect::<Vec<_>>();
        Ok::<_, tonic::Status>((kinds, page.next_page_token))
    };
    use v1::EntryKind::{Configuration, LateCharge, Recharge};
    let kinds = async |edit: &dyn Fn(&mut v1::ListEntriesRequest)| list(edit).await.unwrap().0;
    assert_eq!(kinds(&|_| ()).await, [Configuration, Recharge, LateCharge]);
    assert_eq!(
        kinds(&|request| request.order_id = "first".into()).await,
        [Recharge]
    );
    assert_eq!(
        kinds(&|request| request.key_id = "k-a".into()).await,
        [LateCharge]
    );
    assert_eq!(
        kinds(&|request| request.model = "flat".into()).await,
        [LateCharge]
    );
    assert_eq!(
        kinds(&|request| request.moving_only = true).await,
        [Recharge, LateCharge]
    );
    let (_, token) = list(&|request| request.page_size = 1).await.unwrap();
    let edit = |request: &mut v1::ListEntriesRequest| {
        request.page_token.clone_from(&token);
        (request.page_size, request.moving_only) = (1, true);
    };
    let changed = list(&edit);
    assert_eq!(
        refused(changed.await),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
}
