//! What the control API of a replica tells of accounts.

use std::collections::BTreeMap;

use tollgate::money::Amount;
use tollgate::proto::v1;
use tonic::Status;
use v1::account_service_client::AccountServiceClient;
use v1::ledger_service_client::LedgerServiceClient;
use v1::sync_service_client::SyncServiceClient;
use v1::usage_service_client::UsageServiceClient;

use super::fleet::Fleet;

/// An amount of the wire.
pub(super) fn nanos(amount: &Option<v1::Amount>) -> Amount {
    Amount::from_nanos(amount.as_ref().expect("an amount").nanos)
}

impl Fleet {
    /// A replica publishes what it has; the store's word.
    pub(super) async fn sync(&self, number: usize) -> Result<(), Status> {
        let mut client = SyncServiceClient::new(self.replicas[number].channel());
        client.sync_now(v1::SyncNowRequest {}).await?;
        Ok(())
    }

    /// An account as a replica tells of it.
    pub(super) async fn account(&self, number: usize, name: &str) -> Result<v1::Account, Status> {
        let mut client = AccountServiceClient::new(self.replicas[number].channel());
        let request = v1::GetAccountRequest {
            account_id: name.into(),
        };
        let answer = client.get_account(request).await?.into_inner();
        Ok(answer.account.expect("an account"))
    }

    /// Every account as a replica tells of it, by name.
    pub(super) async fn accounts(
        &self,
        number: usize,
    ) -> Result<BTreeMap<String, v1::Account>, Status> {
        let mut client = AccountServiceClient::new(self.replicas[number].channel());
        let mut request = v1::ListAccountsRequest {
            page_size: 200,
            ..v1::ListAccountsRequest::default()
        };
        let mut all = BTreeMap::new();
        loop {
            let page = client.list_accounts(request.clone()).await?.into_inner();
            let named = |account: v1::Account| (account.account_id.clone(), account);
            all.extend(page.accounts.into_iter().map(named));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The calls and the cost of an account's usage rows, which are what their total says.
    pub(super) async fn usage(&self, number: usize, name: &str) -> Result<(u64, Amount), Status> {
        let mut client = UsageServiceClient::new(self.replicas[number].channel());
        let request = v1::QueryUsageRequest {
            account_id: name.into(),
            page_size: 1000,
            ..v1::QueryUsageRequest::default()
        };
        let answer = client.query_usage(request).await?.into_inner();
        assert_eq!(answer.next_page_token, "", "more rows than one page");
        let of = |tally: &Option<v1::Tally>| {
            let tally = tally.as_ref().expect("a tally");
            (tally.calls, nanos(&tally.cost))
        };
        let mut sum = (0, Amount::ZERO);
        for row in &answer.rows {
            let (calls, cost) = of(&row.tally);
            sum = (sum.0 + calls, sum.1.checked_add(cost).unwrap());
        }
        assert_eq!(sum, of(&answer.total), "rows and total of {name}");
        Ok(sum)
    }

    /// What the ledger proves of itself.
    pub(super) async fn proof(
        &self,
        number: usize,
        name: &str,
    ) -> Result<v1::VerifyLedgerResponse, Status> {
        let mut client = LedgerServiceClient::new(self.replicas[number].channel());
        let request = v1::VerifyLedgerRequest {
            account_id: name.into(),
        };
        Ok(client.verify_ledger(request).await?.into_inner())
    }

    /// The total of every account, as the feed tells it: what its rows add up to.
    pub(super) async fn spend_feed(
        &self,
        number: usize,
    ) -> Result<BTreeMap<String, Amount>, Status> {
        let mut client = SyncServiceClient::new(self.replicas[number].channel());
        let request = v1::StreamSpendRequest {
            until_current: true,
            ..v1::StreamSpendRequest::default()
        };
        let mut stream = client.stream_spend(request).await?.into_inner();
        let mut all = BTreeMap::new();
        while let Some(message) = stream.message().await? {
            let spend = message.spend.expect("a spend");
            let rows = spend.rows.iter();
            let rows = rows.map(|row| nanos(&row.tally.as_ref().unwrap().cost).nanos());
            let total = nanos(&spend.total);
            assert_eq!(rows.sum::<i64>(), total.nanos(), "rows of {spend:?}");
            all.insert(spend.account_id, total);
        }
        Ok(all)
    }
}
