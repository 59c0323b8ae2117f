//! The accounts inside an account that a call may be paid from or counts to: its plans and its budgets, with what the call is expected
//! to cost in each one's unit. Which of them pays is the engine's to decide.

use std::sync::Arc;

use super::{Gate, Missed, Priced, Taken, Wait, Want};
use crate::clock::Now;
use crate::engine::{Ask, BudgetAsk, Denied, Inner, Key, Leg, ModelId, More, PlanAsk, Rules};
use crate::money::Amount;
use crate::policy::HoldRule;
use crate::pricing::Price;
use crate::refusal::{Reason, Refusal};
use crate::sync::budgets_of;

/// How much a call may still wait for, and what it goes on without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patience {
    /// What the plans have now is all.
    pub(super) plans_final: bool,
    /// What the budgets have is.
    pub(super) budgets_final: bool,
    /// The store is away: beyond the lease, if the policy says so.
    pub(super) beyond: bool,
    /// If its account is not live yet, without money.
    pub(super) waive: bool,
}

/// The accounts inside an account, for one call.
#[derive(Default)]
struct Legs {
    plans: Vec<PlanAsk>,
    budgets: Vec<BudgetAsk>,
}

/// `whole × part ÷ of`, rounded half up: what a hold rule that is in money comes to in another unit.
fn in_proportion(whole: Amount, part: Amount, of: Amount) -> Amount {
    let (whole, part, of) = (
        i128::from(whole.nanos()),
        i128::from(part.nanos()),
        i128::from(of.nanos()),
    );
    let twice = whole
        .saturating_mul(part)
        .saturating_mul(2)
        .saturating_add(of);
    let share = twice
        .checked_div_euclid(of.saturating_mul(2))
        .unwrap_or(whole);
    Amount::from_nanos(i64::try_from(share).unwrap_or(i64::MAX).max(0))
}

impl Gate {
    /// Takes a hold for a call of an account that has more than money and a policy.
    pub(super) fn attempt_special(
        &self,
        key: Arc<Key>,
        want: &Want<'_>,
        now: Now,
        patience: Patience,
    ) -> Result<Taken, Missed> {
        let price = match &want.priced {
            Priced::At(price) => Some(price),
            Priced::Free | Priced::Unknown => None,
        };
        // As it will be when it is judged: its rate may turn, its plans do not.
        let rules = key.account().rules().clone();
        let legs = match self.legs(&key, &rules, want, now)? {
            Some(legs) => legs,
            None => return Err(Missed::Waits(key, Wait::Inner)),
        };
        let (amount, worst) =
            super::amounts(&key, price.map(Arc::as_ref), want.foreseen, want.amount)
                .map_err(Missed::Refused)?;
        let unknown = matches!(want.priced, Priced::Unknown);
        let more = More {
            capability: want.capability,
            plans_only: unknown,
            plans: &legs.plans,
            budgets: &legs.budgets,
            plans_final: patience.plans_final,
            budgets_final: patience.budgets_final,
            beyond: patience.beyond,
            waive: patience.waive,
        };
        let any = price.or(legs.plans.first().map(|plan| &plan.price));
        let counted_as = want.model.map_or(ModelId::NONE, |model| {
            self.counted_as(model, any.map(Arc::as_ref))
        });
        let ask = Ask {
            model: want.model,
            counted_as,
            priced: !unknown || !legs.plans.is_empty(),
            amount,
            worst,
            more: Some(&more),
        };
        match self.engine.admit(key, ask, now) {
            Ok(hold) => {
                if let Some(reason) = hold.would_refuse() {
                    self.metrics.would_refuse(reason);
                }
                Ok(Taken {
                    hold,
                    at: now,
                    price: price.cloned(),
                    model: counted_as,
                })
            }
            Err((_, Denied::Refused(refusal))) => Err(Missed::Refused(refusal)),
            Err((key, denied)) => {
                let short = match denied {
                    Denied::Short(Leg::Plan(index)) => legs
                        .plans
                        .get(index)
                        .map(|plan| Wait::Plan(Arc::clone(plan.inner.account()), plan.amount)),
                    Denied::Short(Leg::Budget(index)) => legs
                        .budgets
                        .get(index)
                        .map(|budget| Wait::Budget(Arc::clone(budget.inner.account()), amount)),
                    Denied::Lease | Denied::Refused(_) => None,
                };
                Err(Missed::Waits(key, short.unwrap_or(Wait::Lease(amount))))
            }
        }
    }

