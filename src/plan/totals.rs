//! From what was seen of some accounts to what all of them ask of Redis and of the replicas. The formulas stand here.

use super::arithmetic::{Load, Memory, comes, pipelines};
use super::costs::Costs;
use super::deployment::Deployment;
use super::number::{real, real_money};
use super::sample::{Sample, Shown};
use super::spread::Places;
use super::world::{Seen, Tide};
use crate::sync::{ROUNDS_PER_LOOK, SWEPT_PER_SECOND};

/// What happens in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Calls that come.
    pub calls: f64,
    /// Calls that are admitted.
    pub admitted: f64,
    /// Refused for want of money while the account has enough for the call.
    pub refused_with_money: f64,
    /// Refused for want of money, rightly.
    pub refused_without: f64,
    /// Refused for the rate while one limiter for all replicas would admit.
    pub refused_below_rate: f64,
    /// Refused for the rate, rightly.
    pub refused_above_rate: f64,
    /// Admitted while one limiter would refuse.
    pub admitted_above_rate: f64,
    /// Refused because no answer came in time.
    pub refused_unanswered: f64,
    /// Calls that wait for a lease or a share.
    pub waited: f64,
    /// How often they ask.
    pub turns: f64,
    /// Messages about accounts in rounds, and of them those with more spend.
    pub round: f64,
    /// See `round`.
    pub round_spent: f64,
    /// Messages on their own, and of them those with more spend.
    pub lone: f64,
    /// See `lone`.
    pub lone_spent: f64,
    /// Messages in looks without news of calls.
    pub quiet: f64,
    /// Rows of usage in messages.
    pub rows: f64,
    /// Accounts taken up, and of them those that had spent.
    pub opens: f64,
    /// See `opens`.
    pub opens_spent: f64,
    /// Keys looked up.
    pub finds: f64,
    /// Listings of keys.
    pub keys: f64,
    /// Books read.
    pub reads: f64,
    /// Ends of ledgers read.
    pub tails: f64,
    /// Books written.
    pub commits: f64,
    /// Events relayed.
    pub relays: f64,
    /// Words on the channel that replicas say.
    pub tells: f64,
    /// Looks for silent replicas.
    pub looks: f64,
    /// Rows that these read.
    pub rows_looked_at: f64,
    /// Leases taken back.
    pub lapsed: f64,
    /// Recharges.
    pub recharges: f64,
}

impl Rates {
    /// What was seen, in a second, as so many accounts do it.
    pub(super) fn of(seen: &Seen, accounts: f64) -> Self {
        let seconds = real(seen.nanos) / 1e9;
        let per = |count: u64| {
            if seconds > 0.0 {
                real(count) * accounts / seconds
            } else {
                0.0
            }
        };
        Self {
            calls: per(seen.calls),
            admitted: per(seen.admitted),
            refused_with_money: per(seen.refused_with_money),
            refused_without: per(seen.refused_without),
            refused_below_rate: per(seen.refused_below_rate),
            refused_above_rate: per(seen.refused_above_rate),
            admitted_above_rate: per(seen.admitted_above_rate),
            refused_unanswered: per(seen.refused_unanswered),
            waited: per(seen.waited),
            turns: per(seen.turns),
            round: per(seen.round),
            round_spent: per(seen.round_spent),
            lone: per(seen.lone),
            lone_spent: per(seen.lone_spent),
            quiet: per(seen.quiet),
            rows: per(seen.rows),
            opens: per(seen.opens),
            opens_spent: per(seen.opens_spent),
            finds: per(seen.finds),
            keys: per(seen.keys),
            reads: per(seen.reads),
            tails: per(seen.tails),
            commits: per(seen.commits),
            relays: per(seen.relays),
            tells: per(seen.tells),
            looks: per(seen.looks),
            rows_looked_at: per(seen.rows_looked_at),
            lapsed: per(seen.lapsed),
            // From how much is spent: in what is simulated there are few, or none.
            recharges: 0.0,
        }
    }

    fn add(&mut self, more: &Self) {
        let Self {
            calls,
            admitted,
            refused_with_money,
            refused_without,
            refused_below_rate,
            refused_above_rate,
            admitted_above_rate,
            refused_unanswered,
            waited,
            turns,
            round,
            round_spent,
            lone,
            lone_spent,
            quiet,
            rows,
            opens,
            opens_spent,
            finds,
            keys,
            reads,
            tails,
            commits,
            relays,
            tells,
            looks,
            rows_looked_at,
            lapsed,
            recharges,
        } = *more;
        self.calls += calls;
        self.admitted += admitted;
        self.refused_with_money += refused_with_money;
        self.refused_without += refused_without;
        self.refused_below_rate += refused_below_rate;
        self.refused_above_rate += refused_above_rate;
        self.admitted_above_rate += admitted_above_rate;
        self.refused_unanswered += refused_unanswered;
        self.waited += waited;
        self.turns += turns;
        self.round += round;
        self.round_spent += round_spent;
        self.lone += lone;
        self.lone_spent += lone_spent;
        self.quiet += quiet;
        self.rows += rows;
        self.opens += opens;
        self.opens_spent += opens_spent;
        self.finds += finds;
        self.keys += keys;
        self.reads += reads;
        self.tails += tails;
        self.commits += commits;
        self.relays += relays;
        self.tells += tells;
        self.looks += looks;
        self.rows_looked_at += rows_looked_at;
        self.lapsed += lapsed;
        self.recharges += recharges;
    }

