//! The counter file: made, checked, locked, grown. What its slots hold is none of its business.
//!
//! It grows by whole chunks. The blocks of a chunk are written (zeroes, not a hole) and synced before the header counts it and
//! before it is mapped, so that a full disk is an error here and not a SIGBUS at a store. That holds on file systems that
//! overwrite in place (ext4, XFS, tmpfs); one that copies on write (btrfs, ZFS) may need room for every page again: turn that
//! off for the directory (`chattr +C`), or keep it elsewhere.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chunk::{CHUNK_BYTES, Chunk};
use super::error::CountersError;
use super::header::{CHUNKS_AT, Header, Kind, OPENS_AT, OPENS_MAX, PAGE, variable};
use super::region::Region;
use crate::clock::Timestamp;
use crate::id::ReplicaId;

/// The file's name in its data directory.
const FILE: &str = "counters.tgc";

/// A file that is being made; it has its name only once it is whole.
const NEW_FILE: &str = "counters.tgc.new";

/// Locked by the one process that uses the directory.
const LOCK_FILE: &str = "lock";

/// How much is written at once when the file grows.
static ZEROES: [u8; 65_536] = [0; 65_536];

/// An open counter file and all of its chunks.
#[derive(Debug)]
pub(super) struct CounterFile {
    file: File,
    path: PathBuf,
    header: Header,
    chunks: Vec<Arc<Chunk>>,
    chunks_max: u32,
    /// Kept as long as the file is used; the operating system lets go of it when the process ends, however it does.
    _lock: File,
}

impl CounterFile {
    /// Opens the file of a directory, or makes both. `chunks_max` is how many chunks it may have.
    pub(super) fn open(
        dir: &Path,
        chunks_max: u32,
        now: Timestamp,
        fresh_name: impl FnOnce() -> ReplicaId,
    ) -> Result<Self, CountersError> {
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        if !path.try_exists().map_err(io_error("looking for", &path))? {
            let header = Header {
                id: random_id()?,
                replica: fresh_name(),
                created: now,
                chunks: 0,
                opens: 0,
            };
            make(dir, &header)?;
        }
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(io_error("opening", &path))?;
        let mut header = check(&file, &path)?;
        let chunks = (0..header.chunks).map(|number| map(&file, &path, header.id, number));
        let chunks = chunks.collect::<Result<_, _>>()?;
        if header.opens >= OPENS_MAX {
            return Err(CountersError::WornOut {
                path,
                opens: header.opens,
            });
        }
        header.opens = header.opens.saturating_add(1);
        let counted = file
            .write_all_at(&variable(header.opens), OPENS_AT)
            .and_then(|()| file.sync_data());
        counted.map_err(io_error("writing to", &path))?;
        Ok(Self {
            file,
            path,
            header,
            chunks,
            chunks_max,
            _lock: lock,
        })
    }

    pub(super) const fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// Adds a chunk: reserved, durable, counted, mapped. Blocks. What could not be finished is taken back.
    pub(super) fn grow(&mut self, kind: Kind) -> Result<Arc<Chunk>, CountersError> {
        let number = self.header.chunks;
        if number >= self.chunks_max {
            return Err(CountersError::Full {
                path: self.path.clone(),
                chunks: number,
            });
        }
        let growing = || io_error("adding to", &self.path);
        if let Err(error) = self.reserve(kind, number) {
            // What is left over does no harm, so nothing depends on this.
            let _ = self.file.set_len(Chunk::offset(number));
            return Err(growing()(error));
        }
        if let Err(error) = self.count_chunks(number.saturating_add(1)) {
            let _ = self.count_chunks(number);
            return Err(growing()(error));
        }
        self.header.chunks = number.saturating_add(1);
        let chunk = map(&self.file, &self.path, self.header.id, number)?;
        self.chunks.push(Arc::clone(&chunk));
        Ok(chunk)
    }

