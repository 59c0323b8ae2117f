//! `tollgate credit`: everything that moves money counts once, under a request id.

use clap::{Args, Subcommand};
use tonic::{Response, Status};

use super::account;
use super::failure::{Exit, Failure};
use super::ledger;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{amount, amount_cell, instant, instant_cell, part, request_id, unword, word};
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
        #[command(flatten)]
        call: CallArgs,
        #[command(flatten)]
        once: Once,
    },
    /// Take back what an entry of usage or a late charge took, in part or whole
    Correct {
        account: String,
        /// The number of that entry
        sequence: u64,
        /// How much of it, as 0.25
        amount: Amount,
        /// Why, for the reader of the ledger
        #[arg(long)]
        note: String,
        #[command(flatten)]
        once: Once,
    },
    /// Take back what is left of an order
    Void {
        account: String,
        order: String,
        /// Why, for the reader of the ledger
        #[arg(long)]
        note: String,
        #[command(flatten)]
        once: Once,
    },
    /// What is left of what was put in
    Blocks {
        account: String,
        /// Of this kind only: bonus, paid or plan; may be given several times
        #[arg(long, value_parser = kind)]
        kind: Vec<v1::CreditKind>,
        /// Of this order only
        #[arg(long, value_name = "ID")]
        order_id: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
}

fn kind(text: &str) -> Result<v1::CreditKind, String> {
    unword(text, "CREDIT_KIND_", v1::CreditKind::from_str_name)
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

/// The call that a late charge is for.
#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// Whose call it was
    #[arg(long)]
    key: Option<String>,
    /// Which model
    #[arg(long)]
    model: Option<String>,
    /// For the reader of the ledger
    #[arg(long)]
    note: Option<String>,
}

/// What makes a request count once.
#[derive(Debug, Args)]
pub(super) struct Once {
    /// Under which it counts once, however often it is sent; made up if not given
    #[arg(long, value_name = "ID")]
    pub(super) request_id: Option<String>,
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let moved = match command {
        Command::Recharge {
            account,
            amount,
            order_id,
            credit,
            once,
        } => recharge(session, account, amount, order_id, credit, once).await,
        Command::Grant {
            account,
            amount,
            order_id,
            credit,
            once,
        } => grant(session, account, amount, order_id, credit, once).await,
        Command::Adjust {
            account,
            amount,
            note,
            once,
        } => adjust(session, account, amount, note, once).await,
        Command::LateCharge {
            account,
            amount,
            call,
            once,
        } => late_charge(session, account, amount, call, once).await,
        Command::Correct {
            account,
            sequence,
            amount: money,
            note,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::CorrectRequest {
                account_id: account,
                request_id: id.clone(),
                sequence,
                amount: Some(amount(money)),
                note,
            };
            done(session.credits().correct(request).await, &id)
        }
        Command::Void {
            account,
            order,
            note,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::VoidCreditRequest {
                account_id: account,
                request_id: id.clone(),
                order_id: order,
                note,
            };
            done(session.credits().void_credit(request).await, &id)
        }
        Command::Blocks {
            account,
            kind,
            order_id,
            limit,
        } => {
            let request = v1::ListCreditBlocksRequest {
                account_id: account,
                kinds: kind.into_iter().map(Into::into).collect(),
                order_id: order_id.unwrap_or_default(),
                ..v1::ListCreditBlocksRequest::default()
            };
            return blocks(session, request, limit).await;
        }
    };
    moved?.show(session)
}

/// What every request that moves money is answered with.
pub(super) struct Done {
    entry: Option<v1::Entry>,
    account: Option<v1::Account>,
    replayed: bool,
}

macro_rules! done {
    ($($answer:ident)*) => {$(
        impl From<v1::$answer> for Done {
            fn from(answer: v1::$answer) -> Self {
                let v1::$answer { entry, account, replayed } = answer;
                Self { entry, account, replayed }
            }
        }
    )*};
}

done! {
    RechargeResponse GrantResponse AdjustResponse LateChargeResponse CorrectResponse VoidCreditResponse
    MarkOverdueResponse ClearOverdueResponse ReactivateCapabilityResponse SetInvoicedAmountResponse
    CloseAccountResponse CancelRefundResponse
}

