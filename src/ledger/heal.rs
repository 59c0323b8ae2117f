//! Two books of one account become one: what a replica remembers, and what a store has that lost history. Pure, like the rest of the
//! ledger.
//!
//! Both may have grown since they parted: the store took commands after it had lost some, and the replica knows those that were lost.
//! Commands are known by their entries. Those that the store lacks are put back as they were if its book is an earlier state of ours,
//! and carried out once more on it otherwise. What is derived (spend absorbed, credit expired) is derived again.

use super::apply::apply_again;
use super::book::Book;
use super::entry::{Claim, Entry, EntryKind};
use super::event::Event;
use super::rejected::Rejected;
use super::state::Spent;
use super::{Action, Command, Configure};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::policy::Policy;

/// How many of its last entries a replica remembers of an account: as many commands, nearly, can be put back into a store that lost
/// them. A store that is restarted or failed over loses seconds, and a command a second for half a minute is much for one account.
pub const TAIL_MAX: usize = 32;

/// How many commands are remembered from before those. An account that is looked at again and again, as while calls hold credit that has
/// expired, writes one sum of usage after the other; its commands are not forgotten for that.
pub(super) const OLDER_MAX: usize = 16;

/// How many entries are read to find them: more than one look for each of what a busy account has in flight.
const READ_ON_MAX: u64 = 64;

/// A book with entries of its end, ascending; they end at the book's last.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The book.
    pub book: &'a Book,
    /// Its last entries, at least [`TAIL_MAX`] or all if there are fewer; before those, perhaps commands alone.
    pub tail: &'a [Entry],
    /// From this sequence number on no command is missing among them; what is derived may be.
    pub since: u64,
}

/// What to write into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healed {
    /// The book.
    pub book: Book,
    /// Entries that go on from the store's last.
    pub entries: Vec<Entry>,
    /// What they announce, if it was not announced before.
    pub events: Vec<Event>,
    /// What stands under the claims of the commands that were put back.
    pub claims: Vec<(String, Claim)>,
    /// The change of lifetime credit and floor.
    pub credit_delta: Amount,
    /// How many commands were put back.
    pub commands: usize,
    /// Commands that may be lost for good: older than what is remembered.
    pub forgotten: u64,
}

/// What the store lacks of ours; `None` if it has all of it. `spent` is what the replicas have done, `claimed` says whether something stands
/// under a claim in the store.
///
/// # Errors
///
/// If the ledger refuses a command that it took before: a sum beyond the range, or too many credit blocks.
pub fn heal(
    theirs: Told<'_>,
    ours: Told<'_>,
    spent: Spent,
    claimed: impl Fn(&str) -> bool,
    policy_of: impl Fn(&Book) -> Policy,
    now: Timestamp,
) -> Result<Option<Healed>, Rejected> {
    let missing = missing(theirs, ours);
    if missing.iter().all(|entry| entry.kind.is_derived()) {
        return Ok(None);
    }
    let forgotten = ours
        .since
        .saturating_sub(1)
        .saturating_sub(theirs.book.entries);
    let whole = ours.whole_since();
    let known = |entry: &Entry| {
        entry.sequence < ours.since
            || (entry.sequence < whole && entry.kind.is_derived())
            || has(ours.tail, entry)
    };
    if theirs.book.entries <= ours.book.entries && theirs.tail.iter().all(known) {
        return Ok(Some(go_on(theirs, ours, forgotten)));
    }
    let mut healed = Healed {
        book: theirs.book.clone(),
        entries: Vec::new(),
        events: Vec::new(),
        claims: Vec::new(),
        credit_delta: Amount::ZERO,
        commands: 0,
        forgotten,
    };
    for entry in missing {
        let Some(command) = command(entry, ours.book) else {
            continue;
        };
        if command.claims().iter().any(|claim| claimed(claim)) {
            continue;
        }
        let asked = again(&command, entry, ours.book);
        let policy = policy_of(&asked.named(&healed.book));
        match apply_again(&healed.book, spent, &asked, &policy, now, entry) {
            Ok(applied) => healed.add(applied, &command, entry),
            // Put back and expired at once, or settled already, or no place left for what moves no money.
            Err(
                Rejected::Expired(_)
                | Rejected::InvoiceExists(_)
                | Rejected::InvoicePaid(_)
                | Rejected::UnknownInvoice(_)
                | Rejected::TooMany { .. },
            ) => {}
            Err(rejected) => return Err(rejected),
        }
    }
    Ok((healed.commands > 0).then_some(healed))
}

