//! InvoiceService: what accounts that pay afterwards owe, period by period.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use super::errors::{Fault, answer};
use super::pages::{Filter, ROWS, cut};
use super::{Control, Moved};
use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, ModelName};
use crate::ledger::{
    Action, Book, Claim, Entry, INVOICE_LINES_MAX, InvoiceLine, InvoicePeriod, Rejected,
};
use crate::money::Amount;
use crate::proto::convert::{FieldError, account_id, amount, timestamp, token};
use crate::proto::v1::{self, InvoiceState, invoice_service_server::InvoiceService};

/// How many entries are read at once.
const CHUNK: usize = 1_000;

/// Replicas' clocks may be off by so many hours and their usage still be found.
const HOURS_ASIDE: i64 = 24;

#[tonic::async_trait]
impl InvoiceService for Control {
    async fn close_invoice_period(
        &self,
        request: Request<v1::CloseInvoicePeriodRequest>,
    ) -> Result<Response<v1::CloseInvoicePeriodResponse>, Status> {
        answer(self.period_closed(request.into_inner()).await)
    }

    async fn settle_invoice(
        &self,
        request: Request<v1::SettleInvoiceRequest>,
    ) -> Result<Response<v1::SettleInvoiceResponse>, Status> {
        answer(self.invoice_settled(request.into_inner()).await)
    }

    async fn list_invoices(
        &self,
        request: Request<v1::ListInvoicesRequest>,
    ) -> Result<Response<v1::ListInvoicesResponse>, Status> {
        answer(self.invoices(request.into_inner()).await)
    }
}

