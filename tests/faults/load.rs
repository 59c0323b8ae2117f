//! Clients that keep calling, and the truth that the books are compared with: what each call was answered.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tollgate::clock::{Clock, Monotonic};
use tollgate::money::Amount;

use super::fleet::price;
use crate::support::http::Wire;
use crate::support::within;
use crate::system::wire::ask;

/// No call takes longer, whatever is away: both of its waits are 500 ms here, and the rest is for a busy machine.
pub(super) const CALL_MAX: Duration = Duration::from_secs(6);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the whole answer, which costs what the model costs, exactly.
    Charged(Amount),
    /// With a refusal, which costs nothing: its status and reason.
    Refused(u16, String),
    /// With its connection: nobody knows whether it was charged.
    Cut,
}

/// One call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) replica: usize,
    pub(super) account: Arc<str>,
    pub(super) model: &'static str,
    pub(super) sent: Monotonic,
    pub(super) answered: Monotonic,
    pub(super) end: End,
}

impl Call {
    pub(super) fn is_charged(&self) -> bool {
        matches!(self.end, End::Charged(_))
    }

    pub(super) fn took(&self) -> Duration {
        self.answered.since(self.sent)
    }
}

/// A connection that calls are made on, one after the other; and made anew when the other side has closed it.
pub(super) struct Caller {
    to: SocketAddr,
    wire: Option<Wire>,
    clock: Clock,
    replica: usize,
    account: Arc<str>,
    model: &'static str,
    request: String,
}

impl Caller {
    pub(super) fn new(
        to: SocketAddr,
        replica: usize,
        account: &str,
        model: &'static str,
        clock: &Clock,
    ) -> Self {
        Self {
            to,
            wire: None,
            clock: clock.clone(),
            replica,
            account: account.into(),
            model,
            request: ask(account, model),
        }
    }

    pub(super) async fn call(&mut self) -> Call {
        let sent = self.clock.now().mono;
        let end = tokio::time::timeout(CALL_MAX, self.end()).await;
        let end = end.unwrap_or_else(|_| panic!("a call of {} hangs", self.account));
        Call {
            replica: self.replica,
            account: Arc::clone(&self.account),
            model: self.model,
            sent,
            answered: self.clock.now().mono,
            end,
        }
    }

    async fn end(&mut self) -> End {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            // Nobody listens: the process is gone, and this call never began.
            None => match tokio::net::TcpStream::connect(self.to).await {
                Ok(stream) => Wire::over(stream),
                Err(_) => return End::Cut,
            },
        };
        wire.send(&self.request).await;
        let Some(answer) = wire.message().await.filter(|answer| answer.whole) else {
            return End::Cut;
        };
        if answer.header("connection") != Some("close") {
            self.wire = Some(wire);
        }
        if answer.status() == 200 {
            return End::Charged(price(self.model));
        }
        let reason = answer.header("x-tollgate-reason").unwrap_or_default();
        End::Refused(answer.status(), reason.to_owned())
    }
}

/// Calls as they ended.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<Call>>>);

impl Seen {
    pub(super) fn add(&self, call: Call) {
        // One that panics elsewhere is told of there.
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(call);
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.clone()
    }

    /// Counts calls.
    pub(super) fn count(&self, which: impl Fn(&Call) -> bool) -> usize {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|call| which(call)).count()
    }

    /// How many calls of an account were charged, and what they cost together.
    pub(super) fn charged(&self, account: &str) -> (u64, Amount) {
        let mut sum = (0, Amount::ZERO);
        for call in self.0.lock().unwrap().iter() {
            if let End::Charged(amount) = call.end
                && *call.account == *account
            {
                sum = (sum.0 + 1, sum.1.checked_add(amount).unwrap());
            }
        }
        sum
    }

    /// In short, for the reader of a failure: how many ended how, by account.
    pub(super) fn summary(&self) -> String {
        let mut counts = std::collections::BTreeMap::<_, usize>::new();
        for call in self.calls() {
            let end = match call.end {
                End::Charged(_) => "charged".to_owned(),
                End::Refused(status, reason) => format!("{status} {reason}"),
                End::Cut => "cut".to_owned(),
            };
            *counts
                .entry((call.account.to_string(), call.replica, end))
                .or_default() += 1;
        }
        let lines = counts.iter().map(|((account, replica, end), count)| {
            format!("{account} at replica {replica}: {count} {end}")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Clients that call until they are stopped.
pub(super) struct Load {
    pub(super) seen: Seen,
    clock: Clock,
    clients: Vec<Client>,
}

struct Client {
    replica: usize,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Nobody calls yet.
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            seen: Seen::default(),
            clock: clock.clone(),
            clients: Vec::new(),
        }
    }

    /// One more client: it pauses after each call, and goes on when its connection breaks.
    pub(super) fn client(&mut self, mut caller: Caller, pause: Duration) {
        let (replica, seen) = (caller.replica, self.seen.clone());
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            while !stopped.load(SeqCst) {
                seen.add(caller.call().await);
                tokio::time::sleep(pause).await;
            }
        });
        self.clients.push(Client {
            replica,
            stop,
            task,
        });
    }

    pub(super) fn now(&self) -> Monotonic {
        self.clock.now().mono
    }

    /// Waits until each of some replicas has charged so many calls of an account that were sent after an instant.
    pub(super) async fn passes(
        &self,
        account: &str,
        replicas: &[usize],
        count: usize,
        after: Monotonic,
        bound: Duration,
    ) {
        let passed = |replica: usize| {
            self.seen.count(|call| {
                call.is_charged()
                    && call.replica == replica
                    && *call.account == *account
                    && call.sent >= after
            })
        };
        let all = async || {
            let all = replicas.iter().all(|replica| passed(*replica) >= count);
            all.then_some(())
        };
        let each: Vec<_> = replicas.to_vec();
        let what = format!("{count} calls of {account} pass at each replica of {each:?}");
        within(bound, &what, all).await;
    }

    /// Lets the clients of a replica finish their calls: from here on, what it was asked is known.
    pub(super) async fn leave(&mut self, replica: usize) {
        let (leaving, staying) = std::mem::take(&mut self.clients)
            .into_iter()
            .partition(|client| client.replica == replica);
        self.clients = staying;
        join(leaving).await;
    }

    /// Lets each client finish its call; none has failed.
    pub(super) async fn stop(self) -> Seen {
        join(self.clients).await;
        self.seen
    }
}

