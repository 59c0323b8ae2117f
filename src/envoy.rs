//! The services that Envoy asks: may this call pass, and how did it end.
//!
//! | service | what it is asked |
//! |---|---|
//! | `envoy.service.auth.v3.Authorization/Check` | may this request pass: before each call (`check`) |
//! | `envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs` | how calls ended, afterwards (`log`) |
//! | `envoy.service.ext_proc.v3.ExternalProcessor/Process` | the call as it passes: watched, or decided on too (`process`) |
//! | `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit` | descriptors of Envoy's global rate limits (`limit`) |
//! | `grpc.health.v1.Health` | for a cluster's `health_checks`: serving until the process is told to stop |
//!
//! Thin: what a request says is read by [`crate::gateway`], what it may do is decided by [`crate::gate`]. A call that Check lets
//! through carries its hold's id in dynamic metadata and, for an upstream that settles itself, in `x-tollgate-hold`; whoever tells of
//! its end tells that id. The first word of an end stands, another changes nothing.
//!
//! # Which way to choose
//!
//! Each has a commented bootstrap in `deploy/envoy`.
//!
//! | way | seen | added to a call | what can be lost | clients |
//! |---|---|---|---|---|
//! | `ext-authz-access-log` | the request; of the answer, the usage that Envoy's `json_to_metadata` and `sse_to_metadata` read | one question before it | log lines: sent once | must ask for a stream's usage |
//! | `ext-authz-ext-proc` | the request; the whole answer | one question before it; a copy of the answer, not waited for | the watching stream, if Envoy dies or its circuit breaker opens | must ask for a stream's usage, or `on_missing_usage = "estimate"` |
//! | `ext-authz-holds` | the request | one question before it | what the application does not tell | as the application says |
//! | `ext-proc` | the request; the whole answer | a round trip for the head, the body, the answer's head and each piece of the answer | nothing while both live | need do nothing |
//! | `rate-limit` | descriptors; the usage that Envoy reads | one question before it | what is told at the end: sent once | must ask for a stream's usage; refusals are all 429 |
//!
//! Begin with `ext-authz-ext-proc`: it costs a call no more than the question, reads every API that the proxy reads, and settles as soon
//! as the answer ends. Take `ext-proc` where clients cannot be made to ask for their usage, where streams must be cut when the money
//! runs out (`envoy.on_overrun = "cut"`), or where Envoys share tollgates. Envoy calls `sse_to_metadata` work in progress, so the access
//! log is for those who have it already, or whose answers do not stream.
//!
//! # One hold, one replica
//!
//! A hold lives on the replica that took it, and its end must be told there.
//!
//! | way | the end is told | where one tollgate is beside each Envoy | where Envoys share tollgates |
//! |---|---|---|---|
//! | `ext-proc` | on the stream that asked | works | works: any Service in front of many tollgates |
//! | `ext-authz-access-log` | on one stream of each Envoy worker, for all calls | works | each Envoy needs a tollgate of its own |
//! | `ext-authz-ext-proc` | on a stream of its own | works | the same |
//! | `rate-limit` | in a question of its own | works | the same |
//! | `ext-authz-holds` | by the application | it settles at the tollgate of the pod | it settles where the hold's id says |
//! | nginx, Traefik, Caddy | at `/settle`, by the gateway or the application | works | as for `ext-authz-holds` |
//!
//! - **Beside each Envoy**: `deploy/kubernetes/sidecar.yaml`, and `sidecar.yaml` in `envoy-gateway` and `istio` there. Nothing to arrange.
//! - **Shared**: `deploy/kubernetes/shared.yaml`, and `shared.yaml` in those two, for `ext-proc`.
//! - **Shared, with ext_authz**: a call cannot be routed by its hold, as it has none yet when Envoy asks, and an access log is one stream
//!   for all calls. So route by Envoy: the cluster `tollgate` has two priorities, at 0 the one tollgate that is this Envoy's (of a
//!   StatefulSet, by its own name), at 1 the others, and `health_checks` by `grpc.health.v1.Health`, which this server answers. While its
//!   own is healthy, an Envoy asks and tells no other. When it fails, calls go on at another; what the failed one held ends by policy.
//!
//!   ```yaml
//!   health_checks:
//!     # Else the first look after the start is followed by the next a minute later.
//!     - no_traffic_interval: 1s
//!       interval: 1s
//!       timeout: 1s
//!       unhealthy_threshold: 2
//!       healthy_threshold: 1
//!       grpc_health_check: {}
//!   load_assignment:
//!     cluster_name: tollgate
//!     endpoints:
//!       - priority: 0
//!         lb_endpoints: [{ endpoint: { address: { socket_address: { address: tollgate-0.tollgate, port_value: 9001 } } } }]
//!       - priority: 1
//!         lb_endpoints: [{ endpoint: { address: { socket_address: { address: tollgate, port_value: 9001 } } } }]
//!   ```
//!
//! - **By an application**: a hold's id is `ACCOUNT~REPLICA~REQUEST`, and the request brings it in `x-tollgate-hold`. A tollgate that is
//!   asked to settle what another one holds changes nothing and names it: `FAILED_PRECONDITION`, reason `HOLD_ELSEWHERE`, with `replica`
//!   in the metadata, from `HoldService`; 421 from `/settle`. Each says its own name in the line `serving` of its log, and keeps it with
//!   its data directory. `NOT_FOUND` says that the right one was asked, and that it has forgotten the hold or was restarted since.
//!
//! # What becomes of a call whose end is not told
//!
//! Its hold lives for the account's `hold_ms_max`, so that must be longer than the longest call: than the route's `timeout` in Envoy, which
//! is 600 s in the bootstraps, as is the default of `hold_ms_max`; set one of the two. Then the policy's `unsettled` charges it or lets it
//! go; `tollgate_gateway_calls_total{result="expired"}` counts it, a warning names it, and `/unheard` of the admin edge
//! lists the newest thousand. An end that comes later still lands, and takes it off the list. An end of a call that this process never
//! knew (another replica's, or one from before a restart) is counted as `stray`, logged with its usage and, if it is another's, that
//! replica's name, and charges nothing: what was held then has ended by policy already, or will where it lives.
//!
//! # When tollgate is away
//!
//! Envoy says what becomes of calls then, filter by filter; a Check that cannot be decided (`STATE_UNAVAILABLE`) is an error to it in
//! just that way.
//!
//! | | ext_authz | ext_proc in the path | ext_proc watching | rate limit |
//! |---|---|---|---|---|
//! | closed (as in `deploy`) | `failure_mode_allow: false` | `failure_mode_allow: false` | | `failure_mode_deny: true` |
//! | tollgate is gone | 503, by `status_on_error` | 503, by `status_on_error` | calls pass; ext_authz decides | 503, by `status_on_error` |
//! | tollgate hangs | 503 after `timeout` | 504 after `message_timeout`, whatever `status_on_error` is | as above | 503 after `timeout` |
//! | open: calls pass unpaid | `failure_mode_allow: true` | `failure_mode_allow: true` | | `failure_mode_deny: false` |
//!
//! - **Open** gives calls away for as long as tollgate is gone: nobody counts them. `http.PREFIX.ext_authz.failure_mode_allowed` of Envoy's
//!   statistics says how many.
//! - **The store is away** is not this: calls go on within the lease, and the policy's `store_outage` says what follows.
//! - **Tollgate is told to stop** (SIGTERM): no call is let in any more, which is an error to Envoy as above; it serves until the end of
//!   every open call was told, for at most `shutdown.drain_max`, settles and publishes. Started again, it goes on where it was.
//! - **Tollgate is killed**: what was settled is in its counter file, and published by its next start. What it held is over, by the policy's
//!   `unsettled`; ends that are told later are `stray`. A stream that ext_proc carries in the path breaks off at its client.
//! - **Envoy is killed**: streams of ext_proc end, and what was seen is charged as for a client that leaves. Access log lines that were
//!   not sent are lost (`buffer_flush_interval`, 0.1 s in the bootstrap); those holds end by policy.
//! - **The connection between them is cut**: log lines that were on it are lost, Envoy opens the stream again with the next one, and what
//!   comes twice changes nothing.
//! - **Timeouts.** `timeout` (ext_authz, rate limit) and `message_timeout` (ext_proc) default to 200 ms and less. Only the first call of
//!   an account waits for the store, for at most `engine.load_wait` (2 s), and one whose lease is empty for `sync.refill_wait`;
//!   the bootstraps give 2.5 s. A Check that Envoy gave up on may have taken a hold all the same: that one expires.
//! - **Circuit breakers.** Every call that ext_proc watches is one open request on the cluster `tollgate`, for as long as it lasts, and
//!   each access log is one for ever. Envoy's default `max_requests` of 1024 turns callers away at a peak, so the bootstraps give 16,384,
//!   which is also what this server takes on one connection. A breaker that is open is tollgate being gone, as above; Envoy counts
//!   `cluster.tollgate.upstream_rq_pending_overflow`.
//! - **Keep-alives.** A tollgate that hangs is noticed by HTTP/2 pings; without them every call waits for its timeout.
//! - **Buffers.** The model's name stands in the body, so Envoy must show all of it: `max_request_bytes` (ext_authz) or the listener's
//!   `per_connection_buffer_limit_bytes` (ext_proc) is the largest request, and beyond it clients get 413. A body that is shown in part
//!   is priced by its beginning, in which a caller could name another model than at its end.
//!
//! # How to size
//!
//! Begin with calls in flight, *F* = calls a second × seconds that one lasts, of one Envoy (*F*ₑ) and of all that one tollgate serves
//! (*F*ₜ), each at its peak. 200 calls a second of 30 s are 6,000.
//!
//! | what | as much as | default, or as in `deploy` |
//! |---|---|---|
//! | Envoy: `max_requests` of the cluster `tollgate` | 2 × *F*ₑ with ext_proc; with ext_authz alone what is asked at once, and a log for each worker | 16,384 |
//! | Envoy: `max_requests` and `max_pending_requests` of the models' cluster | 2 × *F*ₑ | 16,384 |
//! | tollgate: `engine.holds_max` | 2 × (*F*ₜ + 10 s of calls, which are remembered that long) | 100,000 |
//! | tollgate: memory for them | up to a kilobyte a hold (0.6 measured) | 100 MB |
//! | policy: `hold_ms_max` | more than the longest call | 10 min |
//! | policy: `concurrency`, if any | the account's own *F* | none |
//! | Envoy: memory for bodies | *F*ₑ × the largest request, at worst | 8 MiB each |
//! | tollgate: memory for bodies | questions at once × the largest request: they are read where they lie, and not kept | |
//! | `shutdown.drain_max`, and `terminationGracePeriodSeconds` above it | as long as calls may take to end; what is open then is settled as far as it was seen | 25 s |
//!
//! Connections need no sizing: each worker of an Envoy has one to a tollgate for every 16,384 calls, and 4,096 are taken. More than
//! `engine.holds_max` are refused as `STATE_UNAVAILABLE`. What calls set aside is money that others cannot spend: where accounts are
//! refused with money left, let the policy's `hold` set less aside.
//!
//! What a question costs tollgate and Envoy, `cargo bench-envoy` measures beside Envoy alone, an authorizer that always says yes, and
//! Envoy's own local rate limit. With `ext-proc` in the path each piece of an answer is a message there and one back: plan for as many
//! round trips a second as the models send events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::gate::{By, CallGrant};
use crate::gateway::{Gateway, Placed, Read, Stopped};
use crate::id::{AccountId, KeyId, ModelName};
use crate::telemetry::Passage;

