//! The access log: one event for each call that ended, under a target of its own. Off unless the filter asks for it, and then
//! nothing of it is put together. How lines are written is up to `telemetry::logging`.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use tracing::Level;

use crate::gate::{Charge, Outcome, Ticket};
use crate::id::{AccountId, KeyId, ModelName};
use crate::refusal::Refusal;
use crate::route::Terms;

/// What a filter asks for: `info,tollgate::access=debug`.
const TARGET: &str = "tollgate::access";

/// The line of a call that was admitted.
pub(super) struct Line {
    request: HeaderValue,
    terms: Arc<Terms>,
    account: AccountId,
    key: KeyId,
    model: Option<ModelName>,
    /// The upstream's; `None` until it says one.
    status: Option<StatusCode>,
}

impl Line {
    /// Begins the line, if anybody listens.
    pub(super) fn begin(
        request: &HeaderValue,
        terms: &Arc<Terms>,
        ticket: &Ticket,
    ) -> Option<Box<Self>> {
        is_on().then(|| {
            Box::new(Self {
                request: request.clone(),
                terms: Arc::clone(terms),
                account: ticket.account().clone(),
                key: ticket.key().clone(),
                model: ticket.model(),
                status: None,
            })
        })
    }

    /// The upstream answered.
    pub(super) const fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Writes the line of a call that has ended.
    pub(super) fn write(&self, outcome: &Outcome, charge: &Charge) {
        tracing::debug!(
            target: TARGET,
            request_id = text(&self.request),
            route = self.terms.route,
            account = self.account.as_str(),
            key = self.key.as_str(),
            model = self.model.as_ref().map(ModelName::as_str),
            status = self.status.map(|status| status.as_u16()),
            end = outcome.end.name(),
            cost = %charge.amount,
            certainty = charge.certainty.name(),
            bytes_in = outcome.bytes_in,
            bytes_out = outcome.bytes_out,
            "call"
        );
    }
}

/// Writes the line of a call that was refused: who called is not told, as it may be nobody that is known.
pub(super) fn refused(request: &HeaderValue, terms: &Terms, refusal: &Refusal, status: StatusCode) {
    tracing::debug!(
        target: TARGET,
        request_id = text(request),
        route = terms.route,
        status = status.as_u16(),
        end = "refused",
        reason = refusal.reason.name(),
        "call"
    );
}

fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}
