//! Prices.

use std::collections::BTreeMap;

use super::{FieldError, amount, amount_from, meter, meter_from, shown, unit};
use crate::pricing::{Per, Price, Rate};
use crate::proto::v1;

/// The longest pattern: a model's name and the `*`.
const PATTERN_BYTES_MAX: usize = crate::id::NAME_BYTES_MAX + 1;

/// A price and where it is defined.
pub fn price(price: &Price, origin: v1::Origin) -> v1::Price {
    let rates = price.rates.iter().map(|(each, rate)| v1::Rate {
        meter: meter(*each).into(),
        price: Some(amount(rate.price, &price.unit)),
        per: match rate.per {
            Per::Unit => v1::Per::Unit,
            Per::Million => v1::Per::Million,
        }
        .into(),
    });
    v1::Price {
        pattern: price.pattern.clone(),
        unit: price.unit.clone(),
        rates: rates.collect(),
        max_output_tokens: price.max_output,
        origin: origin.into(),
    }
}

/// A price as it was sent. Whether its pattern is one, and that it is not negative, is checked with the book.
pub fn price_from(field: &str, price: &v1::Price) -> Result<Price, FieldError> {
    let pattern_field = format!("{field}.pattern");
    if price.pattern.is_empty() {
        let what = "a model's name, or a beginning of one with `*` at its end";
        return Err(FieldError::missing(pattern_field, what));
    }
    if price.pattern.len() > PATTERN_BYTES_MAX || price.pattern.chars().any(char::is_control) {
        let given = shown(&price.pattern);
        let problem = format!("`{given}` must be 1 to {PATTERN_BYTES_MAX} printable characters");
        return Err(FieldError::invalid(pattern_field, problem));
    }
    let in_unit = unit(&format!("{field}.unit"), &price.unit)?;
    let mut rates = BTreeMap::new();
    for (index, rate) in price.rates.iter().enumerate() {
        let at = format!("{field}.rates[{index}]");
        let meter = meter_from(&format!("{at}.meter"), rate.meter)?;
        let per = match v1::Per::try_from(rate.per) {
            Ok(v1::Per::Unspecified | v1::Per::Unit) => Per::Unit,
            Ok(v1::Per::Million) => Per::Million,
            Err(_) => {
                let problem = format!("is {}; it must be PER_UNIT or PER_MILLION", rate.per);
                return Err(FieldError::invalid(format!("{at}.per"), problem));
            }
        };
        let price = amount_from(&format!("{at}.price"), rate.price.as_ref(), &in_unit)?;
        if price.is_negative() {
            let problem = format!("is {price}; a price is zero or more");
            return Err(FieldError::invalid(format!("{at}.price"), problem));
        }
        if rates.insert(meter, Rate { price, per }).is_some() {
            let problem = format!("{} stands twice; give each meter once", meter.name());
            return Err(FieldError::invalid(at, problem));
        }
    }
    Ok(Price {
        pattern: price.pattern.clone(),
        unit: in_unit,
        rates,
        max_output: price.max_output_tokens,
    })
}