async fn join(clients: Vec<Client>) {
    for client in &clients {
        client.stop.store(true, SeqCst);
    }
    for client in clients {
        client.task.await.unwrap();
    }
}

/// Clients of one account that are sent off at a rate, for each replica its own and changing, whatever the answers take: as many
/// as are under way at once may be.
pub(super) struct Paced {
    pub(super) seen: Seen,
    began: Monotonic,
    permits: Vec<Arc<Semaphore>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Calls under way at one replica, and calls that wait to be sent to it; what comes beyond is not sent.
const PACED_AT_ONCE: usize = 32;

impl Paced {
    /// `caller` makes a caller of a replica; `rates` says how many calls a second each is sent, by the time since the start.
    pub(super) fn start(
        clock: &Clock,
        replicas: usize,
        caller: impl Fn(usize) -> Caller,
        rates: impl Fn(Duration) -> Vec<u64> + Send + 'static,
    ) -> Self {
        let mut paced = Self {
            seen: Seen::default(),
            began: clock.now().mono,
            permits: Vec::new(),
            stop: Arc::default(),
            tasks: Vec::new(),
        };
        for replica in 0..replicas {
            let permits = Arc::new(Semaphore::new(0));
            for _ in 0..PACED_AT_ONCE {
                let client = client(caller(replica), Arc::clone(&permits), paced.seen.clone());
                paced.tasks.push(tokio::spawn(client));
            }
            paced.permits.push(permits);
        }
        let ticking = tick(
            clock.clone(),
            paced.permits.clone(),
            Arc::clone(&paced.stop),
            rates,
        );
        paced.tasks.push(tokio::spawn(ticking));
        paced
    }

    pub(super) fn began(&self) -> Monotonic {
        self.began
    }

    /// Lets the calls under way end; none has failed.
    pub(super) async fn stop(self) -> Seen {
        self.stop.store(true, SeqCst);
        for permits in &self.permits {
            permits.close();
        }
        for task in self.tasks {
            task.await.unwrap();
        }
        self.seen
    }
}

async fn client(mut caller: Caller, permits: Arc<Semaphore>, seen: Seen) {
    while let Ok(permit) = permits.acquire().await {
        permit.forget();
        seen.add(caller.call().await);
    }
}

async fn tick(
    clock: Clock,
    permits: Vec<Arc<Semaphore>>,
    stop: Arc<AtomicBool>,
    rates: impl Fn(Duration) -> Vec<u64>,
) {
    const SECOND: u128 = 1_000_000_000;
    let began = clock.now().mono;
    let mut last = Duration::ZERO;
    // In nanoseconds of calls: what is due and not sent off yet.
    let mut due = vec![0; permits.len()];
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !stop.load(SeqCst) {
        ticks.tick().await;
        let now = clock.now().mono.since(began);
        let passed = now.saturating_sub(last).as_nanos();
        last = now;
        for ((due, permits), rate) in due.iter_mut().zip(&permits).zip(rates(now)) {
            *due += passed * u128::from(rate);
            let calls = usize::try_from(*due / SECOND).unwrap();
            *due %= SECOND;
            let room = PACED_AT_ONCE.saturating_sub(permits.available_permits());
            permits.add_permits(calls.min(room));
        }
    }
}
