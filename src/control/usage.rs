//! UsageService: what an account used, as a time series, and what an amount buys by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use super::estimate::{Basis, Estimate, Typical, estimate};
use super::pages::{Filter, ROWS, cut};
use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, KeyId, ModelName};
use crate::money::Amount;
use crate::proto::convert::{
    FieldError, amount, amount_or_none, key_id, model, readable_account_id, tally, timestamp,
    timestamp_from, usage_dimensions, usage_row, usage_step,
};
use crate::proto::v1::{self, usage_service_server::UsageService};
use crate::store::UsageRow;
use crate::usage::Tally;
use crate::usage::series::{Apart, Point, Series, Step};

/// The longest time that is asked about at once by the hour: a quarter, and some.
const DAYS_BY_HOUR_MAX: i64 = 100;

/// By the day: a year, and some.
const DAYS_BY_DAY_MAX: i64 = 400;

/// By the month: five years.
const DAYS_BY_MONTH_MAX: i64 = 1_830;

/// How many points are asked about if the request does not say: a day of hours, or 24 days.
const POINTS_DEFAULT: i64 = 24;

/// How many months are asked about if the request does not say.
const MONTHS_DEFAULT: i64 = 12;

/// How many hours are read at once: an account with a thousand keys and models in use has some 10 MiB of rows in them.
pub(super) const HOURS_AT_ONCE: i64 = 24;

/// How many keys, models or services a filter may name: every row is compared with each.
const NAMES_MAX: usize = 100;

/// How many prices are shown of an account without any history.
const PRICES_SHOWN_MAX: usize = 100;

/// From when on calls count for an estimate, if the request does not say.
const HISTORY_DEFAULT: Duration = Duration::from_secs(30 * 86_400);

#[tonic::async_trait]
impl UsageService for Control {
    async fn query_usage(
        &self,
        request: Request<v1::QueryUsageRequest>,
    ) -> Result<Response<v1::QueryUsageResponse>, Status> {
        answer(self.usage(request.into_inner()).await)
    }

    async fn estimate_requests(
        &self,
        request: Request<v1::EstimateRequestsRequest>,
    ) -> Result<Response<v1::EstimateRequestsResponse>, Status> {
        answer(self.estimated(request.into_inner()).await)
    }
}

/// What is asked.
struct Query {
    account: AccountId,
    step: Step,
    apart: Apart,
    from: Hour,
    to: Hour,
    keys: Vec<KeyId>,
    models: Vec<ModelName>,
    services: Vec<String>,
}

impl Query {
    fn new(request: &v1::QueryUsageRequest, now: Timestamp) -> Result<Self, FieldError> {
        let step = usage_step("step", request.step)?;
        let end = timestamp_from("end_time", request.end_time.as_ref())?.unwrap_or(now);
        let last = step.start(end.hour());
        let to = if last.start() == end {
            last
        } else {
            step.next(last)
        };
        let points = match step {
            Step::Hour | Step::Day => POINTS_DEFAULT,
            Step::Month => MONTHS_DEFAULT,
        };
        let start = timestamp_from("start_time", request.start_time.as_ref())?;
        let from = start.map_or_else(|| step.back(to, points), |at| step.start(at.hour()));
        let shown = start.unwrap_or_else(|| from.start());
        if shown >= end {
            let problem = format!("is {shown}, which is not before end_time ({end})");
            return Err(FieldError::invalid("start_time", problem));
        }
        let days = match step {
            Step::Hour => DAYS_BY_HOUR_MAX,
            Step::Day => DAYS_BY_DAY_MAX,
            Step::Month => DAYS_BY_MONTH_MAX,
        };
        if to.0.saturating_sub(from.0) > days.saturating_mul(24) {
            let problem = format!(
                "is {shown}; give a time at most {days} days before end_time ({end}), or a longer step"
            );
            return Err(FieldError::invalid("start_time", problem));
        }
        for (field, given) in [
            ("key_ids", &request.key_ids),
            ("models", &request.models),
            ("services", &request.services),
        ] {
            at_most(field, given.len())?;
        }
        let keys = request.key_ids.iter().map(|key| key_id("key_ids", key));
        let models = request.models.iter().map(|name| model("models", name));
        Ok(Self {
            account: readable_account_id("account_id", &request.account_id)?,
            step,
            apart: usage_dimensions("group_by", &request.group_by)?,
            from,
            to,
            keys: keys.collect::<Result<_, _>>()?,
            models: models.collect::<Result<_, _>>()?,
            services: request.services.clone(),
        })
    }

