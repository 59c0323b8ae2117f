//! KeyService: who calls. A secret is in one answer and nowhere else; the store has its digest.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tonic::{Request, Response, Status};

use super::Control;
use super::account::short_digest;
use super::errors::{Fault, Thing, answer};
use super::mask::Mask;
use super::pages::{Filter, ROWS, cut};
use crate::app::random;
use crate::clock::Timestamp;
use crate::engine::digest;
use crate::id::{AccountId, KeyId, NAME_BYTES_MAX};
use crate::proto::convert::{
    FieldError, account_id, budgets, budgets_from, key_id, label, shown, timestamp, timestamp_from,
};
use crate::proto::v1::{self, key_service_server::KeyService};
use crate::store::{KeyRecord, Stored};

/// The shortest secret that may be brought along. Weak, but whoever brings one has it in use already.
const SECRET_BYTES_MIN: usize = 7;

/// The longest: identifying a caller digests all of it, on every call.
const SECRET_BYTES_MAX: usize = 256;

/// How much of a secret the hint shows, at most; and at most a third of it.
const HINT_CHARS_MAX: usize = 6;

/// How many patterns a key may have: every call walks them.
const MODELS_MAX: usize = 100;

/// The longest name of a service.
const SERVICE_CHARS_MAX: usize = 64;

/// How often a change is tried against faster writers: each lost try means that another change of the same account went
/// through.
const TRIES_MAX: u32 = 64;

/// What an update may set.
const FIELDS: [&str; 6] = [
    "display_name",
    "models",
    "qps",
    "expire_time",
    "service",
    "budgets",
];

#[tonic::async_trait]
impl KeyService for Control {
    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        answer(self.make_key(request.into_inner()).await)
    }

    async fn get_key(
        &self,
        request: Request<v1::GetKeyRequest>,
    ) -> Result<Response<v1::GetKeyResponse>, Status> {
        answer(self.one_key(request.into_inner()).await)
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        answer(self.all_keys(request.into_inner()).await)
    }

    async fn update_key(
        &self,
        request: Request<v1::UpdateKeyRequest>,
    ) -> Result<Response<v1::UpdateKeyResponse>, Status> {
        answer(self.change_key(request.into_inner()).await)
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Result<Response<v1::RevokeKeyResponse>, Status> {
        answer(self.end_key(request.into_inner()).await)
    }
}

impl Control {
    async fn make_key(
        &self,
        request: v1::CreateKeyRequest,
    ) -> Result<v1::CreateKeyResponse, Fault> {
        let sent = request
            .key
            .ok_or_else(|| FieldError::missing("key", "the key to make"))?;
        let account = account_id("key.account_id", &sent.account_id)?;
        let id = match sent.key_id.as_str() {
            "" => made_up_id()?,
            text => key_id("key.key_id", text)?,
        };
        let secret = match request.secret {
            text if text.is_empty() => made_up_secret()?,
            text => checked_secret(text)?,
        };
        let now = self.core().clock.now().wall;
        let expires = timestamp_from("key.expire_time", sent.expire_time.as_ref())?;
        if expires.is_some_and(|at| at <= now) {
            return Err(FieldError::invalid("key.expire_time", "is not after now").into());
        }
        let unit = self.0.units.of(&account).await?;
        let key = KeyRecord {
            id,
            account: account.clone(),
            digest: digest(secret.as_bytes()),
            name: label("key.display_name", &sent.display_name)?,
            hint: hint(&secret),
            created: now,
            expires,
            revoked: None,
            qps: checked_qps(sent.qps)?,
            models: checked_models(&sent.models)?,
            service: checked_service(&sent.service)?,
            budgets: budgets_from("key.budgets", &sent.budgets, &unit)?,
        };
        for _ in 0..TRIES_MAX {
            // The version first: if the keys change after that, the write finds out.
            let version = self.read(&account).await?.version;
            let store = &self.core().store;
            if store
                .keys(&account)
                .await?
                .iter()
                .any(|other| other.id == key.id)
            {
                return Err(Fault::KeyExists(key.id));
            }
            if store.find_key(&key.digest).await?.is_some() {
                return Err(Fault::SecretInUse);
            }
            if let Stored::At(_) = store.put_key(version, key.clone()).await? {
                self.refresh(&account).await;
                return Ok(v1::CreateKeyResponse {
                    key: Some(wire(&key, &unit, now)),
                    secret,
                });
            }
        }
        Err(Fault::Contended(format!("account `{account}`")))
    }

    async fn one_key(&self, request: v1::GetKeyRequest) -> Result<v1::GetKeyResponse, Fault> {
        let account = account_id("account_id", &request.account_id)?;
        let id = key_id("key_id", &request.key_id)?;
        let (_, key) = self.key(&account, &id).await?;
        let unit = self.0.units.of(&account).await?;
        Ok(v1::GetKeyResponse {
            key: Some(wire(&key, &unit, self.core().clock.now().wall)),
        })
    }

