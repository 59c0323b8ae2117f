//! A replica: its engine, its lines, its file, its clocks; how it is born, dies and comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tollgate::books::remember::Remembered;
use tollgate::clock::{Hour, Monotonic, Now, Timestamp};
use tollgate::engine::{Account, Bounds, CellId, Engine, Hold, Key};
use tollgate::id::{KeyId, ModelName, ReplicaId};
use tollgate::local::counters::Counters;
use tollgate::money::Amount;
use tollgate::store::{History, Opened};
use tollgate::sync::line::{Give, Line, Own, rules};
use tollgate::usage::{Certainty, Meter, Tally};

use super::driver::Asked;
use super::mutation::Past;
use super::setup::{DRIFT_PPM, LEASE, MS, Micros};
use super::store::DAWN;
use super::world::{Event, World};

/// Whose calls, of which model.
pub(crate) type Whose = (KeyId, Option<ModelName>);

/// What was really spent under one name, of one account, and what its file has of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// Every charge that was ever counted.
    pub(crate) spend: i64,
    /// By key and model.
    pub(crate) lifetime: BTreeMap<Whose, Tally>,
    /// The cells, as the file has them.
    cells: BTreeMap<(Hour, KeyId, Option<ModelName>), Tally>,
    /// Beside them: see [`Own`].
    pub(crate) seen: Amount,
    pub(crate) total: Amount,
    /// The highest spend that a store ever confirmed, for judging what was lost with a file.
    pub(crate) stored: i64,
}

/// Who counts under one name: one data directory.
#[derive(Debug)]
pub(crate) struct Ident {
    pub(crate) name: ReplicaId,
    /// The replica that has its file; `None` once that is lost, or gone for good.
    pub(crate) slot: Option<usize>,
    pub(crate) truth: Vec<Truth>,
}

/// The clocks of a replica: its running time starts anywhere and runs at its own speed; its time of day may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hands {
    start: u64,
    speed: u64,
    wall: i64,
}

impl Hands {
    pub(crate) fn now(&self, at: Micros) -> Now {
        let run = at * self.speed / 1_000;
        Now {
            mono: Monotonic::from_nanos(self.start + run),
            wall: Timestamp::from_nanos(DAWN + self.wall + run as i64),
        }
    }

    pub(crate) fn set(&mut self, by: i64) {
        self.wall += by;
    }
}

/// A call in flight.
#[derive(Debug)]
pub(crate) struct OpenCall {
    pub(crate) account: usize,
    pub(crate) hold: Hold,
    pub(crate) whose: Whose,
}

/// A call that waits for a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) want: Want,
    pub(crate) until: Micros,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) amount: i64,
    pub(crate) key: usize,
    pub(crate) named: bool,
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Monotonic,
    pub(crate) give: Give,
    pub(crate) tries: u32,
    /// The limits that it goes by: of the rate and of places.
    pub(crate) limits: (u64, u64),
}

/// An account that is taken up.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) account: Arc<Account>,
    pub(crate) keys: Vec<Arc<Key>>,
    pub(crate) line: Line,
    pub(crate) sent: Option<Sent>,
    pub(crate) waiting: Vec<Waiter>,
    pub(crate) observing: bool,
    pub(crate) refreshing: bool,
    /// Since then silent replicas need not be looked for again, nor the others be told that a limit is used up.
    pub(crate) looked: Monotonic,
    pub(crate) crowded: Monotonic,
    /// What must hold, worked out beside the machine: from then on nothing may be admitted.
    pub(crate) lease_end: Monotonic,
    pub(crate) margin: Duration,
    /// For mistakes.
    pub(crate) past: Past,
}

