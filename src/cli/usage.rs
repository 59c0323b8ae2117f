//! `tollgate usage`.

use clap::{Args as ClapArgs, Subcommand};

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{
    amount, amount_cell, instant, instant_cell, part, tally, unit_cell, unword, word,
};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::proto::v1;

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[arg(required = true)]
    account: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what an account used as a time series
    Series(Series),
    /// Show how many requests an amount buys, by model
    Estimate(Estimate),
}

/// What is asked of an account's usage.
#[derive(Debug, ClapArgs)]
pub(super) struct Asked {
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
    /// Of this service only; may be given several times
    #[arg(long)]
    service: Vec<String>,
    #[command(flatten)]
    limit: Limit,
}

#[derive(Debug, ClapArgs)]
struct Series {
    account: String,
    #[command(flatten)]
    asked: Asked,
    /// How long each point is: hour, day or month
    #[arg(long, default_value = "day", value_parser = step)]
    step: v1::UsageStep,
    /// Tell apart by key, model or service; may be given several times. Total is not at all
    #[arg(long, value_name = "WHAT", default_value = "total", value_parser = dimension)]
    by: Vec<v1::UsageDimension>,
}

#[derive(Debug, ClapArgs)]
struct Estimate {
    account: String,
    /// How much, as 10.00; what is available now if not given
    amount: Option<Amount>,
    /// Of this model only; may be given several times
    #[arg(long)]
    model: Vec<String>,
    /// From which hour on calls are counted; 30 days ago if not given
    #[arg(long, value_name = "INSTANT")]
    since: Option<Timestamp>,
    /// For models without history: the input tokens of a call
    #[arg(long, value_name = "N")]
    input_tokens: Option<u64>,
    /// For models without history: the output tokens of a call
    #[arg(long, value_name = "N")]
    output_tokens: Option<u64>,
}

fn step(text: &str) -> Result<v1::UsageStep, String> {
    unword(text, "USAGE_STEP_", v1::UsageStep::from_str_name)
}

fn dimension(text: &str) -> Result<v1::UsageDimension, String> {
    unword(text, "USAGE_DIMENSION_", v1::UsageDimension::from_str_name)
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    match args.command {
        Some(Command::Series(series)) => {
            let request = v1::QueryUsageRequest {
                step: series.step.into(),
                group_by: series.by.iter().map(|by| (*by).into()).collect(),
                ..series.asked.request(series.account)
            };
            show(session, request, series.asked.limit, "start").await
        }
        Some(Command::Estimate(asked)) => estimate(session, asked).await,
        None => {
            // Without a command it is required.
            let request = args.asked.request(args.account.unwrap_or_default());
            show(session, request, args.asked.limit, "hour").await
        }
    }
}

impl Asked {
    fn request(&self, account_id: String) -> v1::QueryUsageRequest {
        v1::QueryUsageRequest {
            account_id,
            start_time: self.since.map(instant),
            end_time: self.until.map(instant),
            key_ids: self.key.clone(),
            models: self.model.clone(),
            services: self.service.clone(),
            ..v1::QueryUsageRequest::default()
        }
    }
}

async fn show(
    session: &Session,
    request: v1::QueryUsageRequest,
    limit: Limit,
    time: &'static str,
) -> Result<(), Failure> {
    let mut summary = None;
    let rows = session.pages(limit, async |page_size, page_token| {
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
    let rows: Vec<Record> = rows.await?.iter().map(|each| row(each, time)).collect();
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
    let label = Record(vec![(time, Cell::text("total"))]);
    let rows: Vec<Record> = rows.into_iter().chain([tally(label, &total)]).collect();
    let told = |name: &'static str| {
        // Of a series, only what is told apart; of hours, what always was.
        let some = |record: &Record| record.has(name);
        (time == "hour" && name != "service") || rows.iter().any(some)
    };
    let names = ["key", "model", "service"]
        .into_iter()
        .filter(|name| told(name));
    let columns = [time].into_iter().chain(names);
    let columns = columns.chain(["calls", "counts", "cost", "unit"]);
    out.table(&rows, &columns.collect::<Vec<_>>())
}

fn row(row: &v1::UsageRow, time: &'static str) -> Record {
    let of = Record(vec![
        (time, instant_cell(row.start_time.as_ref())),
        ("key", Cell::text(&row.key_id)),
        ("model", Cell::text(&row.model)),
        ("service", Cell::text(&row.service)),
    ]);
    match &row.tally {
        Some(of_row) => tally(of, of_row),
        None => of,
    }
}

async fn estimate(session: &Session, asked: Estimate) -> Result<(), Failure> {
    let request = v1::EstimateRequestsRequest {
        account_id: asked.account,
        amount: asked.amount.map(amount),
        models: asked.model,
        start_time: asked.since.map(instant),
        input_tokens: asked.input_tokens,
        output_tokens: asked.output_tokens,
    };
    let answer = session
        .usages()
        .estimate_requests(request)
        .await?
        .into_inner();
    let of = part(answer.amount, "amount")?;
    let rows = answer.estimates.iter().map(|one| {
        let requests = if one.unbounded {
            Cell::text("unbounded")
        } else {
            Cell::Number(one.requests)
        };
        Record(vec![
            ("model", Cell::text(&one.model)),
            ("amount", amount_cell(Some(&of))),
            ("unit", unit_cell(Some(&of))),
            ("requests", requests),
            ("mean_cost", amount_cell(one.mean_cost.as_ref())),
            ("basis", word(one.basis().as_str_name(), "ESTIMATE_BASIS_")),
            ("samples", Cell::Number(one.samples)),
            ("as_of", instant_cell(answer.as_of.as_ref())),
        ])
    });
    let columns = [
        "model",
        "amount",
        "unit",
        "requests",
        "mean_cost",
        "basis",
        "samples",
    ];
    session.out.table(&rows.collect::<Vec<_>>(), &columns)
}
