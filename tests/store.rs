//! One suite over every store: what the trait promises, checked on the embedded store, on a real Redis and on a real cluster. What
//! only one of them can show stands in `store/embedded.rs`, `store/redis.rs`, `store/history.rs`, `store/outages.rs`,
//! `store/cluster.rs`, `store/sentinel.rs` and `store/tls.rs`.

mod books;
mod cluster;
mod embedded;
mod history;
mod leases;
mod model;
mod outages;
mod purge;
mod redis;
mod script;
mod sentinel;
mod tls;
mod usage;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::{Clock, Hour, Timestamp};
use tollgate::id::{AccountId, KeyId, ModelName, ReplicaId};
use tollgate::ledger::{Book, Entry, EntryKind, Event, EventKind};
use tollgate::money::Amount;
use tollgate::store::{
    Commit, KeyRecord, Publish, Published, Row, Snapshot, Sought, Standing, Store, Stored, UsageRow,
};
use tollgate::usage::Tally;

use crate::support::until;

/// A store under test, with whatever must outlive it.
struct Fixture {
    store: Arc<dyn Store>,
    /// Moves the embedded store's time; Redis has its own.
    clock: Clock,
    /// For how long what is put back is fenced.
    fence: Duration,
    _keep: Box<dyn Any + Send + Sync>,
}

/// Runs each case on each store.
macro_rules! suite {
    ($($module:ident: $($case:ident)*;)*) => {
        mod on_embedded {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$module::$case(&super::embedded::fixture()).await;
            })*)*
        }
        mod on_redis {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$module::$case(&super::redis::fixture().await).await;
            })*)*
        }
        // One cluster for the cases of a module, as it takes two seconds to start: each with a prefix of its own.
        mod on_cluster {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $module() {
                let cluster = crate::support::redis::Cluster::start().await;
                $(println!("{}", stringify!($case));
                let fixture = super::cluster::fixture(&cluster, concat!(stringify!($case), ":"));
                super::$module::$case(&fixture.await).await;)*
            })*
        }
    };
}

suite! {
    books: an_account_that_is_not_there
        a_commit_creates_once_and_conflicts_after
        claims_stand_with_their_effect
        a_claim_is_never_replaced
        entries_come_in_pages
        entries_that_leave_a_gap_are_refused
        events_are_ordered_and_resumable
        a_sum_beyond_the_range_changes_nothing
        accounts_are_listed_in_order
        keys_are_put_found_and_revoked
        what_is_put_back_is_fenced_for_a_lease_time
        a_digest_belongs_to_one_key
        documents_are_compared_and_set
        changes_are_told
        concurrent_commits_all_land
        concurrent_keys_all_land;
    leases: a_message_is_applied_once
        a_lost_reply_is_answered_with_what_stands
        a_store_that_lost_data_is_healed
        messages_that_contradict_themselves_are_refused
        a_sum_beyond_the_range_is_refused_whole
        a_batch_is_carried_out_one_by_one
        the_only_replica_gets_what_it_wants
        two_replicas_shrink_towards_the_end
        what_waits_is_granted_first
        headroom_goes_back
        amounts_beyond_two_to_the_53_are_exact
        a_silent_replica_lapses
        a_retired_replica_leaves_a_tombstone
        a_retired_replica_that_believes_otherwise_is_told
        shares_never_exceed_the_limit
        the_shares_of_a_silent_replica_come_back
        what_a_replica_saw_and_the_store_lost_is_out_of_reach
        what_was_lost_is_exact_beyond_two_to_the_53
        concurrent_messages_conserve;
    usage: usage_is_summed_over_replicas
        opening_finds_what_a_replica_left
        spend_is_listed_once_at_its_last_change;
    purge: nothing_of_a_purged_account_is_left_and_it_never_comes_back
        a_purged_account_leaves_the_feed_of_spend_as_it_was
        only_the_version_that_was_read_is_purged;
    model: random_histories_agree_with_the_model;
    script: the_same_commands_give_the_same_ledger;
}

/// Of the stores over Redis.
const FENCE: Duration = Duration::from_millis(1_500);