pub(crate) struct Replica {
    /// Whose file it has.
    pub(crate) ident: usize,
    pub(crate) up: bool,
    /// It and the store do not hear each other.
    pub(crate) cut: bool,
    /// It says its last word.
    pub(crate) leaving: Option<Micros>,
    /// Which run of it this is.
    pub(crate) life: u64,
    pub(crate) hands: Hands,
    /// What it remembers, in its file.
    pub(crate) recall: BTreeMap<usize, Remembered>,
    /// Accounts that are to be compared with the store though its history is the same.
    pub(crate) doubted: BTreeSet<usize>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) loaded: Vec<Option<Loaded>>,
    /// Accounts that are being taken up, and compared.
    pub(crate) loading: BTreeSet<usize>,
    pub(crate) comparing: BTreeSet<usize>,
    /// Whether the store may have another history than was looked for.
    pub(crate) reconcile: bool,
    pub(crate) calls: BTreeMap<u64, OpenCall>,
    pub(crate) asks: BTreeMap<u64, Asked>,
    pub(crate) last_token: u64,
    pub(crate) rounds: u64,
    /// The history behind its connection, and the histories it met: how old each was, and when it asked.
    pub(crate) link: Option<u64>,
    pub(crate) met: BTreeMap<u64, (Duration, Monotonic)>,
    pub(crate) seen_accounts: bool,
    /// Since then every word to the store was answered.
    pub(crate) reachable_since: Option<Monotonic>,
}

fn new_engine() -> Arc<Engine> {
    // Nobody asks for unknown keys here, and each start would pay for a table of them.
    let bounds = Bounds {
        unknown_keys_max: 1,
        ..Bounds::default()
    };
    Engine::new([1; 16], bounds, Counters::in_memory())
}

impl Truth {
    fn count(&mut self, whose: Whose, cost: i64, certainty: Certainty) {
        self.spend += cost;
        let tally = self.lifetime.entry(whose).or_default();
        match certainty {
            Certainty::Exact => tally.exact += 1,
            Certainty::Estimated => tally.estimated += 1,
            Certainty::None => tally.none += 1,
        }
        tally.cost_nanos += cost;
        tally.counts.set(Meter::Request, tally.calls());
    }
}

impl Replica {
    pub(crate) fn loaded(&mut self, account: usize) -> Option<&mut Loaded> {
        self.loaded[account].as_mut()
    }

    /// What its calls in flight hold of an account, and how many they are.
    pub(crate) fn open(&self, account: usize) -> (i64, u64) {
        let calls = self.calls.values().filter(|call| call.account == account);
        calls.fold((0, 0), |(held, count), call| {
            (held + call.hold.amount().nanos(), count + 1)
        })
    }

    /// Whether it may use its lease of an account, by its own clock.
    pub(crate) fn leased(&self, account: usize, at: Micros) -> bool {
        let loaded = self.loaded[account].as_ref();
        self.up && loaded.is_some_and(|loaded| self.hands.now(at).mono < loaded.lease_end)
    }

    pub(crate) fn note(&mut self, answered: bool, at: Micros) {
        if !answered {
            self.reachable_since = None;
        } else if self.reachable_since.is_none() {
            self.reachable_since = Some(self.hands.now(at).mono);
        }
    }

    fn forget_run(&mut self) {
        self.up = false;
        self.leaving = None;
        self.life += 1;
        self.asks.clear();
        self.calls.clear();
        self.loaded.iter_mut().for_each(|loaded| *loaded = None);
        self.loading.clear();
        self.comparing.clear();
        self.doubted.clear();
        self.link = None;
        self.met.clear();
        self.seen_accounts = false;
        self.reachable_since = None;
    }
}

impl World {
    /// A data directory of its own.
    fn make_ident(&mut self, slot: usize) -> usize {
        let name = format!("r{}", self.idents.len());
        self.idents.push(Ident {
            name: ReplicaId::new(&name).unwrap(),
            slot: Some(slot),
            truth: vec![Truth::default(); self.setup.accounts],
        });
        for watch in &mut self.watch {
            watch.joined();
        }
        self.idents.len() - 1
    }

    /// The name that a replica has now.
    pub(crate) fn who(&self, slot: usize) -> &ReplicaId {
        &self.idents[self.replicas[slot].ident].name
    }

