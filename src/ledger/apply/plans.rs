//! Plans that pay for an account's calls, and rates bought for a time. What is left of a plan is an account of its own.

use super::{Work, check_count, check_given};
use crate::ledger::Action;
use crate::ledger::entry::EntryKind;
use crate::ledger::facts::{PLANS_MAX, PlanRef, QPS_PLANS_MAX, QpsPlan, SCOPE_MAX};
use crate::ledger::rejected::Rejected;
use crate::money::Amount;

impl Work<'_> {
    pub(super) fn add_plan(&mut self, plan: &PlanRef) -> Result<(), Rejected> {
        check_given("plan.name", &plan.name)?;
        check_given("plan.unit", &plan.unit)?;
        check_count("plan.scope", plan.scope.len(), SCOPE_MAX)?;
        let (plans, again) = (&mut self.book.plans, self.again.is_some());
        match plans.iter_mut().find(|known| known.name == plan.name) {
            Some(known) if known.unit != plan.unit && !again => {
                return Err(Rejected::PlanUnit {
                    name: plan.name.clone(),
                    given: plan.unit.clone(),
                    unit: known.unit.clone(),
                });
            }
            Some(known) => known.clone_from(plan),
            None => plans.push(plan.clone()),
        }
        check_count("plans", plans.len(), PLANS_MAX)?;
        plans.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        self.entry(EntryKind::PlanAdded, Amount::ZERO)
            .note
            .clone_from(&plan.name);
        Ok(())
    }

    pub(super) fn remove_plan(&mut self, name: &str) -> Result<(), Rejected> {
        let before = self.book.plans.len();
        self.book.plans.retain(|plan| plan.name != name);
        if self.book.plans.len() == before && self.again.is_none() {
            return Err(Rejected::UnknownPlan(name.into()));
        }
        self.entry(EntryKind::PlanRemoved, Amount::ZERO).note = name.into();
        Ok(())
    }

    pub(super) fn buy_qps_plan(&mut self, action: &Action) -> Result<(), Rejected> {
        let Action::BuyQpsPlan {
            plan_id,
            qps,
            burst,
            effective,
            expires,
            order_id,
            price,
        } = action
        else {
            return Ok(());
        };
        check_given("plan_id", plan_id)?;
        check_given("order_id", order_id)?;
        self.check_price(*price)?;
        if *qps == 0 {
            return Err(Rejected::Zero("qps"));
        }
        if *burst == Some(0) {
            return Err(Rejected::Zero("burst"));
        }
        let bought = self
            .again
            .map_or(self.now, |entry| entry.origin.unwrap_or(entry.time));
        let effective = effective.unwrap_or(bought);
        if let Some(expires) = *expires {
            if expires <= self.now {
                return Err(Rejected::Expired(expires));
            }
            if expires <= effective {
                return Err(Rejected::NoTime { effective, expires });
            }
        }
        check_count(
            "qps_plans",
            self.book.qps_plans.len().saturating_add(1),
            QPS_PLANS_MAX,
        )?;
        self.book.qps_plans.push(QpsPlan {
            id: plan_id.clone(),
            qps: *qps,
            burst: *burst,
            effective,
            expires: *expires,
            order_id: order_id.clone(),
            price: *price,
        });
        let entry = self.entry(EntryKind::QpsPlanPurchase, Amount::ZERO);
        entry.order_id = Some(order_id.clone());
        entry.expires = *expires;
        entry.note.clone_from(plan_id);
        Ok(())
    }
}
