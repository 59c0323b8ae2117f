//! `tollgate credit`: everything that moves money counts once, under a request id.

use clap::{Args, Subcommand};
use tonic::Status;

use super::account;
use super::failure::{Exit, Failure};
use super::ledger;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{amount, amount_cell, instant, instant_cell, part, request_id, word};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Money was paid in: debt first, the rest becomes credit
    Recharge {
        account: String,
        /// How much, as 10.00
        amount: Amount,
        /// The payment's own id: counts once per account
        #[arg(long, value_name = "ID")]
        order_id: String,
        #[command(flatten)]
        credit: CreditArgs,
        #[command(flatten)]
        once: Once,
    },
    /// Credit was given: pays no debt
    Grant {
        account: String,
        /// How much, as 10.00
        amount: Amount,
        /// The campaign's or coupon's own id: counts once per account
        #[arg(long, value_name = "ID")]
        order_id: Option<String>,
        #[command(flatten)]
        credit: CreditArgs,
        #[command(flatten)]
        once: Once,
    },
    /// A correction, up or down
    Adjust {
        account: String,
        /// Added to the balance; below zero to take, as -1.50
        #[arg(allow_negative_numbers = true)]
        amount: Amount,
        /// Why, for the reader of the ledger
        #[arg(long)]
        note: String,
        #[command(flatten)]
        once: Once,
    },
    /// A charge that came after its call was over: always lands, also below zero
    LateCharge {
        account: String,
        /// How much, as 0.25
        amount: Amount,
        /// Whose call it was
        #[arg(long)]
        key: Option<String>,
        /// Which model
        #[arg(long)]
        model: Option<String>,
        /// For the reader of the ledger
        #[arg(long)]
        note: Option<String>,
        #[command(flatten)]
        once: Once,
    },
    /// What is left of what was put in
    Blocks {
        account: String,
        #[command(flatten)]
        limit: Limit,
    },
}

/// What credit is like.
#[derive(Debug, Args)]
pub(super) struct CreditArgs {
    /// From this instant on it cannot be spent, as 2026-12-31T00:00:00Z
    #[arg(long, value_name = "INSTANT")]
    expires: Option<Timestamp>,
    /// Burnt in ascending order
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// For the reader of the ledger
    #[arg(long)]
    note: Option<String>,
}

/// What makes a request count once.
#[derive(Debug, Args)]
pub(super) struct Once {
    /// Under which it counts once, however often it is sent; made up if not given
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut credits = session.credits();
    let (entry, account, replayed) = match command {
        Command::Recharge {
            account,
            amount: money,
            order_id,
            credit,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::RechargeRequest {
                account_id: account,
                request_id: id.clone(),
                order_id,
                amount: Some(amount(money)),
                expire_time: credit.expires.map(instant),
                priority: credit.priority,
                note: credit.note.unwrap_or_default(),
            };
            let done = credits.recharge(request).await;
            let done = done.map_err(|status| repeatable(status, &id))?.into_inner();
            (done.entry, done.account, done.replayed)
        }
        Command::Grant {
            account,
            amount: money,
            order_id,
            credit,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::GrantRequest {
                account_id: account,
                request_id: id.clone(),
                order_id: order_id.unwrap_or_default(),
                amount: Some(amount(money)),
                expire_time: credit.expires.map(instant),
                priority: credit.priority,
                note: credit.note.unwrap_or_default(),
            };
            let done = credits.grant(request).await;
            let done = done.map_err(|status| repeatable(status, &id))?.into_inner();
            (done.entry, done.account, done.replayed)
        }
        Command::Adjust {
            account,
            amount: money,
            note,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::AdjustRequest {
                account_id: account,
                request_id: id.clone(),
                amount: Some(amount(money)),
                note,
            };
            let done = credits.adjust(request).await;
            let done = done.map_err(|status| repeatable(status, &id))?.into_inner();
            (done.entry, done.account, done.replayed)
        }
        Command::LateCharge {
            account,
            amount: money,
            key,
            model,
            note,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::LateChargeRequest {
                account_id: account,
                request_id: id.clone(),
                amount: Some(amount(money)),
                key_id: key.unwrap_or_default(),
                model: model.unwrap_or_default(),
                note: note.unwrap_or_default(),
            };
            let done = credits.late_charge(request).await;
            let done = done.map_err(|status| repeatable(status, &id))?.into_inner();
            (done.entry, done.account, done.replayed)
        }
        Command::Blocks { account, limit } => return blocks(session, account, limit).await,
    };
    let (entry, account) = (part(entry, "entry")?, part(account, "account")?);
    show(session, &entry, &account, replayed)
}

/// After a failure that leaves open what happened, the same request may be sent again, and only under the same id.
fn repeatable(status: Status, id: &str) -> Failure {
    let failure = Failure::from(status);
    match failure.exit {
        Exit::Usage | Exit::NotFound | Exit::Refused => failure,
        Exit::Other | Exit::Unavailable => failure.with(format!(
            "it may have been carried out; repeated with --request-id {id} it counts once"
        )),
    }
}

/// The entry that was made, and the account after it.
fn show(
    session: &Session,
    entry: &v1::Entry,
    account: &v1::Account,
    replayed: bool,
) -> Result<(), Failure> {
    let out = session.out;
    let (entry, account) = (ledger::show(entry), account::show(account));
    if out.json {
        let answer = Record(vec![
            ("entry", Cell::Record(Box::new(entry))),
            ("account", Cell::Record(Box::new(account))),
            ("replayed", Cell::Flag(replayed)),
        ]);
        return out.record(&answer);
    }
    if replayed {
        out.remark("It had been carried out before; nothing was changed now.");
    }
    let money = [
        "sequence",
        "kind",
        "amount",
        "debt_paid",
        "debt_made",
        "block",
        "request",
    ];
    let standing = [
        "state",
        "unit",
        "balance",
        "held",
        "available",
        "debt",
        "as_of",
    ];
    let shown = entry.pick(&money).0.into_iter();
    let shown = shown.chain(account.pick(&standing).0);
    out.record(&Record(shown.collect()))
}

async fn blocks(session: &Session, account: String, limit: Limit) -> Result<(), Failure> {
    let blocks = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListCreditBlocksRequest {
            account_id: account.clone(),
            page_size,
            page_token,
        };
        let page = session
            .credits()
            .list_credit_blocks(request)
            .await?
            .into_inner();
        Ok((page.credit_blocks, page.next_page_token))
    });
    let blocks: Vec<Record> = blocks.await?.iter().map(block).collect();
    let columns = [
        "block",
        "kind",
        "granted",
        "remaining",
        "unit",
        "effective",
        "expires",
        "burn_rank",
        "order",
    ];
    session.out.table(&blocks, &columns)
}

fn block(block: &v1::CreditBlock) -> Record {
    Record(vec![
        ("block", Cell::Number(block.block_id)),
        ("kind", word(block.kind().as_str_name(), "CREDIT_KIND_")),
        ("granted", amount_cell(block.granted.as_ref())),
        ("remaining", amount_cell(block.remaining.as_ref())),
        ("unit", super::values::unit_cell(block.remaining.as_ref())),
        ("effective", instant_cell(block.effective_time.as_ref())),
        ("expires", instant_cell(block.expire_time.as_ref())),
        ("priority", Cell::text(block.priority.to_string())),
        ("burn_rank", Cell::Number(block.burn_rank.into())),
        ("order", Cell::text(&block.order_id)),
    ])
}
