//! A data directory and processes that really end: killed at any moment, or out of disk. Each is this very binary again, run for one
//! test that does nothing unless it is told which directory to work in.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tollgate::clock::{Clock, Hour, Monotonic, Timestamp};
use tollgate::engine::{Account, Ask, Bounds, Engine, Hold, Key, ModelId, Rules};
use tollgate::id::{AccountId, KeyId, ReplicaId};
use tollgate::local::Local;
use tollgate::money::Amount;
use tollgate::policy::{Policy, Unsettled};
use tollgate::store::KeyRecord;
use tollgate::usage::{Certainty, Counts, Meter, Tally};

/// Tells the child where to work.
const DIR: &str = "TOLLGATE_TEST_DATA_DIR";

/// What every call is held for and costs.
const HELD: Amount = Amount::from_nanos(11);
const COST: Amount = Amount::from_nanos(7);
const OUTPUT: u64 = 3;

/// Threads that call, each with a key of its own.
const CALLERS: usize = 2;

/// Calls of a caller between two hours of the child's clock.
const CALLS_AN_HOUR: u64 = 500;

fn open(dir: &Path) -> Local {
    let name = || ReplicaId::new("r").unwrap();
    Local::open(dir, Timestamp::from_nanos(0), name).unwrap()
}

fn account() -> AccountId {
    AccountId::new("a").unwrap()
}

/// An engine over a data directory with one loaded account, which has unsettled holds charged.
struct Process {
    local: Local,
    engine: Arc<Engine>,
    account: Arc<Account>,
    clock: Clock,
}

impl Process {
    fn new(dir: &Path) -> Self {
        let local = open(dir);
        let engine = Engine::new([1; 16], Bounds::default(), Arc::clone(local.counters()));
        let policy = Policy {
            unsettled: Unsettled::Charge,
            ..Policy::default()
        };
        let rules = Rules::plain("USD".into(), policy);
        let taken = local.take_up(&account()).unwrap();
        // The clock goes on from the last hour that was counted in.
        let hours = taken.slots().iter().map(|slot| slot.row().hour);
        let hour = hours.max().unwrap_or(Hour(1));
        let account = engine.load(taken, rules, std::iter::empty());
        account.purse().grant(Amount::from_nanos(i64::MAX / 2));
        account.lease_until(Monotonic::from_nanos(u64::MAX));
        Self {
            local,
            engine,
            account,
            clock: Clock::manual(hour.start()),
        }
    }

    fn key(&self, name: &str) -> Arc<Key> {
        let record = KeyRecord {
            id: KeyId::new(name).unwrap(),
            account: account(),
            digest: String::new(),
            name: String::new(),
            hint: String::new(),
            created: Timestamp::from_nanos(0),
            expires: None,
            revoked: None,
            qps: None,
            models: Vec::new(),
            service: String::new(),
            budgets: Vec::new(),
            service: String::new(),
        };
        self.engine.load_key(None, &self.account, record)
    }

    fn admit(&self, key: &Arc<Key>) -> Hold {
        let ask = Ask {
            model: None,
            counted_as: ModelId::NONE,
            priced: true,
            amount: HELD,
            worst: HELD,
            more: None,
        };
        let now = self.clock.now();
        let hold = self.engine.admit(Arc::clone(key), ask, now);
        hold.map_err(|(_, denied)| denied).unwrap()
    }

    /// What a sync does: the store takes everything, and what is over is folded.
    fn publish_and_fold(&self) {
        for cell in self.account.cells() {
            self.account.acknowledge(cell.row(), &cell.read());
        }
        let hour = self.clock.now().wall.hour();
        self.account.forget_before(hour);
        self.local.fold(hour).unwrap();
    }
}

fn settle(hold: Hold) {
    let counts = Counts::default().with(Meter::Output, OUTPUT);
    hold.settle(COST, Certainty::Exact, &counts);
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// This binary again, for one of its tests.
fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// Calls for ever, and says of each that it has returned, while the next is under way.
#[test]
fn child_that_calls_until_it_is_killed() {
    let Some(dir) = child_dir() else { return };
    let process = Process::new(&dir);
    process.publish_and_fold();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let process = &process;
            scope.spawn(move || {
                let key = process.key(&format!("k{caller}"));
                settle(process.admit(&key));
                for call in 1_u64.. {
                    let next = process.admit(&key);
                    let done = format!("done {caller} {call}\n");
                    // In one piece; to nobody, once the parent is gone.
                    if std::io::stdout().lock().write_all(done.as_bytes()).is_err() {
                        return;
                    }
                    settle(next);
                    if caller == 0 && call.is_multiple_of(CALLS_AN_HOUR) {
                        let hour = process.clock.now().wall.hour();
                        let next = Hour(hour.0 + 1).start().nanos() - hour.start().nanos();
                        let next = std::time::Duration::from_nanos(next.unsigned_abs());
                        process.clock.advance(next);
                    }
                }
            });
        }
        loop {
            process.publish_and_fold();
            process.local.counters().flush().unwrap();
        }
    });
}