    pub(crate) fn make_replica(&mut self, slot: usize) -> Replica {
        let ident = self.make_ident(slot);
        Replica {
            ident,
            up: true,
            cut: false,
            leaving: None,
            life: 0,
            hands: Hands {
                start: self.dice.roll(1 << 50),
                speed: 1_000_000 - DRIFT_PPM + self.dice.roll(2 * DRIFT_PPM + 1),
                wall: 0,
            },
            recall: BTreeMap::new(),
            doubted: BTreeSet::new(),
            engine: new_engine(),
            loaded: (0..self.setup.accounts).map(|_| None).collect(),
            loading: BTreeSet::new(),
            comparing: BTreeSet::new(),
            reconcile: true,
            calls: BTreeMap::new(),
            asks: BTreeMap::new(),
            last_token: 0,
            rounds: 0,
            link: None,
            met: BTreeMap::new(),
            seen_accounts: false,
            reachable_since: None,
        }
    }

    pub(crate) fn start(&mut self, slot: usize) {
        let life = self.replicas[slot].life;
        let delay = self.some(50 * MS);
        self.at(delay, Event::Tick(slot));
        let delay = self.some(80 * MS);
        self.at(delay, Event::Call(slot));
        self.at(1, Event::Listen { slot, life });
    }

    /// Takes an account up, with what the file has of it.
    pub(crate) fn take_up(&mut self, slot: usize, account: usize, history: u64, opened: &Opened) {
        let policy = self.policy_of(account, &opened.snapshot.book);
        let replica = &mut self.replicas[slot];
        let truth = &self.idents[replica.ident].truth[account];
        let (engine, now) = (Arc::clone(&replica.engine), replica.hands.now(self.now));
        let cell = |((hour, key, model), tally): (&(Hour, KeyId, Option<ModelName>), &Tally)| {
            let name = model.as_ref().map(ModelName::as_str);
            let id = CellId {
                hour: *hour,
                key: key.clone(),
                model: name.map_or_else(Default::default, |name| engine.model(name).unwrap()),
            };
            (id, model.clone(), *tally)
        };
        let own = Own {
            cells: truth.cells.iter().map(cell).collect(),
            lifetime: truth.lifetime.clone(),
            seen: truth.seen,
            total: truth.total,
            history: replica.recall.get(&account).and_then(|known| known.history),
        };
        let another = own.history.is_some_and(|known| known != History(history));
        let rules = rules(
            &opened.snapshot.book,
            opened.snapshot.spend,
            policy.clone(),
            now,
        );
        let id = opened.snapshot.book.account.clone();
        let cells: Vec<_> = own
            .cells
            .iter()
            .map(|(id, _, tally)| (id.clone(), *tally))
            .collect();
        let taken = engine.load(engine.counters().take_up(&id), rules, cells.into_iter());
        let keys = opened
            .keys
            .iter()
            .map(|key| engine.load_key(None, &taken, key.clone()));
        let keys = keys.collect();
        let mut line = Line::new(opened, own, now);
        line.go_by(&taken, policy, now);
        if another {
            line.say_again(&taken);
        }
        replica.loaded[account] = Some(Loaded {
            account: taken,
            keys,
            line,
            sent: None,
            waiting: Vec::new(),
            observing: false,
            refreshing: false,
            looked: Monotonic::default(),
            crowded: Monotonic::default(),
            lease_end: Monotonic::default(),
            margin: self.setup.times.margin,
            past: Past::default(),
        });
        self.note_seen(slot, account);
    }

    /// A call is counted: what a crash leaves in the file from now on.
    pub(crate) fn count(&mut self, slot: usize, call: &OpenCall, cost: i64, certainty: Certainty) {
        let ident = self.replicas[slot].ident;
        let truth = &mut self.idents[ident].truth[call.account];
        truth.count(call.whose.clone(), cost, certainty);
        self.watch[call.account].counted(ident, cost - call.hold.amount().nanos());
    }