impl Control {
    async fn period_closed(
        &self,
        request: v1::CloseInvoicePeriodRequest,
    ) -> Result<v1::CloseInvoicePeriodResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let invoice_id = token("invoice_id", &request.invoice_id)?;
        self.flush(&id).await;
        // The lines are worked out from what was used, which has gone on since a first try: a repeat is known by its invoice.
        let lines = match self.lines_before(&id, &request_id, &invoice_id).await? {
            Some(lines) => lines,
            None => self.lines(&id).await?,
        };
        let action = Action::CloseInvoicePeriod {
            invoice_id: invoice_id.clone(),
            lines,
        };
        let moved = self.carry_out(&id, request_id, action).await?;
        let invoice = self.invoice(&id, &invoice_id).await?;
        let Moved {
            entry,
            account,
            replayed,
            ..
        } = moved;
        Ok(v1::CloseInvoicePeriodResponse {
            entry: Some(entry),
            account: Some(account),
            replayed,
            invoice,
        })
    }

    async fn invoice_settled(
        &self,
        request: v1::SettleInvoiceRequest,
    ) -> Result<v1::SettleInvoiceResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let invoice_id = token("invoice_id", &request.invoice_id)?;
        let action = Action::SettleInvoice {
            invoice_id: invoice_id.clone(),
        };
        let moved = self.carry_out(&id, request_id, action).await?;
        let invoice = self.invoice(&id, &invoice_id).await?;
        let Moved {
            entry,
            account,
            replayed,
            ..
        } = moved;
        Ok(v1::SettleInvoiceResponse {
            entry: Some(entry),
            account: Some(account),
            replayed,
            invoice,
        })
    }

    async fn invoices(
        &self,
        mut request: v1::ListInvoicesRequest,
    ) -> Result<v1::ListInvoicesResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListInvoices", &request);
        let after = filter.position(&token)?;
        let state = InvoiceState::try_from(request.state).map_err(|_| {
            let problem = "must be INVOICE_STATE_OUTSTANDING, _SETTLED, or left out";
            FieldError::invalid("state", problem)
        })?;
        let book = self.read(&id).await?.book;
        let all = shown(&book);
        let mut later = all.into_iter().peekable();
        if let Some(after) = &after {
            // One that has made room meanwhile is older than all that are left.
            let known = book.invoices.iter().any(|invoice| invoice.id == *after);
            while known
                && later
                    .next()
                    .is_some_and(|invoice| invoice.invoice_id != *after)
            {}
        }
        let wanted =
            later.filter(|invoice| state == InvoiceState::Unspecified || invoice.state() == state);
        let mut invoices: Vec<_> = wanted.take(size.saturating_add(1)).collect();
        let more = cut(&mut invoices, size);
        let last = invoices.last().filter(|_| more);
        let next = last.map(|last| filter.token(&last.invoice_id));
        Ok(v1::ListInvoicesResponse {
            invoices,
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn invoice(&self, id: &AccountId, invoice: &str) -> Result<Option<v1::Invoice>, Fault> {
        let book = self.read(id).await?.book;
        let found = shown(&book).into_iter();
        Ok(found.into_iter().find(|shown| shown.invoice_id == invoice))
    }

    /// The lines of this very request, if it was carried out before.
    async fn lines_before(
        &self,
        id: &AccountId,
        request_id: &str,
        invoice_id: &str,
    ) -> Result<Option<Vec<InvoiceLine>>, Fault> {
        let claim = format!("k:{request_id}");
        let read = self.core().store.read(id, &[claim]).await?;
        let read = read.ok_or_else(|| self.core().books.missing(id))?;
        let stands = read.claims.into_iter().flatten().next();
        Ok(
            stands.and_then(|Claim { entry, .. }| match closing(&entry)? {
                (closed, lines) if closed == invoice_id => Some(lines.to_vec()),
                _ => None,
            }),
        )
    }

    /// What each model cost over all time, less what stands on earlier invoices: nothing is on two of them, and nothing on none,
    /// whenever a period is closed.
    async fn lines(&self, id: &AccountId) -> Result<Vec<InvoiceLine>, Fault> {
        let book = self.read(id).await?.book;
        let aside = |hour: Hour, by: i64| Hour(hour.0.saturating_add(by));
        let from = aside(book.created.hour(), HOURS_ASIDE.saturating_neg());
        let to = aside(self.core().clock.now().wall.hour(), HOURS_ASIDE);
        let mut costs: BTreeMap<Option<ModelName>, Amount> = BTreeMap::new();
        for (model, tally) in self.by_model(id, from, to).await? {
            costs.insert(model, Amount::from_nanos(tally.cost_nanos));
        }
        let mut after = 0;
        loop {
            let chunk = self.core().store.entries(id, after, CHUNK).await?;
            let Some(last) = chunk.last() else { break };
            after = last.sequence;
            for (_, lines) in chunk.iter().filter_map(closing) {
                for line in lines {
                    let cost = costs.entry(line.model.clone()).or_default();
                    *cost = cost.checked_sub(line.amount).ok_or(Rejected::OutOfRange)?;
                }
            }
        }
        Ok(within(costs))
    }
}

/// The lines with something on them, the largest first; those that are too many stand in the last one, without a model.
fn within(costs: BTreeMap<Option<ModelName>, Amount>) -> Vec<InvoiceLine> {
    let lines = costs.into_iter();
    let lines = lines.map(|(model, amount)| InvoiceLine { model, amount });
    let mut lines: Vec<_> = lines.filter(|line| line.amount.is_positive()).collect();
    lines.sort_by(|a, b| b.amount.cmp(&a.amount).then_with(|| a.model.cmp(&b.model)));
    if lines.len() > INVOICE_LINES_MAX {
        let rest = lines.split_off(INVOICE_LINES_MAX.saturating_sub(1));
        let sum = rest
            .iter()
            .fold(Amount::ZERO, |sum, line| sum.saturating_add(line.amount));
        lines.push(InvoiceLine {
            model: None,
            amount: sum,
        });
    }
    lines
}

/// What an entry that closed a period put on which invoice.
fn closing(entry: &Entry) -> Option<(&str, &[InvoiceLine])> {
    match entry.action.as_deref()? {
        Action::CloseInvoicePeriod { invoice_id, lines } => Some((invoice_id, lines)),
        _ => None,
    }
}

/// All invoices of a book, the oldest first: each period begins where the one before it ends.
fn shown(book: &Book) -> Vec<v1::Invoice> {
    let starts = book.invoices.iter().map(|invoice| invoice.closed);
    let starts = std::iter::once(book.created).chain(starts);
    let invoices = book.invoices.iter().zip(starts);
    invoices
        .map(|(invoice, start)| wire(invoice, start, book))
        .collect()
}

fn wire(invoice: &InvoicePeriod, start: Timestamp, book: &Book) -> v1::Invoice {
    let money = |of| Some(amount(of, &book.unit));
    let state = match invoice.settled {
        Some(_) => InvoiceState::Settled,
        None => InvoiceState::Outstanding,
    };
    let lines = invoice.lines.iter().map(|line| v1::InvoiceLine {
        model: line
            .model
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        cost: money(line.amount),
    });
    v1::Invoice {
        invoice_id: invoice.id.clone(),
        account_id: book.account.to_string(),
        start_time: Some(timestamp(start)),
        end_time: Some(timestamp(invoice.closed)),
        amount: money(invoice.amount),
        lines: lines.collect(),
        state: state.into(),
        settle_time: invoice.settled.map(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_most_stand_in_the_last_one() {
        let count = i64::try_from(INVOICE_LINES_MAX).unwrap() + 2;
        let model = |n: i64| Some(ModelName::new(&format!("m{n}")).unwrap());
        let costs = (0..count).map(|n| (model(n), Amount::from_nanos(n)));
        let lines = within(costs.collect());
        assert_eq!(lines.len(), INVOICE_LINES_MAX);
        // 0 is no line; of 1 to 257 the smallest two are together.
        assert_eq!(lines[0].amount, Amount::from_nanos(count - 1));
        let last = &lines[INVOICE_LINES_MAX - 1];
        assert_eq!(
            (&last.model, last.amount),
            (&None, Amount::from_nanos(1 + 2))
        );
    }
}
