//! The task of one endpoint: waits for its turn, then reads the feed, sends, and writes down how far it is. All rules are in `queue` and
//! `claim`; here they meet the store, the clock and the network.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::claim::{Claim, Contest, Look, RENEWAL, Watch};
use super::post::{self, Post};
use super::queue::{Outcome, Queue, Then};
use super::state::{Dead, Letter, State, dead_document, document};
use super::{END_MAX, Endpoint, From, LAST_WORD_MAX};
use crate::books::recall::Recall;
use crate::clock::Monotonic;
use crate::id::ReplicaId;
use crate::store::{Change, Store, StoreError, Stored};
use crate::telemetry::{Delivery, WebhookMetrics};

/// How often a replica that does not send looks whether it should.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long the feed is not looked at if nothing is told: what was told may have been missed.
const POLL_MAX: Duration = Duration::from_secs(1);

/// From a change that was told to looking at the feed: its event follows it, and a burst is read at once.
const POLL_MIN: Duration = Duration::from_millis(20);

/// How long the desk is not looked at if nothing is told: it may be half a megabyte.
const DESK_POLL_MAX: Duration = Duration::from_secs(30);

/// How many events are read at once.
const CHUNK: usize = 256;

/// How often what is known is kept on disk, for a store that is emptied while all replicas are down.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Between tries at a store that does not answer.
const STORE_PAUSE: Duration = Duration::from_millis(200);

/// How often a document of dead letters is tried against faster writers, which are people.
const TRIES_MAX: u32 = 16;

/// The highest place there can be in a feed: more than 2^53 is in none.
const PLACE_MAX: u64 = 1 << 53;

/// One endpoint's task.
pub(super) struct Sender {
    pub(super) post: Post,
    pub(super) metrics: WebhookMetrics,
    pub(super) me: ReplicaId,
    pub(super) recall: Recall,
    pub(super) alone: bool,
}

/// What the task has in hand while it sends. Deliveries end with it.
struct Turn {
    claim: Claim,
    queue: Queue,
    under_way: JoinSet<(u64, Outcome)>,
    changes: broadcast::Receiver<Change>,
    /// To be laid down before they are forgotten.
    letters: Vec<Letter>,
    /// There is something to write down.
    dirty: bool,
    /// When to look at the feed, at the desk, and to keep what is known.
    read_at: Monotonic,
    desk_at: Monotonic,
    keep_at: Monotonic,
    /// The store did not answer: not before then.
    store_at: Monotonic,
}

/// How a turn ended.
enum End {
    /// It was told to end.
    Stopped,
    /// Another one sends.
    Lost,
}

impl Sender {
    fn store(&self) -> &dyn Store {
        &*self.post.store
    }

    fn endpoint(&self) -> &Endpoint {
        &self.post.endpoint
    }

    fn mono(&self) -> Monotonic {
        self.post.clock.now().mono
    }

