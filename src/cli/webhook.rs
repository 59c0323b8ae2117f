//! `tollgate webhooks`.

use clap::Subcommand;

use super::event;
use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{duration_cell, instant_cell, word};
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the endpoints, and how they are
    List,
    /// List the events that were given up
    Dead {
        endpoint: String,
        #[command(flatten)]
        limit: Limit,
    },
    /// Have events sent again that were given up
    Redeliver {
        endpoint: String,
        /// Their ids, as `webhooks dead` shows them
        #[arg(value_name = "EVENT_ID", required_unless_present = "all")]
        events: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "events")]
        all: bool,
    },
    /// Have an endpoint sent to again that answered 410
    Enable { endpoint: String },
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::List => {
            let answer = session
                .webhooks()
                .list_endpoints(v1::ListEndpointsRequest {})
                .await?;
            let endpoints = answer.into_inner().endpoints;
            let endpoints: Vec<Record> = endpoints.iter().map(show).collect();
            let columns = [
                "endpoint",
                "state",
                "waiting",
                "dead",
                "last_delivery",
                "failing_since",
                "last_error",
                "url",
            ];
            session.out.table(&endpoints, &columns)
        }
        Command::Dead { endpoint, limit } => dead(endpoint, limit, session).await,
        Command::Redeliver {
            endpoint,
            events,
            all,
        } => {
            let request = v1::RedeliverRequest {
                endpoint,
                event_ids: events,
                all,
            };
            let done = session.webhooks().redeliver(request).await?.into_inner();
            let count = Cell::Number(done.dead_letters.into());
            session.out.record(&Record(vec![("sent_again", count)]))
        }
        Command::Enable { endpoint } => {
            let request = v1::EnableEndpointRequest {
                endpoint: endpoint.clone(),
            };
            session.webhooks().enable_endpoint(request).await?;
            session
                .out
                .record(&Record(vec![("enabled", Cell::Text(endpoint))]))
        }
    }
}

async fn dead(endpoint: String, limit: Limit, session: &Session) -> Result<(), Failure> {
    let letters = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListDeadLettersRequest {
            endpoint: endpoint.clone(),
            page_size,
            page_token,
        };
        let page = session.webhooks().list_dead_letters(request).await?;
        let page = page.into_inner();
        Ok((page.dead_letters, page.next_page_token))
    });
    let letters: Vec<Record> = letters.await?.iter().map(letter).collect();
    let columns = [
        "id",
        "kind",
        "account",
        "time",
        "attempts",
        "dead_since",
        "error",
    ];
    session.out.table(&letters, &columns)
}

fn letter(letter: &v1::DeadLetter) -> Record {
    let event = letter.event.clone().unwrap_or_default();
    event::show(&event)
        .with("attempts", Cell::Number(letter.attempts.into()))
        .with(
            "first_attempt",
            instant_cell(letter.first_attempt_time.as_ref()),
        )
        .with("dead_since", instant_cell(letter.dead_time.as_ref()))
        .with("error", Cell::text(&letter.error))
        .with("redelivering", Cell::Flag(letter.redelivering))
}

fn show(endpoint: &v1::WebhookEndpoint) -> Record {
    Record(vec![
        ("endpoint", Cell::text(&endpoint.endpoint)),
        ("url", Cell::text(&endpoint.url)),
        (
            "state",
            word(endpoint.state().as_str_name(), "ENDPOINT_STATE_"),
        ),
        ("events", Cell::List(endpoint.events.clone())),
        ("replica", Cell::text(&endpoint.replica)),
        ("sequence", Cell::Number(endpoint.sequence)),
        ("waiting", Cell::Number(endpoint.waiting.into())),
        ("dead", Cell::Number(endpoint.dead_letters.into())),
        ("dropped", Cell::Number(endpoint.dropped_dead_letters)),
        (
            "last_delivery",
            instant_cell(endpoint.last_delivery_time.as_ref()),
        ),
        (
            "failing_since",
            instant_cell(endpoint.failing_since_time.as_ref()),
        ),
        ("failures", Cell::Number(endpoint.failures.into())),
        ("last_error", Cell::text(&endpoint.last_error)),
        (
            "disabled_since",
            instant_cell(endpoint.disabled_time.as_ref()),
        ),
        ("timeout", duration_cell(endpoint.timeout.as_ref())),
    ])
}
