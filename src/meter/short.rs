//! A few bytes put together from pieces, for what is only worth having if it is short.

/// At most `N` bytes; of what is longer, only that it is.
pub(super) struct Short<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Short<N> {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    pub(super) const fn clear(&mut self) {
        self.length = 0;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        let end = self.length.saturating_add(piece.len());
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(piece);
        }
        self.length = end;
    }

    /// The bytes; none if there were too many.
    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The whole number that they spell.
    pub(super) fn number(&self) -> Option<u64> {
        std::str::from_utf8(self.get()).ok()?.parse().ok()
    }
}