    /// Until it is told to stop.
    pub(super) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let name = document(&self.endpoint().name);
        let (recall, kept) = (self.recall.clone(), name.clone());
        let remembered = tokio::task::spawn_blocking(move || recall.named::<State>(&kept)).await;
        let remembered = remembered.ok().flatten().map(|(_, state)| state);
        let mut watch = Watch::new(self.me.clone(), self.endpoint().timeout, remembered);
        let mut losses = None;
        while !*stop.borrow() {
            match self.look(&mut watch, &mut losses, &name).await {
                Ok(Some((claim, state))) => {
                    let endpoint = &self.endpoint().name;
                    tracing::info!(endpoint, cursor = state.cursor, "webhooks: sending");
                    let mut turn = self.turn(claim, &state);
                    let end = self.hold(&mut turn, &mut stop).await;
                    self.metrics.standing(false, 0, false, Duration::ZERO);
                    match end {
                        End::Stopped => return self.leave(turn).await,
                        End::Lost => {
                            tracing::warn!(endpoint, "webhooks: another replica sends");
                            watch.lost(turn.queue.state());
                        }
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    watch.away();
                    let endpoint = &self.endpoint().name;
                    tracing::debug!(endpoint, %error, "webhooks: nothing is known of who sends");
                }
            }
            tokio::select! {
                () = sleep(WATCH_INTERVAL) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Looks who sends; takes over if nobody does.
    async fn look(
        &self,
        watch: &mut Watch,
        losses: &mut Option<u64>,
        name: &str,
    ) -> Result<Option<(Claim, State)>, StoreError> {
        let found = self.read::<State>(name).await?;
        let (turn, said) = found
            .as_ref()
            .map_or((0, None), |(_, state)| (state.turn, Some(state.losses)));
        if let Some(said) = said
            && losses.replace(said).is_some_and(|before| before != said)
        {
            // Only who wrote an event knows it, if the feed has lost it.
            self.recall.doubt_all();
        }
        let (version, known) = match watch.look(found, self.mono()) {
            Look::Wait => return Ok(None),
            Look::Take(version, known) => (version, known),
        };
        let mut state = match known {
            Some(state) => state,
            None => State {
                cursor: match self.endpoint().from {
                    From::Beginning => 0,
                    From::Now => self.end_of_feed().await?,
                },
                ..State::default()
            },
        };
        if turn < state.turn {
            state.losses = state.losses.saturating_add(1);
            self.recall.doubt_all();
        }
        state.turn = state.turn.saturating_add(1);
        state.holder = Some(self.me.clone());
        let began = self.mono();
        match self.write(name, version, &state).await? {
            Stored::Conflict => Ok(None),
            Stored::At(version) => {
                let (me, timeout) = (self.me.clone(), self.endpoint().timeout);
                let stands = (version, state.turn);
                let claim = Claim::new(me, timeout, self.alone, stands, began);
                Ok(Some((claim, state)))
            }
        }
    }

    /// The place of the feed's last event: halved until it is found, as a feed is read forwards. Fifty small readings, once in an
    /// endpoint's life.
    async fn end_of_feed(&self) -> Result<u64, StoreError> {
        let (mut low, mut high) = (0, PLACE_MAX);
        while low < high {
            let middle = low.midpoint(high);
            match self.store().events(middle, 1).await?.first() {
                Some((place, _)) => low = *place,
                None => high = middle,
            }
        }
        Ok(low)
    }

    fn turn(&self, claim: Claim, state: &State) -> Turn {
        let now = self.mono();
        Turn {
            claim,
            queue: Queue::new(state, self.endpoint().times),
            under_way: JoinSet::new(),
            changes: self.store().changes(),
            letters: Vec::new(),
            dirty: false,
            read_at: now,
            desk_at: now,
            keep_at: now,
            store_at: now,
        }
    }

    /// Sends, for as long as nobody else does and it is not told to stop.
    async fn hold(&self, turn: &mut Turn, stop: &mut watch::Receiver<bool>) -> End {
        loop {
            match self.tend(turn).await {
                Ok(true) => {}
                Ok(false) => return End::Lost,
                Err(error) => {
                    turn.store_at = self.mono().plus(STORE_PAUSE);
                    let endpoint = &self.endpoint().name;
                    tracing::debug!(endpoint, %error, "webhooks: the store did not answer");
                }
            }
            self.begin(turn);
            self.tell(turn);
            let pause = self.pause(turn);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return End::Stopped,
                Some(ended) = turn.under_way.join_next() => self.ended(turn, ended),
                change = turn.changes.recv() => self.heard(turn, change),
                () = sleep(pause) => {}
            }
            // All that has ended by now is written down at once.
            while let Some(ended) = turn.under_way.try_join_next() {
                self.ended(turn, ended);
            }
        }
    }

    /// All that concerns the store, as far as it is due; `false` if another one sends.
    async fn tend(&self, turn: &mut Turn) -> Result<bool, StoreError> {
        let now = self.mono();
        if now < turn.store_at {
            return Ok(true);
        }
        self.bury(turn).await?;
        if (turn.dirty || turn.claim.is_due(now)) && !self.save(turn, Some(&self.me)).await? {
            return Ok(false);
        }
        if now >= turn.desk_at {
            turn.desk_at = now.plus(DESK_POLL_MAX);
            self.see_desk(turn).await?;
        }
        if now >= turn.read_at
            && let Some((after, room)) = turn.queue.wants()
        {
            let chunk = self.store().events(after, room.min(CHUNK)).await?;
            let full = chunk.len() == room.min(CHUNK);
            let endpoint = self.endpoint();
            // Where it is by then is written down with the next word.
            turn.queue.take_in(
                chunk,
                |event| endpoint.wants(event.kind),
                self.post.clock.now(),
            );
            if !full {
                turn.read_at = now.plus(POLL_MAX);
            }
        }
        Ok(true)
    }

    /// Writes down how far it is; `false` if another one sends. With nobody as the holder, the claim is given up.
    async fn save(&self, turn: &mut Turn, holder: Option<&ReplicaId>) -> Result<bool, StoreError> {
        let name = document(&self.endpoint().name);
        loop {
            let (version, number) = turn.claim.next();
            let state = State {
                turn: number,
                holder: holder.cloned(),
                ..turn.queue.state()
            };
            let began = self.mono();
            match self.write(&name, version, &state).await? {
                Stored::At(version) => {
                    turn.claim.wrote(version, began);
                    turn.dirty = false;
                    if began >= turn.keep_at || holder.is_none() {
                        turn.keep_at = began.plus(KEEP_INTERVAL);
                        self.keep(&name, state).await;
                    }
                    return Ok(true);
                }
                Stored::Conflict => {
                    let found = self.read::<State>(&name).await?;
                    let found = found.as_ref();
                    let found = found.map(|(version, state)| (*version, state));
                    match turn.claim.contested(found) {
                        Contest::Again => {}
                        // It may have lost more, and nobody may have noticed: a Redis that is emptied does not say so.
                        Contest::Older => {
                            turn.queue.store_lost_it();
                            self.recall.doubt_all();
                        }
                        Contest::Lost => return Ok(false),
                    }
                }
            }
        }
    }

    async fn keep(&self, name: &str, state: State) {
        let (recall, name) = (self.recall.clone(), name.to_owned());
        let kept =
            tokio::task::spawn_blocking(move || recall.keep_named(&name, state.turn, &state));
        // If it panicked, that was told, and the store has it all the same.
        let _ = kept.await;
    }

    /// Lays letters down where people see them; only then are they forgotten here.
    async fn bury(&self, turn: &mut Turn) -> Result<(), StoreError> {
        if turn.letters.is_empty() {
            return Ok(());
        }
        let letters = turn.letters.clone();
        let dropped = self
            .edit_dead(|dead| {
                let made_room = letters.iter().map(|letter| dead.bury(letter.clone()));
                made_room.sum()
            })
            .await?;
        self.metrics.dropped(dropped);
        for letter in turn.letters.drain(..) {
            let (endpoint, event) = (&self.endpoint().name, &letter.event.id);
            let error = &letter.error;
            tracing::error!(endpoint, event, error, "webhooks: an event is given up");
            self.metrics.delivery(Delivery::Dead);
            turn.queue.buried(letter.sequence);
        }
        turn.dirty = true;
        Ok(())
    }

    /// What people asked for: letters to be sent again, and the endpoint to be switched on. First taken in and written down, then taken
    /// off the desk: what happens in between happens again.
    async fn see_desk(&self, turn: &mut Turn) -> Result<(), StoreError> {
        let name = dead_document(&self.endpoint().name);
        let Some((_, desk)) = self.read::<Dead>(&name).await? else {
            return Ok(());
        };
        let again: Vec<&Letter> = desk.letters.iter().filter(|letter| letter.again).collect();
        if again.is_empty() && !desk.enable {
            return Ok(());
        }
        let now = self.post.clock.now();
        if desk.enable {
            turn.queue.enable();
        }
        for letter in &again {
            turn.queue.send_again(letter, now);
        }
        if !self.save(turn, Some(&self.me)).await? {
            // Whoever sends now finds them on the desk; that it is not us is found at the next writing.
            return Ok(());
        }
        let taken = |letter: &Letter| again.iter().any(|one| one.sequence == letter.sequence);
        self.edit_dead(|dead| {
            dead.letters
                .retain(|letter| !(letter.again && taken(letter)));
            dead.enable = false;
            0
        })
        .await?;
        Ok(())
    }

    /// Changes the document of dead letters, against others who do.
    async fn edit_dead(&self, edit: impl Fn(&mut Dead) -> u64 + Send) -> Result<u64, StoreError> {
        let name = dead_document(&self.endpoint().name);
        for _ in 0..TRIES_MAX {
            let (version, mut dead) = self.read::<Dead>(&name).await?.unwrap_or_default();
            let told = edit(&mut dead);
            if let Stored::At(_) = self.write(&name, version, &dead).await? {
                return Ok(told);
            }
        }
        Err(StoreError::Unavailable(format!(
            "`{name}` is being changed by too many at once"
        )))
    }

    /// Begins what can be begun.
    fn begin(&self, turn: &mut Turn) {
        let now = self.post.clock.now();
        if !turn.claim.covers(now.mono) {
            return;
        }
        while let Some((sequence, event, attempts)) =
            turn.queue.next(now, self.endpoint().concurrency)
        {
            let post = self.post.clone();
            turn.under_way.spawn(async move {
                // One that panics has failed as others do. Were it the end of the task, an event that always does would keep all others
                // of the endpoint from being sent.
                let tried = AssertUnwindSafe(post.send(&event, attempts));
                let outcome = tried.catch_unwind().await;
                let outcome = outcome.unwrap_or_else(|_| {
                    let event = &event.id;
                    tracing::error!(event, "webhooks: sending an event panicked");
                    post::failed("sending it panicked; the log says where".into())
                });
                (sequence, outcome)
            });
        }
    }

    fn ended(&self, turn: &mut Turn, ended: Result<(u64, Outcome), tokio::task::JoinError>) {
        let (sequence, outcome) = match ended {
            Ok(ended) => ended,
            // One that panicked outside of its try has not said which it was: the supervisor begins anew from what is written down.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match &outcome {
            Outcome::Delivered => self.metrics.delivery(Delivery::Sent),
            Outcome::Failed { error, .. } => {
                self.metrics.delivery(Delivery::Failed);
                let endpoint = &self.endpoint().name;
                tracing::debug!(endpoint, error, "webhooks: an event was not taken");
            }
            Outcome::Gone => {
                self.metrics.delivery(Delivery::Failed);
                let endpoint = &self.endpoint().name;
                tracing::error!(
                    endpoint,
                    "webhooks: the endpoint answered 410: nothing is sent to it until `tollgate webhooks enable`"
                );
            }
            Outcome::Untried => {}
        }
        turn.dirty |= outcome != Outcome::Untried;
        // Without randomness all wait the same, which is no reason to stop.
        let chance = crate::app::random::<4>().map_or(0, u32::from_le_bytes);
        let now = self.post.clock.now();
        if let Then::Bury(letter) = turn.queue.ended(sequence, outcome, now, chance) {
            turn.letters.push(letter);
        }
    }

    fn heard(&self, turn: &mut Turn, change: Result<Change, RecvError>) {
        let soon = self.mono().plus(POLL_MIN);
        match change {
            Ok(Change::Account(..)) => turn.read_at = turn.read_at.min(soon),
            Ok(Change::Document(name)) => {
                if name == dead_document(&self.endpoint().name) {
                    turn.desk_at = turn.desk_at.min(soon);
                }
            }
            Ok(Change::Scarce(..)) => {}
            Ok(Change::All) | Err(RecvError::Lagged(_)) => {
                turn.read_at = turn.read_at.min(soon);
                turn.desk_at = turn.desk_at.min(soon);
            }
            // The store is going away, and this task with it: the pause is what is left to wait for.
            Err(RecvError::Closed) => turn.changes = self.store().changes(),
        }
    }

    /// Until when there is nothing to do by the clock alone.
    fn pause(&self, turn: &Turn) -> Duration {
        let now = self.post.clock.now();
        if turn.store_at > now.mono {
            return turn.store_at.since(now.mono);
        }
        if turn.dirty || !turn.letters.is_empty() {
            return Duration::ZERO;
        }
        let mut pause = turn.desk_at.since(now.mono);
        if !self.alone {
            pause = pause.min(RENEWAL);
        }
        if turn.queue.wants().is_some() {
            pause = pause.min(turn.read_at.since(now.mono));
        }
        let free =
            turn.queue.sending() < self.endpoint().concurrency && turn.claim.covers(now.mono);
        if let (true, Some(due)) = (free, turn.queue.due()) {
            // Never at once: what is due and was not begun waits for something else.
            let ahead = due.nanos().saturating_sub(now.wall.nanos());
            let ahead = Duration::from_nanos(u64::try_from(ahead).unwrap_or(0));
            pause = pause.min(ahead.max(POLL_MIN));
        }
        pause
    }

    fn tell(&self, turn: &Turn) {
        let now = self.post.clock.now().wall;
        let lag = turn.queue.oldest().map_or(0, |oldest| {
            now.nanos().saturating_sub(oldest.nanos()).max(0)
        });
        let lag = Duration::from_nanos(lag.unsigned_abs());
        let (waiting, disabled) = (turn.queue.waiting(), turn.queue.is_disabled());
        self.metrics.standing(true, waiting, disabled, lag);
    }

    /// The end: what is under way may end, what was done is written down, and the claim is given up.
    async fn leave(&self, mut turn: Turn) {
        let ending = async {
            while let Some(ended) = turn.under_way.join_next().await {
                self.ended(&mut turn, ended);
            }
        };
        // What is cut now counts as not sent, and is sent again by whoever goes on.
        let all = timeout(END_MAX, ending).await.is_ok();
        turn.under_way.abort_all();
        let last_word = async {
            self.bury(&mut turn).await?;
            self.save(&mut turn, None).await
        };
        let written = timeout(LAST_WORD_MAX, last_word).await;
        let endpoint = &self.endpoint().name;
        match written {
            Ok(Ok(_)) => tracing::info!(endpoint, all, "webhooks: left to others"),
            Ok(Err(error)) => {
                tracing::warn!(endpoint, %error, "webhooks: the last word was not taken")
            }
            Err(_) => tracing::warn!(endpoint, "webhooks: the last word was not taken in time"),
        }
    }

    async fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<(u64, T)>, StoreError> {
        super::desk::read(self.store(), name).await
    }

    async fn write(
        &self,
        name: &str,
        expected: u64,
        body: &impl serde::Serialize,
    ) -> Result<Stored, StoreError> {
        super::desk::write(self.store(), name, expected, body).await
    }
}
