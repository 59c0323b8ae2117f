//! What stands after a backslash in a JSON string, a byte at a time. Surrogates are paired by the
//! scanner, which sees what stands between two escapes.

/// How far an escape has come.
#[derive(Clone, Copy)]
pub(super) enum Escape {
    /// Just behind the backslash.
    Letter,
    /// In the digits behind `\u`.
    Digits {
        /// How many are still to come.
        left: u8,
        /// What those before say.
        unit: u16,
    },
}

/// What one more byte made of an escape.
pub(super) enum Step {
    /// It goes on.
    More(Escape),
    /// It is over and says this.
    Char(char),
    /// It is over and says this unit of UTF-16.
    Unit(u16),
}

impl Escape {
    /// Reads a byte; the error says what was wanted instead.
    pub(super) fn step(self, byte: u8) -> Result<Step, &'static str> {
        match self {
            Self::Letter => letter(byte),
            Self::Digits { left, unit } => {
                let digit = char::from(byte)
                    .to_digit(16)
                    .and_then(|digit| u16::try_from(digit).ok())
                    .ok_or("four hexadecimal digits")?;
                let unit = unit.wrapping_shl(4) | digit;
                Ok(match left.saturating_sub(1) {
                    0 => Step::Unit(unit),
                    left => Step::More(Self::Digits { left, unit }),
                })
            }
        }
    }
}

const fn letter(byte: u8) -> Result<Step, &'static str> {
    Ok(match byte {
        b'"' => Step::Char('"'),
        b'\\' => Step::Char('\\'),
        b'/' => Step::Char('/'),
        b'b' => Step::Char('\u{8}'),
        b'f' => Step::Char('\u{c}'),
        b'n' => Step::Char('\n'),
        b'r' => Step::Char('\r'),
        b't' => Step::Char('\t'),
        b'u' => Step::More(Escape::Digits { left: 4, unit: 0 }),
        _ => return Err("one of `\"\\/bfnrtu` after a backslash"),
    })
}
