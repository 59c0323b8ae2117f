//! `tollgate ledger`.

use clap::Subcommand;

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{amount_cell, instant, instant_cell, unit_cell, unword, word};
use crate::clock::Timestamp;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what changed the balance of an account, in order
    List {
        account: String,
        /// Of this kind only: configuration, recharge, grant, adjustment, late_charge, usage, expiry, overdue_marked,
        /// overdue_cleared, reactivation, refund_begun, refund, refund_cancelled, invoiced_amount, plan_purchase, plan_added,
        /// plan_removed, qps_plan_purchase, correction, void, invoice_closed, invoice_settled, closed
        #[arg(long, value_parser = kind)]
        kind: Vec<v1::EntryKind>,
        /// From this instant on, as 2026-01-31T00:00:00Z
        #[arg(long, value_name = "INSTANT")]
        since: Option<Timestamp>,
        /// Before this instant
        #[arg(long, value_name = "INSTANT")]
        until: Option<Timestamp>,
        /// The newest first
        #[arg(long)]
        newest: bool,
        /// Of this order only
        #[arg(long, value_name = "ID")]
        order_id: Option<String>,
        /// Late charges for calls of this key only
        #[arg(long)]
        key: Option<String>,
        /// Late charges for this model only
        #[arg(long)]
        model: Option<String>,
        /// Only those that moved money
        #[arg(long)]
        moving: bool,
        #[command(flatten)]
        limit: Limit,
    },
    /// Prove that an account's ledger adds up; exit code 4 if it does not
    Verify { account: String },
}

fn kind(text: &str) -> Result<v1::EntryKind, String> {
    unword(text, "ENTRY_KIND_", v1::EntryKind::from_str_name)
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Verify { account } => verify(session, account).await,
        Command::List {
            account,
            kind,
            since,
            until,
            newest,
            order_id,
            key,
            model,
            moving,
            limit,
        } => {
            let request = v1::ListEntriesRequest {
                account_id: account,
                kinds: kind.into_iter().map(Into::into).collect(),
                start_time: since.map(instant),
                end_time: until.map(instant),
                newest_first: newest,
                order_id: order_id.unwrap_or_default(),
                key_id: key.unwrap_or_default(),
                model: model.unwrap_or_default(),
                moving_only: moving,
                ..v1::ListEntriesRequest::default()
            };
            list(session, request, limit).await
        }
    }
}

async fn list(
    session: &Session,
    request: v1::ListEntriesRequest,
    limit: Limit,
) -> Result<(), Failure> {
    let entries = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListEntriesRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        let page = session.ledgers().list_entries(request).await?.into_inner();
        Ok((page.entries, page.next_page_token))
    });
    let entries: Vec<Record> = entries.await?.iter().map(show).collect();
    let columns = [
        "sequence",
        "time",
        "kind",
        "amount",
        "balance",
        "debt_paid",
        "debt_made",
        "order",
        "note",
    ];
    session.out.table(&entries, &columns)
}

/// An entry as it is shown after everything that makes one.
pub(super) fn show(entry: &v1::Entry) -> Record {
    let allocations = entry.allocations.iter().map(|taken| {
        Record(vec![
            ("block", Cell::Number(taken.block_id)),
            ("amount", amount_cell(taken.amount.as_ref())),
            ("order", Cell::text(&taken.order_id)),
        ])
    });
    // Of a refund of several, all of them.
    let mut orders: Vec<&str> = match entry.kind() {
        v1::EntryKind::Refund if entry.order_id.is_empty() => {
            let orders = entry.allocations.iter();
            orders.map(|taken| taken.order_id.as_str()).collect()
        }
        _ => vec![&entry.order_id],
    };
    orders.retain(|order| !order.is_empty());
    orders.dedup();
    let block = match entry.block_id {
        0 => Cell::None,
        block => Cell::Number(block),
    };
    Record(vec![
        ("account", Cell::text(&entry.account_id)),
        ("sequence", Cell::Number(entry.sequence)),
        ("time", instant_cell(entry.time.as_ref())),
        ("kind", word(entry.kind().as_str_name(), "ENTRY_KIND_")),
        ("amount", amount_cell(entry.amount.as_ref())),
        ("balance", amount_cell(entry.balance.as_ref())),
        ("unit", unit_cell(entry.amount.as_ref())),
        ("debt_paid", amount_cell(entry.debt_paid.as_ref())),
        ("debt_made", amount_cell(entry.debt_made.as_ref())),
        ("allocations", Cell::Nested(allocations.collect())),
        ("block", block),
        ("request", Cell::text(&entry.request_id)),
        ("order", Cell::text(orders.join(", "))),
        ("key", Cell::text(&entry.key_id)),
        ("model", Cell::text(&entry.model)),
        ("expires", instant_cell(entry.expire_time.as_ref())),
        ("price", amount_cell(entry.price.as_ref())),
        ("note", Cell::text(&entry.note)),
    ])
}

async fn verify(session: &Session, account: String) -> Result<(), Failure> {
    let request = v1::VerifyLedgerRequest {
        account_id: account.clone(),
    };
    let proof = session.ledgers().verify_ledger(request).await?.into_inner();
    let findings = proof.findings.iter().map(|finding| {
        Record(vec![
            ("kind", word(finding.kind().as_str_name(), "FINDING_KIND_")),
            ("sequence", Cell::Number(finding.sequence)),
            ("message", Cell::text(&finding.message)),
        ])
    });
    let shown = Record(vec![
        ("ok", Cell::Flag(proof.ok)),
        ("entries", Cell::Number(proof.entries)),
        ("unit", unit_cell(proof.balance.as_ref())),
        ("entries_sum", amount_cell(proof.entries_sum.as_ref())),
        ("unabsorbed", amount_cell(proof.unabsorbed.as_ref())),
        (
            "lifetime_credit",
            amount_cell(proof.lifetime_credit.as_ref()),
        ),
        ("spend", amount_cell(proof.spend.as_ref())),
        ("spend_after", amount_cell(proof.spend_after.as_ref())),
        ("usage_sum", amount_cell(proof.usage_sum.as_ref())),
        ("balance", amount_cell(proof.balance.as_ref())),
        ("as_of", instant_cell(proof.as_of.as_ref())),
        ("findings", Cell::Nested(findings.collect())),
    ]);
    session.out.record(&shown)?;
    if proof.ok {
        return Ok(());
    }
    let failure = Failure::refused(format!("the ledger of {account} does not add up"));
    let said = proof.findings.into_iter().map(|finding| finding.message);
    Err(said.fold(failure, Failure::with))
}
