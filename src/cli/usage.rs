//! `tollgate usage`.

use clap::Args as ClapArgs;

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{instant, instant_cell, tally};
use crate::clock::Timestamp;
use crate::proto::v1;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    account: String,
    /// From the hour in which this instant lies, as 2026-01-31T00:00:00Z; 24 hours ago if not given
    #[arg(long, value_name = "INSTANT")]
    since: Option<Timestamp>,
    /// Up to this instant; now if not given
    #[arg(long, value_name = "INSTANT")]
    until: Option<Timestamp>,
    /// Of this key only; may be given several times
    #[arg(long)]
    key: Vec<String>,
    /// Of this model only; may be given several times
    #[arg(long)]
    model: Vec<String>,
    #[command(flatten)]
    limit: Limit,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let request = v1::QueryUsageRequest {
        account_id: args.account,
        start_time: args.since.map(instant),
        end_time: args.until.map(instant),
        key_ids: args.key,
        models: args.model,
        ..v1::QueryUsageRequest::default()
    };
    let mut summary = None;
    let rows = session.pages(args.limit, async |page_size, page_token| {
        let request = v1::QueryUsageRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        let page = session.usages().query_usage(request).await?.into_inner();
        // The first page's: each page's total is as of its own reading.
        summary.get_or_insert((page.total.unwrap_or_default(), page.as_of));
        Ok((page.rows, page.next_page_token))
    });
    let rows: Vec<Record> = rows.await?.iter().map(row).collect();
    let (total, as_of) = summary.unwrap_or_default();
    let as_of = instant_cell(as_of.as_ref());
    let out = session.out;
    if out.json {
        let total = Cell::Record(Box::new(tally(Record::default(), &total)));
        let answer = vec![
            ("rows", Cell::Nested(rows)),
            ("total", total),
            ("as_of", as_of),
        ];
        return out.record(&Record(answer));
    }
    let label = Record(vec![("hour", Cell::text("total"))]);
    let rows: Vec<Record> = rows.into_iter().chain([tally(label, &total)]).collect();
    out.table(
        &rows,
        &["hour", "key", "model", "calls", "counts", "cost", "unit"],
    )
}

fn row(row: &v1::UsageRow) -> Record {
    let of = Record(vec![
        ("hour", instant_cell(row.hour_start.as_ref())),
        ("key", Cell::text(&row.key_id)),
        ("model", Cell::text(&row.model)),
    ]);
    match &row.tally {
        Some(of_row) => tally(of, of_row),
        None => of,
    }
}