    /// The cells as they stand in the file.
    pub(crate) fn note_cells(&mut self, slot: usize, account: usize) {
        let replica = &self.replicas[slot];
        let Some(loaded) = &replica.loaded[account] else {
            return;
        };
        let truth = &mut self.idents[replica.ident].truth[account];
        for cell in loaded.account.cells() {
            let CellId { hour, key, .. } = cell.id();
            truth
                .cells
                .insert((hour, key, cell.row().model.clone()), cell.read());
        }
        let sum: i64 = truth.cells.values().map(|tally| tally.cost_nanos).sum();
        let spend = truth.spend;
        if sum != spend {
            self.breaks(
                "P2 exactly once",
                format!("cells add up to {sum}, {spend} was spent"),
            );
        }
    }

    /// Ends calls in flight: by policy, or as if they had never been.
    fn end_calls(&mut self, slot: usize, by_policy: bool) {
        for (_, call) in std::mem::take(&mut self.replicas[slot].calls) {
            if by_policy {
                self.drop_call(slot, call);
            } else {
                call.hold.release();
            }
        }
    }

    /// Nobody settles a call: it ends by policy.
    pub(crate) fn drop_call(&mut self, slot: usize, call: OpenCall) {
        let loaded = self.replicas[slot].loaded[call.account].as_ref();
        let charge = loaded.is_some_and(|loaded| {
            loaded.account.rules().policy.unsettled == tollgate::policy::Unsettled::Charge
        });
        if charge {
            let held = call.hold.amount().nanos();
            self.count(slot, &call, held, Certainty::Estimated);
        }
        drop(call);
    }

    /// A replica dies, at any moment. Its file stays, unless that is lost too.
    pub(crate) fn crash(&mut self, slot: usize, with_file: bool) {
        if !self.replicas[slot].up {
            return;
        }
        self.done.crashes += 1;
        self.say(|world| format!("{} dies, file: {with_file}", world.who(slot)));
        let by_policy = self.dice.chance(500);
        self.end_calls(slot, by_policy);
        self.stop(slot, with_file);
    }

    /// A process ends.
    pub(crate) fn stop(&mut self, slot: usize, with_file: bool) {
        for account in 0..self.setup.accounts {
            self.note_cells(slot, account);
        }
        self.end_calls(slot, false);
        self.replicas[slot].forget_run();
        if !with_file {
            let ident = self.replicas[slot].ident;
            self.idents[ident].slot = None;
            let fresh = self.make_ident(slot);
            self.replicas[slot].ident = fresh;
            self.replicas[slot].recall.clear();
            self.backend.file_lost(ident);
        }
        let (life, delay) = (self.replicas[slot].life, self.some(self.setup.away));
        self.at(delay, Event::Boot { slot, life });
        self.check_all();
    }

    /// It starts again.
    pub(crate) fn boot(&mut self, slot: usize, life: u64) {
        let replica = &mut self.replicas[slot];
        if replica.up || replica.life != life {
            return;
        }
        replica.up = true;
        replica.engine = new_engine();
        replica.reconcile = true;
        // Who remembers accounts knows that there were some.
        replica.seen_accounts = !replica.recall.is_empty();
        self.say(|world| format!("{} starts", world.who(slot)));
        self.at(1, Event::Listen { slot, life });
    }

    /// It begins to say its last word.
    pub(crate) fn leave(&mut self, slot: usize) {
        if !self.replicas[slot].up || self.replicas[slot].leaving.is_some() {
            return;
        }
        self.say(|world| format!("{} leaves", world.who(slot)));
        self.replicas[slot].leaving = Some(self.now + 2 * LEASE);
        self.end_calls(slot, true);
    }

    /// It may die at this step.
    pub(crate) fn dies(&mut self, slot: usize) -> bool {
        let dies = self.trouble
            && self.setup.dies > 0
            && self.replicas[slot].up
            && self.dice.chance(self.setup.dies);
        if dies {
            self.crash(slot, true);
        }
        dies
    }
}
