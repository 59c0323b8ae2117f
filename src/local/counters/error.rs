//! Why a counter file is not opened. Nothing that is refused is written to.

use std::io;
use std::path::PathBuf;

use super::header::{FORMAT, MAGIC};

/// Why the counters of a data directory cannot be used. Each names the file and says what would work.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// Another process has the directory.
    #[error(
        "data directory {dir} is in use by another tollgate: stop that one, or give this one a directory of its own"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The operating system refuses something.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// Not a counter file.
    #[error(
        "{path} is not a counter file (it does not begin with {magic:?}): move it away, or name another data directory",
        magic = MAGIC.escape_ascii().to_string()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A counter file of another format.
    #[error(
        "{path} has format {found}, and this tollgate reads {FORMAT}: use a tollgate that reads {found} until everything in it is published, then move it away"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A counter file of a machine with the other byte order.
    #[error(
        "{path} was written by a machine with the other byte order: start tollgate on that kind of machine until everything in it is published, then move it away"
    )]
    ByteOrder {
        /// The file.
        path: PathBuf,
    },
    /// Its header is torn or was changed.
    #[error(
        "the header of {path} is damaged ({what}): restore the data directory from a copy, or move it away and count what it had not published as lost"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not add up.
        what: &'static str,
    },
    /// Its slots have other sizes than this tollgate's.
    #[error(
        "{path} has slots of {found}, and this tollgate has {ours}: use the tollgate that made it until everything in it is published, then move it away"
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// Its sizes.
        found: String,
        /// The sizes of this tollgate.
        ours: String,
    },
    /// Its length is not what its header says.
    #[error(
        "{path} has {found} bytes, and its header speaks of {expected}: it was cut or added to; restore the data directory from a copy, or move it away and count what it had not published as lost"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// A part of it does not begin as it should.
    #[error(
        "part {chunk} of {path} is damaged: restore the data directory from a copy, or move it away and count what it had not published as lost"
    )]
    Chunk {
        /// The file.
        path: PathBuf,
        /// The part, from 0.
        chunk: u32,
    },
    /// It was opened too often for its generations to stay unique.
    #[error(
        "{path} was opened {opens} times, as often as can be: publish everything, then move it away"
    )]
    WornOut {
        /// The file.
        path: PathBuf,
        /// How often.
        opens: u32,
    },
    /// The operating system has no randomness for a new file's identity.
    #[error("the operating system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// It has as many slots as it may.
    #[error(
        "{path} is as large as it may be, {chunks} parts: what is counted beyond that is not crash-proof until usage of past hours is folded"
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Its parts.
        chunks: u32,
    },
}
