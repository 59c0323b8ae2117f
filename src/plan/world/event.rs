//! What happens in a simulated account's life, in the order of its times.

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A call comes.
    Call,
    /// A call whose account is loaded by now.
    Loaded(u64),
    /// A call has waited for long enough.
    GiveUp(u64),
    /// A call that was admitted is over.
    End(u32),
    /// A replica's round.
    Tick(u32),
    /// The store is asked for an account.
    Open(u32),
    /// A replica has loaded the account.
    Opened(u32),
    /// A replica's message is with the store, and its answer.
    Arrive(u32),
    Answer(u32),
    /// Something was told on the channel.
    Told(u32, Told),
    /// A task's word is with the store; a task goes on.
    Deed(u64),
    GoOn(u64),
    /// Counting begins.
    Begin,
}

/// What is told on the channel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Version(u64),
    Money,
    Shares(u64, u64),
}

#[derive(Debug)]
pub(super) struct Due {
    pub(super) at: u64,
    pub(super) order: u64,
    pub(super) event: Event,
}

impl Due {
    const fn key(&self) -> (u64, u64) {
        (self.at, self.order)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
