//! Offline licences (A1-11): a text that says what its bearer may call and from when to when, signed with Ed25519, so that a sidecar
//! can judge it with no store and no network. Making and checking them; no calls here, and no clock.
//!
//! ```text
//! tgl1.<base64url of the JSON of a Licence>.<base64url of the signature over all before the second dot>
//! ```
//!
//! It is presented as a key's secret is. The signature covers the beginning `tgl1.` too, so it is good for nothing else. Nothing of
//! the JSON is believed before the signature was found good, but for the name of the key to check it with.
//!
//! Ed25519 is ring's: it is in the program already, as rustls' cryptography, so it brings no code and no second implementation to
//! watch. ed25519-dalek would bring five crates for one function. A check costs some 50 µs; the gate remembers what it found good.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{AccountId, KeyId, NAME_BYTES_MAX};
use crate::refusal::Reason;

/// How every licence begins.
pub const PREFIX: &str = "tgl1.";

/// The longest licence that is looked at: well within what a header carries, and a bound on what a stranger can have hashed.
pub const LICENCE_BYTES_MAX: usize = 4_096;

/// How many keys there may be to check licences with: some years of one a month.
pub const KEYS_MAX: usize = 100;

/// How many issued licences are kept in the store's document: it is read whole, and expired ones may be dropped from it.
pub const LICENCES_MAX: usize = 10_000;

/// What stands before a licence's id where its calls are counted, so that they are told from those of an account's own keys.
const COUNTED_AS: &str = "licence:";

/// The longest id: with what stands before it, it is a key's name.
const ID_BYTES_MAX: usize = NAME_BYTES_MAX.saturating_sub(COUNTED_AS.len());

/// What a licence says. A field that this version does not know may be a restriction, so a licence with one is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Its own name: what it is revoked by.
    pub id: String,
    /// The name of the key that signed it.
    pub kid: String,
    /// Under which account its calls are counted.
    pub account: AccountId,
    /// Its first instant: the beginning of the day of activation.
    pub activates: Timestamp,
    /// From this instant on it is over.
    pub expires: Timestamp,
    /// Model patterns it is for, as in the price book; empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

/// A licence that was issued, as it is kept: without its text, which is its bearer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// What it says.
    pub licence: Licence,
    /// When it was made.
    pub issued: Timestamp,
    /// From this instant on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// For the reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Why a licence does not let a call pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// It is none, or not whole: another form, another signature, or a key that is not known here.
    Forged,
    /// Its first instant is yet to come.
    NotYet,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl Invalid {
    /// What its bearer is told. Before its first instant a licence is no key: there is nothing to wait for that it has not said.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Forged | Self::NotYet => Reason::KeyUnknown,
            Self::Expired => Reason::KeyExpired,
            Self::Revoked => Reason::KeyRevoked,
        }
    }
}

impl Licence {
    /// Why it is not good at an instant, if it is not. `revoked` is since when it is taken back.
    pub fn standing(&self, revoked: Option<Timestamp>, now: Timestamp) -> Option<Invalid> {
        if revoked.is_some_and(|at| at <= now) {
            return Some(Invalid::Revoked);
        }
        if now < self.activates {
            return Some(Invalid::NotYet);
        }
        (self.expires <= now).then_some(Invalid::Expired)
    }

    /// The key that its calls are counted under, in its account.
    pub fn counted_as(&self) -> Option<KeyId> {
        KeyId::new(&format!("{COUNTED_AS}{}", self.id)).ok()
    }

    /// Every field that is wrong, with what would work.
    fn check(&self) -> Result<(), LicenceError> {
        // An empty one would be a name with what stands before it.
        if KeyId::new(&self.id).is_err() || self.counted_as().is_none() {
            return Err(LicenceError::Id(self.id.chars().take(40).collect()));
        }
        if self.expires <= self.activates {
            return Err(LicenceError::Time {
                activates: self.activates,
                expires: self.expires,
            });
        }
        let wrong = |pattern: &&String| {
            let stem = pattern.strip_suffix('*').unwrap_or(pattern);
            pattern.is_empty() || stem.contains('*')
        };
        match self.models.iter().find(wrong) {
            Some(pattern) => Err(LicenceError::Model(pattern.clone())),
            None => Ok(()),
        }
    }
}

