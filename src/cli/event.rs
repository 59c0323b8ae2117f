//! `tollgate events`.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::failure::{Exit, Failure};
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{amount_cell, instant_cell, unit_cell, unword};
use crate::proto::convert::{event_kind_name, event_kind_names};
use crate::proto::v1;

/// Between two tries to take up a stream that ended: a restart takes longer, an idle wait costs nothing.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Tries in a row before giving up: a minute, which outlives any restart that goes well.
const RECONNECTS_MAX: u32 = 60;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Go on with those that come, one line each, until interrupted
    #[arg(long)]
    follow: bool,
    /// After this place in the feed; 0 is its beginning
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// Of this account only
    #[arg(long)]
    account: Option<String>,
    /// Of this kind only, such as account.overdue; a wrong one is told what there is
    #[arg(long, value_parser = kind)]
    kind: Vec<v1::EventKind>,
    #[command(flatten)]
    limit: Limit,
}

fn kind(text: &str) -> Result<v1::EventKind, String> {
    unword(text, "EVENT_KIND_", v1::EventKind::from_str_name).map_err(|_| {
        let known: Vec<_> = event_kind_names().collect();
        format!(
            "`{text}` is no kind of event; there are {}",
            known.join(", ")
        )
    })
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let account_id = args.account.unwrap_or_default();
    let kinds: Vec<i32> = args.kind.into_iter().map(Into::into).collect();
    if args.follow {
        let request = v1::StreamEventsRequest {
            after_sequence: args.after,
            account_id,
            kinds,
        };
        return follow(session, request).await;
    }
    let request = v1::ListEventsRequest {
        after_sequence: args.after,
        account_id,
        kinds,
        ..v1::ListEventsRequest::default()
    };
    let events = session.pages(args.limit, async |page_size, page_token| {
        let request = v1::ListEventsRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        let page = session.events().list_events(request).await?.into_inner();
        Ok((page.events, page.next_page_token))
    });
    let events: Vec<Record> = events.await?.iter().map(show).collect();
    let columns = [
        "sequence", "time", "kind", "account", "balance", "amount", "unit",
    ];
    session.out.table(&events, &columns)
}

/// Follows through restarts: a stream that ends is taken up after the last event that was shown.
async fn follow(session: &Session, mut request: v1::StreamEventsRequest) -> Result<(), Failure> {
    let mut tries = 0_u32;
    loop {
        let before = request.after_sequence;
        let ended = follow_once(session, &mut request).await;
        if request.after_sequence != before {
            tries = 0;
        }
        if let Err(failure) = ended
            && (failure.exit != Exit::Unavailable || tries >= RECONNECTS_MAX)
        {
            return Err(failure);
        }
        tries = tries.saturating_add(1);
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn follow_once(
    session: &Session,
    request: &mut v1::StreamEventsRequest,
) -> Result<(), Failure> {
    let mut stream = session
        .events()
        .stream_events(request.clone())
        .await?
        .into_inner();
    loop {
        match stream.message().await {
            Ok(None) => return Ok(()),
            Ok(Some(answer)) => {
                if let Some(event) = answer.event {
                    session.out.line(&show(&event))?;
                    request.after_sequence = event.sequence;
                }
            }
            Err(status) => return Err(status.into()),
        }
    }
}

pub(super) fn show(event: &v1::Event) -> Record {
    let name = event_kind_name(event.kind());
    Record(vec![
        ("sequence", Cell::Number(event.sequence)),
        ("time", instant_cell(event.time.as_ref())),
        ("kind", Cell::text(name)),
        ("account", Cell::text(&event.account_id)),
        ("balance", amount_cell(event.balance.as_ref())),
        ("amount", amount_cell(event.amount.as_ref())),
        ("unit", unit_cell(event.balance.as_ref())),
        ("about", Cell::text(&event.about)),
        ("idempotency_key", Cell::text(&event.idempotency_key)),
        ("recipients", Cell::List(event.recipients.clone())),
        ("id", Cell::text(&event.event_id)),
    ])
}
