//! `tollgate price`.

use clap::Subcommand;

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::Session;
use super::values::{amount, meter, optional_number, pair, part, word};
use crate::money::Amount;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all prices in force
    List,
    /// Set the price of a model, or of all whose names begin alike
    Set {
        /// A model's name, or a beginning of one with * at its end
        pattern: String,
        /// The unit it is in
        #[arg(long)]
        unit: String,
        /// What a meter costs, as input=2.50/million or request=0.01; may be given several times
        #[arg(long, required = true, value_name = "METER=PRICE", value_parser = rate)]
        rate: Vec<v1::Rate>,
        /// The most output tokens that one call can make
        #[arg(long, value_name = "N")]
        max_output: Option<u64>,
        /// Set it only if nobody has changed a price since; as `price list` says it
        #[arg(long)]
        etag: Option<String>,
    },
    /// Take back what was set for a pattern
    Delete {
        /// The pattern, as it was set
        pattern: String,
        /// The unit, if the pattern has prices in several
        #[arg(long)]
        unit: Option<String>,
        /// Take it back only if nobody has changed a price since
        #[arg(long)]
        etag: Option<String>,
    },
}

fn rate(text: &str) -> Result<v1::Rate, String> {
    let (name, price) = pair(text)?;
    let (price, per) = match price.split_once('/') {
        None | Some((_, "unit")) => (price.trim_end_matches("/unit"), v1::Per::Unit),
        Some((price, "million")) => (price, v1::Per::Million),
        Some((_, other)) => return Err(format!("per `{other}`: it is per unit or million")),
    };
    let price: Amount = price
        .parse()
        .map_err(|error: crate::money::AmountError| error.to_string())?;
    Ok(v1::Rate {
        meter: meter(name)?.into(),
        price: Some(amount(price)),
        per: per.into(),
    })
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut prices = session.prices();
    match command {
        Command::List => {
            let answer = prices.get_price_book(v1::GetPriceBookRequest {}).await?;
            let book = part(answer.into_inner().price_book, "price_book")?;
            let prices = book.prices.iter().map(|price| {
                let etag = Cell::text(&book.etag);
                show(price).with("etag", etag)
            });
            let prices: Vec<Record> = prices.collect();
            session.out.table(
                &prices,
                &["pattern", "unit", "rates", "max_output", "origin"],
            )
        }
        Command::Set {
            pattern,
            unit,
            rate,
            max_output,
            etag,
        } => {
            let request = v1::SetPriceRequest {
                price: Some(v1::Price {
                    pattern,
                    unit,
                    rates: rate,
                    max_output_tokens: max_output,
                    ..v1::Price::default()
                }),
                etag: etag.unwrap_or_default(),
            };
            let set = prices.set_price(request).await?.into_inner();
            let shown = show(&part(set.price, "price")?);
            session
                .out
                .record(&shown.with("etag", Cell::text(set.etag)))
        }
        Command::Delete {
            pattern,
            unit,
            etag,
        } => {
            let request = v1::DeletePriceRequest {
                pattern: pattern.clone(),
                etag: etag.unwrap_or_default(),
                unit: unit.unwrap_or_default(),
            };
            let etag = prices.delete_price(request).await?.into_inner().etag;
            let gone = vec![("deleted", Cell::text(pattern)), ("etag", Cell::text(etag))];
            session.out.record(&Record(gone))
        }
    }
}

fn show(price: &v1::Price) -> Record {
    Record(vec![
        ("pattern", Cell::text(&price.pattern)),
        ("unit", Cell::text(&price.unit)),
        (
            "rates",
            Cell::List(price.rates.iter().map(rate_text).collect()),
        ),
        ("max_output", optional_number(price.max_output_tokens)),
        ("origin", word(price.origin().as_str_name(), "ORIGIN_")),
    ])
}

/// As it is written with `--rate`.
fn rate_text(rate: &v1::Rate) -> String {
    let name = rate.meter().as_str_name();
    let name = name
        .strip_prefix("METER_")
        .unwrap_or(name)
        .to_ascii_lowercase();
    let price = rate.price.as_ref().map_or(0, |price| price.nanos);
    let per = match rate.per() {
        v1::Per::Million => "/million",
        v1::Per::Unit | v1::Per::Unspecified => "",
    };
    format!("{name}={}{per}", Amount::from_nanos(price))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_as_they_are_written() {
        for (text, shown) in [
            ("input=2.50/million", "input=2.50/million"),
            ("request=0.01", "request=0.01"),
            ("cached_input=1/unit", "cached_input=1.00"),
        ] {
            assert_eq!(rate_text(&rate(text).unwrap()), shown);
        }
        for text in [
            "",
            "input",
            "input=",
            "input=1/k",
            "inputs=1",
            "input=1/unit/unit",
            "=1",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