/// Kills the child after it has reported so many calls; returns the last that each caller reported.
fn kill_after(mut child: Child, lines: usize) -> [u64; CALLERS] {
    let mut reported = [0; CALLERS];
    let mut seen = 0;
    // To the end of the pipe: what the child wrote before it was killed is in it.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line
            .split(' ')
            .skip_while(|word| !word.ends_with("done"))
            .skip(1);
        let mut number = || words.next()?.parse::<u64>().ok();
        if let (Some(caller), Some(call)) = (number(), number()) {
            reported[usize::try_from(caller).unwrap()] = call;
            seen += 1;
        }
        if seen == lines {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(!status.success(), "it ended by itself: {status}");
    assert!(
        seen >= lines,
        "it reported {seen} calls and ended: {status}"
    );
    reported
}

#[test]
fn a_kill_loses_nothing_that_had_settled() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut before = [Tally::default(); CALLERS];
    let mut left_open = 0;
    for round in 0..20 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let lines = 1 + usize::try_from(random % 3_000).unwrap();
        let test = "local::child_that_calls_until_it_is_killed";
        let child = child(test, dir.path()).spawn().unwrap();
        let reported = kill_after(child, lines);

        let local = open(dir.path());
        assert_eq!(local.counters().refused(), []);
        let mut taken = local.take_up(&account()).unwrap();
        let charged = taken.end_holds(Unsettled::Charge);
        let callers = u64::try_from(CALLERS).unwrap();
        assert!(
            charged.calls <= callers,
            "one open hold for each caller at most: {charged:?}"
        );
        for (caller, before) in before.iter_mut().enumerate() {
            let rows = taken.lifetime();
            let row = rows
                .iter()
                .find(|row| row.key.as_str() == format!("k{caller}"));
            let now = row.map(|row| row.tally).unwrap_or_default();
            let new = now.since(before);
            let shown = format!("round {round}, caller {caller}: {reported:?} of {new:?}");
            // What was reported is there; at most one call more, which was being settled or reported. One that was under way is
            // charged what it was held for.
            let least = reported[caller];
            assert!((least..=least + 1).contains(&new.exact), "{shown}");
            assert!(new.estimated <= 1, "{shown}");
            let output = new.counts.get(Meter::Output);
            assert!(
                (least * OUTPUT..=(least + 1) * OUTPUT).contains(&output),
                "{shown}"
            );
            let cost = |calls: u64| i64::try_from(calls).unwrap() * COST.nanos();
            let settled = [cost(least), cost(least + 1)];
            let held = settled.map(|cost| cost + HELD.nanos());
            // A hold is noted in two words, and the call comes first: it may be there for nothing.
            let fits = settled.contains(&new.cost_nanos)
                || new.estimated == 1 && held.contains(&new.cost_nanos);
            assert!(fits, "{shown}");
            left_open += new.estimated;
            *before = now;
        }
        let spend = before.iter().map(|tally| tally.cost_nanos).sum();
        assert_eq!(
            taken.spend(),
            Amount::from_nanos(spend),
            "usage adds up to spend"
        );
    }
    assert!(left_open > 0, "calls were under way when they were killed");
    let hours = open(dir.path()).take_up(&account()).unwrap();
    let hours = hours.slots().iter().map(|slot| slot.row().hour).max();
    assert!(
        hours > Some(Hour(10)),
        "hours went by and were folded: {hours:?}"
    );
}

/// How many keys call, one call each: more than fit in a file that may not grow.
const KEYS: usize = 9_000;

/// The largest file that the child may write, in blocks of 512 bytes: 4 MiB.
const BLOCKS: u32 = 8_192;

#[test]
fn child_that_calls_with_many_keys() {
    let Some(dir) = child_dir() else { return };
    let process = Process::new(&dir);
    for key in 0..KEYS {
        settle(process.admit(&process.key(&format!("k{key}"))));
    }
    let counters = process.local.counters();
    let error = counters.make_room().unwrap_err();
    println!(
        "unprotected {} used {}",
        counters.unprotected(),
        counters.used()
    );
    println!("error {error}");
}

#[test]
fn a_disk_without_room_is_an_error_of_growing_and_of_no_call() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let test = child("local::child_that_calls_with_many_keys", dir.path());
    // A write beyond the limit is an error, like one to a full disk, for whoever does not mind the signal.
    let script = format!("trap '' XFSZ; ulimit -f {BLOCKS}; exec \"$@\"");
    let mut limited = Command::new("sh");
    limited.args(["-c", &script, "sh"]).arg(test.get_program());
    limited.args(test.get_args()).env(DIR, dir.path());
    let output = limited.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{}: {said}{complained}",
        output.status
    );
    let line = said.lines().find(|line| line.contains("unprotected "));
    let numbers = line
        .unwrap()
        .split(' ')
        .filter_map(|word| word.parse::<usize>().ok());
    let numbers: Vec<usize> = numbers.collect();
    let [unprotected, used] = numbers[..] else {
        panic!("{said}")
    };
    assert!(
        unprotected > 0 && used > 1_000 && unprotected + used == KEYS,
        "{said}"
    );
    assert!(
        said.contains("error adding to ") && said.contains("counters.tgc"),
        "{said}"
    );
    // What is in the file is whole.
    let local = open(dir.path());
    assert_eq!(local.counters().refused(), []);
    let taken = local.take_up(&account()).unwrap();
    assert_eq!(taken.slots().len(), used);
    assert!(
        taken
            .slots()
            .iter()
            .all(|slot| slot.tally().cost_nanos == COST.nanos())
    );
    local.counters().make_room().unwrap();
}
