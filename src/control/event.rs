//! EventService: the feed of events, by page and as it grows.

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use super::feed::{Answers, Feed, Look};
use super::pages::{Filter, ROWS};
use crate::id::AccountId;
use crate::ledger::Event;
use crate::proto::convert::{FieldError, event, event_kind, event_kinds, readable_account_id};
use crate::proto::v1::{self, event_service_server::EventService};

/// How many events are read at once.
const CHUNK: usize = 500;

/// How many events a filtered page reads at most before it returns what it has.
const SCANNED_MAX: usize = 10_000;

#[tonic::async_trait]
impl EventService for Control {
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        answer(self.events(request.into_inner()).await)
    }

    type StreamEventsStream = Answers<v1::StreamEventsResponse>;

    async fn stream_events(
        &self,
        request: Request<v1::StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let request = request.into_inner();
        let wanted = Wanted::new(&request.account_id, &request.kinds).map_err(Fault::from)?;
        let feed = Events {
            control: self.clone(),
            wanted,
        };
        answer(self.follow(feed, request.after_sequence, false))
    }
}

/// What a reader asked for.
struct Wanted {
    account: Option<AccountId>,
    kinds: Vec<v1::EventKind>,
}

impl Wanted {
    fn new(account: &str, kinds: &[i32]) -> Result<Self, FieldError> {
        let account = match account {
            "" => None,
            text => Some(readable_account_id("account_id", text)?),
        };
        let kinds = event_kinds("kinds", kinds)?;
        Ok(Self { account, kinds })
    }

    fn has(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event_kind(event.kind)))
            && self.account.as_ref().is_none_or(|account| {
                // What happens to its plans, too.
                *account == event.account || event.account.owner().as_ref() == Some(account)
            })
    }
}

impl Control {
    async fn events(
        &self,
        mut request: v1::ListEventsRequest,
    ) -> Result<v1::ListEventsResponse, Fault> {
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListEvents", &request);
        let wanted = Wanted::new(&request.account_id, &request.kinds)?;
        let mut at = filter.number(&token)?.unwrap_or(request.after_sequence);
        let mut events = Vec::new();
        let mut scanned: usize = 0;
        let more = 'scan: loop {
            let chunk = self.core().store.events(at, CHUNK).await?;
            let last_chunk = chunk.len() < CHUNK;
            let mut left = chunk.len();
            for (sequence, each) in chunk {
                at = sequence;
                left = left.saturating_sub(1);
                scanned = scanned.saturating_add(1);
                if wanted.has(&each) {
                    events.push(self.shown(sequence, &each).await?);
                }
                if events.len() == size {
                    break 'scan left > 0 || !last_chunk;
                }
            }
            if last_chunk {
                break false;
            }
            if scanned >= SCANNED_MAX {
                break true;
            }
        };
        Ok(v1::ListEventsResponse {
            events,
            next_page_token: if more {
                filter.token(at)
            } else {
                String::new()
            },
        })
    }

    async fn shown(&self, sequence: u64, each: &Event) -> Result<v1::Event, Fault> {
        let unit = self.0.units.of_any(&each.account).await?;
        Ok(event(sequence, each, &unit))
    }
}

/// Events as a feed.
struct Events {
    control: Control,
    wanted: Wanted,
}

#[tonic::async_trait]
impl Feed for Events {
    type Answer = v1::StreamEventsResponse;

    async fn look(&self, after: u64) -> Result<Look<Self::Answer>, Fault> {
        let chunk = self.control.core().store.events(after, CHUNK).await?;
        let more = chunk.len() == CHUNK;
        let position = chunk.last().map_or(after, |(sequence, _)| *sequence);
        let mut answers = Vec::new();
        for (sequence, each) in chunk.iter().filter(|(_, each)| self.wanted.has(each)) {
            let event = Some(self.control.shown(*sequence, each).await?);
            answers.push(v1::StreamEventsResponse { event });
        }
        Ok(Look {
            answers,
            position,
            more,
        })
    }
}