/// Whether a command of ours is not among the store's last entries.
pub fn lacks(theirs: Told<'_>, ours: Told<'_>) -> bool {
    let missing = missing(theirs, ours);
    missing.iter().any(|entry| !entry.kind.is_derived())
}

/// Entries of ours that are not among the store's last. What is older than those, it is taken to have.
fn missing<'a>(theirs: Told<'_>, ours: Told<'a>) -> Vec<&'a Entry> {
    ours.tail
        .iter()
        .filter(|entry| entry.sequence >= theirs.since && !has(theirs.tail, entry))
        .collect()
}

impl<'a> Told<'a> {
    /// A book with all of its last entries.
    pub fn whole(book: &'a Book, tail: &'a [Entry]) -> Self {
        let since = first(book, tail.len());
        Self { book, tail, since }
    }

    /// From this sequence number on no entry is missing at all.
    fn whole_since(&self) -> u64 {
        let mut next = self.book.entries.saturating_add(1);
        for entry in self.tail.iter().rev() {
            if entry.sequence.saturating_add(1) != next {
                break;
            }
            next = entry.sequence;
        }
        next
    }
}

/// The sequence number of the first of so many entries at a book's end.
pub fn first(book: &Book, count: usize) -> u64 {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    book.entries.saturating_sub(count).saturating_add(1)
}

/// After which entry to read once more, for the commands from before a ledger's last entries; `None` if those are commands for the most
/// part, or all there are.
pub fn read_on(book: &Book, tail: &[Entry]) -> Option<u64> {
    let derived = tail.iter().filter(|entry| entry.kind.is_derived());
    let before = first(book, tail.len()).saturating_sub(1);
    let few = tail.len() >= TAIL_MAX && derived.count() > TAIL_MAX / 2;
    (few && before > 0).then(|| before.saturating_sub(READ_ON_MAX))
}

/// Cuts what is remembered of a ledger's end: the last [`TAIL_MAX`] entries, and some commands from before them. Returns from which
/// sequence number on no command is missing.
pub fn cut(tail: &mut Vec<Entry>, since: u64) -> u64 {
    let mut older: Vec<Entry> = tail
        .drain(..tail.len().saturating_sub(TAIL_MAX))
        .filter(|entry| !entry.kind.is_derived())
        .collect();
    let mut gone = older.drain(..older.len().saturating_sub(OLDER_MAX));
    let since = gone
        .next_back()
        .map_or(since, |last| last.sequence.saturating_add(1));
    drop(gone);
    tail.splice(..0, older);
    since
}

/// What is remembered of a ledger's end when the last entries are read again: commands from before those are kept, if there is no gap
/// between. Returns from which sequence number on no command is missing.
pub fn join(known: Told<'_>, book: &Book, tail: &mut Vec<Entry>) -> u64 {
    let since = first(book, tail.len());
    if known.book.entries.saturating_add(1) < since || known.since >= since {
        return cut(tail, since);
    }
    let older = known.tail.iter();
    let older = older.filter(|entry| entry.sequence < since && !has(tail, entry));
    let older: Vec<Entry> = older.cloned().collect();
    tail.splice(..0, older);
    cut(tail, known.since)
}

/// What to write into a store that has nothing of the account any more.
pub fn refill(ours: Told<'_>) -> Healed {
    let empty = Book::new(
        ours.book.account.clone(),
        ours.book.unit.clone(),
        ours.book.policy.clone(),
        ours.book.created,
    );
    let gone = ours.since.saturating_sub(1);
    let before = Book {
        entries: gone,
        ..empty
    };
    go_on(Told::whole(&before, &[]), ours, gone)
}

/// The store's book is an earlier state of ours: ours, as it is.
fn go_on(theirs: Told<'_>, ours: Told<'_>, forgotten: u64) -> Healed {
    let last = theirs.book.entries;
    let later = ours.tail.iter();
    // Where the store's were moved up before, ours still have the higher numbers. Of two sums of usage at one instant, each is its own.
    let there = |entry: &Entry| {
        let derived = entry.kind.is_derived();
        let mut alike = theirs.tail.iter();
        alike.any(|other| same(other, entry) && (!derived || other.balance == entry.balance))
    };
    let later = later.filter(|entry| entry.sequence > last && !there(entry));
    // Where some between the two are forgotten, the rest moves up: a ledger has no gaps.
    let entries: Vec<Entry> = later
        .zip(last.saturating_add(1)..)
        .map(|(entry, sequence)| Entry {
            sequence,
            ..entry.clone()
        })
        .collect();
    let limit = |book: &Book| book.lifetime_credit.saturating_add(book.floor);
    let claims = entries
        .iter()
        .filter_map(|entry| command(entry, ours.book).map(|command| claims(&command, entry)));
    Healed {
        claims: claims.flatten().collect(),
        commands: entries
            .iter()
            .filter(|entry| !entry.kind.is_derived())
            .count(),
        book: Book {
            entries: entries.last().map_or(last, |entry| entry.sequence),
            ..ours.book.clone()
        },
        events: Vec::new(),
        credit_delta: limit(ours.book).saturating_sub(limit(theirs.book)),
        entries,
        forgotten,
    }
}

