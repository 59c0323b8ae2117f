//! The labels that metrics may carry: closed sets, so that no request can make a new series. Names of accounts, keys and models
//! are never labels.

use crate::gate::End;
use crate::refusal::Reason;

/// A fieldless enum with a name for each variant.
pub(super) trait Label: Copy + 'static {
    /// All of them, in the order of [`Label::index`].
    const ALL: &'static [Self];

    /// Its name in metrics.
    fn name(self) -> &'static str;

    /// Its place among [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// How many there are.
            pub const COUNT: usize = [$($text),+].len();
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            #[expect(clippy::as_conversions, reason = "a fieldless enum's discriminant")]
            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}

labels! {
    /// The first digit of an answer's status.
    StatusClass {
        /// 1xx, as far as it ends an exchange: an upgrade.
        Informational = "1xx",
        /// 2xx.
        Success = "2xx",
        /// 3xx.
        Redirection = "3xx",
        /// 4xx, refusals among them.
        ClientError = "4xx",
        /// 5xx.
        ServerError = "5xx",
        /// The client left before there was a status.
        None = "none",
    }

    /// What went wrong with an upstream.
    UpstreamError {
        /// No connection.
        Connect = "connect",
        /// No TLS.
        Tls = "tls",
        /// No first byte in time.
        FirstByteTimeout = "first_byte_timeout",
        /// A pause within the body that was too long.
        IdleTimeout = "idle_timeout",
        /// The connection broke within an answer.
        Reset = "reset",
        /// What came is not HTTP.
        Protocol = "protocol",
    }

    /// What became of a call that another gateway carries.
    Passage {
        /// It was let through, its cost set aside.
        Taken = "taken",
        /// It was asked for again, and got the hold that it had.
        Repeated = "repeated",
        /// Its end was told, and settled.
        Settled = "settled",
        /// Its end was not told in time: the policy said what became of its hold.
        Expired = "expired",
        /// Its end was told after that, and settled all the same.
        Late = "late",
        /// Its end was told again: the first word stands.
        Again = "again",
        /// An end was told of a call that this replica does not know, or no more.
        Stray = "stray",
        /// An answer came by of a call that nothing was held for.
        Unheld = "unheld",
    }

    /// What a store was asked.
    StoreOp {
        /// Whether it answers.
        Ping = "ping",
        /// To give an account to a replica.
        Open = "open",
        /// To give a book.
        Read = "read",
        /// To write a book.
        Commit = "commit",
        /// To take one account's spend and grant a lease. Each of a batch counts; the batch is timed as one.
        Publish = "publish",
        /// To take back the rights of silent replicas.
        Lapse = "lapse",
        /// To tell replicas that money is scarce.
        TellScarce = "tell_scarce",
        /// To find a presented key.
        FindKey = "find_key",
        /// To list or write an account's keys.
        Keys = "keys",
        /// To list accounts, entries, events, usage or spend.
        List = "list",
        /// To read or write prices and policies.
        Documents = "documents",
    }

    /// How sending an event to a webhook endpoint ended.
    Delivery {
        /// It was taken.
        Sent = "sent",
        /// It was not, and is tried again.
        Failed = "failed",
        /// It was given up.
        Dead = "dead",
    }

    /// What became of a call that presented a licence.
    LicenceOutcome {
        /// It passed.
        Admitted = "admitted",
        /// It is no licence, or nobody here knows who signed it.
        Forged = "forged",
        /// Its first day is yet to come.
        NotYetValid = "not_yet_valid",
        /// Its time is over.
        Expired = "expired",
        /// It was taken back.
        Revoked = "revoked",
        /// It is not for this model.
        ModelNotAllowed = "model_not_allowed",
    }

    /// How reading on for a client that left ended.
    Drained {
        /// The answer was read to its end.
        Whole = "whole",
        /// It was cut at a bound of time or bytes, or too many were open.
        Bounded = "bounded",
        /// The upstream broke off.
        Cut = "cut",
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = &Self::ALL;

    fn name(self) -> &'static str {
        Self::name(self)
    }

    fn index(self) -> usize {
        Self::index(self)
    }
}

impl Label for End {
    const ALL: &'static [Self] = &Self::ALL;

    fn name(self) -> &'static str {
        Self::name(self)
    }

    #[expect(clippy::as_conversions, reason = "a fieldless enum's discriminant")]
    fn index(self) -> usize {
        self as usize
    }
}

impl StatusClass {
    /// The class of a status.
    pub const fn of(status: http::StatusCode) -> Self {
        match status.as_u16() {
            100..=199 => Self::Informational,
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_label_stands_at_its_index_under_a_name_of_its_own() {
        fn check<L: Label + std::fmt::Debug>(count: usize) {
            let names: BTreeSet<_> = L::ALL.iter().map(|label| label.name()).collect();
            assert_eq!((names.len(), L::ALL.len()), (count, count), "{:?}", L::ALL);
            for (index, label) in L::ALL.iter().enumerate() {
                assert_eq!(label.index(), index);
            }
        }
        check::<StatusClass>(StatusClass::COUNT);
        check::<UpstreamError>(UpstreamError::COUNT);
        check::<StoreOp>(StoreOp::COUNT);
        check::<Delivery>(Delivery::COUNT);
        check::<Drained>(Drained::COUNT);
        check::<Reason>(Reason::COUNT);
        check::<End>(End::ALL.len());
    }
}