mod check;
mod fields;
mod inline;
mod limit;
mod log;
mod process;
mod question;
mod serve;
mod socket;
mod unary;
mod wire;

pub use serve::{Running, StartError, serve};

/// The largest message: a request's body is shown in one piece, and a body of the large providers' most has its headers beside it.
const MESSAGE_BYTES_MAX: usize = 72 << 20;

/// Where the server listens and what it asks of those who call.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where: a port, a Unix socket, or both.
    pub listen: Vec<crate::control::Listen>,
    /// Threads; at least one is run. A connection stays on one.
    pub workers: usize,
    /// What Envoy must send as `authorization: Bearer TOKEN`.
    pub token: Option<String>,
    /// How long streams have to end when the server is told to stop.
    pub drain: Duration,
    /// Cut a watched answer when what it costs goes beyond what the account has.
    pub cut_overrun: bool,
    /// What the entries of rate limits' descriptors are.
    pub limits: Limits,
}

/// What the entries of a rate limit's descriptors are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The entry that has the caller's secret.
    pub secret_entry: String,
    /// The entry that names the model.
    pub model_entry: String,
    /// The entry that has the hold of a call that has ended.
    pub hold_entry: String,
    /// The entry that names what the hits of such a call count.
    pub meter_entry: String,
    /// Descriptors that stand for a key.
    pub callers: Vec<Named>,
}

