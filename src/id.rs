//! Names of things: accounts, keys, replicas, models. Checked once, cheap to clone, and safe in a store's key names.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: long enough for two UUIDs and a prefix, short enough for a table of millions.
pub const NAME_BYTES_MAX: usize = 128;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} `{text}` must be 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ : @ / + -"
)]
pub struct NameError {
    kind: &'static str,
    text: String,
}

/// Between an account's name and that of an account inside it. People cannot write it in a name.
const INNER: char = '!';

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:@/+-".contains(&b);
    if !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(plain) {
        return Ok(());
    }
    Err(NameError {
        kind,
        text: text.chars().take(40).collect(),
    })
}

/// The same for what a store holds: there are accounts inside accounts there, one level deep.
fn check_stored(kind: &'static str, text: &str) -> Result<(), NameError> {
    match text.split_once(INNER) {
        Some((owner, name)) if kind == "account" && text.len() <= NAME_BYTES_MAX => {
            check(kind, owner)?;
            check(kind, name)
        }
        _ => check(kind, text),
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($kind, text).map(|()| Self(text.into()))
            }

            /// A name as a store holds it.
            pub fn stored(text: &str) -> Result<Self, NameError> {
                check_stored($kind, text).map(|()| Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::stored(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().into()
            }
        }
    )*};
}

names! {
    /// Who pays.
    AccountId = "account";
    /// Who calls; belongs to an account. Not the secret.
    KeyId = "key";
    /// One running tollgate.
    ReplicaId = "replica";
    /// A model, as the caller names it.
    ModelName = "model";
}

impl AccountId {
    /// An account inside this one, `OWNER!NAME`: what is left of a plan, or of a budget. It has a book, leases and usage of its own and
    /// is in no listing for people. Together they are at most [`NAME_BYTES_MAX`] long.
    pub fn inner(&self, name: &str) -> Result<Self, NameError> {
        Self::stored(&format!("{self}{INNER}{name}"))
    }

    /// Whether it is inside another one.
    pub fn is_inner(&self) -> bool {
        self.0.contains(INNER)
    }

    /// The account that it is inside of; `None` if it is inside none.
    pub fn owner(&self) -> Option<Self> {
        let (owner, _) = self.0.split_once(INNER)?;
        Some(Self(owner.into()))
    }

    /// Its name inside its owner.
    pub fn inner_name(&self) -> Option<&str> {
        self.0.split_once(INNER).map(|(_, name)| name)
    }

    /// What stands where an account's name is needed and there is none: no account can have it.
    pub(crate) fn stand_in() -> Self {
        Self("!".into())
    }
}

impl KeyId {
    /// The same for a key.
    pub(crate) fn stand_in() -> Self {
        Self("!".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_inside_another_is_for_stores_and_not_for_people() {
        let owner = AccountId::new("org/team").unwrap();
        let plan = owner.inner("points").unwrap();
        assert_eq!(plan.as_str(), "org/team!points");
        assert_eq!(
            (plan.owner(), plan.inner_name()),
            (Some(owner.clone()), Some("points"))
        );
        assert!(plan.is_inner() && !owner.is_inner());
        assert_eq!((owner.owner(), owner.inner_name()), (None, None));
        assert!(
            AccountId::new(plan.as_str()).is_err(),
            "people cannot name it"
        );
        assert!("a!b".parse::<AccountId>().is_err());
        let read: AccountId = serde_json::from_str("\"org/team!points\"").unwrap();
        assert_eq!(read, plan);
        for text in ["!", "a!", "!b", "a!b!c", "a!b c"] {
            assert!(AccountId::stored(text).is_err(), "{text}");
        }
        assert!(plan.inner("more").is_err(), "one level deep");
        assert!(
            owner.inner(&"x".repeat(NAME_BYTES_MAX)).is_err(),
            "too long"
        );
        assert!(
            KeyId::try_from("a!b".to_owned()).is_err(),
            "keys have no inside"
        );
    }

    #[test]
    fn names_that_could_break_a_store_key_are_refused() {
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for text in ["", "a b", "{x}", "ü", "a\n", "a|b", long.as_str()] {
            assert!(AccountId::new(text).is_err(), "{text:?}");
        }
        for text in [
            "demo",
            "org/team:1",
            "gpt-4o-2024-08-06",
            "a@b.c",
            &"a".repeat(NAME_BYTES_MAX),
        ] {
            assert_eq!(
                AccountId::new(text).map(|name| name.to_string()),
                Ok(text.into())
            );
        }
    }
}