    /// The legs of a call; `None` if one of them is not loaded.
    fn legs(
        &self,
        key: &Key,
        rules: &Rules,
        want: &Want<'_>,
        now: Now,
    ) -> Result<Option<Legs>, Missed> {
        let mut legs = Legs::default();
        let account = key.account();
        let plans = rules.special.iter().flat_map(|special| &special.plans);
        for plan in plans.filter(|plan| plan.covers(want.model)) {
            if matches!(want.priced, Priced::Free) {
                break;
            }
            let current = self.catalog.current();
            let price = want
                .model
                .and_then(|model| current.prices.price(model, &plan.unit));
            let Some(price) = price else { continue };
            let Some(inner) = account.inner(&plan.id) else {
                if account.lacks_inner(&plan.id, now.mono) {
                    continue;
                }
                return Ok(None);
            };
            legs.plans.push(self.plan_ask(rules, want, inner, price)?);
        }
        let wanted = budgets_of(key, want.capability, now.wall).map_err(Missed::Refused)?;
        for budget in wanted {
            let Some(inner) = account.inner(&budget.id) else {
                return Ok(None);
            };
            let ends = budget.ends;
            legs.budgets.push(BudgetAsk { inner, ends });
        }
        Ok(Some(legs))
    }

    /// What a call is held for in a plan: as the rule says, in proportion where it names an amount of money.
    fn plan_ask(
        &self,
        rules: &Rules,
        want: &Want<'_>,
        inner: Arc<Inner>,
        price: &Arc<Price>,
    ) -> Result<PlanAsk, Missed> {
        let beyond = || Missed::Refused(Refusal::new(Reason::InsufficientBalance));
        let rule = rules.policy.hold;
        let (most, _) = want
            .foreseen
            .hold(price, HoldRule::Max)
            .ok_or_else(beyond)?;
        let in_money = match &want.priced {
            Priced::At(price) => want
                .foreseen
                .hold(price, HoldRule::Max)
                .map(|(amount, _)| amount),
            Priced::Free | Priced::Unknown => None,
        };
        let money = want.amount.or(match rule {
            HoldRule::Max => None,
            HoldRule::Capped(cap) => in_money.map(|money| money.min(cap)),
            HoldRule::Fixed(amount) => Some(amount),
            HoldRule::None => Some(Amount::ZERO),
        });
        let amount = match (money, in_money) {
            (Some(Amount::ZERO), _) => Amount::ZERO,
            (Some(money), Some(of)) if of.is_positive() => in_proportion(most, money, of),
            _ => most,
        };
        Ok(PlanAsk {
            inner,
            price: Arc::clone(price),
            amount,
        })
    }

    /// Takes up what a call of an account needs of the accounts inside it.
    pub(super) async fn take_up_inner(
        &self,
        key: &Key,
        want: &Want<'_>,
        now: Now,
    ) -> Result<(), Refusal> {
        self.sync.plans(key.account()).await?;
        let budgets = self.sync.budgets(key, want.capability, now.wall).await;
        budgets.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_in_money_is_kept_in_proportion() {
        let n = Amount::from_nanos;
        for (whole, part, of, want) in [
            (100, 5, 10, 50),
            (100, 10, 10, 100),
            (100, 20, 10, 200),
            (3, 1, 2, 2),
            (1, 1, 3, 0),
            (7, 3, 0, 7),
            (i64::MAX, 1, 1, i64::MAX),
        ] {
            assert_eq!(
                in_proportion(n(whole), n(part), n(of)),
                n(want),
                "{whole} {part} {of}"
            );
        }
    }
}
