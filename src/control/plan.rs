//! PlanService: credit in a unit of its own, and rates for a time. What is left of a plan is an account of its own, `ACCOUNT!PLAN`, with
//! a ledger like any other; the owner's book says which plans it has.

use tonic::{Request, Response, Status};

use super::account::{credits, remaining};
use super::errors::{Fault, answer};
use super::key::patterns;
use super::pages::{ACCOUNTS, Filter, ROWS, cut};
use super::{Control, Moved};
use crate::books::{CommandError, Configure};
use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::ledger::{Action, Book, Command, PlanRef, QpsPlan, SCOPE_MAX, apply};
use crate::money::Amount;
use crate::policy::WhileOverdue;
use crate::proto::convert::{
    FieldError, account_id, amount, amount_from, amount_or_none, note, plan_id, timestamp,
    timestamp_from, token, unit,
};
use crate::proto::v1::{self, PlanState, QpsPlanState, plan_service_server::PlanService};
use crate::store::Snapshot;

#[tonic::async_trait]
impl PlanService for Control {
    async fn buy_plan(
        &self,
        request: Request<v1::BuyPlanRequest>,
    ) -> Result<Response<v1::BuyPlanResponse>, Status> {
        answer(self.plan_bought(request.into_inner()).await)
    }

    async fn list_plans(
        &self,
        request: Request<v1::ListPlansRequest>,
    ) -> Result<Response<v1::ListPlansResponse>, Status> {
        answer(self.plans(request.into_inner()).await)
    }

    async fn buy_qps_plan(
        &self,
        request: Request<v1::BuyQpsPlanRequest>,
    ) -> Result<Response<v1::BuyQpsPlanResponse>, Status> {
        answer(self.rate_bought(request.into_inner()).await)
    }

    async fn list_qps_plans(
        &self,
        request: Request<v1::ListQpsPlansRequest>,
    ) -> Result<Response<v1::ListQpsPlansResponse>, Status> {
        answer(self.qps_plans(request.into_inner()).await)
    }
}