impl Healed {
    fn add(&mut self, applied: super::Applied, command: &Command, from: &Entry) {
        let super::Applied {
            book,
            mut entries,
            events,
            credit_delta,
        } = applied;
        // The command's own entry stands under its first time, and with the command as it was given: so the next replica knows it again.
        let own = entries
            .iter_mut()
            .rev()
            .find(|entry| !entry.kind.is_derived());
        if let Some(entry) = own {
            entry.action.clone_from(&from.action);
            entry.origin = Some(from.origin.unwrap_or(from.time));
            self.claims.extend(claims(command, entry));
        }
        self.book = book;
        self.entries.append(&mut entries);
        self.events.extend(events);
        self.credit_delta = self.credit_delta.saturating_add(credit_delta);
        self.commands = self.commands.saturating_add(1);
    }
}

fn claims(command: &Command, entry: &Entry) -> Vec<(String, Claim)> {
    let claim = |name| {
        let fingerprint = command.fingerprint();
        let entry = entry.clone();
        (name, Claim { fingerprint, entry })
    };
    command.claims().into_iter().map(claim).collect()
}

/// The command as it is carried out once more. Rules are replaced, not added to: the last ones that were set are those of the book.
/// What was worked out when it first came, its entry says.
fn again(command: &Command, entry: &Entry, book: &Book) -> Command {
    let mut command = command.clone();
    match &mut command.action {
        Action::Configure(configure) => {
            *configure = Configure {
                name: Some(book.name.clone()),
                policy: Some(book.policy.clone()),
                overrides: Some(book.overrides.clone()),
                tenant: Some(book.tenant.clone().unwrap_or_default()),
                tier: Some(book.tier.clone()),
                recipients: Some(book.recipients.clone()),
            };
        }
        Action::Recharge { expires, .. } | Action::BuyPlan { expires, .. } => {
            *expires = entry.expires
        }
        _ => {}
    }
    command
}

/// Whether an entry is among these.
fn has(tail: &[Entry], entry: &Entry) -> bool {
    tail.iter().any(|other| same(other, entry))
}

/// Whether an entry is the other: itself, or carried out once more.
fn same(other: &Entry, entry: &Entry) -> bool {
    let origin = |entry: &Entry| entry.origin.unwrap_or(entry.time);
    // What a command moved may differ where it was carried out once more, if it is the command that says how much.
    let amount = other.amount == entry.amount || entry.action.is_some();
    other.kind == entry.kind
        && amount
        && other.idempotency_key == entry.idempotency_key
        && other.order_id == entry.order_id
        && origin(other) == origin(entry)
        && other.note == entry.note
        && other.action == entry.action
}

/// The command that an entry records; `None` for what follows by itself. `book` is the one that the entry belongs to.
pub(super) fn command(entry: &Entry, book: &Book) -> Option<Command> {
    let action = match &entry.action {
        Some(action) => (**action).clone(),
        None => told(entry, book)?,
    };
    Some(Command {
        idempotency_key: entry.idempotency_key.clone(),
        action,
    })
}

/// The command of an entry that needs none beside it.
fn told(entry: &Entry, book: &Book) -> Option<Action> {
    let (amount, note) = (entry.amount, entry.note.clone());
    let (priority, expires) = (entry.priority, entry.expires);
    Some(match entry.kind {
        EntryKind::Recharge => Action::Recharge {
            amount,
            order_id: entry.order_id.clone()?,
            priority,
            expires,
            note,
        },
        EntryKind::Grant => Action::Grant {
            amount,
            order_id: entry.order_id.clone(),
            priority,
            expires,
            note,
        },
        EntryKind::Adjustment => Action::Adjust { amount, note },
        EntryKind::LateCharge => Action::LateCharge {
            amount: amount.negated(),
            key: entry.key.clone(),
            model: entry.model.clone(),
            note,
        },
        // As it was written before entries had their command with them.
        EntryKind::Configuration => Action::Configure(Configure {
            name: Some(book.name.clone()),
            policy: Some(book.policy.clone()),
            overrides: Some(book.overrides.clone()),
            ..Configure::default()
        }),
        _ => return None,
    })
}
