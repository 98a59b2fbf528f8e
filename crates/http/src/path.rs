//! The one reading of a request's path, used for routing, for files, for scripts and for forwarding alike.
//!
//! - Percent-encoded bytes are decoded once. `%00`, other control bytes, `%2F`, `%5C` and a bare `\` are refused: two
//!   readers could see two paths in them.
//! - Empty segments (`//`) and `.` are dropped, `..` takes its parent away; above the root is refused.
//! - Segments keep their `;parameters`, their case and their bytes, which need not be UTF-8.
//!
//! What is forwarded is the same path, encoded: reserved bytes stay as the client wrote them, because `%3B` and `;`
//! are two different things to an app (RFC 3986, 2.2); encoded unreserved bytes are decoded, digits become upper case.

use std::borrow::Cow;

/// A path in its one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePath<'a> {
    /// Decoded: begins with `/`, has no empty segment, no `.` and no `..`; ends with `/` if the client's did.
    pub decoded: Cow<'a, [u8]>,
    /// Encoded, for a request line or a `Location`.
    pub encoded: Cow<'a, str>,
}

/// Why a path is refused, with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a percent sign without two hexadecimal digits")]
    Encoding,
    /// A byte that two readers could take in two ways.
    #[error("the path has an encoded slash, a backslash or a control byte")]
    Forbidden,
    /// `..` beyond the root.
    #[error("the path leads out of the site")]
    Outside,
}

impl<'a> SitePath<'a> {
    /// Reads the path of a request, without its query.
    pub fn parse(raw: &'a str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if is_plain(raw.as_bytes()) {
            return Ok(Self { decoded: Cow::Borrowed(raw.as_bytes()), encoded: Cow::Borrowed(raw) });
        }
        let mut segments: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut slash_at_end = false;
        for raw in raw.as_bytes()[1..].split(|byte| *byte == b'/') {
            let (decoded, encoded) = segment(raw)?;
            slash_at_end = matches!(decoded.as_slice(), b"" | b"." | b"..");
            match decoded.as_slice() {
                b"" | b"." => {}
                b".." => {
                    segments.pop().ok_or(PathError::Outside)?;
                }
                _ => segments.push((decoded, encoded)),
            }
        }
        let mut decoded = Vec::with_capacity(raw.len());
        let mut encoded = Vec::with_capacity(raw.len());
        for segment in &segments {
            decoded.push(b'/');
            decoded.extend_from_slice(&segment.0);
            encoded.push(b'/');
            encoded.extend_from_slice(&segment.1);
        }
        if slash_at_end || segments.is_empty() {
            decoded.push(b'/');
            encoded.push(b'/');
        }
        let encoded = String::from_utf8(encoded).map_err(|_| PathError::Forbidden)?;
        Ok(Self { decoded: Cow::Owned(decoded), encoded: Cow::Owned(encoded) })
    }

    /// Whether the path came in its one form.
    pub fn is_borrowed(&self) -> bool {
        matches!(self.encoded, Cow::Borrowed(_))
    }

    /// Whether a segment begins with a dot, other than a first one of `.well-known` (RFC 8615).
    pub fn is_hidden(&self) -> bool {
        let path = &self.decoded[1..];
        let visible = path == b".well-known" || path.starts_with(b".well-known/");
        let mut segments = path.split(|byte| *byte == b'/');
        if visible {
            segments.next();
        }
        segments.any(|segment| segment.first() == Some(&b'.'))
    }

    /// Whether it is a folder's path.
    pub fn ends_with_slash(&self) -> bool {
        self.decoded.ends_with(b"/")
    }
}

/// What follows `prefix` if the path equals it or lies under it: empty, or beginning with a slash.
pub fn under<'a>(path: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let rest = path.strip_prefix(prefix.as_bytes())?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}

/// Whether a path is in its one form already, which nearly all are.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for byte in path {
        let plain = match byte {
            b'/' | b'.' => before != b'/',
            b'%' | b'\\' => false,
            byte => byte.is_ascii_graphic(),
        };
        if !plain {
            return false;
        }
        before = *byte;
    }
    true
}