    /// CPU of Redis for one account on its own, with its deliveries and its words in the feed.
    pub(super) fn busy_with(&self, deployment: &Deployment) -> f64 {
        let costs = &deployment.costs;
        let replicas = f64::from(deployment.replicas);
        let told = self.tells + self.commits + self.recharges;
        let words = self.round_spent + self.lone_spent + self.opens_spent;
        let others = told * replicas * costs.delivery_us + words * costs.touch_us;
        self.busy(costs) + others / 1e6
    }

    /// All messages about accounts.
    pub fn messages(&self) -> f64 {
        self.round + self.lone
    }

    /// CPU of Redis for what concerns accounts, in parts of a core; pipelines of rounds and the feed left out.
    fn busy(&self, costs: &Costs) -> f64 {
        let micros = self.messages() * costs.message_us
            + self.rows * costs.row_us
            + self.lone * costs.pipeline_us
            + self.opens * costs.open_us
            + self.finds * costs.find_us
            + self.keys * costs.keys_us
            + self.reads * costs.read_us
            + self.tails * costs.tail_us
            + (self.commits + self.recharges) * costs.commit_us
            + self.relays * costs.relay_us
            + self.tells * costs.tell_us
            + self.looks * (costs.read_us + 2.0 * costs.ping_us)
            + self.rows_looked_at * costs.row_read_us
            + self.lapsed * costs.lapse_us;
        micros / 1e6
    }
}

/// What all accounts together ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// What happens in a second, all accounts together.
    pub rates: Rates,
    /// Words in the feed (`touch.lua`), each of a batch.
    pub touches: f64,
    /// Accounts that the one replica looks at that walks through them all, per second.
    pub swept: f64,
    /// Pipelines of rounds.
    pub pipelines: f64,
    /// Replicas with nothing to say in a look, and listeners that hear nothing.
    pub pings: f64,
    /// Questions for the history of one Redis.
    pub watches: f64,
    /// Words on the channel, of replicas and of scripts.
    pub told: f64,
    /// Times that a replica has an account.
    pub loaded: f64,
    /// What Redis is busy with.
    pub load: Load,
    /// What stands in Redis after so many days.
    pub memory: Memory,
    /// By how much that grows in a day.
    pub memory_per_day: f64,
}

impl Totals {
    /// `Σ over strata: accounts × what one of them was seen to do in a second`, and what follows from it.
    pub(super) fn of(
        deployment: &Deployment,
        places: &Places,
        tide: &Tide,
        sample: &Sample,
    ) -> Self {
        let replicas = f64::from(deployment.replicas);
        let rounds = replicas / tide.period.as_secs_f64();
        let looks = rounds / f64::from(ROUNDS_PER_LOOK);
        let mut rates = Rates::default();
        let mut none = Nothing::default();
        let mut loaded = 0.0;
        let unload = deployment.sync.unload_after.as_secs_f64();
        let mut refreshed = 0.0;
        for shown in &sample.shown {
            let of = of_stratum(shown);
            none.add(&of, shown.accounts, rounds, looks);
            rates.add(&of);
            let recharges = recharges(deployment, shown);
            rates.recharges += recharges;
            let here = places.sum(|part| comes(shown.rate * part, unload));
            loaded += shown.accounts * here;
            refreshed += recharges * here;
        }
        // Each replica that has the account reads it again.
        rates.reads += refreshed;
        rates.keys += refreshed;
        rates.tails += refreshed;
        let told = rates.tells + rates.commits + rates.recharges;
        let round = |rate: f64| rate / rounds;
        // A listener asks after five seconds of silence whether its connection still stands.
        let silent = replicas / 5.0 * (-told * 5.0).exp();
        let mut totals = Self {
            touches: rounds * pipelines(round(rates.round_spent), none.spent.exp())
                + rates.lone_spent
                + rates.opens_spent,
            pipelines: rounds * pipelines(round(rates.round), none.round.exp()),
            swept: swept(deployment.accounts),
            pings: looks * none.look.exp() + silent,
            watches: replicas,
            told,
            loaded,
            rates,
            ..Self::default()
        };
        totals.load = totals.load(deployment, sample);
        let day = totals.memory(deployment, places, sample, 1.0);
        let before = totals.memory(deployment, places, sample, 0.0);
        totals.memory_per_day = day.hours + day.recharges - before.hours - before.recharges;
        let days = f64::from(deployment.days);
        totals.memory = totals.memory(deployment, places, sample, days);
        totals
    }

