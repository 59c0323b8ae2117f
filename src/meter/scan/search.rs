//! Where a piece of a JSON string ends, and whether it is plain. What it says is not looked at here.

use memchr::memchr2;

/// How far a string's end is searched word by word.
const NEAR: usize = 32;

/// The end of a piece of a string.
pub(super) struct End {
    /// Where the next quote or backslash stands, or the end of the bytes.
    pub(super) at: usize,
    /// All bytes before it are printable ASCII; false if that was not looked for.
    pub(super) plain: bool,
}

/// Looks for the end of a piece of a string. Most strings are keys and single words, for which a search by vectors costs more to
/// set up than it saves: they are searched by words, and checked in passing.
#[inline]
pub(super) fn string_end(bytes: &[u8]) -> End {
    let mut at = 0_usize;
    let mut odd = 0_u64;
    let mut rest = bytes;
    while at < NEAR {
        let Some((word, after)) = rest.split_first_chunk() else {
            let mark = |byte: &u8| matches!(byte, b'"' | b'\\');
            let found = rest.iter().position(mark).unwrap_or(rest.len());
            return End {
                at: at.saturating_add(found),
                plain: false,
            };
        };
        let word = u64::from_le_bytes(*word);
        let marks = zeros(word ^ repeat(b'"')) | zeros(word ^ repeat(b'\\'));
        // The high bits of bytes that are control characters or no ASCII; above the lowest of them there may be others.
        let strange = word.wrapping_sub(repeat(b' ')) & !word & repeat(0x80) | word & repeat(0x80);
        if marks != 0 {
            let lowest = marks & marks.wrapping_neg();
            let found = usize::try_from(marks.trailing_zeros() >> 3);
            odd |= strange & lowest.wrapping_sub(1);
            return End {
                at: at.saturating_add(found.unwrap_or(0)),
                plain: odd == 0,
            };
        }
        odd |= strange;
        at = at.saturating_add(size_of::<u64>());
        rest = after;
    }
    let found = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    End {
        at: at.saturating_add(found),
        plain: false,
    }
}

/// A word of the same bytes.
const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The high bits of bytes that are zero. Above the lowest of them there may be others, which say nothing.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(repeat(1)) & !word & repeat(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte by byte.
    fn naive(bytes: &[u8]) -> usize {
        let mark = |byte: &u8| matches!(byte, b'"' | b'\\');
        bytes.iter().position(mark).unwrap_or(bytes.len())
    }

    #[test]
    fn it_is_found_wherever_it_stands_and_only_plain_text_is_called_so() {
        for odd in [
            b'a', b' ', b'!', b'~', 0x1f, 0x00, 0x7f, 0x80, 0xff, b'#', b'[', b']',
        ] {
            for place in 0..48 {
                for mark in [b'"', b'\\', b'b'] {
                    for end in 0..48 {
                        let mut bytes = vec![b'x'; 64];
                        bytes[place] = odd;
                        bytes[end] = mark;
                        let found = string_end(&bytes);
                        let case = (odd, place, mark, end);
                        assert_eq!(found.at, naive(&bytes), "{case:?}");
                        let strange = |byte: &u8| *byte < 0x20 || *byte >= 0x80;
                        let is_plain = !bytes[..found.at].iter().any(strange);
                        assert!(is_plain || !found.plain, "{case:?}");
                        if mark != b'b' && found.at < NEAR {
                            assert_eq!(found.plain, is_plain, "{case:?}");
                        }
                    }
                }
            }
        }
    }
}
