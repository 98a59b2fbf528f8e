//! The head of a CGI response (RFC 3875, 6).

use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Bytes of a head.
pub const MOST_BYTES: usize = 64 * 1024;
/// Fields of a head.
const MOST_FIELDS: usize = 200;

/// A response's head.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseHead {
    /// From `Status`; without it 302 if there is a `Location`, else 200.
    pub status: StatusCode,
    /// All other fields.
    pub headers: HeaderMap,
}

/// Why a head is refused, with 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than [`MOST_BYTES`] or with too many fields.
    #[error("the response's head is too large")]
    TooLarge,
    /// A line that is no field.
    #[error("the response's head has a line that is no header field")]
    Field,
    /// A `Status` that is no final status.
    #[error("the response's head has a malformed Status")]
    Status,
}

/// The length of the head with its empty line, if it is complete. Lines end with CRLF or LF.
pub fn end(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    let mut start = 0;
    while let Some(length) = memchr::memchr(b'\n', &bytes[start..]) {
        let line = &bytes[start..start + length];
        start += length + 1;
        if start > MOST_BYTES {
            return Err(HeadError::TooLarge);
        }
        if line.is_empty() || line == b"\r" {
            return Ok(Some(start));
        }
    }
    if bytes.len() > MOST_BYTES { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// Reads a complete head.
pub fn parse(head: &[u8]) -> Result<ResponseHead, HeadError> {
    let mut headers = HeaderMap::with_capacity(16);
    let mut status = None;
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let colon = memchr::memchr(b':', line).ok_or(HeadError::Field)?;
        let value = line[colon + 1..].trim_ascii();
        if line[..colon].eq_ignore_ascii_case(b"status") {
            status = Some(parse_status(value)?);
            continue;
        }
        // A bare CR or NUL in a value would split the response for someone else; the type refuses it.
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| HeadError::Field)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| HeadError::Field)?;
        if headers.len() >= MOST_FIELDS {
            return Err(HeadError::TooLarge);
        }
        headers.append(name, value);
    }
    let default = if headers.contains_key(LOCATION) { StatusCode::FOUND } else { StatusCode::OK };
    Ok(ResponseHead { status: status.unwrap_or(default), headers })
}

fn parse_status(value: &[u8]) -> Result<StatusCode, HeadError> {
    let code = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    let status = StatusCode::from_bytes(code).map_err(|_| HeadError::Status)?;
    if status.is_informational() || status.as_u16() > 599 { Err(HeadError::Status) } else { Ok(status) }
}

#[cfg(test)]
mod tests {
    use super::{HeadError, MOST_BYTES, end, parse};
    use proptest::prelude::*;

    #[test]
    fn the_status_comes_from_its_field_or_from_a_location() {
        assert_eq!(parse(b"Status: 404 Not Found\r\nX: y\r\n\r\n").unwrap().status, 404);
        assert_eq!(parse(b"Location: /x\n\n").unwrap().status, 302);
        assert_eq!(parse(b"Location: /x\r\nStatus: 201\r\n\r\n").unwrap().status, 201);
        assert_eq!(parse(b"Content-type: text/html\r\n\r\n").unwrap().status, 200);
        for wrong in ["Status: 100\r\n\r\n", "Status: abc\r\n\r\n", "Status: 999\r\n\r\n", "Status:\r\n\r\n"]
        {
            assert_eq!(parse(wrong.as_bytes()), Err(HeadError::Status), "{wrong}");
        }
    }

    #[test]
    fn several_cookies_stay_several() {
        let head = parse(b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n").unwrap();
        assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn a_response_cannot_be_split() {
        assert_eq!(parse(b"X: a\rSet-Cookie: b\r\n\r\n"), Err(HeadError::Field));
        assert_eq!(parse(b"X: a\0\r\n\r\n"), Err(HeadError::Field));
        assert_eq!(parse(b"no field\r\n\r\n"), Err(HeadError::Field));
        assert_eq!(parse(b"X y: a\r\n\r\n"), Err(HeadError::Field));
    }

    #[test]
    fn a_head_is_bounded() {
        assert_eq!(end(&vec![b'a'; MOST_BYTES + 1]), Err(HeadError::TooLarge));
        assert_eq!(end(b"a: b\r\n"), Ok(None));
        assert_eq!(end(b"a: b\r\n\r\nbody"), Ok(Some(8)));
        assert_eq!(end(b"\nbody"), Ok(Some(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some(end)) = end(&bytes) {
                let _ = parse(&bytes[..end]);
            }
        }
    }
}
