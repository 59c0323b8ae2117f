//! `Amount`: money as an integer, and decimal strings in and out. No prices and no accounts here.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many nano-units one unit has.
pub const NANOS_PER_UNIT: i64 = 1_000_000_000;

/// An amount in an account's unit, in steps of 10^-9: ±9,223,372,036.854775807 units.
///
/// All arithmetic is checked. It is written and read as a decimal string (`"5.00"`), never as a float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

/// Why a decimal string is not an [`Amount`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a plain decimal number.
    #[error("`{0}` is not a decimal number such as \"5.00\"")]
    NotDecimal(String),
    /// More than nine decimal places.
    #[error("`{0}` has more than 9 decimal places")]
    TooFine(String),
    /// Beyond ±9,223,372,036.854775807.
    #[error("`{0}` is beyond the range ±9223372036.854775807")]
    OutOfRange(String),
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX);
    /// The largest amount below zero in magnitude.
    pub const MIN: Self = Self(-i64::MAX);

    /// An amount from its count of nano-units.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Whole units, or `None` beyond the range.
    pub const fn from_units(units: i64) -> Option<Self> {
        match units.checked_mul(NANOS_PER_UNIT) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The count of nano-units.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The sum, or `None` beyond the range.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The difference, or `None` beyond the range.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The sum, held at the ends of the range: for figures that are shown, never for books.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, held at the ends of the range: for figures that are shown, never for books.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The amount with its sign turned. `MIN` is chosen so that this cannot overflow; `i64::MIN` gives `MAX`.
    pub const fn negated(self) -> Self {
        Self(self.0.saturating_neg())
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether it is above zero.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// The larger of this and zero.
    pub const fn or_zero(self) -> Self {
        if self.0 < 0 { Self::ZERO } else { self }
    }
}

impl fmt::Display for Amount {
    /// The shortest exact decimal with at least two places: `5.00`, `-0.000000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut decimal = Decimal::new(self.0, 9).normalize();
        if decimal.scale() < 2 {
            decimal.rescale(2);
        }
        write!(f, "{decimal}")
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+'));
        if !plain || text.len() > 40 {
            return Err(AmountError::NotDecimal(text.chars().take(40).collect()));
        }
        let decimal = Decimal::from_str_exact(text).map_err(|error| match error {
            rust_decimal::Error::ExceedsMaximumPossibleValue => {
                AmountError::OutOfRange(text.into())
            }
            rust_decimal::Error::Underflow => AmountError::TooFine(text.into()),
            _ => AmountError::NotDecimal(text.into()),
        })?;
        let decimal = decimal.normalize();
        if decimal.scale() > 9 {
            return Err(AmountError::TooFine(text.into()));
        }
        let nanos = decimal
            .checked_mul(Decimal::from(NANOS_PER_UNIT))
            .and_then(|nanos| i64::try_from(nanos).ok())
            .filter(|nanos| *nanos != i64::MIN);
        nanos
            .map(Self)
            .ok_or_else(|| AmountError::OutOfRange(text.into()))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
