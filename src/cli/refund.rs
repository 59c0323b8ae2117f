//! `tollgate refund`.

use clap::Subcommand;

use super::credit::{self, Done, Once};
use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::Session;
use super::values::{amount_cell, request_id, unit_cell};
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what could be refunded, by order
    Show {
        account: String,
        /// Of this order only; may be given several times
        #[arg(long, value_name = "ID")]
        order: Vec<String>,
    },
    /// A refund was accepted: no calls and no recharges until it is completed or cancelled
    Begin {
        account: String,
        /// The refund's own id
        refund: String,
        /// For this order only; may be given several times
        #[arg(long, value_name = "ID")]
        order: Vec<String>,
        /// For the reader of the ledger
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        once: Once,
    },
    /// The refund was paid: its amount is worked out now, and leaves the balance
    Complete {
        account: String,
        refund: String,
        /// Close the account with it
        #[arg(long)]
        close: bool,
        #[command(flatten)]
        once: Once,
    },
    /// The refund was called off
    Cancel {
        account: String,
        refund: String,
        /// For the reader of the ledger
        #[arg(long)]
        note: Option<String>,
        #[command(flatten)]
        once: Once,
    },
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Show { account, order } => show(session, account, order).await,
        Command::Begin {
            account,
            refund,
            order,
            reason,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::BeginRefundRequest {
                account_id: account,
                request_id: id.clone(),
                refund_id: refund,
                order_ids: order,
                reason: reason.unwrap_or_default(),
            };
            let answer = session.refunds().begin_refund(request).await;
            let answer = answer.map_err(|status| credit::repeatable(status, &id))?;
            let v1::BeginRefundResponse {
                entry,
                account,
                replayed,
                refundable,
            } = answer.into_inner();
            let more = vec![("refundable", amount_cell(refundable.as_ref()))];
            Done::of(entry, account, replayed).show_with(session, more)
        }
        Command::Complete {
            account,
            refund,
            close,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::CompleteRefundRequest {
                account_id: account,
                request_id: id.clone(),
                refund_id: refund,
                close,
            };
            let answer = session.refunds().complete_refund(request).await;
            let answer = answer.map_err(|status| credit::repeatable(status, &id))?;
            let v1::CompleteRefundResponse {
                entry,
                account,
                replayed,
                refunded,
            } = answer.into_inner();
            let more = vec![("refunded", amount_cell(refunded.as_ref()))];
            Done::of(entry, account, replayed).show_with(session, more)
        }
        Command::Cancel {
            account,
            refund,
            note,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::CancelRefundRequest {
                account_id: account,
                request_id: id.clone(),
                refund_id: refund,
                note: note.unwrap_or_default(),
            };
            credit::done(session.refunds().cancel_refund(request).await, &id)?.show(session)
        }
    }
}

async fn show(
    session: &Session,
    account_id: String,
    order_ids: Vec<String>,
) -> Result<(), Failure> {
    let request = v1::GetRefundableRequest {
        account_id,
        order_ids,
    };
    let answer = session
        .refunds()
        .get_refundable(request)
        .await?
        .into_inner();
    let order = |name: &str, order: &v1::RefundableOrder| {
        Record(vec![
            ("order", Cell::text(name)),
            ("remaining", amount_cell(order.remaining.as_ref())),
            ("invoiced", amount_cell(order.invoiced.as_ref())),
            ("refundable", amount_cell(order.refundable.as_ref())),
            ("unit", unit_cell(order.refundable.as_ref())),
        ])
    };
    let orders = answer.orders.iter().map(|each| order(&each.order_id, each));
    let orders: Vec<Record> = orders.collect();
    let out = session.out;
    if out.json {
        return out.record(&Record(vec![
            ("total", amount_cell(answer.total.as_ref())),
            ("unit", unit_cell(answer.total.as_ref())),
            ("held", amount_cell(answer.held.as_ref())),
            ("orders", Cell::Nested(orders)),
        ]));
    }
    let total = v1::RefundableOrder {
        refundable: answer.total,
        ..v1::RefundableOrder::default()
    };
    let rows: Vec<Record> = orders.into_iter().chain([order("total", &total)]).collect();
    out.table(
        &rows,
        &["order", "remaining", "invoiced", "refundable", "unit"],
    )
}