impl Control {
    async fn plan_bought(&self, request: v1::BuyPlanRequest) -> Result<v1::BuyPlanResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let name = plan_id("plan_id", &request.plan_id)?;
        let purse = purse(&id, &name)?;
        let sent = request.amount.as_ref();
        let sent =
            sent.ok_or_else(|| FieldError::missing("amount", "how much, in the plan's unit"))?;
        let in_unit = unit("amount.unit", &sent.unit)?;
        let owner = self.read(&id).await?;
        let action = Action::BuyPlan {
            amount: amount_from("amount", Some(sent), &in_unit)?,
            order_id: token("order_id", &request.order_id)?,
            priority: 0,
            expires: timestamp_from("expire_time", request.expire_time.as_ref())?,
            price: price(request.price.as_ref(), &owner.book.unit)?,
            note: note("note", &request.note)?,
        };
        let scope = patterns("models", &request.models, SCOPE_MAX)?;
        let plan = plan_of(&owner.book, name, in_unit.clone(), scope, request.priority)?;
        let command = Command {
            idempotency_key: Some(request_id.clone()),
            action: action.clone(),
        };
        if !self.was_asked(&purse, &command).await? {
            self.check_key_is_free(&owner, &command).await?;
            // Whatever could be refused is, before anything is written: the two accounts do not change in one step.
            self.would(&owner, action.clone())?;
            self.would(&owner, Action::AddPlan { plan: plan.clone() })?;
        }
        let recipients = &owner.book.recipients;
        self.open_purse(&purse, in_unit, &plan.name, recipients)
            .await?;
        let moved = self.carry_out(&purse, request_id, action).await?;
        self.add_plan(&id, plan.clone()).await?;
        let owner = self.read(&id).await?;
        let Moved {
            entry, replayed, ..
        } = moved;
        Ok(v1::BuyPlanResponse {
            plan: Some(self.plan(&owner, &plan).await?),
            entry: Some(entry),
            replayed,
        })
    }

    /// Whether this idempotency key stands for something already: then its first answer counts, whatever the rules are now.
    async fn was_asked(&self, id: &AccountId, command: &Command) -> Result<bool, Fault> {
        let claims: Vec<String> = command.claims().into_iter().take(1).collect();
        let read = self.core().store.read(id, &claims).await?;
        Ok(read.is_some_and(|read| read.claims.iter().any(Option::is_some)))
    }

    /// That the idempotency key stands for nothing else: of the account, or of another of its plans.
    async fn check_key_is_free(&self, owner: &Snapshot, command: &Command) -> Result<(), Fault> {
        let stands = self.was_asked(&owner.book.account, command).await?;
        if stands || self.has_plan_key(owner, command).await? {
            return Err(reused(command));
        }
        Ok(())
    }

    /// That the idempotency key of a command on an account does not stand for a purchase of one of its plans. A repeat is let through.
    pub(super) async fn check_no_plan_has_key(
        &self,
        id: &AccountId,
        command: &Command,
    ) -> Result<(), Fault> {
        let claims: Vec<String> = command.claims().into_iter().take(1).collect();
        let Some(owner) = self.core().store.read(id, &claims).await? else {
            return Ok(());
        };
        let is_repeat = owner.claims.iter().any(Option::is_some);
        if !is_repeat && self.has_plan_key(&owner, command).await? {
            return Err(reused(command));
        }
        Ok(())
    }

    /// Whether the idempotency key stands for a purchase of one of these plans. Each keeps the keys of its own commands, so they are asked
    /// one by one; such commands are rare.
    async fn has_plan_key(&self, owner: &Snapshot, command: &Command) -> Result<bool, Fault> {
        let account = &owner.book.account;
        for plan in &owner.book.plans {
            if self
                .was_asked(&purse(account, &plan.name)?, command)
                .await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the owner's rules would let this be; nothing is written.
    fn would(&self, owner: &Snapshot, action: Action) -> Result<(), Fault> {
        let command = Command {
            idempotency_key: None,
            action,
        };
        let policy = self.core().catalog.policy_of(&owner.book);
        let now = self.core().clock.now().wall;
        apply(&owner.book, owner.spent(), &command, &policy, now)?;
        Ok(())
    }

    /// Opens the account of a plan, empty, unless it is there. What happens to it is told to its owner's people.
    async fn open_purse(
        &self,
        purse: &AccountId,
        unit: String,
        name: &str,
        recipients: &[String],
    ) -> Result<(), Fault> {
        let configure = Configure {
            name: Some(name.into()),
            recipients: Some(recipients.to_vec()),
            ..Configure::default()
        };
        let books = &self.core().books;
        match books.open_as(purse.clone(), unit, configure, None).await {
            Ok(_) | Err(CommandError::Exists(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the accounts of an account's plans know whom to tell, as far as they do not: an account does not see into another one.
    pub(super) async fn pass_on_recipients(&self, owner: &Book) -> Result<(), Fault> {
        for plan in &owner.plans {
            let purse = purse(&owner.account, &plan.name)?;
            let read = self.core().store.read(&purse, &[]).await?;
            if read.is_none_or(|read| read.book.recipients == owner.recipients) {
                continue;
            }
            let action = Action::Configure(Configure {
                recipients: Some(owner.recipients.clone()),
                ..Configure::default()
            });
            let command = Command {
                idempotency_key: None,
                action,
            };
            self.core().books.run(&purse, command).await?;
            self.refresh(&purse).await;
        }
        Ok(())
    }

    /// Lets a plan pay for an account's calls, unless it does.
    async fn add_plan(&self, id: &AccountId, plan: PlanRef) -> Result<(), Fault> {
        let owner = self.read(id).await?;
        if !owner.book.plans.contains(&plan) {
            let command = Command {
                idempotency_key: None,
                action: Action::AddPlan { plan },
            };
            self.core().books.run(id, command).await?;
        }
        self.refresh(id).await;
        Ok(())
    }

    async fn plans(
        &self,
        mut request: v1::ListPlansRequest,
    ) -> Result<v1::ListPlansResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let size = ACCOUNTS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListPlans", &request);
        let after = filter.position(&token)?.unwrap_or_default();
        let owner = self.read(&id).await?;
        let mut refs: Vec<&PlanRef> = owner.book.plans.iter().collect();
        refs.retain(|plan| plan.name > after);
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        let mut plans = Vec::new();
        for each in refs {
            let plan = self.plan(&owner, each).await?;
            if !request.usable_only || plan.state() != PlanState::Exhausted {
                plans.push(plan);
            }
            if plans.len() > size {
                break;
            }
        }
        let more = cut(&mut plans, size);
        let last = plans.last().filter(|_| more);
        let next = last.map(|last| filter.token(&last.plan_id));
        Ok(v1::ListPlansResponse {
            plans,
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn plan(&self, owner: &Snapshot, plan: &PlanRef) -> Result<v1::Plan, Fault> {
        let account = &owner.book.account;
        let purse = purse(account, &plan.name)?;
        let as_of = self.flush(&purse).await;
        let snapshot = self.read(&purse).await?;
        let Snapshot { book, spend, .. } = &snapshot;
        let money = |of| Some(amount(of, &plan.unit));
        let left = left(&snapshot);
        let available = self.is_usable(owner, |policy| policy.plans_while_overdue);
        let state = if !left.is_positive() {
            PlanState::Exhausted
        } else if available {
            PlanState::Active
        } else {
            PlanState::Unavailable
        };
        Ok(v1::Plan {
            plan_id: plan.name.clone(),
            account_id: account.to_string(),
            unit: plan.unit.clone(),
            models: plan.scope.clone(),
            priority: plan.priority,
            remaining: money(left),
            spend: money(*spend),
            lifetime_credit: money(book.lifetime_credit),
            state: state.into(),
            credits: credits(&snapshot),
            purse_account_id: purse.to_string(),
            as_of: Some(timestamp(as_of.max(book.created))),
        })
    }

    /// Whether what is bought is used now: not while its account is overdue, unless the policy says so.
    fn is_usable(
        &self,
        owner: &Snapshot,
        rule: impl Fn(&crate::policy::Policy) -> WhileOverdue,
    ) -> bool {
        let book = &owner.book;
        let policy = self.core().catalog.policy_of(book);
        let now = self.core().clock.now().wall;
        let overdue = book.overdue_since(book.debt(owner.spend), &policy, now);
        overdue.is_none() || rule(&policy) == WhileOverdue::Available
    }

    /// The plans of an account for its own listing, in the order in which they are used.
    pub(super) async fn plans_in_short(
        &self,
        owner: &Snapshot,
    ) -> Result<Vec<v1::AccountPlan>, Fault> {
        let mut plans = Vec::with_capacity(owner.book.plans.len());
        for plan in &owner.book.plans {
            let purse = purse(&owner.book.account, &plan.name)?;
            self.flush(&purse).await;
            let snapshot = self.read(&purse).await?;
            let expires = remaining(&snapshot)
                .filter_map(|(block, _)| block.expires)
                .min();
            plans.push(v1::AccountPlan {
                plan_id: plan.name.clone(),
                remaining: Some(amount(left(&snapshot), &plan.unit)),
                expire_time: expires.map(timestamp),
            });
        }
        Ok(plans)
    }

    pub(super) fn qps_plans_in_short(&self, book: &Book) -> Vec<v1::AccountQpsPlan> {
        let now = self.core().clock.now().wall;
        let live = book.qps_plans.iter().filter(|plan| !is_over(plan, now));
        live.map(|plan| v1::AccountQpsPlan {
            plan_id: plan.id.clone(),
            qps: plan.qps,
            start_time: Some(timestamp(plan.effective)),
            expire_time: plan.expires.map(timestamp),
        })
        .collect()
    }

    async fn rate_bought(
        &self,
        request: v1::BuyQpsPlanRequest,
    ) -> Result<v1::BuyQpsPlanResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let order_id = token("order_id", &request.order_id)?;
        let unit = self.0.units.of(&id).await?;
        let action = Action::BuyQpsPlan {
            plan_id: plan_id("plan_id", &request.plan_id)?,
            qps: request.qps,
            burst: request.burst,
            effective: timestamp_from("start_time", request.start_time.as_ref())?,
            expires: timestamp_from("expire_time", request.expire_time.as_ref())?,
            order_id: order_id.clone(),
            price: price(request.price.as_ref(), &unit)?,
        };
        let moved = self.carry_out(&id, request_id, action).await?;
        let owner = self.read(&id).await?;
        let bought = owner.book.qps_plans.iter();
        let bought = bought.rev().find(|plan| plan.order_id == order_id);
        let Moved {
            entry,
            account,
            replayed,
            ..
        } = moved;
        Ok(v1::BuyQpsPlanResponse {
            // Of a repeat long after, it may be over and gone.
            qps_plan: bought.map(|plan| self.qps_plan(&owner, plan)),
            entry: Some(entry),
            account: Some(account),
            replayed,
        })
    }

    async fn qps_plans(
        &self,
        mut request: v1::ListQpsPlansRequest,
    ) -> Result<v1::ListQpsPlansResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListQpsPlans", &request);
        let after = filter.position(&token)?;
        let states = states("states", &request.states)?;
        let owner = self.read(&id).await?;
        let place = |plan: &QpsPlan| {
            let start = plan.effective.nanos();
            // In the order of the text, too, which begins in 1970.
            format!("{start:020} {} {}", plan.id, plan.order_id)
        };
        let mut all: Vec<(String, &QpsPlan)> = owner
            .book
            .qps_plans
            .iter()
            .map(|plan| (place(plan), plan))
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.retain(|(at, _)| after.as_ref().is_none_or(|after| at > after));
        let mut shown: Vec<(String, v1::QpsPlan)> = all
            .into_iter()
            .map(|(at, plan)| (at, self.qps_plan(&owner, plan)))
            .filter(|(_, plan)| states.is_empty() || states.contains(&plan.state()))
            .take(size.saturating_add(1))
            .collect();
        let more = cut(&mut shown, size);
        let last = shown.last().filter(|_| more);
        let next = last.map(|(at, _)| filter.token(at));
        Ok(v1::ListQpsPlansResponse {
            qps_plans: shown.into_iter().map(|(_, plan)| plan).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    fn qps_plan(&self, owner: &Snapshot, plan: &QpsPlan) -> v1::QpsPlan {
        let now = self.core().clock.now().wall;
        let state = if is_over(plan, now) {
            QpsPlanState::Expired
        } else if now < plan.effective {
            QpsPlanState::Pending
        } else if self.is_usable(owner, |policy| policy.qps_plans_while_overdue) {
            QpsPlanState::Active
        } else {
            QpsPlanState::Unavailable
        };
        v1::QpsPlan {
            plan_id: plan.id.clone(),
            account_id: owner.book.account.to_string(),
            qps: plan.qps,
            burst: plan.burst,
            start_time: Some(timestamp(plan.effective)),
            expire_time: plan.expires.map(timestamp),
            order_id: plan.order_id.clone(),
            state: state.into(),
            price: plan.price.map(|price| amount(price, &owner.book.unit)),
        }
    }
}

fn is_over(plan: &QpsPlan, now: Timestamp) -> bool {
    plan.expires.is_some_and(|at| at <= now)
}

/// What is left of a plan that can be used.
fn left(purse: &Snapshot) -> Amount {
    let live = remaining(purse).filter(|(block, _)| !block.expired);
    live.fold(Amount::ZERO, |sum, (_, left)| sum.saturating_add(left))
}

fn reused(command: &Command) -> Fault {
    CommandError::KeyReused(command.idempotency_key.clone().unwrap_or_default()).into()
}

/// The account of a plan.
fn purse(owner: &AccountId, plan: &str) -> Result<AccountId, FieldError> {
    owner
        .inner(plan)
        .map_err(|error| FieldError::invalid("plan_id", error.to_string()))
}

fn price(sent: Option<&v1::Amount>, unit: &str) -> Result<Option<Amount>, FieldError> {
    match amount_or_none("price", sent, unit)? {
        Some(price) if price.is_negative() => {
            let problem = format!("is {price}; give zero or more, or leave it out");
            Err(FieldError::invalid("price", problem))
        }
        price => Ok(price),
    }
}

/// The plan as the owner's book has it, or will.
fn plan_of(
    owner: &Book,
    name: String,
    unit: String,
    scope: Vec<String>,
    priority: i32,
) -> Result<PlanRef, FieldError> {
    let Some(known) = owner.plans.iter().find(|plan| plan.name == name) else {
        return Ok(PlanRef {
            name,
            unit,
            scope,
            priority,
        });
    };
    if !scope.is_empty() && scope != known.scope {
        let all = known.scope.join(", ");
        let problem =
            format!("differ from those of plan `{name}`, which are: {all}; leave them out");
        return Err(FieldError::invalid("models", problem));
    }
    Ok(PlanRef {
        unit,
        ..known.clone()
    })
}

fn states(field: &str, numbers: &[i32]) -> Result<Vec<QpsPlanState>, FieldError> {
    let state = |(index, number): (usize, &i32)| match QpsPlanState::try_from(*number) {
        Ok(QpsPlanState::Unspecified) | Err(_) => Err(FieldError::invalid(
            format!("{field}[{index}]"),
            format!(
                "is {number}; it must be QPS_PLAN_STATE_PENDING, _ACTIVE, _UNAVAILABLE or _EXPIRED"
            ),
        )),
        Ok(state) => Ok(state),
    };
    numbers.iter().enumerate().map(state).collect()
}