/// What came of a request under an id.
pub(super) fn done<T: Into<Done>>(
    answer: Result<Response<T>, Status>,
    id: &str,
) -> Result<Done, Failure> {
    let answer = answer.map_err(|status| repeatable(status, id))?;
    Ok(answer.into_inner().into())
}

async fn recharge(
    session: &Session,
    account_id: String,
    money: Amount,
    order_id: String,
    credit: CreditArgs,
    once: Once,
) -> Result<Done, Failure> {
    let id = request_id(once.request_id)?;
    let request = v1::RechargeRequest {
        account_id,
        request_id: id.clone(),
        order_id,
        amount: Some(amount(money)),
        expire_time: credit.expires.map(instant),
        priority: credit.priority,
        note: credit.note.unwrap_or_default(),
    };
    done(session.credits().recharge(request).await, &id)
}

async fn grant(
    session: &Session,
    account_id: String,
    money: Amount,
    order_id: Option<String>,
    credit: CreditArgs,
    once: Once,
) -> Result<Done, Failure> {
    let id = request_id(once.request_id)?;
    let request = v1::GrantRequest {
        account_id,
        request_id: id.clone(),
        order_id: order_id.unwrap_or_default(),
        amount: Some(amount(money)),
        expire_time: credit.expires.map(instant),
        priority: credit.priority,
        note: credit.note.unwrap_or_default(),
    };
    done(session.credits().grant(request).await, &id)
}

async fn adjust(
    session: &Session,
    account_id: String,
    money: Amount,
    note: String,
    once: Once,
) -> Result<Done, Failure> {
    let id = request_id(once.request_id)?;
    let request = v1::AdjustRequest {
        account_id,
        request_id: id.clone(),
        amount: Some(amount(money)),
        note,
    };
    done(session.credits().adjust(request).await, &id)
}

async fn late_charge(
    session: &Session,
    account_id: String,
    money: Amount,
    call: CallArgs,
    once: Once,
) -> Result<Done, Failure> {
    let id = request_id(once.request_id)?;
    let request = v1::LateChargeRequest {
        account_id,
        request_id: id.clone(),
        amount: Some(amount(money)),
        key_id: call.key.unwrap_or_default(),
        model: call.model.unwrap_or_default(),
        note: call.note.unwrap_or_default(),
    };
    done(session.credits().late_charge(request).await, &id)
}

/// After a failure that leaves open what happened, the same request may be sent again, and only under the same id.
pub(super) fn repeatable(status: Status, id: &str) -> Failure {
    let failure = Failure::from(status);
    match failure.exit {
        Exit::Usage | Exit::NotFound | Exit::Refused => failure,
        Exit::Other | Exit::Unavailable => failure.with(format!(
            "it may have been carried out; repeated with --request-id {id} it counts once"
        )),
    }
}

impl Done {
    /// Of an answer with more in it.
    pub(super) const fn of(
        entry: Option<v1::Entry>,
        account: Option<v1::Account>,
        replayed: bool,
    ) -> Self {
        Self {
            entry,
            account,
            replayed,
        }
    }

    /// The entry that was made, and the account after it.
    pub(super) fn show(self, session: &Session) -> Result<(), Failure> {
        self.show_with(session, Vec::new())
    }

    /// The same with more in it, that comes first. For people, what is in it takes the place of what the entry says under that name.
    pub(super) fn show_with(
        self,
        session: &Session,
        more: Vec<(&'static str, Cell)>,
    ) -> Result<(), Failure> {
        let entry = ledger::show(&part(self.entry, "entry")?);
        let account = account::show(&part(self.account, "account")?);
        let out = session.out;
        if out.json {
            let answer = [
                ("entry", Cell::Record(Box::new(entry))),
                ("account", Cell::Record(Box::new(account))),
                ("replayed", Cell::Flag(self.replayed)),
            ];
            return out.record(&Record(more.into_iter().chain(answer).collect()));
        }
        if self.replayed {
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
        let mut entry = entry.pick(&money).0;
        entry.retain(|(name, _)| more.iter().all(|(given, _)| given != name));
        let shown = more.into_iter().chain(entry);
        let shown = shown.chain(account.pick(&standing).0);
        out.record(&Record(shown.collect()))
    }
}
async fn blocks(
    session: &Session,
    request: v1::ListCreditBlocksRequest,
    limit: Limit,
) -> Result<(), Failure> {
    let blocks = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListCreditBlocksRequest {
            page_size,
            page_token,
            ..request.clone()
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
