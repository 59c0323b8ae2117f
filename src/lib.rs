//! # Tollgate
//!
//! The sidecar in front of model-inference endpoints, or of any paid API: for every request it decides in memory whether the
//! caller may make it, sets the expected cost aside, meters what the call really used, and settles the one to the other exactly
//! once. Many replicas share each account through a store; a billing backend steers it over gRPC.
//!
//! This page is the map. It says where things are and what holds everywhere; each module says the rest itself.
//!
//! ## One request
//!
//! ```text
//!             ┌───────────────────────── one request ─────────────────────────┐
//!  edge ────► identify ──► admit ────────► forward ──► meter ──► settle ──────┐
//!  proxy      secret       standing        upstream    usage     cost         │ usage cells
//!  envoy, …   → key        model, price                                       ▼
//!  hold API   → account    concurrency                            sync ──► store ──► book ──► events
//!                          rate, hold                             ▲ lease, version
//!  control API ── recharge, grant, adjust, late charge, keys, prices, policies ──┘
//! ```
//!
//! In the code, from the outside in: [`proxy`] reads a request as far as pricing needs, [`gate::Gate::admit`] decides, the proxy
//! forwards and feeds the answer to a [`meter::ResponseScan`], and [`gate::Ticket::settle`] ends the call by the route's terms. A
//! ticket that is dropped, however that comes about, settles itself by policy: there is no way out of a request that leaves its
//! hold behind.
//!
//! Where another gateway carries the call, [`envoy`] or [`forward_auth`] reads what it shows ([`gateway`]), the same gate decides
//! ([`gate::Gate::hold_call`]), and the hold is kept by its id until somebody tells how the call ended
//! ([`gate::Gate::settle_call`]), or until it expires by policy and is listed.
//!
//! ## The map
//!
//! Below, nothing depends on what stands further down. What does no I/O reads no clock either: it is given
//! [`clock::Now`] and returns values, which is what lets it be tested by exhaustion, simulated and measured.
//!
//! | module | what lives there | I/O |
//! |---|---|---|
//! | [`money`], [`usage`], [`id`], [`refusal`], [`clock`] | the words: amounts, counts, names, reasons, instants | no |
//! | `primitive` | the atomics that the hot path is made of: std's, or those of models | no |
//! | [`pricing`], [`policy`], [`route`] | what a model costs; the rules of an account; where a request goes and on what terms | no |
//! | [`licence`] | offline licences, made and checked | no |
//! | `tls` | certificates and keys from files, for whoever speaks TLS, either way | yes |
//! | [`ledger`] | an account's book as a state machine: `apply(book, spend, command, policy, now)` | no |
//! | [`store`] | the shared truth behind a trait: [`store::embedded`] in one file, [`store::redis`] for many replicas | yes |
//! | [`local`] | a replica's own disk: counters in a mapped file, and what it remembers | yes |
//! | [`catalog`], [`books`] | the prices and policies in force; the one writer of books | thin |
//! | [`engine`] | the hot path: who is it, may they, how much is set aside | no |
//! | [`meter`] | bytes of a request or a response in, facts and usage out | no |
//! | [`sync`] | the replica's side of the protocol: a state machine per account, and the loop that drives it | thin |
//! | [`gate`] | one request from its key to its settlement, for every edge; refusals in each dialect | thin |
//! | [`plan`] | what a deployment will cost Redis and how it will behave: these machines in virtual time | no |
//! | [`telemetry`] | every metric by name, and logging | yes |
//! | [`gateway`] | what edges beside another gateway share: reading a request that somebody else carries | no |
//! | [`proxy`] | an edge: the reverse proxy | yes |
//! | [`webhooks`] | events, posted to whoever wants to be told | yes |
//! | [`envoy`], [`forward_auth`], [`control`], [`admin`] | the other edges | yes |
//! | [`config`], [`app`], [`cli`], [`demo`], [`proto`] | the checked configuration; assembling; the commands; the stand-in endpoint; generated code | yes |
//!
//! How many replicas one Redis bears, what an idle and a hot account cost, and which interval to choose, is on the page of [`plan`];
//! `tollgate simulate` works it out for any deployment.
//!
//! ## What holds everywhere
//!
//! - **Money is an integer** of 10^-9 units ([`money::Amount`]), multiplied in `i128` and rounded once per request, half up. There
//!   is no float near it; figures become floats only on their way to Prometheus.
//! - **Check and hold are one atomic step.** A purse is one word, and taking from it takes all or nothing. So of a thousand calls
//!   at once exactly those pass that are paid for.
//! - **Rights to spend are leased.** A replica holds only within what the store has committed to it
//!   (`spend + held ≤ lease ceiling`), and the store commits no more than there is. So holds never exceed the money, over all
//!   replicas together and whatever the sync interval. The balance goes below its floor only by what calls cost beyond their
//!   holds, and by late charges; that bound is a metric (`tollgate_overshoot_bound_units`), and so is what was seen of it.
//! - **Spend is a total that only grows**, per replica, account, key and model. Every message says what *is*, with what is believed
//!   to stand; a repeat changes nothing, a lost answer is found out and said again. What is published as spend is the sum of the
//!   usage cells, so usage always adds up to spend.
//! - **Everything else about an account is one versioned document**, its [`ledger::Book`], changed by compare-and-set together with
//!   the entries, events and idempotency keys that belong to the change. One set of rules, in Rust, for every store.
//! - **Nothing on a request's path waits for the store** once its account is loaded and has a lease. A first load or an empty lease
//!   is fetched once for all who wait, and waits a bounded time.
//! - **Refusals are a closed list** ([`refusal::Reason`]); each edge words them in one place.
//! - **Prices and configuration never touch the ledger.** A call in flight keeps the price it was admitted under.
//! - **Secrets are not kept.** A key is stored as the SHA-256 of its secret; in memory it is found by a keyed fingerprint.
//! - **Every table, queue, wait and retry has a bound**, with its reason beside it; the one exception is named at the end.
//!
//! ## Where this differs from the first design, and why
//!
//! - **Books are stored as JSON**, not as protobufs: they are written only when an account changes, never per call, and an operator
//!   can read one with `redis-cli`.
//! - **Spend is counted in the usage cells alone**, not in the purse as well: one atomic step less per call, and usage cannot differ
//!   from spend.
//! - **Usage stands under the hour in which its call was admitted.** So settling reads no clock, and a row is complete once the calls
//!   of its hour are over.
//! - **A replica's name is kept with its counters**, in its data directory, whatever the store: so it goes on under it, and what it had
//!   counted and not published when it was killed is published by its next start.
//! - **What a replica saw, each message says** (the highest total, how much of its own spend was ever acknowledged): a store that lost
//!   some of it counts the difference as *lost*, which is spent and out of reach, until it is published again. No word of its own is
//!   needed for that, and a repeat changes nothing.
//! - **A fence is a matter of a history's age**, kept in the store under the history's name, and not of each account: an account that is
//!   first called days after a restart does not wait for a lease time then.
//! - **Rate and places are escrowed like money**, and move several times in an interval where callers are refused. A share brings along
//!   only what it earned while nobody had it, so shares that wander admit no more than the whole rate does.
//! - **Less than the least waiting call needs is neither granted nor kept**: two replicas with half a call's money each would wait for
//!   each other.
//! - **A place in a feed is a time in µs** in Redis (the one after the last, where that is later): an emptied or older Redis hands out no
//!   place that a reader has passed, and needs to be told nothing for that.
//! - **Idempotency keys stand beside the book**, one record each, written in the same step: a book stays small however many
//!   recharges it has seen, and a key counts for ever.
//! - **A plan and a budget are accounts inside the account**, `OWNER!NAME` ([`id::AccountId::inner`]), each with a book, leases and usage
//!   of its own: nothing of the protocol is new for them, and a call takes from all of them or from none.
//! - **Deadlines are judged by the call's own time.** What changes by itself (the end of a grace, of a rate that was bought, of credit)
//!   is in memory with its instant. A lease that such an instant ends is given back whole, and the ledger looks before there is another.
//!
//! ## What is not here yet
//!
//! - **Budgets of times that are over** are removed a week later; a mark of each stays in the store, some 100 bytes.
//! - **Credit that expires while a replica cannot be heard** is kept as far as that replica has it leased, until it is heard, or else for a
//!   lease time; in that time it pays what others spend, too. Less would not be safe: [`ledger::Spent::held`] says why. Then the lease
//!   lapses, and only what the replica reported as held is kept, until it is retired.
//! - **A late charge that the backend makes** (`LateCharge`) is money: it names no hold, and so no plan. What an application or a gateway
//!   settles late goes to the plan that its hold stood on, for as long as the hold is remembered.
//! - **A node of a cluster that is emptied while it runs** (`FLUSHALL`), other than the one that keeps the histories, is found account by
//!   account: a replica that has nothing to say of one learns of it only from others. If all its calls there were free, its counts of
//!   them are missing until the account is called again.
//! - **Commands older than an account's last 32 entries**, but for up to 16 from before those, cannot be put back one by one into a store
//!   that lost them; the book itself is. The ledger then begins later, and says so in the log. Events that were lost are announced again,
//!   under their ids, by the replica that wrote them: the last 32 of each account. A command that is carried out once more on a book that
//!   has grown announces what follows from that, as a new event.
//! - **Usage by hour is kept in Redis for good**, a row for each replica that had calls: nothing folds old hours into one, so it fills a
//!   Redis long before messages keep it busy ([`plan`]).
//! - **The feed of spend is one key**: some 60,000 messages with new spend a second are the most that one store bears, Cluster or not.
//! - **A purge is the store's**: what an account's replicas counted stays in their data directories as sums that nobody asks for, events of it
//!   stay in the feed until they are crowded out, and a store that falls back to before it has the account again.
//! - **The table of loaded accounts** is bounded only by how many are called within `engine.unload_after`.

pub mod admin;
pub mod app;
pub mod books;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod engine;
pub mod envoy;
pub mod forward_auth;
pub mod gate;
pub mod gateway;
pub mod id;
pub mod ledger;
pub mod licence;
pub mod local;
pub mod meter;
pub mod money;
pub mod plan;
pub mod policy;
pub mod pricing;
mod primitive;
pub mod proto;
pub mod proxy;
pub mod refusal;
pub mod route;
pub mod store;
pub mod sync;
pub mod telemetry;
mod tls;
pub mod usage;
pub mod webhooks;
