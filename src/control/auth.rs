//! The bearer token: what every request but those to health must carry, if one is set.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::errors::Fault;

/// The longest token: far more than any randomness needs, and well within a header.
pub const TOKEN_BYTES_MAX: usize = 512;

/// Whether a text can be sent as a bearer token.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Lets requests through that carry the token; all of them if none is set.
#[derive(Clone)]
pub(crate) struct Token(Option<Arc<[u8; 32]>>);

impl Token {
    /// Only the digest is kept. Comparing digests takes the same time however much of a wrong token is right, and however
    /// long it is.
    pub(crate) fn new(token: Option<&str>) -> Self {
        Self(token.map(|token| Arc::new(Sha256::digest(token).into())))
    }

    /// Whether a header carries the token; any, and none, if no token is set.
    pub(super) fn lets_pass(&self, header: Option<&[u8]>) -> bool {
        self.check(header).is_ok()
    }

    /// Whether a bare token is the one that is wanted; any is, if none is set.
    pub(crate) fn is(&self, token: Option<&[u8]>) -> bool {
        let Some(wanted) = &self.0 else { return true };
        let given: [u8; 32] = Sha256::digest(token.unwrap_or_default()).into();
        bool::from(given.ct_eq(&**wanted))
    }

    /// Refuses a request without the token, given its `authorization`.
    pub(crate) fn status(&self, header: Option<&[u8]>) -> Result<(), Status> {
        Ok(self.check(header)?)
    }

    fn check(&self, header: Option<&[u8]>) -> Result<(), Fault> {
        let Some(wanted) = &self.0 else { return Ok(()) };
        let header = header.ok_or(Fault::NoToken)?;
        // The scheme's case does not matter (RFC 9110, 11.1).
        let (scheme, token) = header
            .split_at_checked(b"Bearer ".len())
            .ok_or(Fault::NoToken)?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Err(Fault::NoToken);
        }
        let given: [u8; 32] = Sha256::digest(token).into();
        if bool::from(given.ct_eq(&**wanted)) {
            Ok(())
        } else {
            Err(Fault::WrongToken)
        }
    }
}

impl Interceptor for Token {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization");
        self.status(header.map(|value| value.as_encoded_bytes()))?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_passes() {
        let guard = Token::new(Some("s3cret"));
        let check = |header: Option<&str>, expected: bool| {
            assert_eq!(
                guard.check(header.map(str::as_bytes)).is_ok(),
                expected,
                "{header:?}"
            );
        };
        check(Some("Bearer s3cret"), true);
        check(Some("bearer s3cret"), true);
        check(Some("Bearer s3cre"), false);
        check(Some("Bearer s3cret "), false);
        check(Some("Bearer S3cret"), false);
        check(Some("Bearer "), false);
        check(Some("Basic s3cret"), false);
        check(Some("s3cret"), false);
        check(Some(""), false);
        check(None, false);
    }

    #[test]
    fn without_a_token_everybody_passes() {
        assert!(Token::new(None).check(None).is_ok());
    }

    #[test]
    fn a_token_can_be_sent() {
        for (text, good) in [("x", true), ("", false), ("a b", false), ("ü", false)] {
            assert_eq!(is_token(text), good, "{text:?}");
        }
        assert!(!is_token(&"x".repeat(TOKEN_BYTES_MAX + 1)));
    }
}
