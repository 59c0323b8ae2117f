//! What models have in the place of memory that counters live in: each piece of words for itself, on the heap, and no files. Words
//! made of a model's atomics are no plain memory, so nothing may be mapped onto them.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use super::record::{TotalsRecord, UsageRecord, UsageWords};

/// What may lie in a region.
pub(super) trait Words: Send + Sync {}

impl Words for UsageWords {}
impl Words for UsageRecord {}
impl Words for TotalsRecord {}

/// There is none.
#[derive(Debug)]
pub(super) enum Region {}

impl Region {
    /// Refused.
    pub(super) fn file(_: &File, _: u64, _: usize) -> io::Result<Arc<Self>> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Words on the heap, all zero.
    pub(super) fn heap<T: Words + Default>() -> Kept<T> {
        Kept(Arc::new(T::default()))
    }

    /// As there is no region, there is nothing to do.
    pub(super) const fn hand_over(&self) -> io::Result<()> {
        match *self {}
    }

    /// As there is no region, there is nothing in it.
    pub(super) fn at<T: Words>(self: &Arc<Self>, _: usize) -> Option<Kept<T>> {
        match **self {}
    }
}

/// In a model there is nothing to fetch.
pub(crate) const fn fetch_ahead(_: usize) {}

/// Words, as long as they are referred to.
#[derive(Debug)]
pub(super) struct Kept<T: Words>(Arc<T>);

impl<T: Words> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Words> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
