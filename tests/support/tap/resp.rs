//! As much of Redis' protocol as it takes to tell where a message ends and which command it is. RESP2 and RESP3.

/// Where the message that begins at `at` ends; `None` while it is not whole.
pub(super) fn end(bytes: &[u8], at: usize) -> Option<usize> {
    let line_end = memchr::memmem::find(bytes.get(at..)?, b"\r\n")? + at + 2;
    let kind = bytes[at];
    if !b"$=!*~>%|".contains(&kind) {
        // A simple answer, or a command as one types it.
        return Some(line_end);
    }
    let Ok(count) = usize::try_from(number(&bytes[at + 1..line_end - 2])) else {
        // There is none: `$-1` and `*-1`.
        return Some(line_end);
    };
    match kind {
        b'$' | b'=' | b'!' => {
            let end = line_end + count + 2;
            (end <= bytes.len()).then_some(end)
        }
        b'%' | b'|' => parts(bytes, line_end, 2 * count),
        _ => parts(bytes, line_end, count),
    }
}

fn parts(bytes: &[u8], at: usize, count: usize) -> Option<usize> {
    (0..count).try_fold(at, |at, _| end(bytes, at))
}

fn number(digits: &[u8]) -> i64 {
    let text = std::str::from_utf8(digits).unwrap();
    text.parse().unwrap_or_else(|_| panic!("no length: {text}"))
}

/// The name of a whole command, in upper case.
pub(super) fn name(command: &[u8]) -> String {
    let mut words = command.split(|byte| *byte == b'\n');
    let name = match command.first() {
        // `*3`, `$7`, `EVALSHA`.
        Some(b'*') => words.nth(2),
        _ => words
            .next()
            .and_then(|line| line.split(u8::is_ascii_whitespace).next()),
    };
    let name = name.unwrap_or_default().trim_ascii_end();
    String::from_utf8_lossy(name).to_uppercase()
}

/// Something that nobody asked for: RESP3's way to tell of what others published.
pub(super) fn is_push(message: &[u8]) -> bool {
    message.first() == Some(&b'>')
}