/// A descriptor of Envoy's rate limits that stands for a key: one that has all of these entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The rate limit's domain; `None` is any.
    pub domain: Option<String>,
    /// The entries, by key.
    pub entries: BTreeMap<String, String>,
    /// The model that its calls are priced as, if the descriptor names none.
    pub model: Option<ModelName>,
    /// The account and its key.
    pub caller: (AccountId, KeyId),
}

/// The services. Cheap to clone.
#[derive(Clone)]
struct Envoy {
    gateway: Arc<Gateway>,
    stop: watch::Receiver<bool>,
    cut_overrun: bool,
    limits: Arc<Limits>,
}

impl Envoy {
    /// Ends a call as somebody has told. One that is told so late that its plan's lease has gone back is ended once that was asked for
    /// again, and meanwhile nobody waits.
    fn settle(&self, hold: &str, outcome: &crate::gate::Outcome) {
        if !self.gateway.gate.is_late(hold, outcome) {
            return self.end(hold, outcome);
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.end(hold, outcome);
        };
        let (envoy, hold, outcome) = (self.clone(), hold.to_owned(), *outcome);
        runtime.spawn(async move {
            envoy.gateway.gate.ready_call(&hold, &outcome).await;
            envoy.end(&hold, &outcome);
        });
    }