    /// Commands per second: calls of scripts, and all others.
    pub fn evalsha(&self) -> f64 {
        let rates = &self.rates;
        let books = rates.reads + rates.commits + 2.0 * rates.recharges + rates.relays * 2.0;
        let messages = rates.messages() + self.touches + rates.opens;
        messages + books + rates.looks + rates.lapsed + self.swept
    }

    /// See `evalsha`.
    pub fn other_commands(&self) -> f64 {
        let rates = &self.rates;
        let reads = 2.0 * rates.finds + rates.keys + 2.0 * rates.tails + rates.relays;
        reads + rates.tells + 2.0 * rates.looks + self.pings + self.watches
    }

    fn load(&self, deployment: &Deployment, sample: &Sample) -> Load {
        let costs = &deployment.costs;
        let rates = &self.rates;
        let replicas = f64::from(deployment.replicas);
        let words = rates.round_spent + rates.lone_spent + rates.opens_spent;
        let hottest = sample.shown.first().map_or(0.0, |shown| {
            of_stratum(shown).busy(costs) / shown.accounts.max(1.0)
        });
        let others = self.swept * costs.read_us
            + self.pings * costs.ping_us
            + self.pipelines * costs.pipeline_us;
        Load {
            accounts: rates.busy(costs) + others / 1e6,
            hottest,
            feed: words * costs.touch_us / 1e6,
            deliveries: self.told * replicas * costs.delivery_us / 1e6,
            watch: replicas * costs.watch_us / 1e6,
        }
    }

    /// After so many days. `Σ accounts × (itself + Σ replicas P(called since the beginning) × row + hours × Σ replicas P(called in an
    /// hour) × row)`, as hours, rows of replicas and entries are kept for good.
    fn memory(
        &self,
        deployment: &Deployment,
        places: &Places,
        sample: &Sample,
        days: f64,
    ) -> Memory {
        let costs = &deployment.costs;
        let models = f64::from(deployment.models);
        let row = costs.row_bytes + models * costs.usage_bytes;
        let mut memory = Memory {
            accounts: real(deployment.accounts) * costs.account_bytes,
            recharges: self.rates.recharges * days * 86_400.0 * costs.recharge_bytes,
            connections: f64::from(deployment.replicas) * costs.connections_bytes,
            ..Memory::default()
        };
        for shown in &sample.shown {
            let rate = shown.rate;
            let rows = places.sum(|part| comes(rate * part, days * 86_400.0));
            memory.rows += shown.accounts * rows * row;
            // A replica writes an hour of those models that were called in it; the first costs more.
            let hours = places.sum(|part| {
                let called = models * comes(rate * part / models, 3_600.0);
                let any = comes(rate * part, 3_600.0);
                any * costs.hour_bytes + (called - any).max(0.0) * costs.hour_more_bytes
            });
            memory.hours += shown.accounts * hours * days * 24.0;
        }
        memory
    }
}

/// The logarithms of the probabilities that there is nothing for a replica in a round: nothing at all, no spend, and nothing in one
/// that looks at everything. Accounts do not wait for each other, so the probabilities multiply.
#[derive(Clone, Copy, Debug, Default)]
struct Nothing {
    round: f64,
    spent: f64,
    look: f64,
}

impl Nothing {
    fn add(&mut self, of: &Rates, accounts: f64, rounds: f64, looks: f64) {
        let accounts = accounts.max(1.0);
        // An account that is in every round but for chance leaves none empty.
        let none = |messages: f64| accounts * (-(messages / accounts).min(1.0 - 1e-9)).ln_1p();
        self.round += none(of.round / rounds);
        self.spent += none(of.round_spent / rounds);
        self.look += none((of.round - of.quiet).max(0.0) / rounds + of.quiet / looks);
    }
}

/// What the accounts do that one was simulated for. One that was simulated with more calls than they have, to see any, does as much more
/// than they.
fn of_stratum(shown: &Shown) -> Rates {
    Rates::of(&shown.seen, shown.accounts * shown.rate / shown.simulated)
}

/// `Σ accounts × calls × price ÷ what a recharge brings`.
fn recharges(deployment: &Deployment, shown: &Shown) -> f64 {
    if deployment.recharge_at.is_none() {
        return 0.0;
    }
    let brings = real_money(deployment.recharge(shown.rate).nanos());
    let spends = shown.rate * real_money(deployment.price.nanos());
    shown.accounts * spends / brings
}

/// How many accounts are looked through in a second: a page, or all if they are fewer.
fn swept(accounts: u64) -> f64 {
    real(accounts.min(u64::try_from(SWEPT_PER_SECOND).unwrap_or(u64::MAX)))
}
