//! After a fault: the books hold what was answered, to the nano-unit, at every replica and in the store.

use std::time::Duration;

use tollgate::money::Amount;

use super::api::nanos;
use super::fleet::{Fleet, HEAL_MAX};
use super::load::{CALL_MAX, Call, End, Seen};

/// What an account must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    spend: Amount,
    balance: Amount,
    lifetime_credit: Amount,
    cumulative_recharge: Amount,
    held: Amount,
    unpublished: Amount,
    /// Calls and cost of the usage rows.
    usage: (u64, Amount),
    /// Of the ledger's own proof.
    proven: bool,
    proven_spend: Amount,
    proven_usage: Amount,
}

/// What a replica tells of an account, or why it does not.
async fn told(fleet: &Fleet, number: usize, name: &str) -> Result<Figures, String> {
    let why = |status: tonic::Status| format!("{:?}: {}", status.code(), status.message());
    fleet.sync(number).await.map_err(why)?;
    let account = fleet.account(number, name).await.map_err(why)?;
    let usage = fleet.usage(number, name).await.map_err(why)?;
    let proof = fleet.proof(number, name).await.map_err(why)?;
    Ok(Figures {
        spend: nanos(&account.spend),
        balance: nanos(&account.balance),
        lifetime_credit: nanos(&account.lifetime_credit),
        cumulative_recharge: nanos(&account.cumulative_recharge),
        held: nanos(&account.held),
        unpublished: nanos(&account.unpublished),
        usage,
        proven: proof.ok,
        proven_spend: nanos(&proof.spend),
        proven_usage: nanos(&proof.usage_sum),
    })
}

impl Fleet {
    /// Waits until every replica tells of an account what was answered and paid, and fails with what they tell instead.
    pub(super) async fn agree(&self, name: &str, seen: &Seen) {
        let numbers = self.numbers();
        self.agree_at(&numbers, name, seen).await;
    }

    /// The same, asking some replicas only.
    pub(super) async fn agree_at(&self, numbers: &[usize], name: &str, seen: &Seen) {
        let (calls, spend) = seen.charged(name);
        let paid = self.paid(name);
        let truth = Ok(Figures {
            spend,
            balance: paid.checked_sub(spend).unwrap(),
            lifetime_credit: paid,
            cumulative_recharge: paid,
            held: Amount::ZERO,
            unpublished: Amount::ZERO,
            usage: (calls, spend),
            proven: true,
            proven_spend: spend,
            proven_usage: spend,
        });
        let began = self.clock.now().mono;
        loop {
            // Twice round: the first one's figures miss what the last one publishes.
            for number in numbers {
                let _ = self.sync(*number).await;
            }
            let mut all = Vec::new();
            for number in numbers {
                all.push(told(self, *number, name).await);
            }
            if all.iter().all(|told| *told == truth) {
                return;
            }
            let waited = self.clock.now().mono.since(began);
            assert!(
                waited < HEAL_MAX,
                "after {waited:?}, of {name}, replicas {numbers:?} tell {all:#?}\nwhere the truth is {truth:#?}\n{}",
                seen.summary()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// No money is stranded: one replica can spend all that is left in an account, to the last unit; and not one more, but for what
    /// was at risk.
    pub(super) async fn spend_the_rest(
        &self,
        number: usize,
        name: &str,
        at_risk: Amount,
        seen: &Seen,
    ) {
        let mut caller = self.caller(number, name, "flat");
        let began = self.clock.now().mono;
        loop {
            let (_, spent) = seen.charged(name);
            let left = self.paid(name).checked_sub(spent).unwrap();
            let call = caller.call().await;
            let charged = call.is_charged();
            let waited = call.answered.since(began);
            seen.add(call.clone());
            if charged {
                let more = left.checked_add(at_risk).unwrap();
                assert!(more.is_positive(), "{name} is overspent: {call:?}");
                continue;
            }
            if !left.is_positive() {
                return;
            }
            assert!(
                waited < HEAL_MAX,
                "after {waited:?}, {left} of {name} cannot be spent: {call:?}"
            );
        }
    }
}

/// While something was away, calls were charged, or refused as they should be, and in time; none was lost. `tight` may also be
/// told that its money is gone, and has spent no more than there was.
pub(super) fn check_calls(seen: &Seen, tight_money: Amount) {
    for call in seen.calls() {
        let right = match &call.end {
            End::Charged(_) => true,
            End::Refused(503, reason) => reason == "STATE_UNAVAILABLE",
            End::Refused(429, reason) => {
                &*call.account == "tight" && reason == "INSUFFICIENT_BALANCE"
            }
            End::Refused(..) | End::Cut => false,
        };
        assert!(right, "{call:?}\n{}", seen.summary());
        assert!(call.took() < CALL_MAX, "{call:?}");
    }
    let (_, spent) = seen.charged("tight");
    assert!(spent <= tight_money, "{spent} spent of {tight_money}");
}

/// None of some calls was charged.
pub(super) fn check_none_charged(seen: &Seen, which: impl Fn(&Call) -> bool) {
    let charged: Vec<_> = seen
        .calls()
        .into_iter()
        .filter(|call| call.is_charged() && which(call))
        .collect();
    assert!(
        charged.is_empty(),
        "{} calls were charged that must not be, the first of them {:?}",
        charged.len(),
        charged.first()
    );
}
