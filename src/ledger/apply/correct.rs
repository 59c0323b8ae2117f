//! A wrong charge is taken back: what its entry took goes back to where it came from.

use super::credit::{Credit, check_note, check_positive};
use super::{Work, add, take};
use crate::ledger::CORRECTED_MAX;
use crate::ledger::book::{CreditBlock, CreditKind};
use crate::ledger::entry::{Allocation, Entry, EntryKind};
use crate::ledger::rejected::Rejected;
use crate::money::Amount;

/// One thing that a charge took: from a block, or on credit.
struct Part {
    from: Option<Allocation>,
    amount: Amount,
}

/// What becomes of what goes back.
#[derive(Default)]
struct Back {
    debt_paid: Amount,
    /// What went back to which blocks.
    allocations: Vec<Allocation>,
    /// What has no block to go back to.
    loose: Amount,
    /// What went back to blocks whose time is over meanwhile, and expires at once.
    over: Vec<(CreditBlock, Amount)>,
}

impl Work<'_> {
    pub(super) fn correct(
        &mut self,
        sequence: u64,
        amount: Amount,
        note: &str,
    ) -> Result<(), Rejected> {
        check_positive(amount)?;
        check_note(note)?;
        let parts = match self.again {
            Some(entry) => parts_again(entry)?,
            None => self.parts(sequence, amount)?,
        };
        let mut back = Back::default();
        let mut left = amount;
        for part in parts {
            let amount = part.amount.min(left);
            left = take(left, amount)?;
            if amount.is_positive() {
                self.give_back(part, amount, &mut back)?;
            }
        }
        self.add_credit(amount)?;
        let block = self.new_block(
            &Credit {
                entry: EntryKind::Correction,
                kind: CreditKind::Paid,
                amount,
                order_id: None,
                priority: 0,
                expires: None,
                note,
            },
            back.loose,
        )?;
        let entry = self.entry(EntryKind::Correction, amount);
        entry.debt_paid = back.debt_paid;
        entry.allocations = back.allocations;
        entry.block = block;
        entry.note = note.into();
        for (block, amount) in back.over {
            self.expired(&block, amount)?;
        }
        self.remember(sequence, amount)
    }

    /// What of the entry was not corrected yet, in the order in which it goes back: debt first, then the newest.
    fn parts(&self, sequence: u64, amount: Amount) -> Result<Vec<Part>, Rejected> {
        let found = self
            .given
            .corrects
            .filter(|entry| entry.sequence == sequence);
        let entry = found.ok_or(Rejected::UnknownEntry(sequence))?;
        let charges = matches!(
            entry.kind,
            EntryKind::Usage | EntryKind::LateCharge | EntryKind::Adjustment
        );
        if !charges || entry.amount.is_positive() {
            let kind = entry.kind;
            return Err(Rejected::NotCorrectable { sequence, kind });
        }
        let before = self.book.corrected_before;
        if sequence <= before {
            return Err(Rejected::CorrectionTooOld { sequence, before });
        }
        let mut done = self
            .book
            .corrected
            .get(&sequence)
            .copied()
            .unwrap_or_default();
        let left = take(entry.amount.negated(), done)?;
        if amount > left {
            return Err(Rejected::CorrectedBeyond {
                sequence,
                amount,
                left,
            });
        }
        let debt = Part {
            from: None,
            amount: entry.debt_made,
        };
        let blocks = entry.allocations.iter().rev().map(|allocation| Part {
            amount: allocation.amount,
            from: Some(allocation.clone()),
        });
        let mut parts = Vec::new();
        for mut part in std::iter::once(debt).chain(blocks) {
            let skipped = part.amount.min(done);
            done = take(done, skipped)?;
            part.amount = take(part.amount, skipped)?;
            parts.push(part);
        }
        Ok(parts)
    }

    fn give_back(&mut self, part: Part, amount: Amount, back: &mut Back) -> Result<(), Rejected> {
        let Some(from) = part.from else {
            let paid = amount.min(self.book.debt);
            self.pay_debt(paid)?;
            back.debt_paid = add(back.debt_paid, paid)?;
            back.loose = add(back.loose, take(amount, paid)?)?;
            return Ok(());
        };
        let live = self
            .book
            .blocks
            .iter()
            .position(|block| block.id == from.block);
        let place = live.and_then(|place| self.book.blocks.get(place));
        let Some(block) = place.cloned().or(from.of.map(|block| *block)) else {
            back.loose = add(back.loose, amount)?;
            return Ok(());
        };
        let mut allocation = Allocation {
            block: block.id,
            amount,
            of: Some(Box::new(block.clone())),
            order_id: None,
        };
        if block.is_over(self.now) {
            back.allocations.push(allocation);
            back.over.push((block, amount));
            return Ok(());
        }
        // Without the charge, what pays debt would have paid what came after it.
        let pays = self.pays_debt(block.kind);
        let paid = if pays {
            amount.min(self.book.debt)
        } else {
            Amount::ZERO
        };
        self.pay_debt(paid)?;
        back.debt_paid = add(back.debt_paid, paid)?;
        let rest = take(amount, paid)?;
        if !rest.is_positive() {
            return Ok(());
        }
        allocation.amount = rest;
        back.allocations.push(allocation);
        if let Some(live) = live.and_then(|place| self.book.blocks.get_mut(place)) {
            live.remaining = add(live.remaining, rest)?;
            live.granted = live.granted.max(live.remaining);
            return Ok(());
        }
        self.insert(CreditBlock {
            remaining: rest,
            granted: block.granted.max(rest),
            expired: false,
            ..block
        })
    }

    /// Keeps in mind how much of an entry was corrected.
    fn remember(&mut self, sequence: u64, amount: Amount) -> Result<(), Rejected> {
        let book = &mut self.book;
        let done = book.corrected.entry(sequence).or_default();
        *done = add(*done, amount)?;
        while book.corrected.len() > CORRECTED_MAX {
            if let Some((oldest, _)) = book.corrected.pop_first() {
                book.corrected_before = book.corrected_before.max(oldest);
            }
        }
        Ok(())
    }
}

/// What a correction gave back, as it is given back once more.
fn parts_again(entry: &Entry) -> Result<Vec<Part>, Rejected> {
    let mut parts = Vec::new();
    let mut debt = entry.amount;
    for allocation in &entry.allocations {
        debt = take(debt, allocation.amount)?;
        parts.push(Part {
            amount: allocation.amount,
            from: Some(allocation.clone()),
        });
    }
    let (from, amount) = (None, debt);
    parts.insert(0, Part { from, amount });
    Ok(parts)
}