    fn wants(&self, row: &UsageRow, service: &str) -> bool {
        let model = || {
            row.model
                .as_ref()
                .is_some_and(|model| self.models.contains(model))
        };
        (self.keys.is_empty() || self.keys.contains(&row.key))
            && (self.models.is_empty() || model())
            && (self.services.is_empty() || self.services.iter().any(|one| one == service))
    }

    /// Whether it matters which service a key belongs to.
    fn asks_services(&self) -> bool {
        self.apart.services || !self.services.is_empty()
    }
}

fn at_most(field: &str, names: usize) -> Result<(), FieldError> {
    if names > NAMES_MAX {
        let problem = format!("has {names} names; it may have {NAMES_MAX}");
        return Err(FieldError::invalid(field, problem));
    }
    Ok(())
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
        let (mut rows, total) = self.series(&query, after.as_ref(), size).await?;
        let more = cut(&mut rows, size);
        let last = rows.last().filter(|_| more);
        let next = last.map(|(point, _)| filter.token(place(end, point)));
        let rows = rows.iter().map(|(point, sum)| usage_row(point, sum, &unit));
        Ok(v1::QueryUsageResponse {
            rows: rows.collect(),
            next_page_token: next.unwrap_or_default(),
            total: total.map(|total| tally(&total, &unit)),
            as_of: Some(timestamp(as_of)),
        })
    }

    /// One page of a series with one row to spare, and, on the first page, the sum of all that match.
    async fn series(
        &self,
        query: &Query,
        after: Option<&Point>,
        size: usize,
    ) -> Result<(Vec<(Point, Tally)>, Option<Tally>), Fault> {
        let services = if query.asks_services() {
            self.services(&query.account).await?
        } else {
            BTreeMap::new()
        };
        let first_page = after.is_none();
        let mut total = Tally::default();
        let mut rows = Vec::new();
        let mut series = Series::new(query.step, query.apart);
        let take = |points: BTreeMap<Point, Tally>, rows: &mut Vec<_>| {
            let later = points
                .into_iter()
                .filter(|(point, _)| after.is_none_or(|after| point > after));
            rows.extend(later.take(size.saturating_add(1).saturating_sub(rows.len())));
        };
        let mut from = after.map_or(query.from, |after| after.start);
        while from < query.to && (first_page || rows.len() <= size) {
            let to = Hour(from.0.saturating_add(HOURS_AT_ONCE)).min(query.to);
            for row in self.core().store.usage(&query.account, from, to).await? {
                let service = services.get(&row.key).map_or("", String::as_str);
                if !query.wants(&row, service) {
                    continue;
                }
                total.add(&row.tally);
                let hour = row.hour.unwrap_or_default();
                series.add(hour, &row.key, row.model.as_ref(), service, &row.tally);
            }
            from = to;
            take(series.complete(from), &mut rows);
        }
        take(series.end(), &mut rows);
        Ok((rows, first_page.then_some(total)))
    }

    /// The service of each key that has one.
    async fn services(&self, account: &AccountId) -> Result<BTreeMap<KeyId, String>, Fault> {
        let keys = self.core().store.keys(account).await?;
        let named = keys.into_iter().filter(|key| !key.service.is_empty());
        Ok(named.map(|key| (key.id, key.service)).collect())
    }

    /// What was used by model in some hours.
    pub(super) async fn by_model(
        &self,
        account: &AccountId,
        from: Hour,
        to: Hour,
    ) -> Result<BTreeMap<Option<ModelName>, Tally>, Fault> {
        let mut sums = BTreeMap::<_, Tally>::new();
        let mut from = from;
        while from < to {
            let next = Hour(from.0.saturating_add(HOURS_AT_ONCE)).min(to);
            for row in self.core().store.usage(account, from, next).await? {
                sums.entry(row.model).or_default().add(&row.tally);
            }
            from = next;
        }
        Ok(sums)
    }

    async fn estimated(
        &self,
        request: v1::EstimateRequestsRequest,
    ) -> Result<v1::EstimateRequestsResponse, Fault> {
        let id = readable_account_id("account_id", &request.account_id)?;
        at_most("models", request.models.len())?;
        let models = request.models.iter().map(|name| model("models", name));
        let asked: BTreeSet<ModelName> = models.collect::<Result<_, _>>()?;
        let now = self.core().clock.now().wall;
        let start = timestamp_from("start_time", request.start_time.as_ref())?;
        let span = i64::try_from(HISTORY_DEFAULT.as_nanos()).unwrap_or(i64::MAX);
        let start =
            start.unwrap_or_else(|| Timestamp::from_nanos(now.nanos().saturating_sub(span)));
        let (from, to) = (start.hour(), Hour(now.hour().0.saturating_add(1)));
        if to.0.saturating_sub(from.0) > DAYS_BY_HOUR_MAX.saturating_mul(24) {
            let problem = format!("is {start}; give a time at most {DAYS_BY_HOUR_MAX} days ago");
            return Err(FieldError::invalid("start_time", problem).into());
        }
        let as_of = self.flush(&id).await;
        let snapshot = self.read(&id).await?;
        let unit = &snapshot.book.unit;
        let sum = match amount_or_none("amount", request.amount.as_ref(), unit)? {
            Some(amount) if amount.is_negative() => {
                let problem = format!("is {amount}; give zero or more");
                return Err(FieldError::invalid("amount", problem).into());
            }
            Some(amount) => amount,
            None => {
                let held = self.core().sync.live(&id).held;
                let balance = snapshot.book.balance(snapshot.spend);
                balance.saturating_sub(held).or_zero()
            }
        };
        let history = self.by_model(&id, from, to).await?;
        let typical = Typical {
            input: request.input_tokens,
            output: request.output_tokens,
        };
        let estimates = self.estimates(sum, unit, asked, &history, typical)?;
        Ok(v1::EstimateRequestsResponse {
            amount: Some(amount(sum, unit)),
            estimates,
            as_of: Some(timestamp(as_of)),
        })
    }

    /// By model: of those that were asked for, else of those that were used, else of all that have a price.
    fn estimates(
        &self,
        sum: Amount,
        unit: &str,
        asked: BTreeSet<ModelName>,
        history: &BTreeMap<Option<ModelName>, Tally>,
        typical: Typical,
    ) -> Result<Vec<v1::RequestEstimate>, Fault> {
        let current = self.core().catalog.current();
        let used = history.keys().flatten().cloned();
        let named = !asked.is_empty();
        let models = if named { asked } else { used.collect() };
        let none = Tally::default();
        let overflow = |_| Fault::CostOverflow;
        let mut estimates = Vec::new();
        for name in &models {
            let tally = history.get(&Some(name.clone())).unwrap_or(&none);
            let price = current.prices.price(name.as_str(), unit);
            let found = estimate(sum, tally, price.map(|price| &**price), typical);
            match found.map_err(overflow)? {
                Some(found) => estimates.push(wire(name.as_str(), &found, unit)),
                None if named => return Err(Fault::NotPriced(name.to_string())),
                None => {}
            }
        }
        if models.is_empty() {
            let prices = current.prices.prices().filter(|price| price.unit == unit);
            for price in prices.take(PRICES_SHOWN_MAX) {
                let found = estimate(sum, &none, Some(price), typical).map_err(overflow)?;
                estimates.extend(found.map(|found| wire(&price.pattern, &found, unit)));
            }
            estimates.sort_by(|a, b| a.model.cmp(&b.model));
        }
        Ok(estimates)
    }
}

