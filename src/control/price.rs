//! PriceService: the prices that are set through this API, over those of the configuration.

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, Thing, answer};
use crate::catalog::{CatalogError, InForce};
use crate::pricing::Price;
use crate::proto::convert::{FieldError, price, price_from, unit};
use crate::proto::v1::{self, price_service_server::PriceService};

/// How often an edit is tried against faster writers, if it names no etag: prices are edited by people.
const TRIES_MAX: u32 = 16;

#[tonic::async_trait]
impl PriceService for Control {
    async fn get_price_book(
        &self,
        _: Request<v1::GetPriceBookRequest>,
    ) -> Result<Response<v1::GetPriceBookResponse>, Status> {
        self.look_again().await;
        answer(Ok(v1::GetPriceBookResponse {
            price_book: Some(self.price_book()),
        }))
    }

    async fn update_price_book(
        &self,
        request: Request<v1::UpdatePriceBookRequest>,
    ) -> Result<Response<v1::UpdatePriceBookResponse>, Status> {
        answer(self.replace_prices(request.into_inner()).await)
    }

    async fn set_price(
        &self,
        request: Request<v1::SetPriceRequest>,
    ) -> Result<Response<v1::SetPriceResponse>, Status> {
        answer(self.put_price(request.into_inner()).await)
    }

    async fn delete_price(
        &self,
        request: Request<v1::DeletePriceRequest>,
    ) -> Result<Response<v1::DeletePriceResponse>, Status> {
        answer(self.drop_price(request.into_inner()).await)
    }
}

impl Control {
    /// Takes up what other replicas have set. What is in force is shown all the same if the store is away.
    pub(super) async fn look_again(&self) {
        if let Err(error) = self.core().catalog.load(&*self.core().store).await {
            tracing::debug!(%error, "control: the catalogue is shown as it was");
        }
    }

    fn price_book(&self) -> v1::PriceBook {
        let current = self.core().catalog.current();
        let prices = current.prices.prices();
        v1::PriceBook {
            prices: prices
                .map(|each| price(each, origin(&current, each)))
                .collect(),
            etag: etag(current.prices.version()),
        }
    }

    async fn replace_prices(
        &self,
        request: v1::UpdatePriceBookRequest,
    ) -> Result<v1::UpdatePriceBookResponse, Fault> {
        let book = request
            .price_book
            .ok_or_else(|| FieldError::missing("price_book", "the prices"))?;
        if book.etag.is_empty() {
            let what = "the etag of the price book that this replaces, from GetPriceBook";
            return Err(FieldError::missing("price_book.etag", what).into());
        }
        let configured = i32::from(v1::Origin::Configuration);
        let mut prices = Vec::with_capacity(book.prices.len());
        for (index, sent) in book.prices.iter().enumerate() {
            let checked = price_from(&format!("price_book.prices[{index}]"), sent)?;
            if sent.origin != configured {
                prices.push(checked);
            }
        }
        self.edit_prices(&book.etag, move |_| Ok(prices.clone()))
            .await?;
        Ok(v1::UpdatePriceBookResponse {
            price_book: Some(self.price_book()),
        })
    }

    async fn put_price(&self, request: v1::SetPriceRequest) -> Result<v1::SetPriceResponse, Fault> {
        let sent = request
            .price
            .ok_or_else(|| FieldError::missing("price", "the price to set"))?;
        let wanted = price_from("price", &sent)?;
        let put = |current: &InForce| {
            let mut prices = current.stored.prices.clone();
            prices.retain(|other| !same_place(other, &wanted));
            prices.push(wanted.clone());
            Ok(prices)
        };
        let version = self.edit_prices(&request.etag, put).await?;
        Ok(v1::SetPriceResponse {
            price: Some(price(&wanted, v1::Origin::Store)),
            etag: etag(version),
        })
    }

    async fn drop_price(
        &self,
        request: v1::DeletePriceRequest,
    ) -> Result<v1::DeletePriceResponse, Fault> {
        let pattern = request.pattern;
        if pattern.is_empty() {
            return Err(FieldError::missing("pattern", "the pattern whose price was set").into());
        }
        let asked = match request.unit.as_str() {
            "" => None,
            text => Some(unit("unit", text)?),
        };
        let meant = |other: &Price| {
            other.pattern == pattern && asked.as_ref().is_none_or(|asked| *asked == other.unit)
        };
        let without = |current: &InForce| {
            let mut prices = current.stored.prices.clone();
            let found: Vec<&str> = prices
                .iter()
                .filter(|price| meant(price))
                .map(|price| price.unit.as_str())
                .collect();
            if found.len() > 1 {
                let what = format!("the pattern has a price in each of {}", found.join(", "));
                return Err(FieldError::missing("unit", &what).into());
            }
            prices.retain(|other| !meant(other));
            if prices.len() < current.stored.prices.len() {
                return Ok(prices);
            }
            let configured = current.prices.prices().any(|other| meant(other));
            Err(if configured {
                Fault::PriceConfigured(pattern.clone())
            } else {
                Fault::NotFound(Thing::Price, pattern.clone())
            })
        };
        let version = self.edit_prices(&request.etag, without).await?;
        Ok(v1::DeletePriceResponse {
            etag: etag(version),
        })
    }

    /// Replaces the stored prices by what `edit` makes of them, if the etag is still current; without an etag, whatever they
    /// have become. Returns their new version.
    async fn edit_prices(
        &self,
        given: &str,
        edit: impl Fn(&InForce) -> Result<Vec<Price>, Fault> + Send,
    ) -> Result<u64, Fault> {
        let (catalog, store) = (&self.core().catalog, &*self.core().store);
        for _ in 0..TRIES_MAX {
            catalog.load(store).await?;
            let (version, prices) = {
                let current = catalog.current();
                let version = current.prices.version();
                check_etag(given, version)?;
                (version, edit(&current)?)
            };
            match catalog.set_prices(store, version, prices).await {
                Err(CatalogError::Conflict(_)) => {}
                written => return Ok(written?),
            }
        }
        Err(Fault::Contended("the price book".into()))
    }
}

/// The etag of a document of the catalogue.
pub(super) fn etag(version: u64) -> String {
    format!("v{version}")
}

/// Whether an etag, if one is given, is that of a version.
pub(super) fn check_etag(given: &str, version: u64) -> Result<(), Fault> {
    let current = etag(version);
    if given.is_empty() || given == current {
        return Ok(());
    }
    let given = given.into();
    Err(Fault::Etag { given, current })
}

/// Whether the one price takes the other's place.
fn same_place(one: &Price, other: &Price) -> bool {
    (&one.pattern, &one.unit) == (&other.pattern, &other.unit)
}

fn origin(current: &InForce, price: &Price) -> v1::Origin {
    let stored = &current.stored.prices;
    if stored.iter().any(|other| same_place(other, price)) {
        v1::Origin::Store
    } else {
        v1::Origin::Configuration
    }
}
