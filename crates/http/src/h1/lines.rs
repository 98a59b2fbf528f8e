//! Finds the end of a head, however its bytes arrive, and refuses lines that two parsers could read in two ways.

use memchr::{memchr, memchr_iter};

/// Finds the empty line that ends a head. Keeps its place between calls, so that no byte is looked at twice.
///
/// Lines must end with CR LF. A bare LF or a bare CR is an error at once (RFC 9112, 2.2 allows to guess; we don't).
#[derive(Debug, Default, Clone)]
pub struct HeadScanner {
    /// Where the unfinished line begins.
    line: usize,
    /// Where to look on.
    next: usize,
    /// How many empty lines came before the head.
    leading: usize,
}

/// What the scanner found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// A whole head.
    Complete {
        /// Where the head begins, after empty lines that a client sent before it.
        start: usize,
        /// One past the empty line that ends it.
        end: usize,
    },
    /// More bytes are needed.
    Partial {
        /// Whether the first line is complete.
        first_line: bool,
    },
}

/// Why a head cannot be split into lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// LF without CR before it.
    #[error("a line ends with a bare LF")]
    BareLf,
    /// CR without LF after it.
    #[error("a CR without LF")]
    BareCr,
    /// More empty lines before the head than clients send by mistake.
    #[error("empty lines where a request line should be")]
    EmptyLines,
}

/// Empty lines before a request line that are forgiven (RFC 9112, 2.2 asks for at least one).
const LEADING_EMPTY_LINES: usize = 2;

impl HeadScanner {
    /// Looks at all bytes that came so far; `bytes` must begin with those of the call before.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scan, LineError> {
        if self.next == 0
            && let Some(end) = whole(bytes)
        {
            return Ok(Scan::Complete { start: 0, end });
        }
        while let Some(found) = memchr(b'\n', &bytes[self.next..]) {
            let end = self.next + found;
            if end == self.line || bytes[end - 1] != b'\r' {
                return Err(LineError::BareLf);
            }
            if memchr(b'\r', &bytes[self.line..end - 1]).is_some() {
                return Err(LineError::BareCr);
            }
            let empty = end - 1 == self.line;
            let start = self.leading * 2;
            if empty && self.line > start {
                return Ok(Scan::Complete { start, end: end + 1 });
            }
            self.line = end + 1;
            self.next = end + 1;
            if empty {
                self.leading += 1;
                if self.leading > LEADING_EMPTY_LINES {
                    return Err(LineError::EmptyLines);
                }
            }
        }
        // A CR before the last byte can no longer be followed by LF.
        let unfinished = &bytes[self.next..];
        if let Some(at) = memchr(b'\r', unfinished)
            && at + 1 < unfinished.len()
        {
            return Err(LineError::BareCr);
        }
        self.next = bytes.len() - usize::from(bytes.last() == Some(&b'\r') && bytes.len() > self.next);
        Ok(Scan::Partial { first_line: self.line > self.leading * 2 })
    }

    /// Forgets everything, for the next head.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The end of a head that is here at once and has nothing odd about its lines, which nearly all are: as many CR as LF,
/// and a CR before each LF.
fn whole(bytes: &[u8]) -> Option<usize> {
    let (mut line, mut lines) = (0, 0);
    for feed in memchr_iter(b'\n', bytes) {
        lines += 1;
        let end = feed.checked_sub(1).filter(|end| bytes[*end] == b'\r')?;
        if end == line {
            let head = &bytes[..=feed];
            return (lines > 1 && memchr_iter(b'\r', head).count() == lines).then_some(feed + 1);
        }
        line = feed + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{HeadScanner, LineError, Scan};

    fn scan(bytes: &[u8]) -> Result<Scan, LineError> {
        HeadScanner::default().scan(bytes)
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest"), Ok(Scan::Complete { start: 0, end: 24 }));
        assert_eq!(scan(b"\r\nGET /\r\n\r\n"), Ok(Scan::Complete { start: 2, end: 11 }));
        assert_eq!(scan(b"GET /\r\nA: b\r\n\r"), Ok(Scan::Partial { first_line: true }));
        assert_eq!(scan(b"GET /"), Ok(Scan::Partial { first_line: false }));
    }

    #[test]
    fn bare_line_ends_are_errors_at_once() {
        assert_eq!(scan(b"GET / HTTP/1.1\nHost: a\n\n"), Err(LineError::BareLf));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n"), Err(LineError::BareCr));
        assert_eq!(scan(b"GET\r/"), Err(LineError::BareCr));
        assert_eq!(scan(b"\n"), Err(LineError::BareLf));
        assert_eq!(scan(b"\r\n\r\n\r\n\r\n"), Err(LineError::EmptyLines));
    }

    #[test]
    fn every_split_gives_the_same_answer() {
        let wire = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..wire.len() {
            let mut scanner = HeadScanner::default();
            assert!(matches!(scanner.scan(&wire[..cut]), Ok(Scan::Partial { .. })), "cut at {cut}");
            assert_eq!(scanner.scan(wire), Ok(Scan::Complete { start: 2, end: wire.len() }), "cut at {cut}");
        }
    }
}