fn nano(nanos: i64) -> Amount {
    Amount::from_nanos(nanos)
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

fn replica(name: &str) -> ReplicaId {
    ReplicaId::new(name).unwrap()
}

fn key_id(name: &str) -> KeyId {
    KeyId::new(name).unwrap()
}

const NOON: Timestamp = Timestamp::from_nanos(1_790_000_000_000_000_000);

fn book(name: &str, credit: i64) -> Book {
    let mut book = Book::new(account(name), "USD".into(), "default".into(), NOON);
    book.lifetime_credit = nano(credit);
    book
}

/// A commit without entries, events or claims.
fn plain(expected: u64, book: Book, credit_delta: i64) -> Commit {
    Commit {
        expected,
        book,
        credit_delta: nano(credit_delta),
        entries: Vec::new(),
        events: Vec::new(),
        claims: Vec::new(),
        restore: None,
    }
}

fn entry(sequence: u64) -> Entry {
    Entry {
        sequence,
        time: NOON,
        kind: EntryKind::Recharge,
        amount: nano(i64::try_from(sequence).unwrap()),
        balance: nano(0),
        debt_paid: nano(0),
        debt_made: nano(0),
        allocations: Vec::new(),
        block: None,
        idempotency_key: None,
        order_id: None,
        key: None,
        model: None,
        note: format!("entry {sequence} with \"quotes\", ünïcode\nand a line"),
        priority: 0,
        expires: None,
        origin: None,
        action: None,
    }
}

fn event(name: &str, number: u64) -> Event {
    Event {
        id: format!("{name}/{number}"),
        account: account(name),
        time: NOON,
        kind: EventKind::CreditAdded,
        balance: nano(5),
        amount: nano(i64::try_from(number).unwrap()),
        about: None,
        idempotency_key: None,
        recipients: Vec::new(),
    }
}

fn key(name: &str, id: &str, digest: &str) -> KeyRecord {
    KeyRecord {
        id: key_id(id),
        account: account(name),
        digest: digest.into(),
        name: "a key".into(),
        hint: "sk-d".into(),
        created: NOON,
        expires: None,
        revoked: None,
        qps: Some(7),
        models: vec!["gpt-*".into()],
        service: "web".into(),
        budgets: Vec::new(),
    }
}

fn usage(hour: Option<i64>, id: &str, model: &str, exact: u64, cost: i64) -> UsageRow {
    UsageRow {
        hour: hour.map(Hour),
        key: key_id(id),
        model: (!model.is_empty()).then(|| ModelName::new(model).unwrap()),
        tally: Tally {
            exact,
            cost_nanos: cost,
            ..Tally::default()
        },
    }
}

/// An account with so much to lease.
async fn seed(store: &dyn Store, name: &str, credit: i64) {
    let stored = store
        .commit(plain(0, book(name, credit), credit))
        .await
        .unwrap();
    assert_eq!(stored, Stored::At(1));
}

async fn snapshot(store: &dyn Store, name: &str) -> Snapshot {
    store.read(&account(name), &[]).await.unwrap().unwrap()
}

async fn row(store: &dyn Store, name: &str, who: &str) -> Row {
    let opened = store
        .open(&account(name), &replica(who), Hour(0))
        .await
        .unwrap();
    opened.unwrap().row
}

/// A replica as the suite drives it: it remembers what it believes, as the real one does.
struct Speaker {
    account: AccountId,
    replica: ReplicaId,
    seq: u64,
    believed: Standing,
    spend: i64,
    held: i64,
    seen: i64,
    total: i64,
    rate: Sought,
    places: Sought,
    usage: Vec<UsageRow>,
}

impl Speaker {
    fn new(name: &str, who: &str) -> Self {
        Self {
            account: account(name),
            replica: replica(who),
            seq: 0,
            believed: Standing::default(),
            spend: 0,
            held: 0,
            seen: 0,
            total: 0,
            rate: Sought::default(),
            places: Sought::default(),
            usage: Vec::new(),
        }
    }

    /// The next message: keeps what it has beyond its spend, gives back `back` of it, asks for `want`.
    fn message(&mut self, back: i64, want: i64, need: i64) -> Publish {
        self.seq += 1;
        let ceiling = (self.believed.committed.nanos() - back).max(self.spend);
        Publish {
            account: self.account.clone(),
            seq: self.seq,
            believed: self.believed,
            new: Standing {
                spend: nano(self.spend),
                committed: nano(ceiling),
                ..self.believed
            },
            held: nano(self.held),
            want: nano(want),
            need: nano(need),
            least: nano(0),
            seen: nano(self.seen),
            total: nano(self.total),
            history: None,
            rate: self.rate,
            places: self.places,
            usage: self.usage.clone(),
        }
    }

    /// Sends the next message, believes the answer.
    async fn say(&mut self, store: &dyn Store, back: i64, want: i64, need: i64) -> Published {
        let message = self.message(back, want, need);
        let answer = send(store, &self.replica, message).await;
        self.believed = answer.standing;
        answer
    }

    /// How much was granted when it asked for this.
    async fn lease(&mut self, store: &dyn Store, want: i64, need: i64) -> i64 {
        let before = self.believed.committed.nanos().max(self.spend);
        let answer = self.say(store, 0, want, need).await;
        assert!(answer.applied, "{answer:?}");
        answer.standing.committed.nanos() - before
    }
}

async fn send(store: &dyn Store, who: &ReplicaId, message: Publish) -> Published {
    let mut answers = store.publish(who, vec![message]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).unwrap()
}
