//! What happens by itself: spend is taken from the blocks, and blocks expire.

use super::{Work, add, take};
use crate::clock::Timestamp;
use crate::ledger::book::{Book, CREDIT_BLOCKS_MAX, CreditBlock, CreditKind};
use crate::ledger::entry::{Allocation, EntryKind};
use crate::ledger::event::EventKind;
use crate::ledger::rejected::Rejected;
use crate::money::Amount;

impl Work<'_> {
    /// Takes from the blocks what the replicas have spent since the last time.
    pub(super) fn absorb(&mut self) -> Result<(), Rejected> {
        let spend = self.given.spent.spend;
        let fresh = take(spend, self.book.absorbed)?;
        if !fresh.is_positive() {
            return Ok(());
        }
        self.book.absorbed = spend;
        let (allocations, debt_made) = self.burn(fresh)?;
        let entry = self.entry(EntryKind::Usage, fresh.negated());
        entry.allocations = allocations;
        entry.debt_made = debt_made;
        Ok(())
    }

    /// Writes off what is left of blocks whose time is over: at their expiry exactly, they are over. What is held of them still pays
    /// those holds, and is written off as they end.
    pub(super) fn expire(&mut self) -> Result<(), Rejected> {
        let now = self.now;
        if self.book.blocks.iter().any(|block| block.is_over(now)) {
            self.write_off()?;
        }
        let mut over = Vec::new();
        self.book.qps_plans.retain(|plan| {
            let runs = plan.expires.is_none_or(|end| now < end);
            if !runs {
                over.push(plan.id.clone());
            }
            runs
        });
        for plan in over {
            self.event(EventKind::PlanExpired, Amount::ZERO).about = Some(plan);
        }
        Ok(())
    }

    fn write_off(&mut self) -> Result<(), Rejected> {
        let now = self.now;
        let (over, mut blocks): (Vec<_>, Vec<_>) = std::mem::take(&mut self.book.blocks)
            .into_iter()
            .partition(|block| block.is_over(now));
        let mut held = self.given.spent.held.or_zero();
        let mut gone = Vec::new();
        let mut kept = Vec::new();
        for mut block in over {
            let keep = block.remaining.min(held);
            held = take(held, keep)?;
            let rest = take(block.remaining, keep)?;
            if keep.is_positive() {
                block.expired = true;
                block.remaining = keep;
                kept.push(block.clone());
            }
            if rest.is_positive() {
                gone.push((block, rest));
            }
        }
        // What is kept comes first in the burn order.
        kept.append(&mut blocks);
        kept.sort_by_key(burn_order);
        self.book.blocks = kept;
        for (block, rest) in gone {
            self.expired(&block, rest)?;
        }
        Ok(())
    }

    /// Writes down that this much of a block expired.
    pub(super) fn expired(&mut self, block: &CreditBlock, amount: Amount) -> Result<(), Rejected> {
        self.add_credit(amount.negated())?;
        let entry = self.entry(EntryKind::Expiry, amount.negated());
        entry.allocations = vec![Allocation {
            block: block.id,
            amount,
            of: None,
            order_id: None,
        }];
        entry.order_id.clone_from(&block.order_id);
        let kind = match block.kind {
            CreditKind::Plan => EventKind::PlanExpired,
            CreditKind::Bonus | CreditKind::Paid => EventKind::CreditExpired,
        };
        self.event(kind, amount).about.clone_from(&block.order_id);
        Ok(())
    }

    /// Takes from the blocks in burn order; what none covers becomes debt.
    pub(super) fn burn(&mut self, amount: Amount) -> Result<(Vec<Allocation>, Amount), Rejected> {
        let mut left = amount;
        let mut allocations = Vec::new();
        for block in &mut self.book.blocks {
            if !left.is_positive() {
                break;
            }
            let taken = left.min(block.remaining);
            left = take(left, taken)?;
            block.remaining = take(block.remaining, taken)?;
            allocations.push(Allocation {
                block: block.id,
                amount: taken,
                of: Some(Box::new(block.clone())),
                order_id: None,
            });
        }
        self.book
            .blocks
            .retain(|block| block.remaining.is_positive());
        self.book.debt = add(self.book.debt, left)?;
        Ok((allocations, left))
    }

    /// Puts a block in its place in the burn order.
    pub(super) fn insert(&mut self, block: CreditBlock) -> Result<(), Rejected> {
        if self.book.blocks.len() >= CREDIT_BLOCKS_MAX {
            return Err(Rejected::TooManyBlocks);
        }
        self.book.blocks.push(block);
        self.book.blocks.sort_by_key(burn_order);
        Ok(())
    }
}

impl CreditBlock {
    /// Whether its time is over: at its expiry exactly, it is, and stays so if the clock is set back.
    pub(in crate::ledger) fn is_over(&self, now: Timestamp) -> bool {
        self.expired || self.expires.is_some_and(|at| at <= now)
    }
}

impl Book {
    /// Whether there is something to write off: see [`Work::expire`].
    pub(in crate::ledger) fn expiry_due(&self, held: Amount, now: Timestamp) -> bool {
        let over = self.blocks.iter().filter(|block| block.is_over(now));
        let mut kept = Amount::ZERO;
        for block in over {
            if !block.expired {
                return true;
            }
            kept = kept.saturating_add(block.remaining);
        }
        let ended = |plan: &crate::ledger::QpsPlan| plan.expires.is_some_and(|end| end <= now);
        kept > held || self.qps_plans.iter().any(ended)
    }
}

/// what pays holds after its expiry first; then priority ascending, earliest expiry (none last), bonus before paid, earliest
/// effective, id.
fn burn_order(
    block: &CreditBlock,
) -> (
    bool,
    i32,
    bool,
    Option<Timestamp>,
    CreditKind,
    Timestamp,
    u64,
) {
    (
        !block.expired,
        block.priority,
        block.expires.is_none(),
        block.expires,
        block.kind,
        block.effective,
        block.id,
    )
}
