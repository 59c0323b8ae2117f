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

/// What stands between an account's name and that of a part of it: a plan's or a budget's account, which nobody opens by hand. It sorts
/// before everything that names are made of, so that the parts of an account follow it in every listing.
pub const PART: char = '!';

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:@/+-".contains(&b);
    let good = |text: &str| !text.is_empty() && text.bytes().all(plain);
    let whole = match text.split_once(PART) {
        Some((owner, part)) if kind == ACCOUNT => good(owner) && good(part),
        _ => good(text),
    };
    if whole && text.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(NameError {
        kind,
        text: text.chars().take(40).collect(),
    })
}

const ACCOUNT: &str = "account";

impl AccountId {
    /// The account of a part of this one: of a plan, or of a budget.
    pub fn part(&self, name: &str) -> Result<Self, NameError> {
        Self::new(&format!("{self}{PART}{name}"))
    }

    /// Whose part it is; `None` of an account that stands by itself.
    pub fn owner(&self) -> Option<Self> {
        let (owner, _) = self.0.split_once(PART)?;
        Self::new(owner).ok()
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
                Self::new(&text)
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
    fn parts_are_of_accounts_alone_and_follow_them() {
        let owner = AccountId::new("acme").unwrap();
        let part = owner.part("gold").unwrap();
        assert_eq!((part.as_str(), part.owner()), ("acme!gold", Some(owner)));
        assert_eq!(AccountId::new("acme").unwrap().owner(), None);
        for text in ["!", "acme!", "!gold", "a!b!c"] {
            assert!(AccountId::new(text).is_err(), "{text}");
        }
        assert!(KeyId::new("acme!gold").is_err());
        let names = ["acme", "acme!gold", "acme+1", "acme-2", "acme.b", "acme0"];
        assert!(names.is_sorted());
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