/// A segment, decoded and encoded.
fn segment(raw: &[u8]) -> Result<(Vec<u8>, Vec<u8>), PathError> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut encoded = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            if *byte == b'\\' || byte.is_ascii_control() {
                return Err(PathError::Forbidden);
            }
            decoded.push(*byte);
            if byte.is_ascii_graphic() {
                encoded.push(*byte);
            } else {
                put_encoded(&mut encoded, *byte);
            }
            continue;
        }
        let mut digit =
            || rest.next().and_then(|digit| (*digit as char).to_digit(16)).ok_or(PathError::Encoding);
        let byte = (digit()? * 16 + digit()?) as u8;
        if matches!(byte, b'/' | b'\\') || byte.is_ascii_control() {
            return Err(PathError::Forbidden);
        }
        decoded.push(byte);
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(byte);
        } else {
            put_encoded(&mut encoded, byte);
        }
    }
    Ok((decoded, encoded))
}

fn put_encoded(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use super::{PathError, SitePath, under};
    use proptest::prelude::*;

    fn read(raw: &str) -> (String, String) {
        let path = SitePath::parse(raw).unwrap();
        (String::from_utf8_lossy(&path.decoded).into_owned(), path.encoded.into_owned())
    }

    #[test]
    fn every_spelling_of_a_path_is_read_as_one() {
        for raw in ["/a/b", "//a//b", "/a/./b", "/./a/b", "/x/../a/b", "/%61/b", "/a/x/%2e%2E/b", "/a/%2e/b"]
        {
            assert_eq!(read(raw).0, "/a/b", "{raw}");
            assert_eq!(read(raw).1, "/a/b", "{raw}");
        }
        for raw in ["/a/", "/a//", "/a/.", "/a/b/..", "/a/%2e"] {
            assert_eq!(read(raw).0, "/a/", "{raw}");
        }
        assert_eq!(read("/a/..").0, "/");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for raw in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/a%00", "/a%0d%0a", "/%7f"] {
            assert_eq!(SitePath::parse(raw), Err(PathError::Forbidden), "{raw}");
        }
        for raw in ["/%", "/%4", "/%zz", "/%+1"] {
            assert_eq!(SitePath::parse(raw), Err(PathError::Encoding), "{raw}");
        }
        for raw in ["/..", "/a/../..", "/%2e%2e/etc", "/a/%2e%2e/%2e%2e/x"] {
            assert_eq!(SitePath::parse(raw), Err(PathError::Outside), "{raw}");
        }
        assert_eq!(SitePath::parse("a"), Err(PathError::NotAbsolute));
    }

    #[test]
    fn a_path_is_decoded_once_only() {
        assert_eq!(read("/%252e%252e/x"), ("/%2e%2e/x".to_owned(), "/%252e%252e/x".to_owned()));
    }

    #[test]
    fn reserved_bytes_are_forwarded_as_they_were_written() {
        assert_eq!(read("/a%3bb;c%20d/%7e%C3%a4").1, "/a%3Bb;c%20d/~%C3%A4");
    }

    #[test]
    fn hidden_files_are_known_in_every_segment() {
        for raw in ["/.git/config", "/a/.env", "/.htaccess", "/%2eenv", "/.well-known/.x", "/.well-knownx"] {
            assert!(SitePath::parse(raw).unwrap().is_hidden(), "{raw}");
        }
        for raw in ["/", "/a.b/c.", "/.well-known/acme-challenge/x", "/.well-known"] {
            assert!(!SitePath::parse(raw).unwrap().is_hidden(), "{raw}");
        }
    }

    #[test]
    fn a_prefix_takes_whole_segments() {
        assert_eq!(under(b"/a/b", "/a"), Some(&b"/b"[..]));
        assert_eq!(under(b"/a", "/a/"), Some(&b""[..]));
        assert_eq!(under(b"/ab", "/a"), None);
        assert_eq!(under(b"/x", "/"), Some(&b"/x"[..]));
    }

    proptest! {
        #[test]
        fn the_form_is_the_only_one(raw in "/[a-c./%2eEfF5;\\\\ä]{0,24}") {
            if let Ok(path) = SitePath::parse(&raw) {
                prop_assert!(path.decoded.starts_with(b"/"));
                let inner = path.decoded[1..].strip_suffix(b"/").unwrap_or(&path.decoded[1..]);
                if !inner.is_empty() {
                    for segment in inner.split(|byte| *byte == b'/') {
                        prop_assert!(!matches!(segment, b"" | b"." | b".."));
                    }
                }
                let again = SitePath::parse(&path.encoded).unwrap();
                prop_assert_eq!(&again.decoded, &path.decoded);
                prop_assert_eq!(&again.encoded, &path.encoded);
            }
        }
    }
}
