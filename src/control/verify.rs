//! VerifyLedger: reads an account's whole ledger while calls go on, and proves that it adds up (P1).
//!
//! What is compared was true at one instant: the entries up to the last one of a book are that book's for ever, and spend only
//! grows, so the usage rows that are read between two readings of the spend add up to something between the two.

use super::Control;
use super::errors::Fault;
use crate::clock::Hour;
use crate::id::AccountId;
use crate::ledger::Entry;
use crate::money::Amount;
use crate::proto::convert::{amount, readable_account_id, timestamp};
use crate::proto::v1::{self, FindingKind};
use crate::store::Snapshot;

/// How many findings are reported: what is wrong in one place is wrong in every line after it.
const FINDINGS_MAX: usize = 100;

/// How many entries are read at once.
const CHUNK: usize = 1_000;

/// How many hours of usage are read at once.
const HOURS_AT_ONCE: i64 = 24;

/// Replicas' clocks may be off by so much and their usage still be found.
const HOURS_ASIDE: i64 = 24;

/// What is found while reading.
#[derive(Default)]
struct Audit {
    findings: Vec<v1::Finding>,
    last: u64,
    balance: i128,
}

impl Audit {
    fn find(&mut self, kind: FindingKind, sequence: u64, message: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(v1::Finding {
                kind: kind.into(),
                sequence,
                message,
            });
        }
    }

    /// The next entry: its number and its running balance.
    fn entry(&mut self, entry: &Entry) {
        let expected = self.last.saturating_add(1);
        if entry.sequence != expected {
            let message = format!("entry {} stands where {expected} should", entry.sequence);
            self.find(FindingKind::Sequence, entry.sequence, message);
        }
        self.last = entry.sequence;
        self.balance = self.balance.saturating_add(entry.amount.nanos().into());
        if self.balance != i128::from(entry.balance.nanos()) {
            let message = format!(
                "the balance after it is {}, the amounts up to it add up to {}",
                entry.balance,
                decimal(self.balance)
            );
            self.find(FindingKind::RunningBalance, entry.sequence, message);
            // Said once: from here on, go by what the ledger says.
            self.balance = entry.balance.nanos().into();
        }
    }

    /// The book against itself and its entries.
    fn book(&mut self, snapshot: &Snapshot, sum: i128) {
        let Snapshot { book, spend, .. } = snapshot;
        if self.last != book.entries {
            let message = format!(
                "the last entry is {}, the book has {}",
                self.last, book.entries
            );
            self.find(FindingKind::Sequence, self.last, message);
        }
        let on_book =
            i128::from(book.lifetime_credit.nanos()).saturating_sub(book.absorbed.nanos().into());
        if sum != on_book {
            let message = format!(
                "the entries add up to {}, the book to {} (lifetime credit {} less absorbed spend {})",
                decimal(sum),
                decimal(on_book),
                book.lifetime_credit,
                book.absorbed
            );
            self.find(FindingKind::EntriesSum, 0, message);
        }
        if let Err(message) = book.invariants() {
            self.find(FindingKind::Book, 0, message);
        }
        if book.absorbed > *spend {
            let message = format!(
                "the book has absorbed {}, all replicas have spent {spend}",
                book.absorbed
            );
            self.find(FindingKind::Spend, 0, message);
        }
    }

    /// The usage rows against the spend before and after they were read.
    fn usage(&mut self, before: Amount, sum: i128, after: Amount) {
        let within = i128::from(before.nanos())..=i128::from(after.nanos());
        if !within.contains(&sum) {
            let message = format!(
                "the usage rows add up to {}, the spend was {before} before they were read and {after} after",
                decimal(sum)
            );
            self.find(FindingKind::UsageSum, 0, message);
        }
    }
}

impl Control {
    pub(super) async fn verified(
        &self,
        request: &v1::VerifyLedgerRequest,
    ) -> Result<v1::VerifyLedgerResponse, Fault> {
        let id = readable_account_id("account_id", &request.account_id)?;
        let as_of = self.flush(&id).await;
        let snapshot = self.read(&id).await?;
        let mut audit = Audit::default();
        let sum = self
            .audit_entries(&id, snapshot.book.entries, &mut audit)
            .await?;
        audit.book(&snapshot, sum);
        let usage = self.usage_sum(&snapshot).await?;
        let spend_after = self.read(&id).await?.spend;
        audit.usage(snapshot.spend, usage, spend_after);
        let Snapshot { book, spend, .. } = &snapshot;
        let money = |value| Some(amount(value, &book.unit));
        Ok(v1::VerifyLedgerResponse {
            ok: audit.findings.is_empty(),
            findings: audit.findings,
            entries: book.entries,
            entries_sum: money(held(sum)),
            lifetime_credit: money(book.lifetime_credit),
            spend: money(*spend),
            unabsorbed: money(spend.saturating_sub(book.absorbed)),
            balance: money(book.balance(*spend)),
            usage_sum: money(held(usage)),
            spend_after: money(spend_after),
            as_of: Some(timestamp(as_of)),
        })
    }

    /// Reads the entries up to a number, in order. Returns what they add up to.
    async fn audit_entries(
        &self,
        id: &AccountId,
        last: u64,
        audit: &mut Audit,
    ) -> Result<i128, Fault> {
        let mut sum: i128 = 0;
        let mut at = 0;
        while at < last {
            let chunk = self.core().store.entries(id, at, CHUNK).await?;
            // Later ones were made while this was read.
            for entry in chunk.iter().filter(|entry| entry.sequence <= last) {
                audit.entry(entry);
                sum = sum.saturating_add(entry.amount.nanos().into());
            }
            match chunk.last() {
                Some(entry) if entry.sequence > at => at = entry.sequence,
                // Nothing more, or a ledger out of order, which is found already.
                _ => break,
            }
        }
        Ok(sum)
    }

    /// What all usage rows of an account cost.
    async fn usage_sum(&self, snapshot: &Snapshot) -> Result<i128, Fault> {
        let book = &snapshot.book;
        let mut from = Hour(book.created.hour().0.saturating_sub(HOURS_ASIDE));
        let now = self.core().clock.now().wall.hour();
        let end = Hour(now.0.saturating_add(HOURS_ASIDE));
        let mut sum: i128 = 0;
        while from < end {
            let to = Hour(from.0.saturating_add(HOURS_AT_ONCE)).min(end);
            for row in self.core().store.usage(&book.account, from, to).await? {
                sum = sum.saturating_add(row.tally.cost_nanos.into());
            }
            from = to;
        }
        Ok(sum)
    }
}

/// Held at the ends of the range: for a figure that is shown beside the finding that it is wrong.
fn held(nanos: i128) -> Amount {
    let bound = |limit: Amount| i128::from(limit.nanos());
    let nanos = nanos.clamp(bound(Amount::MIN), bound(Amount::MAX));
    Amount::from_nanos(i64::try_from(nanos).unwrap_or_default())
}

fn decimal(nanos: i128) -> String {
    match i64::try_from(nanos) {
        Ok(nanos) => Amount::from_nanos(nanos).to_string(),
        Err(_) => format!("{nanos} nano-units"),
    }
}
