//! Signatures as [Standard Webhooks](https://www.standardwebhooks.com) has them: HMAC-SHA256 over `id.timestamp.body`, by one key, or
//! by two while one is being replaced.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// How a secret begins, as the standard has it.
const PREFIX: &str = "whsec_";

/// How many bytes a secret has, as the standard recommends: less can be guessed, more adds nothing.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that messages are signed with. Not shown.
#[derive(Clone, Debug)]
pub struct Key(hmac::Key);

/// Why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write whsec_ and the base64 of 24 to 64 random bytes: printf whsec_; openssl rand -base64 32"
)]
pub struct NoSecret;

impl Key {
    /// Reads a secret: `whsec_` and base64.
    pub fn new(text: &str) -> Result<Self, NoSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(NoSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NoSecret)?;
        if !BYTES.contains(&bytes.len()) {
            return Err(NoSecret);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

/// The value of `webhook-signature`: one `v1,…` for each key, a space between. A receiver takes the message if one of them is right.
pub fn signature(keys: &[Key], id: &str, seconds: i64, body: &[u8]) -> String {
    let sign = |Key(key): &Key| {
        let mut context = hmac::Context::with_key(key);
        context.update(format!("{id}.{seconds}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    };
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The one that the standard's own libraries are tested with.
    #[test]
    fn the_published_vector_comes_out() {
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let body = br#"{"test": 2432232314}"#;
        let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let key = Key::new(SECRET).unwrap();
        assert_eq!(signature(std::slice::from_ref(&key), id, at, body), one);
        let other = Key::new(&format!("whsec_{}", STANDARD.encode([7; 32]))).unwrap();
        let both = signature(&[other.clone(), key], id, at, body);
        assert_eq!(both, format!("{} {one}", signature(&[other], id, at, body)));
    }

    #[test]
    fn every_part_is_signed() {
        let keys = [Key::new(SECRET).unwrap()];
        let right = signature(&keys, "a/1", 7, b"{}");
        for (id, at, body) in [("a/2", 7, "{}"), ("a/1", 8, "{}"), ("a/1", 7, "{ }")] {
            assert_ne!(signature(&keys, id, at, body.as_bytes()), right);
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let short = format!("whsec_{}", STANDARD.encode([1; 23]));
        let long = format!("whsec_{}", STANDARD.encode([1; 65]));
        let bare = SECRET.trim_start_matches(PREFIX);
        for text in ["", "whsec_", "whsec_!!!!", bare, &short, &long] {
            assert_eq!(Key::new(text).map(drop), Err(NoSecret), "{text}");
        }
        let shown = format!("{:?}", Key::new(SECRET).unwrap());
        assert!(!shown.contains("MfKQ"), "{shown}");
    }
}
