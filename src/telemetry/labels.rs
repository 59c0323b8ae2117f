//! The labels that metrics may carry: closed sets, so that no request can make a new series. Names of accounts, keys and models
//! are never labels.

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
    /// How a held call came to its charge.
    WayOut {
        /// The answer ended.
        Complete = "complete",
        /// The upstream answered with an error status.
        ErrorStatus = "error_status",
        /// The upstream gave no answer.
        NoAnswer = "no_answer",
        /// The upstream broke off within its answer.
        Cut = "cut",
        /// The client left.
        ClientGone = "client_gone",
        /// The client's request broke off or was too large.
        ClientFailed = "client_failed",
        /// Settled through the API.
        Api = "api",
        /// Nobody settled it: dropped or expired, charged or released by its policy.
        Unsettled = "unsettled",
    }

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
        /// To take spend and grant leases.
        Publish = "publish",
        /// To take back the rights of silent replicas.
        Lapse = "lapse",
        /// To find, list or write keys.
        Keys = "keys",
        /// To list accounts, entries, events, usage or spend.
        List = "list",
        /// To read or write prices and policies.
        Documents = "documents",
        /// To tell of changes.
        Changes = "changes",
    }

    /// How a wait for an empty lease ended.
    Refill {
        /// The lease was filled.
        Granted = "granted",
        /// The store answered that there is no more.
        Exhausted = "exhausted",
        /// The store did not answer in time.
        TimedOut = "timed_out",
    }

    /// How the first load of an account ended.
    LoadEnd {
        /// It is in memory.
        Loaded = "loaded",
        /// There is no such account or key.
        Unknown = "unknown",
        /// The store did not answer, or not in time.
        Failed = "failed",
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

    /// How a round of publication ended.
    SyncEnd {
        /// The store took everything.
        Done = "done",
        /// It did not take some of it.
        Failed = "failed",
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
        check::<WayOut>(WayOut::COUNT);
        check::<StatusClass>(StatusClass::COUNT);
        check::<UpstreamError>(UpstreamError::COUNT);
        check::<StoreOp>(StoreOp::COUNT);
        check::<Refill>(Refill::COUNT);
        check::<LoadEnd>(LoadEnd::COUNT);
        check::<Drained>(Drained::COUNT);
        check::<SyncEnd>(SyncEnd::COUNT);
    }
}
