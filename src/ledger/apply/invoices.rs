//! Invoices (A4-1): what is owed moves to an invoice, and may be owed again once that is paid.

use super::{Work, add, check_count, check_given, take};
use crate::ledger::entry::EntryKind;
use crate::ledger::event::EventKind;
use crate::ledger::facts::{INVOICE_LINES_MAX, INVOICES_MAX, InvoiceLine, InvoicePeriod};
use crate::ledger::rejected::Rejected;
use crate::money::Amount;
use crate::policy::Mode;

impl Work<'_> {
    pub(super) fn close_invoice(
        &mut self,
        invoice_id: &str,
        lines: &[InvoiceLine],
    ) -> Result<(), Rejected> {
        check_given("invoice_id", invoice_id)?;
        check_count("lines", lines.len(), INVOICE_LINES_MAX)?;
        if let Some(line) = lines.iter().find(|line| line.amount.is_negative()) {
            return Err(Rejected::Negative("lines.amount", line.amount));
        }
        if self.policy.mode != Mode::CreditThenInvoice && self.again.is_none() {
            return Err(Rejected::NotInvoiced);
        }
        if self
            .book
            .invoices
            .iter()
            .any(|invoice| invoice.id == invoice_id)
        {
            return Err(Rejected::InvoiceExists(invoice_id.into()));
        }
        let amount = self.again.map_or(self.book.debt, |entry| entry.amount);
        // On the invoice it is owed no more: the invoice limit takes its place in what may be spent.
        self.put_in(&Self::loose(EntryKind::InvoiceClosed, amount, invoice_id))?;
        self.book.invoiced_outstanding = add(self.book.invoiced_outstanding, amount)?;
        let invoices = &mut self.book.invoices;
        if invoices.len() >= INVOICES_MAX
            && let Some(paid) = invoices
                .iter()
                .position(|invoice| invoice.settled.is_some())
        {
            invoices.remove(paid);
        }
        invoices.push(InvoicePeriod {
            id: invoice_id.into(),
            closed: self.now,
            amount,
            lines: lines.to_vec(),
            settled: (!amount.is_positive()).then_some(self.now),
        });
        if self.again.is_none() {
            check_count("invoices", invoices.len(), INVOICES_MAX)?;
        }
        self.event(EventKind::InvoiceClosed, amount).about = Some(invoice_id.into());
        Ok(())
    }

    pub(super) fn settle_invoice(&mut self, invoice_id: &str) -> Result<(), Rejected> {
        let (now, book) = (self.now, &mut self.book);
        let found = book
            .invoices
            .iter_mut()
            .find(|invoice| invoice.id == invoice_id);
        let invoice = found.ok_or_else(|| Rejected::UnknownInvoice(invoice_id.into()))?;
        if invoice.settled.is_some() {
            return Err(Rejected::InvoicePaid(invoice_id.into()));
        }
        invoice.settled = Some(now);
        book.invoiced_outstanding = take(book.invoiced_outstanding, invoice.amount)?;
        self.entry(EntryKind::InvoiceSettled, Amount::ZERO).note = invoice_id.into();
        Ok(())
    }
}
