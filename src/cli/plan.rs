//! `tollgate plan`.

use clap::Subcommand;

use super::credit::{self, Done, Once};
use super::failure::Failure;
use super::ledger;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{
    amount_cell, instant, instant_cell, optional_number, part, request_id, unit_cell, unword, word,
};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// A plan was bought, or more of one: credit in a unit of its own, used before money
    Buy {
        account: String,
        /// The plan's name; one that the account does not have is made
        plan: String,
        /// How much of the plan's unit
        amount: Amount,
        /// The plan's unit, as points
        #[arg(long)]
        unit: String,
        /// The purchase's own id: counts once per plan
        #[arg(long, value_name = "ID")]
        order_id: String,
        /// A model that it pays for, or a beginning of names with * at its end; all if not given; may be given several times
        #[arg(long, value_name = "PATTERN")]
        model: Vec<String>,
        /// Plans are used in ascending order
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i32,
        /// From this instant on it cannot be used, as 2026-12-31T00:00:00Z
        #[arg(long, value_name = "INSTANT")]
        expires: Option<Timestamp>,
        /// What was paid for it, in the account's unit: held against the policy's bounds on a purchase
        #[arg(long, value_name = "AMOUNT")]
        price: Option<Amount>,
        /// For the reader of the ledger
        #[arg(long)]
        note: Option<String>,
        #[command(flatten)]
        once: Once,
    },
    /// List the plans of an account
    List {
        account: String,
        /// Leave out those of which nothing is left
        #[arg(long)]
        usable: bool,
        #[command(flatten)]
        limit: Limit,
    },
    /// Rates that are bought for a time
    #[command(subcommand)]
    Qps(Qps),
}

#[derive(Debug, Subcommand)]
pub(super) enum Qps {
    /// A rate was bought for a time
    Buy {
        account: String,
        plan: String,
        /// Calls per second while it runs
        qps: u32,
        /// The purchase's own id: counts once per account
        #[arg(long, value_name = "ID")]
        order_id: String,
        /// How many calls may come at once on top of the rate
        #[arg(long, value_name = "N")]
        burst: Option<u32>,
        /// When it begins; now if not given
        #[arg(long, value_name = "INSTANT")]
        starts: Option<Timestamp>,
        /// From this instant on it is over; never if not given
        #[arg(long, value_name = "INSTANT")]
        expires: Option<Timestamp>,
        /// What was paid for it, in the account's unit: held against the policy's bounds on a purchase
        #[arg(long, value_name = "AMOUNT")]
        price: Option<Amount>,
        #[command(flatten)]
        once: Once,
    },
    /// List the QPS plans of an account
    List {
        account: String,
        /// In this state only: pending, active, unavailable or expired; may be given several times
        #[arg(long, value_parser = state)]
        state: Vec<v1::QpsPlanState>,
        #[command(flatten)]
        limit: Limit,
    },
}

fn state(text: &str) -> Result<v1::QpsPlanState, String> {
    unword(text, "QPS_PLAN_STATE_", v1::QpsPlanState::from_str_name)
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Buy {
            account,
            plan,
            amount,
            unit,
            order_id,
            model,
            priority,
            expires,
            price,
            note,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let nanos = amount.nanos();
            let request = v1::BuyPlanRequest {
                account_id: account,
                request_id: id.clone(),
                order_id,
                plan_id: plan,
                amount: Some(v1::Amount { unit, nanos }),
                models: model,
                priority,
                expire_time: expires.map(instant),
                price: price.map(super::values::amount),
                note: note.unwrap_or_default(),
            };
            buy(session, request, &id).await
        }
        Command::List {
            account,
            usable,
            limit,
        } => list(session, account, usable, limit).await,
        Command::Qps(command) => qps(command, session).await,
    }
}

async fn buy(session: &Session, request: v1::BuyPlanRequest, id: &str) -> Result<(), Failure> {
    let answer = session.plans().buy_plan(request).await;
    let answer = answer.map_err(|status| credit::repeatable(status, id))?;
    let answer = answer.into_inner();
    let plan = show(&part(answer.plan, "plan")?);
    let entry = ledger::show(&part(answer.entry, "entry")?);
    let out = session.out;
    if out.json {
        return out.record(&Record(vec![
            ("plan", Cell::Record(Box::new(plan))),
            ("entry", Cell::Record(Box::new(entry))),
            ("replayed", Cell::Flag(answer.replayed)),
        ]));
    }
    if answer.replayed {
        out.remark("It had been carried out before; nothing was changed now.");
    }
    let entry = entry.pick(&["sequence", "amount", "request"]).0.into_iter();
    out.record(&Record(entry.chain(plan.0).collect()))
}

