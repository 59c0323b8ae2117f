//! Pages: sizes, and tokens that say where the next one begins. A token carries a digest of the request it belongs to, so that
//! one that comes back with other filters is refused instead of skipping or repeating rows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::errors::Fault;
use crate::proto::convert::FieldError;

/// The longest token: a position is at most three names and some numbers.
const TOKEN_BYTES_MAX: usize = 1_024;

/// How much of the digest a token carries: a slip is found, and nobody gains by forging one.
const DIGEST_BYTES: usize = 8;

/// How long pages are.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// If the request does not say.
    pub(super) default: usize,
    /// If it asks for more.
    pub(super) most: usize,
}

/// For rows that are read in one go.
pub(super) const ROWS: Sizes = Sizes {
    default: 100,
    most: 1_000,
};

/// For accounts, each of which is read on its own.
pub(super) const ACCOUNTS: Sizes = Sizes {
    default: 50,
    most: 200,
};

impl Sizes {
    /// How many to return (AIP-158).
    pub(super) fn of(self, page_size: i32) -> Result<usize, FieldError> {
        match usize::try_from(page_size) {
            Ok(0) => Ok(self.default),
            Ok(size) => Ok(size.min(self.most)),
            Err(_) => Err(FieldError::invalid(
                "page_size",
                format!(
                    "is {page_size}; give 1 to {}, or 0 for {}",
                    self.most, self.default
                ),
            )),
        }
    }
}

/// What a token must agree with: the method and every field that decides what is listed.
pub(super) struct Filter([u8; DIGEST_BYTES]);

impl Filter {
    /// Of a method's request, without its page's size and token.
    pub(super) fn new(method: &str, request: &impl prost::Message) -> Self {
        let digest = Sha256::new()
            .chain_update(method)
            .chain_update([0])
            .chain_update(request.encode_to_vec())
            .finalize();
        let mut short = [0; DIGEST_BYTES];
        for (to, from) in short.iter_mut().zip(digest) {
            *to = from;
        }
        Self(short)
    }

    /// Where the page begins; `None` for the first one.
    pub(super) fn position(&self, token: &str) -> Result<Option<String>, Fault> {
        if token.is_empty() {
            return Ok(None);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Fault::PageToken);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| Fault::PageToken)?;
        let (digest, position) = bytes
            .split_at_checked(DIGEST_BYTES)
            .ok_or(Fault::PageToken)?;
        if digest != self.0 {
            return Err(Fault::PageFilter);
        }
        let position = std::str::from_utf8(position).map_err(|_| Fault::PageToken)?;
        Ok(Some(position.into()))
    }

    /// The same, where positions are numbers.
    pub(super) fn number(&self, token: &str) -> Result<Option<u64>, Fault> {
        let position = self.position(token)?;
        position
            .map(|text| text.parse().map_err(|_| Fault::PageToken))
            .transpose()
    }

    /// The token of the page that begins there.
    pub(super) fn token(&self, position: impl ToString) -> String {
        let mut bytes = self.0.to_vec();
        bytes.extend_from_slice(position.to_string().as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

/// Cuts a page off what was read with one row to spare: `true` if there is more.
pub(super) fn cut<T>(rows: &mut Vec<T>, size: usize) -> bool {
    let more = rows.len() > size;
    rows.truncate(size);
    more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::ListKeysRequest;

    fn filter(account: &str) -> Filter {
        let request = ListKeysRequest {
            account_id: account.into(),
            ..ListKeysRequest::default()
        };
        Filter::new("ListKeys", &request)
    }

    #[test]
    fn a_token_comes_back_to_the_same_request_only() {
        let token = filter("a").token("key-7");
        assert_eq!(
            filter("a").position(&token).unwrap().as_deref(),
            Some("key-7")
        );
        assert!(matches!(
            filter("b").position(&token),
            Err(Fault::PageFilter)
        ));
        let other = Filter::new(
            "ListEntries",
            &ListKeysRequest {
                account_id: "a".into(),
                ..Default::default()
            },
        );
        assert!(matches!(other.position(&token), Err(Fault::PageFilter)));
        assert_eq!(filter("a").position("").unwrap(), None);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = filter("a").token("not a number");
        for token in ["!", "AAAA", &"A".repeat(2_000), text.as_str()] {
            assert!(filter("a").number(token).is_err(), "{token}");
        }
    }

    #[test]
    fn a_page_has_a_size_within_bounds() {
        for (asked, given) in [
            (0, Some(100)),
            (1, Some(1)),
            (1_001, Some(1_000)),
            (-1, None),
        ] {
            assert_eq!(ROWS.of(asked).ok(), given, "{asked}");
        }
    }
}