    async fn all_keys(
        &self,
        mut request: v1::ListKeysRequest,
    ) -> Result<v1::ListKeysResponse, Fault> {
        let account = account_id("account_id", &request.account_id)?;
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListKeys", &request);
        let after = filter.position(&token)?.unwrap_or_default();
        // An account that is not there has no keys either, and that must not look the same.
        self.read(&account).await?;
        let mut keys = self.core().store.keys(&account).await?;
        keys.retain(|key| {
            key.id.as_str() > after.as_str()
                && !(request.active_only && key.revoked.is_some())
                && (request.service.is_empty() || request.service == key.service)
        });
        let more = cut(&mut keys, size);
        let next = keys
            .last()
            .filter(|_| more)
            .map(|last| filter.token(&last.id));
        let now = self.core().clock.now().wall;
        let unit = self.0.units.of(&account).await?;
        Ok(v1::ListKeysResponse {
            keys: keys.iter().map(|key| wire(key, &unit, now)).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn change_key(
        &self,
        request: v1::UpdateKeyRequest,
    ) -> Result<v1::UpdateKeyResponse, Fault> {
        let sent = request
            .key
            .ok_or_else(|| FieldError::missing("key", "the fields to set"))?;
        let account = account_id("key.account_id", &sent.account_id)?;
        let id = key_id("key.key_id", &sent.key_id)?;
        let present = |field: &str| match field {
            "display_name" => !sent.display_name.is_empty(),
            "models" => !sent.models.is_empty(),
            "qps" => sent.qps.is_some(),
            "service" => !sent.service.is_empty(),
            "budgets" => !sent.budgets.is_empty(),
            _ => sent.expire_time.is_some(),
        };
        let mask = Mask::new(request.update_mask.as_ref(), &FIELDS, present)?;
        let name = label("key.display_name", &sent.display_name)?;
        let models = checked_models(&sent.models)?;
        let qps = checked_qps(sent.qps)?;
        let service = checked_service(&sent.service)?;
        let unit = self.0.units.of(&account).await?;
        let budgets = budgets_from("key.budgets", &sent.budgets, &unit)?;
        let expires = timestamp_from("key.expire_time", sent.expire_time.as_ref())?;
        let edit = |key: &KeyRecord| {
            let current = etag(key);
            if !sent.etag.is_empty() && sent.etag != current {
                let given = sent.etag.clone();
                return Err(Fault::Etag { given, current });
            }
            if key.revoked.is_some() {
                return Err(Fault::KeyRevoked(key.id.clone()));
            }
            let mut key = key.clone();
            if mask.has("display_name") {
                key.name.clone_from(&name);
            }
            if mask.has("models") {
                key.models.clone_from(&models);
            }
            if mask.has("qps") {
                key.qps = qps;
            }
            if mask.has("expire_time") {
                key.expires = expires;
            }
            if mask.has("service") {
                key.service.clone_from(&service);
            }
            if mask.has("budgets") {
                key.budgets.clone_from(&budgets);
            }
            Ok(key)
        };
        let key = self.edit_key(&account, &id, edit).await?;
        Ok(v1::UpdateKeyResponse { key: Some(key) })
    }

    async fn end_key(&self, request: v1::RevokeKeyRequest) -> Result<v1::RevokeKeyResponse, Fault> {
        let account = account_id("account_id", &request.account_id)?;
        let id = key_id("key_id", &request.key_id)?;
        let now = self.core().clock.now().wall;
        let revoke = |key: &KeyRecord| {
            let revoked = Some(key.revoked.unwrap_or(now));
            Ok(KeyRecord {
                revoked,
                ..key.clone()
            })
        };
        let key = self.edit_key(&account, &id, revoke).await?;
        Ok(v1::RevokeKeyResponse { key: Some(key) })
    }

    /// Changes a key into what `edit` makes of it as it stands. One that stays the same is not written.
    async fn edit_key(
        &self,
        account: &AccountId,
        id: &KeyId,
        edit: impl Fn(&KeyRecord) -> Result<KeyRecord, Fault> + Send + Sync,
    ) -> Result<v1::Key, Fault> {
        let unit = self.0.units.of(account).await?;
        for _ in 0..TRIES_MAX {
            let (version, before) = self.key(account, id).await?;
            let after = edit(&before)?;
            let now = self.core().clock.now().wall;
            if after == before {
                return Ok(wire(&after, &unit, now));
            }
            if let Stored::At(_) = self.core().store.put_key(version, after.clone()).await? {
                self.refresh(account).await;
                return Ok(wire(&after, &unit, now));
            }
        }
        Err(Fault::Contended(format!("account `{account}`")))
    }

    /// A key, with the account's version from before it was read.
    async fn key(&self, account: &AccountId, id: &KeyId) -> Result<(u64, KeyRecord), Fault> {
        let version = self.read(account).await?.version;
        let keys = self.core().store.keys(account).await?;
        let found = keys.into_iter().find(|key| key.id == *id);
        let key = found.ok_or_else(|| Fault::NotFound(Thing::Key, id.to_string()))?;
        Ok((version, key))
    }
}

/// A key as it is shown.
fn wire(key: &KeyRecord, unit: &str, now: Timestamp) -> v1::Key {
    let state = if key.revoked.is_some() {
        v1::KeyState::Revoked
    } else if key.expires.is_some_and(|at| at <= now) {
        v1::KeyState::Expired
    } else {
        v1::KeyState::Active
    };
    v1::Key {
        key_id: key.id.to_string(),
        account_id: key.account.to_string(),
        display_name: key.name.clone(),
        models: key.models.clone(),
        qps: key.qps,
        expire_time: key.expires.map(timestamp),
        hint: key.hint.clone(),
        state: state.into(),
        create_time: Some(timestamp(key.created)),
        revoke_time: key.revoked.map(timestamp),
        etag: etag(key),
        service: key.service.clone(),
        budgets: budgets(&key.budgets, unit),
    }
}

fn etag(key: &KeyRecord) -> String {
    // Strings, numbers and instants: there is nothing in it that JSON could refuse.
    short_digest(&serde_json::to_vec(key).unwrap_or_default())
}

fn made_up_id() -> Result<KeyId, Fault> {
    let bytes: [u8; 12] = random().map_err(|_| Fault::NoRandomness)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(key_id("key.key_id", &format!("key_{hex}"))?)
}

/// 256 bits: not to be guessed, and long enough that its digest needs no salt.
fn made_up_secret() -> Result<String, Fault> {
    let bytes: [u8; 32] = random().map_err(|_| Fault::NoRandomness)?;
    Ok(format!("sk-{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn checked_secret(text: String) -> Result<String, FieldError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if plain && (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&text.len()) {
        return Ok(text);
    }
    // Not shown, whatever it is.
    let problem = format!(
        "must be {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} printable ASCII characters without spaces"
    );
    Err(FieldError::invalid("secret", problem))
}

/// Never more than a third of a secret, so that a short one is not given away.
fn hint(secret: &str) -> String {
    let third = secret.len().checked_div(3).unwrap_or_default();
    secret.chars().take(third.min(HINT_CHARS_MAX)).collect()
}

fn checked_qps(qps: Option<u32>) -> Result<Option<u32>, FieldError> {
    match qps {
        Some(0) => Err(FieldError::invalid(
            "key.qps",
            "is 0; leave it out for no limit of its own, or give 1 or more",
        )),
        qps => Ok(qps),
    }
}

fn checked_service(service: &str) -> Result<String, FieldError> {
    let service = label("key.service", service)?;
    if service.chars().count() > SERVICE_CHARS_MAX {
        let problem = format!("is longer than {SERVICE_CHARS_MAX} characters");
        return Err(FieldError::invalid("key.service", problem));
    }
    Ok(service)
}

/// Patterns of models, as keys, plans and licences have them.
pub(super) fn patterns(
    field: &str,
    models: &[String],
    most: usize,
) -> Result<Vec<String>, FieldError> {
    if models.len() > most {
        let problem = format!("has {} patterns; it may have {most}", models.len());
        return Err(FieldError::invalid(field, problem));
    }
    for (index, pattern) in models.iter().enumerate() {
        let stem = pattern.strip_suffix('*').unwrap_or(pattern);
        let plain = stem
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'*');
        if pattern.is_empty() || !plain || stem.len() > NAME_BYTES_MAX {
            let given = shown(pattern);
            let problem = format!(
                "`{given}` must be a model's name, or a beginning of one with `*` at its end, such as `gpt-4o*`"
            );
            return Err(FieldError::invalid(format!("{field}[{index}]"), problem));
        }
    }
    Ok(models.to_vec())
}

fn checked_models(models: &[String]) -> Result<Vec<String>, FieldError> {
    patterns("key.models", models, MODELS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_secret_is_long_and_never_the_same() {
        let (one, other) = (made_up_secret().unwrap(), made_up_secret().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 46);
        assert!(one.starts_with("sk-"));
        assert_eq!(checked_secret(one.clone()), Ok(one));
    }

    #[test]
    fn a_hint_does_not_give_a_short_secret_away() {
        for (secret, expected) in [("sk-demo", "sk"), ("sk-0123456789abcdef0123", "sk-012")] {
            assert_eq!(hint(secret), expected);
        }
    }

    #[test]
    fn a_wrong_secret_is_not_shown() {
        for secret in ["short", "with space", "ünicode"] {
            let error = checked_secret(secret.into()).unwrap_err();
            assert!(!error.to_string().contains(secret));
        }
        assert!(checked_secret("x".repeat(SECRET_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn model_patterns_are_names_or_beginnings() {
        for (pattern, good) in [
            ("gpt-4o", true),
            ("gpt*", true),
            ("*", true),
            ("", false),
            ("g*t", false),
            ("a b", false),
        ] {
            assert_eq!(
                checked_models(&[pattern.into()]).is_ok(),
                good,
                "{pattern:?}"
            );
        }
        assert!(checked_models(&vec!["m".into(); MODELS_MAX + 1]).is_err());
    }
}