async fn list(
    session: &Session,
    account: String,
    usable_only: bool,
    limit: Limit,
) -> Result<(), Failure> {
    let plans = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListPlansRequest {
            account_id: account.clone(),
            page_size,
            page_token,
            usable_only,
        };
        let page = session.plans().list_plans(request).await?.into_inner();
        Ok((page.plans, page.next_page_token))
    });
    let plans: Vec<Record> = plans.await?.iter().map(show).collect();
    let columns = [
        "plan",
        "state",
        "remaining",
        "unit",
        "models",
        "priority",
        "expires",
    ];
    session.out.table(&plans, &columns)
}

fn show(plan: &v1::Plan) -> Record {
    let expires = plan.credits.iter().filter_map(|credit| credit.expire_time);
    let first = expires.min_by_key(|at| (at.seconds, at.nanos));
    let credits = plan.credits.iter().map(|credit| {
        Record(vec![
            ("block", Cell::Number(credit.block_id)),
            ("remaining", amount_cell(credit.remaining.as_ref())),
            ("expires", instant_cell(credit.expire_time.as_ref())),
        ])
    });
    Record(vec![
        ("plan", Cell::text(&plan.plan_id)),
        ("account", Cell::text(&plan.account_id)),
        ("state", word(plan.state().as_str_name(), "PLAN_STATE_")),
        ("remaining", amount_cell(plan.remaining.as_ref())),
        ("unit", unit_cell(plan.remaining.as_ref())),
        ("models", Cell::List(plan.models.clone())),
        ("priority", Cell::text(plan.priority.to_string())),
        ("expires", instant_cell(first.as_ref())),
        ("spend", amount_cell(plan.spend.as_ref())),
        ("bought", amount_cell(plan.lifetime_credit.as_ref())),
        ("ledger", Cell::text(&plan.purse_account_id)),
        ("as_of", instant_cell(plan.as_of.as_ref())),
        ("credits", Cell::Nested(credits.collect())),
    ])
}

async fn qps(command: Qps, session: &Session) -> Result<(), Failure> {
    match command {
        Qps::Buy {
            account,
            plan,
            qps,
            order_id,
            burst,
            starts,
            expires,
            price,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::BuyQpsPlanRequest {
                account_id: account,
                request_id: id.clone(),
                order_id,
                plan_id: plan,
                qps,
                burst,
                start_time: starts.map(instant),
                expire_time: expires.map(instant),
                price: price.map(super::values::amount),
            };
            let answer = session.plans().buy_qps_plan(request).await;
            let answer = answer.map_err(|status| credit::repeatable(status, &id))?;
            let v1::BuyQpsPlanResponse {
                qps_plan,
                entry,
                account,
                replayed,
            } = answer.into_inner();
            let shown = qps_plan.as_ref().map(rate);
            let more = if session.out.json {
                let plan = shown.map_or(Cell::None, |plan| Cell::Record(Box::new(plan)));
                vec![("qps_plan", plan)]
            } else {
                shown.map(|plan| plan.0).unwrap_or_default()
            };
            Done::of(entry, account, replayed).show_with(session, more)
        }
        Qps::List {
            account,
            state,
            limit,
        } => {
            let request = v1::ListQpsPlansRequest {
                account_id: account,
                states: state.into_iter().map(Into::into).collect(),
                ..v1::ListQpsPlansRequest::default()
            };
            let plans = session.pages(limit, async |page_size, page_token| {
                let request = v1::ListQpsPlansRequest {
                    page_size,
                    page_token,
                    ..request.clone()
                };
                let page = session.plans().list_qps_plans(request).await?.into_inner();
                Ok((page.qps_plans, page.next_page_token))
            });
            let plans: Vec<Record> = plans.await?.iter().map(rate).collect();
            let columns = [
                "plan",
                "plan_state",
                "qps",
                "burst",
                "starts",
                "expires",
                "order",
            ];
            session.out.table(&plans, &columns)
        }
    }
}

fn rate(plan: &v1::QpsPlan) -> Record {
    Record(vec![
        ("plan", Cell::text(&plan.plan_id)),
        (
            "plan_state",
            word(plan.state().as_str_name(), "QPS_PLAN_STATE_"),
        ),
        ("qps", Cell::Number(plan.qps.into())),
        ("burst", optional_number(plan.burst)),
        ("starts", instant_cell(plan.start_time.as_ref())),
        ("expires", instant_cell(plan.expire_time.as_ref())),
        ("order", Cell::text(&plan.order_id)),
        ("price", amount_cell(plan.price.as_ref())),
    ])
}