    /// Writes a chunk without anything in it. Its head comes last: where that stands, the rest does.
    fn reserve(&self, kind: Kind, number: u32) -> io::Result<()> {
        let begin = Chunk::offset(number);
        let end = Chunk::offset(number.saturating_add(1));
        let mut at = begin;
        while at < end {
            let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let piece = ZEROES.get(..left).unwrap_or(&ZEROES);
            self.file.write_all_at(piece, at)?;
            at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        self.file
            .write_all_at(&kind.encode(self.header.id, number), begin)?;
        self.file.sync_data()
    }

    fn count_chunks(&self, chunks: u32) -> io::Result<()> {
        self.file.write_all_at(&variable(chunks), CHUNKS_AT)?;
        self.file.sync_data()
    }

    /// What it takes to make all that was stored so far durable, apart from the file, which may grow meanwhile.
    pub(super) fn flusher(&self) -> Result<Flusher, CountersError> {
        Ok(Flusher {
            file: self
                .file
                .try_clone()
                .map_err(io_error("opening", &self.path))?,
            path: self.path.clone(),
            chunks: self.chunks.clone(),
        })
    }

    /// Every further write fails, as on a disk that has become read-only.
    #[cfg(test)]
    pub(super) fn break_writes(&mut self) {
        self.file = File::open(&self.path).unwrap();
    }

    #[cfg(test)]
    pub(super) fn mend_writes(&mut self) {
        let file = File::options().read(true).write(true).open(&self.path);
        self.file = file.unwrap();
    }
}

/// Makes durable what was stored in the chunks.
#[derive(Debug)]
pub(super) struct Flusher {
    file: File,
    path: PathBuf,
    chunks: Vec<Arc<Chunk>>,
}

impl Flusher {
    /// Blocks until it is done. Hands the mapped pages over (`msync`; on Linux the kernel has them already) and then waits once
    /// for the whole file, which costs one journal commit and not one per chunk.
    pub(super) fn flush(&self) -> Result<(), CountersError> {
        let hand_over = self
            .chunks
            .iter()
            .try_for_each(|chunk| chunk.region.hand_over());
        hand_over
            .and_then(|()| self.file.sync_data())
            .map_err(io_error("flushing", &self.path))
    }
}

/// An error of the operating system, with what was tried.
pub(super) fn io_error(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> CountersError {
    move |source| CountersError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Makes the directory, for its owner only, and takes its lock.
fn lock(dir: &Path) -> Result<File, CountersError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(io_error("making", dir))?;
    let path = dir.join(LOCK_FILE);
    let file = private().truncate(false).open(&path);
    let file = file.map_err(io_error("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CountersError::InUse {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(io_error("locking", &path)(error)),
    }
}

/// Files that only their owner reads: they hold who called whom how often.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// Makes a file that has its header and no chunk. It has its name only when it is whole and durable, so a process killed here
/// leaves a file behind that the next one makes again.
fn make(dir: &Path, header: &Header) -> Result<(), CountersError> {
    let (new, path) = (dir.join(NEW_FILE), dir.join(FILE));
    let file = private().truncate(true).open(&new);
    let file = file.map_err(io_error("making", &new))?;
    file.write_all_at(&header.encode(), 0)
        .and_then(|()| file.sync_all())
        .map_err(io_error("writing to", &new))?;
    std::fs::rename(&new, &path).map_err(io_error("making", &path))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("making", &path))
}

/// Reads the header of a file and compares it with the file's length. Changes nothing.
fn check(file: &File, path: &Path) -> Result<Header, CountersError> {
    let reading = || io_error("reading", path);
    let found = file.metadata().map_err(reading())?.len();
    let mut page = [0; PAGE];
    match file.read_exact_at(&mut page, 0) {
        Ok(()) => {}
        // Shorter than a page: what is there says what it is not.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Header::decode(&page, path)?;
            let expected = Chunk::offset(0);
            let path = path.to_owned();
            return Err(CountersError::Length {
                path,
                found,
                expected,
            });
        }
        Err(error) => return Err(reading()(error)),
    }
    let header = Header::decode(&page, path)?;
    let expected = Chunk::offset(header.chunks);
    let wrong = || CountersError::Length {
        path: path.to_owned(),
        found,
        expected,
    };
    let over = found.checked_sub(expected).ok_or_else(wrong)?;
    if over > u64::from(CHUNK_BYTES) || !is_unfinished(file, &header, over).map_err(reading())? {
        return Err(wrong());
    }
    Ok(header)
}

/// Whether what stands behind the last chunk is one that a killed process had not finished: a head at most, and zeroes.
fn is_unfinished(file: &File, header: &Header, over: u64) -> io::Result<bool> {
    let begin = Chunk::offset(header.chunks);
    let mut rest = vec![0; usize::try_from(over).unwrap_or(0)];
    file.read_exact_at(&mut rest, begin)?;
    let blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let Some((head, slots)) = rest.split_first_chunk::<PAGE>() else {
        return Ok(blank(&rest));
    };
    let headed = Kind::decode(head, header.id, header.chunks).is_some();
    Ok(blank(slots) && (headed || blank(head)))
}

/// Maps a chunk that the header counts.
fn map(file: &File, path: &Path, id: u128, number: u32) -> Result<Arc<Chunk>, CountersError> {
    let offset = Chunk::offset(number);
    let mut head = [0; PAGE];
    file.read_exact_at(&mut head, offset)
        .map_err(io_error("reading", path))?;
    let kind = Kind::decode(&head, id, number).ok_or_else(|| CountersError::Chunk {
        path: path.to_owned(),
        chunk: number,
    })?;
    let len = usize::try_from(CHUNK_BYTES).unwrap_or(0);
    let region = Region::file(file, offset, len).map_err(io_error("mapping", path))?;
    Ok(Arc::new(Chunk {
        kind,
        number,
        region,
    }))
}

fn random_id() -> Result<u128, CountersError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}