    /// Ends a call, and writes down what does not fit.
    fn end(&self, hold: &str, outcome: &crate::gate::Outcome) {
        use crate::gate::HoldError;
        match self.gateway.gate.settle_call(hold, outcome) {
            Ok(charge) => tracing::debug!(
                target: "tollgate::access",
                hold,
                end = outcome.end.name(),
                cost = %charge.amount,
                certainty = charge.certainty.name(),
                "a gateway's call ended"
            ),
            // Told twice; or of a hold that this process gave and has settled and forgotten.
            Err(HoldError::Settled(..)) => {}
            Err(HoldError::Unknown(_)) if self.gateway.is_own(hold) => {}
            Err(error) => tracing::warn!(
                hold,
                end = outcome.end.name(),
                usage = ?outcome.reading.usage,
                %error,
                "the end of a call was told, and nothing is known of the call"
            ),
        }
    }

    /// Decides about a call that was read, unless the process is about to end.
    async fn admit(
        &self,
        placed: &Placed,
        read: &Read,
        by: By<'_>,
        request: &str,
    ) -> Result<CallGrant, Stopped> {
        if *self.stop.borrow() {
            return Err(self.gateway.closed(placed));
        }
        self.gateway.admit(placed, read, by, request).await
    }

    fn count(&self, passage: Passage) {
        self.gateway.gate.metrics().passage(passage);
    }
}