fn wire(model: &str, estimate: &Estimate, unit: &str) -> v1::RequestEstimate {
    let (basis, samples) = match estimate.basis {
        Basis::History(samples) => (v1::EstimateBasis::History, samples),
        Basis::Price => (v1::EstimateBasis::Price, 0),
    };
    v1::RequestEstimate {
        model: model.into(),
        requests: estimate.requests.unwrap_or_default(),
        unbounded: estimate.requests.is_none(),
        mean_cost: Some(amount(estimate.mean, unit)),
        basis: basis.into(),
        samples,
    }
}

/// Where a page ends: the instant up to which all of them go, and its last point. Names have no line breaks in them.
fn place(end: Timestamp, point: &Point) -> String {
    let Point {
        start,
        key,
        model,
        service,
    } = point;
    let key = key.as_ref().map(KeyId::as_str).unwrap_or_default();
    let model = model.as_ref().map(ModelName::as_str).unwrap_or_default();
    format!("{}\n{}\n{key}\n{model}\n{service}", end.nanos(), start.0)
}

fn parse(text: &str) -> Result<(Timestamp, Point), Fault> {
    let mut parts = text.split('\n');
    let mut part = || parts.next().ok_or(Fault::PageToken);
    let number = |text: &str| text.parse::<i64>().map_err(|_| Fault::PageToken);
    let (end, start) = (number(part()?)?, number(part()?)?);
    let (key, name, service) = (part()?, part()?, part()?);
    let key = match key {
        "" => None,
        text => Some(KeyId::new(text).map_err(|_| Fault::PageToken)?),
    };
    let model = match name {
        "" => None,
        text => Some(ModelName::new(text).map_err(|_| Fault::PageToken)?),
    };
    let point = Point {
        start: Hour(start),
        key,
        model,
        service: service.into(),
    };
    Ok((Timestamp::from_nanos(end), point))
}
