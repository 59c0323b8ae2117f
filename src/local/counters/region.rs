//! Memory that counters live in: a part of a file that is mapped, or the heap. The one place with `unsafe`: it turns addresses
//! into references to atomics, and argues why that is sound.

#![expect(
    unsafe_code,
    reason = "a mapped file is reached through a raw pointer: here, and nowhere else"
)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

use super::record::{TotalsRecord, UsageRecord, UsageWords};

/// What may lie in a region.
///
/// # Safety
///
/// The type is `repr(C)` and made of atomic integers only, without padding: every bit pattern is a value of it, and whoever else
/// changes the memory, changes it under atomics. Its alignment is no more than [`ALIGN`].
pub(super) unsafe trait Words: Send + Sync {}

// SAFETY: `repr(C)`, sixteen 8-byte atomics, 128 bytes (asserted in `record`), aligned to 128.
unsafe impl Words for UsageWords {}
// SAFETY: `repr(C)`, 8-byte atomics and arrays of them, 512 bytes (asserted in `record`).
unsafe impl Words for UsageRecord {}
// SAFETY: `repr(C)`, 8-byte atomics and arrays of them, 256 bytes (asserted in `record`).
unsafe impl Words for TotalsRecord {}

/// What every region's start is aligned to: two cache lines. A mapping starts at least at a multiple of [`FILE_ALIGN`].
const ALIGN: usize = 128;

/// Where in a file a region may start: a multiple of the smallest page there is.
pub(super) const FILE_ALIGN: u64 = 4_096;

/// A piece of memory that does not move and lasts until nobody refers to it any more.
pub(super) struct Region(Memory);

enum Memory {
    /// Shared with the file: what is stored in it belongs to the kernel at once, and outlives the process.
    File(MmapRaw),
    Heap(Box<[Line]>),
}

/// A piece of the heap, aligned as regions are.
#[repr(C, align(128))]
#[derive(Default)]
struct Line([AtomicU64; ALIGN / 8]);

impl Region {
    /// Maps a part of a file. The caller has written the part, so that its blocks are there, and keeps others from cutting the
    /// file short as long as the region lasts: a store beyond a file's end is a SIGBUS, which ends the process.
    pub(super) fn file(file: &File, offset: u64, len: usize) -> io::Result<Arc<Self>> {
        if !offset.is_multiple_of(FILE_ALIGN) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let map = MmapOptions::new().offset(offset).len(len).map_raw(file)?;
        if map.as_mut_ptr().is_null() {
            return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        }
        Ok(Arc::new(Self(Memory::File(map))))
    }

    /// Words on the heap, all zero, in a region of their own.
    pub(super) fn heap<T: Words>() -> Kept<T> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= ALIGN) }
        let lines = (0..size_of::<T>().div_ceil(ALIGN)).map(|_| Line::default());
        let region = Arc::new(Self(Memory::Heap(lines.collect())));
        let at = region.start().cast();
        Kept { at, region }
    }

    /// Hands changed pages over to the kernel, to be written: what `msync` is for where it does not have them anyway.
    pub(super) fn hand_over(&self) -> io::Result<()> {
        match &self.0 {
            Memory::File(map) => map.flush_async(),
            Memory::Heap(_) => Ok(()),
        }
    }

    fn start(&self) -> NonNull<u8> {
        match &self.0 {
            // Null was refused when it was made.
            Memory::File(map) => NonNull::new(map.as_mut_ptr()).unwrap_or(NonNull::dangling()),
            // What lies behind this shared reference is changed through its atomics only.
            Memory::Heap(lines) => NonNull::from(&**lines).cast(),
        }
    }

    fn len(&self) -> usize {
        match &self.0 {
            Memory::File(map) => map.len(),
            Memory::Heap(lines) => size_of_val(&**lines),
        }
    }

    /// The words at an offset; `None` if they do not lie in the region whole and aligned.
    pub(super) fn at<T: Words>(self: &Arc<Self>, offset: usize) -> Option<Kept<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        let at = self.start().as_ptr().wrapping_add(offset).cast::<T>();
        if end > self.len() || !at.is_aligned() {
            return None;
        }
        let region = Arc::clone(self);
        NonNull::new(at).map(|at| Kept { at, region })
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.0 {
            Memory::File(_) => "file",
            Memory::Heap(_) => "heap",
        };
        write!(f, "Region({kind}, {} bytes)", self.len())
    }
}

/// Words in a region, which lasts as long as they are referred to.
pub(super) struct Kept<T: Words> {
    at: NonNull<T>,
    region: Arc<Region>,
}

// SAFETY: a `Kept` is a shared reference to a `T` and an `Arc` of what it points into. `T` is `Send + Sync` (`Words` asks for
// it), and so is `Region`: `MmapRaw` and a box of atomics are.
unsafe impl<T: Words> Send for Kept<T> {}
// SAFETY: as above; all that is reached through `&Kept<T>` is `&T`.
unsafe impl<T: Words> Sync for Kept<T> {}

impl<T: Words> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: only `Region::at` and `Region::heap` make a `Kept`. The first checked that `at` is aligned for `T` and that all
        // of `T` lies in the region; the second made a region that is large enough and aligned to more. The region does not move (a mapping stays where it is; a box's content does too, and the box
        // is not touched again before it is dropped) and is not dropped before `self.region`. Its memory is initialised (a file
        // has its bytes, the heap was zeroed) and every bit pattern is a `T` (`Words`). Nobody has a `&mut` to it, or reads or
        // writes it but through atomics: the heap is private to `Region`, and a mapping is private to it but for other
        // processes, which are kept out by the lock on the data directory; one that ignores the lock changes values, or cuts
        // the file short, which ends this process by SIGBUS and breaks nothing else.
        unsafe { self.at.as_ref() }
    }
}

/// Tells the processor that what lies at an address is about to be changed. Only a hint: the address may be of anything, or of
/// nothing any more.
#[inline]
pub(crate) fn fetch_ahead(address: usize) {
    let at = std::ptr::without_provenance::<i8>(address);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is there on every x86-64 processor, reads and writes nothing that a program can see, and does not
    // fault whatever the address is.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

impl<T: Words> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self {
            at: self.at,
            region: Arc::clone(&self.region),
        }
    }
}

const _: () = {
    const fn sendable<T: Send + Sync>() {}
    sendable::<Region>();
};

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn words_lie_whole_and_aligned_in_their_region() {
        // 256 bytes.
        let region = Region::heap::<TotalsRecord>().region;
        for (offset, there) in [
            (0, true),
            (128, true),
            (64, false),
            (1, false),
            (256, false),
            (usize::MAX, false),
        ] {
            assert_eq!(region.at::<UsageWords>(offset).is_some(), there, "{offset}");
        }
        assert!(
            region.at::<UsageRecord>(0).is_none(),
            "it is larger than all of the region"
        );
    }

    #[test]
    fn words_outlive_every_other_reference() {
        let words = Region::heap::<UsageWords>();
        let same = words.clone();
        words.exact.store(7, Relaxed);
        drop(words);
        assert_eq!(same.exact.load(Relaxed), 7);
    }

    #[test]
    fn a_mapped_file_is_the_file() {
        use std::os::unix::fs::FileExt as _;
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * FILE_ALIGN).unwrap();
        let region = Region::file(&file, FILE_ALIGN, 8_192).unwrap();
        let words = region.at::<UsageWords>(128).unwrap();
        words.exact.store(7, Relaxed);
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, FILE_ALIGN + 128 + 8)
            .unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), 7);
        assert!(region.at::<UsageWords>(8_192).is_none());
        assert!(Region::file(&file, 128, 128).is_err());
    }
}