/// Why a licence cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LicenceError {
    /// Not a name.
    #[error("id `{0}` must be 1 to {ID_BYTES_MAX} of the characters A-Z a-z 0-9 . _ : @ / + -")]
    Id(String),
    /// It would never be good.
    #[error("expires is {expires}; it must be after activates, which is {activates}")]
    Time {
        /// The first instant.
        activates: Timestamp,
        /// The end.
        expires: Timestamp,
    },
    /// Not a pattern.
    #[error(
        "models has `{0}`; a pattern is a model's name, or a beginning of one with `*` at its end"
    )]
    Model(String),
    /// Too long to be presented.
    #[error("the licence has {0} bytes; it may have {LICENCE_BYTES_MAX}: name fewer models")]
    TooLong(usize),
}

/// Why a key is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an Ed25519 public key.
    #[error(
        "is no Ed25519 public key; give its 32 bytes in base64, or the base64 of `openssl pkey -pubout -outform DER`"
    )]
    Public,
    /// Not an Ed25519 private key.
    #[error("is no Ed25519 private key in PEM; make one with `openssl genpkey -algorithm ed25519`")]
    Private,
}

/// A key that licences are checked with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// What stands before the 32 bytes in the usual encoding of such a key (RFC 8410).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::Public)?;
        let bytes = bytes.strip_prefix(&SPKI).unwrap_or(&bytes);
        bytes.try_into().map(Self).map_err(|_| KeyError::Public)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The keys that licences are checked with, by name.
pub type Keys = BTreeMap<String, PublicKey>;

/// Whether a secret means to be a licence.
pub fn is_meant(secret: &[u8]) -> bool {
    secret.starts_with(PREFIX.as_bytes())
}

/// What a licence says, if one of these keys signed it. Whether it is its time, and whether it was taken back, is
/// [`Licence::standing`].
pub fn verify(keys: &Keys, text: &[u8]) -> Result<Licence, Invalid> {
    if text.len() > LICENCE_BYTES_MAX {
        return Err(Invalid::Forged);
    }
    let whole = std::str::from_utf8(text).map_err(|_| Invalid::Forged)?;
    let (signed, signature) = whole.rsplit_once('.').ok_or(Invalid::Forged)?;
    let payload = signed.strip_prefix(PREFIX).ok_or(Invalid::Forged)?;
    // Both are read strictly: a licence has one spelling.
    let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Invalid::Forged);
    let (payload, signature) = (decoded(payload)?, decoded(signature)?);
    let licence: Licence = serde_json::from_slice(&payload).map_err(|_| Invalid::Forged)?;
    let key = keys.get(&licence.kid).ok_or(Invalid::Forged)?;
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| Invalid::Forged)?;
    // Whoever signed it may have had other bounds; what cannot be counted is not admitted.
    licence.check().map_err(|_| Invalid::Forged)?;
    Ok(licence)
}

/// Who makes licences: a private key with its name.
pub struct Signer {
    kid: String,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// From a private key in PEM (PKCS#8), as OpenSSL writes it.
    pub fn from_pem(kid: &str, pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::Private)?;
        // OpenSSL leaves the public half out, which ring then works out.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        let pair = pair.map_err(|_| KeyError::Private)?;
        Ok(Self {
            kid: kid.into(),
            pair,
        })
    }

    /// The name of its key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What its licences are checked with.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 32];
        for (place, byte) in bytes.iter_mut().zip(self.pair.public_key().as_ref()) {
            *place = *byte;
        }
        PublicKey(bytes)
    }

    /// The text of a licence, under this key's name whatever `kid` says.
    pub fn sign(&self, licence: Licence) -> Result<String, LicenceError> {
        let licence = Licence {
            kid: self.kid.clone(),
            ..licence
        };
        licence.check()?;
        // It has texts and instants only, so it is always JSON.
        let payload = serde_json::to_vec(&licence).unwrap_or_default();
        let signed = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(payload));
        let signature = self.pair.sign(signed.as_bytes());
        let text = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        if text.len() > LICENCE_BYTES_MAX {
            return Err(LicenceError::TooLong(text.len()));
        }
        Ok(text)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.kid)
    }
}

#[cfg(test)]
mod tests;
