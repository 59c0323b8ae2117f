//! Checks the text between escapes as it comes in pieces: UTF-8, and no control characters.

use super::super::malformed::Fault;

/// The beginning of a character whose end has not come yet.
pub(super) struct Utf8 {
    part: [u8; 4],
    length: usize,
}

impl Utf8 {
    pub(super) const fn new() -> Self {
        Self {
            part: [0; 4],
            length: 0,
        }
    }

    /// Whether no character is open.
    pub(super) const fn is_whole(&self) -> bool {
        self.length == 0
    }

    /// Checks a piece. If it is the `last` before a quote or a backslash no character may be left
    /// open. The error says how many bytes of the piece were in order.
    pub(super) fn check(&mut self, piece: &[u8], last: bool) -> Result<(), (usize, Fault)> {
        // Folded, not searched: the compiler makes vectors of this, and it is rarely true.
        if piece
            .iter()
            .fold(false, |found, byte| found | (*byte < 0x20))
        {
            let at = piece.iter().position(|byte| *byte < 0x20).unwrap_or(0);
            let byte = piece.get(at).copied().unwrap_or(0);
            return Err((at, Fault::Control { byte }));
        }
        let joined = self.join(piece, last)?;
        let rest = piece.get(joined..).unwrap_or_default();
        let Err(error) = std::str::from_utf8(rest) else {
            return Ok(());
        };
        let open = rest.get(error.valid_up_to()..).unwrap_or_default();
        match self.part.get_mut(..open.len()) {
            Some(part) if error.error_len().is_none() && !last => {
                part.copy_from_slice(open);
                self.length = open.len();
                Ok(())
            }
            _ => Err((joined.saturating_add(error.valid_up_to()), Fault::NotUtf8)),
        }
    }

    /// Completes an open character from the start of a piece; says how many bytes that took.
    fn join(&mut self, piece: &[u8], last: bool) -> Result<usize, (usize, Fault)> {
        let mut taken = 0_usize;
        while self.length > 0 {
            let (Some(byte), Some(slot)) = (piece.get(taken), self.part.get_mut(self.length))
            else {
                return if last {
                    Err((taken, Fault::NotUtf8))
                } else {
                    Ok(taken)
                };
            };
            *slot = *byte;
            self.length = self.length.saturating_add(1);
            match std::str::from_utf8(self.part.get(..self.length).unwrap_or_default()) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err((taken, Fault::NotUtf8)),
            }
            taken = taken.saturating_add(1);
        }
        Ok(taken)
    }
}
