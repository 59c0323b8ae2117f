//! `tollgate invoice`.

use clap::Subcommand;

use super::credit::{self, Done, Once};
use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{amount_cell, instant_cell, request_id, unit_cell, unword, word};
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Freeze what is owed and was not invoiced yet
    Close {
        account: String,
        /// The invoice's own id
        invoice: String,
        #[command(flatten)]
        once: Once,
    },
    /// An invoice was paid
    Settle {
        account: String,
        invoice: String,
        #[command(flatten)]
        once: Once,
    },
    /// List the invoices of an account
    List {
        account: String,
        /// In this state only: outstanding or settled
        #[arg(long, value_parser = state)]
        state: Option<v1::InvoiceState>,
        #[command(flatten)]
        limit: Limit,
    },
}

fn state(text: &str) -> Result<v1::InvoiceState, String> {
    unword(text, "INVOICE_STATE_", v1::InvoiceState::from_str_name)
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Close {
            account,
            invoice,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::CloseInvoicePeriodRequest {
                account_id: account,
                request_id: id.clone(),
                invoice_id: invoice,
            };
            let answer = session.invoices().close_invoice_period(request).await;
            let answer = answer.map_err(|status| credit::repeatable(status, &id))?;
            let v1::CloseInvoicePeriodResponse {
                entry,
                account,
                replayed,
                invoice,
            } = answer.into_inner();
            let more = told(session, invoice.as_ref());
            Done::of(entry, account, replayed).show_with(session, more)
        }
        Command::Settle {
            account,
            invoice,
            once,
        } => {
            let id = request_id(once.request_id)?;
            let request = v1::SettleInvoiceRequest {
                account_id: account,
                request_id: id.clone(),
                invoice_id: invoice,
            };
            let answer = session.invoices().settle_invoice(request).await;
            let answer = answer.map_err(|status| credit::repeatable(status, &id))?;
            let v1::SettleInvoiceResponse {
                entry,
                account,
                replayed,
                invoice,
            } = answer.into_inner();
            let settled = invoice.as_ref().and_then(|invoice| invoice.amount.as_ref());
            let mut more = told(session, invoice.as_ref());
            // The entry's own amount is what it did to the balance: nothing, as the debt left with the invoice.
            more.push(("amount", amount_cell(settled)));
            Done::of(entry, account, replayed).show_with(session, more)
        }
        Command::List {
            account,
            state,
            limit,
        } => {
            let request = v1::ListInvoicesRequest {
                account_id: account,
                state: state.unwrap_or_default().into(),
                ..v1::ListInvoicesRequest::default()
            };
            let invoices = session.pages(limit, async |page_size, page_token| {
                let request = v1::ListInvoicesRequest {
                    page_size,
                    page_token,
                    ..request.clone()
                };
                let page = session
                    .invoices()
                    .list_invoices(request)
                    .await?
                    .into_inner();
                Ok((page.invoices, page.next_page_token))
            });
            let invoices: Vec<Record> = invoices.await?.iter().map(show).collect();
            let columns = [
                "invoice",
                "from",
                "to",
                "invoice_state",
                "invoiced",
                "unit",
                "settled",
            ];
            session.out.table(&invoices, &columns)
        }
    }
}

fn told(session: &Session, invoice: Option<&v1::Invoice>) -> Vec<(&'static str, Cell)> {
    match invoice.map(show) {
        None => Vec::new(),
        Some(shown) if session.out.json => vec![("invoice", Cell::Record(Box::new(shown)))],
        Some(shown) => shown.0,
    }
}

fn show(invoice: &v1::Invoice) -> Record {
    let lines = invoice.lines.iter().map(|line| {
        Record(vec![
            ("model", Cell::text(&line.model)),
            ("cost", amount_cell(line.cost.as_ref())),
        ])
    });
    Record(vec![
        ("invoice", Cell::text(&invoice.invoice_id)),
        ("from", instant_cell(invoice.start_time.as_ref())),
        ("to", instant_cell(invoice.end_time.as_ref())),
        (
            "invoice_state",
            word(invoice.state().as_str_name(), "INVOICE_STATE_"),
        ),
        ("invoiced", amount_cell(invoice.amount.as_ref())),
        ("unit", unit_cell(invoice.amount.as_ref())),
        ("settled", instant_cell(invoice.settle_time.as_ref())),
        ("lines", Cell::Nested(lines.collect())),
    ])
}
