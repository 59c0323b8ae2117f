//! How the other modules' errors become faults.

use super::{Fault, Thing};
use crate::books::CommandError;
use crate::catalog::CatalogError;
use crate::gate::{HoldError, HoldRefused};
use crate::ledger::Rejected;
use crate::pricing::PriceError;
use crate::proto::convert::FieldError;
use crate::store::StoreError;
use crate::webhooks::desk::DeskError;

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            StoreError::Fenced(wait) => Self::Fenced(error.to_string(), wait),
            StoreError::Corrupt(_) => Self::Corrupt(error.to_string()),
            StoreError::NoAccount(account) => Self::NotFound(Thing::Account, account.to_string()),
            StoreError::Purged(account) => Self::Purged(account),
        }
    }
}

impl From<Rejected> for Fault {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(Box::new(rejected))
    }
}

impl From<CommandError> for Fault {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Rejected(rejected) => rejected.into(),
            CommandError::KeyReused(key) => Self::RequestIdReused(key),
            CommandError::OrderReused(order) => Self::OrderReused(order),
            CommandError::Exists(account) => Self::AccountExists(account),
            CommandError::NoPolicy(name, known) => Self::NoPolicy { name, known },
            CommandError::NoTenant(name, known) => Self::NoTenant { name, known },
            CommandError::Overrides(_) => {
                Self::Field(FieldError::invalid("account.overrides", error.to_string()))
            }
            CommandError::Contended(account) => Self::Contended(format!("account `{account}`")),
            CommandError::Store(error) => error.into(),
        }
    }
}

impl From<CatalogError> for Fault {
    fn from(error: CatalogError) -> Self {
        let message = error.to_string();
        match error {
            CatalogError::Price(PriceError::TooMany(_))
            | CatalogError::TooManyPolicies(_)
            | CatalogError::TooManyLicences(_)
            | CatalogError::TooManyTenants(_) => Self::CatalogLimit(message),
            CatalogError::Price(_) => Self::Field(FieldError::invalid("price", message)),
            CatalogError::Tenant(..) => Self::Field(FieldError::invalid("tenant", message)),
            CatalogError::Policy(..) => Self::Field(FieldError::invalid("policy", message)),
            CatalogError::Conflict(_) => Self::Contended("the catalogue".into()),
            CatalogError::Store(error) => error.into(),
        }
    }
}

impl From<HoldRefused> for Fault {
    fn from(refused: HoldRefused) -> Self {
        match refused {
            HoldRefused::Refusal(refusal) => Self::Refused(refusal),
            HoldRefused::RequestIdReused => Self::HoldIdReused,
            HoldRefused::TooMany(most) => Self::HoldsLimit(most),
        }
    }
}

impl From<HoldError> for Fault {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Unknown(id) => Self::NotFound(Thing::Hold, id),
            HoldError::Elsewhere { ref taken_on, .. } => {
                Self::HoldElsewhere(taken_on.clone(), error.to_string())
            }
            HoldError::Settled(_, charge) => Self::HoldSettled(charge.amount),
            HoldError::NotCarried(_) => {
                Self::Field(FieldError::invalid("hold_id", error.to_string()))
            }
            HoldError::NoPrice(_) => Self::Field(FieldError::invalid("counts", error.to_string())),
            HoldError::Negative(_) => Self::Field(FieldError::invalid("amount", error.to_string())),
            HoldError::Overflow => Self::CostOverflow,
        }
    }
}

impl From<DeskError> for Fault {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::NoEndpoint(name, known) => Self::NoEndpoint { name, known },
            DeskError::NoLetter(event) => Self::NotFound(Thing::DeadLetter, event),
            DeskError::Contended(name) => Self::Contended(format!("the dead letters of `{name}`")),
            DeskError::Store(error) => error.into(),
        }
    }
}
