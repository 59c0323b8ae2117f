//! UsageService: what an account used, by hour, key and model.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use super::pages::{Filter, ROWS, cut};
use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, KeyId, ModelName};
use crate::proto::convert::{
    FieldError, account_id, key_id, model, tally, timestamp, timestamp_from, usage_row,
};
use crate::proto::v1::{self, usage_service_server::UsageService};
use crate::store::UsageRow;
use crate::usage::Tally;

/// The longest time that is asked about at once: a quarter, and some.
const HOURS_MAX: i64 = 100 * 24;

/// The time that is asked about if the request does not say.
const DEFAULT_SPAN: Duration = Duration::from_secs(24 * 3_600);

/// How many hours are read at once: an account with a thousand keys and models in use has some 10 MiB of rows in them.
const HOURS_AT_ONCE: i64 = 24;

/// How many keys or models a filter may name: every row is compared with each.
const NAMES_MAX: usize = 100;

#[tonic::async_trait]
impl UsageService for Control {
    async fn query_usage(
        &self,
        request: Request<v1::QueryUsageRequest>,
    ) -> Result<Response<v1::QueryUsageResponse>, Status> {
        answer(self.usage(request.into_inner()).await)
    }
}

/// What is asked.
struct Query {
    account: AccountId,
    from: Hour,
    to: Hour,
    keys: Vec<KeyId>,
    models: Vec<ModelName>,
}

/// Where a row stands in the order of the listing.
type Place = (i64, String, String);

impl Query {
    fn new(request: &v1::QueryUsageRequest, now: Timestamp) -> Result<Self, FieldError> {
        let end = timestamp_from("end_time", request.end_time.as_ref())?.unwrap_or(now);
        let span = i64::try_from(DEFAULT_SPAN.as_nanos()).unwrap_or(i64::MAX);
        let day_before = Timestamp::from_nanos(end.nanos().saturating_sub(span));
        let start =
            timestamp_from("start_time", request.start_time.as_ref())?.unwrap_or(day_before);
        let (from, last) = (start.hour(), end.hour());
        let whole = last.start() == end;
        let to = if whole {
            last
        } else {
            Hour(last.0.saturating_add(1))
        };
        if start >= end {
            let problem = format!("is {start}, which is not before end_time ({end})");
            return Err(FieldError::invalid("start_time", problem));
        }
        if to.0.saturating_sub(from.0) > HOURS_MAX {
            let days = HOURS_MAX / 24;
            let problem =
                format!("is {start}; give a time at most {days} days before end_time ({end})");
            return Err(FieldError::invalid("start_time", problem));
        }
        for (field, given) in [("key_ids", &request.key_ids), ("models", &request.models)] {
            if given.len() > NAMES_MAX {
                let problem = format!("has {} names; it may have {NAMES_MAX}", given.len());
                return Err(FieldError::invalid(field, problem));
            }
        }
        let keys = request.key_ids.iter().map(|key| key_id("key_ids", key));
        let models = request.models.iter().map(|name| model("models", name));
        Ok(Self {
            account: account_id("account_id", &request.account_id)?,
            from,
            to,
            keys: keys.collect::<Result<_, _>>()?,
            models: models.collect::<Result<_, _>>()?,
        })
    }

    fn wants(&self, row: &UsageRow) -> bool {
        let model = || {
            row.model
                .as_ref()
                .is_some_and(|model| self.models.contains(model))
        };
        (self.keys.is_empty() || self.keys.contains(&row.key))
            && (self.models.is_empty() || model())
    }
}

impl Control {
    async fn usage(
        &self,
        mut request: v1::QueryUsageRequest,
    ) -> Result<v1::QueryUsageResponse, Fault> {
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("QueryUsage", &request);
        let position = filter.position(&token)?;
        // Without an end, the pages end where the first one did: "now" would move on between them.
        let (end, after) = match position.as_deref().map(parse).transpose()? {
            None => (self.core().clock.now().wall, None),
            Some((end, after)) => (end, Some(after)),
        };
        let query = Query::new(&request, end)?;
        let as_of = self.flush(&query.account).await;
        let unit = self.0.units.of(&query.account).await?;
        let first_page = after.is_none();
        let mut total = Tally::default();
        let mut rows = Vec::new();
        let mut from = after.as_ref().map_or(query.from, |after| Hour(after.0));
        while from < query.to && (first_page || rows.len() <= size) {
            let to = Hour(from.0.saturating_add(HOURS_AT_ONCE)).min(query.to);
            for row in self.core().store.usage(&query.account, from, to).await? {
                if !query.wants(&row) {
                    continue;
                }
                total.add(&row.tally);
                if rows.len() <= size && after.as_ref().is_none_or(|after| place(&row) > *after) {
                    rows.push(row);
                }
            }
            from = to;
        }
        let more = cut(&mut rows, size);
        let last = rows.last().filter(|_| more).map(place);
        let next = last.map(|(hour, key, model)| {
            filter.token(format!("{}\n{hour}\n{key}\n{model}", end.nanos()))
        });
        Ok(v1::QueryUsageResponse {
            rows: rows.iter().map(|row| usage_row(row, &unit)).collect(),
            next_page_token: next.unwrap_or_default(),
            total: first_page.then(|| tally(&total, &unit)),
            as_of: Some(timestamp(as_of)),
        })
    }
}

fn place(row: &UsageRow) -> Place {
    let model = row
        .model
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    (row.hour.unwrap_or_default().0, row.key.to_string(), model)
}

fn parse(text: &str) -> Result<(Timestamp, Place), Fault> {
    let mut parts = text.split('\n');
    let mut part = || parts.next().ok_or(Fault::PageToken);
    let number = |text: &str| text.parse::<i64>().map_err(|_| Fault::PageToken);
    let (end, hour) = (number(part()?)?, number(part()?)?);
    let (key, model) = (part()?.to_owned(), part()?.to_owned());
    Ok((Timestamp::from_nanos(end), (hour, key, model)))
}
