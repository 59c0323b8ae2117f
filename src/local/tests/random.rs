//! Random lives of a data directory against a naive model: whatever is counted, published, folded, let go of and killed, and in
//! whatever order, what was counted is what is there.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::local::counters::{AccountCounters, RowId};

/// One thing that happens. Accounts, keys and models are few, so that things meet.
#[derive(Clone, Debug)]
enum Step {
    /// A call settles that was admitted so many hours ago.
    Count(Call, i64),
    /// A call is admitted, and its hold noted.
    Hold(Call),
    /// The oldest open hold ends: with the call counted, or without.
    End(bool),
    /// The store acknowledges all of an account.
    Publish(usize),
    NextHour,
    /// Hours that were over so many hours ago are folded.
    Fold(i64),
    /// The same, and the process is killed when the transaction is durable.
    FoldKilled(i64),
    /// An account is let go of.
    LetGo(usize),
    /// The process is killed, and so is the next one: while it ends the holds of the first, after so many stores.
    Killed(usize),
    Upkeep,
}

#[derive(Clone, Debug)]
struct Call {
    account: usize,
    key: usize,
    model: Option<usize>,
    cost: i64,
    certainty: Certainty,
}

fn call() -> impl Strategy<Value = Call> {
    let certainty = [Certainty::Exact, Certainty::Estimated, Certainty::None];
    let certainty = prop::sample::select(certainty.to_vec());
    let model = proptest::option::of(0..2_usize);
    (0..2_usize, 0..2_usize, model, 0..100_i64, certainty).prop_map(
        |(account, key, model, cost, certainty)| Call {
            account,
            key,
            model,
            cost,
            certainty,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (call(), 0..3_i64).prop_map(|(call, ago)| Step::Count(call, ago)),
        3 => call().prop_map(Step::Hold),
        2 => any::<bool>().prop_map(Step::End),
        4 => (0..2_usize).prop_map(Step::Publish),
        3 => Just(Step::NextHour),
        2 => (0..2_i64).prop_map(Step::Fold),
        1 => (0..2_i64).prop_map(Step::FoldKilled),
        2 => (0..2_usize).prop_map(Step::LetGo),
        2 => (0..9_usize).prop_map(Step::Killed),
        1 => Just(Step::Upkeep),
    ]
}

type RowKey = (usize, usize, Option<usize>);

/// What must be there.
#[derive(Default)]
struct Model {
    rows: BTreeMap<RowKey, Tally>,
    /// Holds of a process that was killed, with the hour of their slot, until they are ended.
    left: Vec<(RowKey, Hour, i64)>,
}

impl Model {
    fn count(&mut self, row: RowKey, cost: i64, certainty: Certainty) {
        let tally = self.rows.entry(row).or_default();
        match certainty {
            Certainty::Exact => tally.exact += 1,
            Certainty::Estimated => tally.estimated += 1,
            Certainty::None => tally.none += 1,
        }
        tally.cost_nanos += cost;
        tally.counts.set(Meter::Request, tally.calls());
    }

    /// Holds that were left, of some slots, end by policy.
    fn end(&mut self, ends: impl Fn(RowKey, Hour) -> bool) {
        let ended = self.left.extract_if(.., |(row, hour, _)| ends(*row, *hour));
        for (row, _, amount) in ended.collect::<Vec<_>>() {
            if policy(row.0) == Unsettled::Charge {
                self.count(row, amount, Certainty::Estimated);
            }
        }
    }
}

/// One account has unsettled holds charged, the other has them released.
fn policy(account: usize) -> Unsettled {
    [Unsettled::Charge, Unsettled::Release][account]
}

fn name(account: usize) -> AccountId {
    super::account(["charging", "releasing"][account])
}

struct World {
    dir: tempfile::TempDir,
    local: Option<Local>,
    loaded: BTreeMap<usize, AccountCounters>,
    open: Vec<(Slot, Call)>,
    hour: i64,
    model: Model,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            local: Some(open(dir.path())),
            dir,
            loaded: BTreeMap::new(),
            open: Vec::new(),
            hour: 100,
            model: Model::default(),
        }
    }

    fn local(&self) -> &Local {
        self.local.as_ref().unwrap()
    }

    fn slot(&mut self, call: &Call, hour: i64) -> Slot {
        if !self.loaded.contains_key(&call.account) {
            let taken = self.local().take_up(&name(call.account)).unwrap();
            let (counters, _) = taken.begin(policy(call.account));
            self.loaded.insert(call.account, counters);
            self.model.end(|row, _| row.0 == call.account);
        }
        let key = KeyId::new(&format!("k{}", call.key)).unwrap();
        let model = call
            .model
            .map(|n| ModelName::new(&format!("m{n}")).unwrap());
        self.loaded[&call.account].slot(&key, model.as_ref(), Hour(hour))
    }

    fn count(&mut self, slot: &Slot, call: &Call) {
        slot.count(nanos(call.cost), call.certainty, &Counts::default());
        self.model.count(row_of(call), call.cost, call.certainty);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Count(call, ago) => {
                let slot = self.slot(&call, self.hour - ago);
                self.count(&slot, &call);
            }
            Step::Hold(call) => {
                let slot = self.slot(&call, self.hour);
                slot.hold(nanos(call.cost));
                self.open.push((slot, call));
            }
            Step::End(settled) => {
                if !self.open.is_empty() {
                    let (slot, call) = self.open.remove(0);
                    slot.end_hold(nanos(call.cost));
                    if settled {
                        self.count(&slot, &call);
                    }
                }
            }
            Step::Publish(account) => {
                let taken = self.local().take_up(&name(account)).unwrap();
                taken
                    .slots()
                    .iter()
                    .for_each(|slot| slot.acknowledge(&slot.tally()));
            }
            Step::NextHour => self.hour += 1,
            Step::Fold(ago) => {
                self.local().fold(Hour(self.hour - ago)).unwrap();
            }
            Step::FoldKilled(ago) => {
                let local = self.local();
                let hour = Hour(self.hour - ago);
                local.counters.close_before(hour);
                let due = local.counters.due(hour);
                let tallied: Vec<Tallied> = due.iter().map(Tallied::of).collect();
                let id = local.counters.file_id();
                local.memory.fold(id, hour, &tallied, &[]).unwrap();
                self.killed();
            }
            Step::LetGo(account) => {
                // As the engine: not with calls in flight.
                if self.open.iter().all(|(_, call)| call.account != account) {
                    self.loaded.remove(&account);
                }
            }
            Step::Killed(stores) => {
                self.killed();
                for account in 0..2 {
                    let taken = self.local().take_up(&name(account)).unwrap();
                    let Some(slot) = taken.slots().iter().find(|slot| slot.has_holds()) else {
                        continue;
                    };
                    slot.end_left_open_killed_after(policy(account), stores);
                    // From the third store on it is begun, and finished at the next start.
                    if stores >= 3 {
                        let (slot, hour) = (row_id(account, slot.row()), slot.row().hour);
                        self.model.end(|row, of| (row, of) == (slot, hour));
                    }
                }
                self.killed();
            }
            Step::Upkeep => {
                self.local().counters.make_room().unwrap();
                self.local().counters.flush().unwrap();
            }
        }
    }

    /// Nothing is said to the file or the disk; what was held stays so.
    fn killed(&mut self) {
        let held = self.open.drain(..);
        let left = held.map(|(slot, call)| (row_of(&call), slot.row().hour, call.cost));
        self.model.left.extend(left);
        self.loaded.clear();
        self.local = None;
        self.local = Some(open(self.dir.path()));
    }

    fn check(&self) {
        let local = self.local();
        assert_eq!(local.counters().refused(), []);
        assert_eq!(local.counters().unprotected(), 0);
        for account in 0..2 {
            let taken = local.take_up(&name(account)).unwrap();
            let mut found: BTreeMap<RowKey, Tally> = BTreeMap::new();
            for UsageRow {
                key, model, tally, ..
            } in taken.lifetime()
            {
                let hour = Hour::default();
                found.insert(row_id(account, &RowId { hour, key, model }), tally);
            }
            found.retain(|_, tally| *tally != Tally::default());
            let want = self.model.rows.iter().filter(|(row, _)| row.0 == account);
            let want: BTreeMap<RowKey, Tally> = want.map(|(row, tally)| (*row, *tally)).collect();
            assert_eq!(found, want, "account {account}");
            let spend = want.values().map(|tally| tally.cost_nanos).sum();
            assert_eq!(taken.spend(), nanos(spend), "usage adds up to spend");
        }
    }
}

fn row_id(account: usize, row: &RowId) -> RowKey {
    let number = |name: &str| name[1..].parse::<usize>().unwrap();
    let model = row.model.as_ref().map(|model| number(model.as_str()));
    (account, number(row.key.as_str()), model)
}

fn row_of(call: &Call) -> RowKey {
    (call.account, call.key, call.model)
}

proptest! {
    // Each starts a database and kills it some times, with a sync of the disk each time.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_was_counted_is_there(steps in vec(step(), 1..50)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        // Whatever was left open is ended by now.
        world.killed();
        for account in 0..2 {
            world.loaded.remove(&account);
            let call = Call { account, key: 0, model: None, cost: 1, certainty: Certainty::Exact };
            world.step(Step::Count(call, 0));
        }
        world.check();
    }
}
