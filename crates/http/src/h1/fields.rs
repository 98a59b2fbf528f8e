//! Header fields that frame a message or belong to one connection, read so that only one reading is possible.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TE, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

use super::marks::Seen;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Exactly this many bytes; 0 where there is no body.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why the framing of a message is refused. All of these have been used to smuggle requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// More than one Content-Length, whether equal or not.
    #[error("more than one Content-Length")]
    SeveralLengths,
    /// Content-Length is not a plain decimal number.
    #[error("Content-Length is not a plain decimal number")]
    BadLength,
    /// Content-Length and Transfer-Encoding together.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// Transfer-Encoding is not exactly `chunked`.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    BadEncoding,
    /// Transfer-Encoding in HTTP/1.0.
    #[error("Transfer-Encoding in HTTP/1.0")]
    EncodingInOldVersion,
}

/// Reads how a message's body is delimited; `None` where no field says so.
pub fn framing(headers: &HeaderMap, version: Version) -> Result<Option<Framing>, FramingError> {
    let seen = |name| {
        let mut values = headers.get_all(name).iter();
        Seen { first: values.next().map(HeaderValue::as_bytes), again: values.next().is_some() }
    };
    framing_of(seen(CONTENT_LENGTH), seen(TRANSFER_ENCODING), version)
}

/// The same, from the two fields that say so.
pub(crate) fn framing_of(
    length: Seen<'_>,
    encoding: Seen<'_>,
    version: Version,
) -> Result<Option<Framing>, FramingError> {
    match (length.first, encoding.first) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(FramingError::LengthAndEncoding),
        (Some(_), None) if length.again => Err(FramingError::SeveralLengths),
        (Some(value), None) => content_length(value).map(|length| Some(Framing::Length(length))),
        (None, Some(_)) if version < Version::HTTP_11 => Err(FramingError::EncodingInOldVersion),
        (None, Some(value)) if encoding.again || value != b"chunked" => Err(FramingError::BadEncoding),
        (None, Some(_)) => Ok(Some(Framing::Chunked)),
    }
}

/// Parses a Content-Length: digits only, no leading zeros, within 64 bits.
pub fn content_length(value: &[u8]) -> Result<u64, FramingError> {
    let plain = !value.is_empty()
        && value.len() <= 20
        && value.iter().all(u8::is_ascii_digit)
        && (value.len() == 1 || value[0] != b'0');
    let text = std::str::from_utf8(value).map_err(|_| FramingError::BadLength)?;
    if plain { text.parse().map_err(|_| FramingError::BadLength) } else { Err(FramingError::BadLength) }
}

/// What `Connection` asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
}

/// Why a `Connection` field is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// An option that is no token.
    #[error("a Connection option is no token")]
    NotAToken,
    /// It names a field without which the message means something else.
    #[error("Connection names a field that must not be removed")]
    NamesEssentialField,
}

/// Fields that must reach whoever handles the message: naming them in `Connection` is an attack.
const ESSENTIAL: [HeaderName; 8] = [
    http::header::HOST,
    CONTENT_LENGTH,
    http::header::CONTENT_TYPE,
    http::header::CONTENT_ENCODING,
    http::header::AUTHORIZATION,
    http::header::COOKIE,
    http::header::SET_COOKIE,
    http::header::CACHE_CONTROL,
];

/// What proxies tell those behind them. Whoever names such a field in `Connection` does not remove it: a client behind a
/// trusted proxy could otherwise strip what the proxy says of it.
fn is_of_proxies(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "x-request-id")
}

/// Reads `Connection` and removes every field that belongs to this connection only: the known ones and those that
/// `Connection` names (RFC 9110, 7.6.1).
pub fn take_hop_by_hop(headers: &mut HeaderMap) -> Result<Options, ConnectionError> {
    let mut options = Options::default();
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        read_connection(value.as_bytes(), &mut options, &mut named)?;
    }
    for name in named {
        headers.remove(name);
    }
    remove_hop_by_hop(headers);
    Ok(options)
}

/// Reads one `Connection` field: what it asks for, and the fields that it names and takes with it.
pub(crate) fn read_connection(
    value: &[u8],
    options: &mut Options,
    named: &mut Vec<HeaderName>,
) -> Result<(), ConnectionError> {
    for token in value.split(|byte| *byte == b',') {
        let token = token.trim_ascii();
        if token.is_empty() {
            continue;
        }
        if token.eq_ignore_ascii_case(b"close") {
            options.close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            options.keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            options.upgrade = true;
        } else {
            let name = HeaderName::from_bytes(token).map_err(|_| ConnectionError::NotAToken)?;
            if ESSENTIAL.contains(&name) {
                return Err(ConnectionError::NamesEssentialField);
            }
            if !is_of_proxies(&name) {
                named.push(name);
            }
        }
    }
    Ok(())
}

/// Whether `TE` says that trailers are understood (RFC 9110, 10.1.4). What else it says is of this connection only.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| names_trailers(value.as_bytes()))
}

/// The same of one `TE` field.
pub(crate) fn names_trailers(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Removes the fields that are known to belong to one connection only.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have one of them or none: looking at each field once is cheaper than looking for each name.
    let present: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in present {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Whether a trailer field may be passed on. Fields that frame, route, authenticate or steer caches may not
/// (RFC 9110, 6.5.1).
pub fn allowed_in_trailers(name: &HeaderName) -> bool {
    const FORBIDDEN: [&str; 26] = [
        "age",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "host",
        "keep-alive",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    FORBIDDEN.binary_search(&name.as_str()).is_err()
}

/// Trailers without what may not stand there (RFC 9110, 6.5.1).
pub(crate) fn allowed_trailers(mut trailers: HeaderMap) -> HeaderMap {
    let forbidden: Vec<_> = trailers.keys().filter(|name| !allowed_in_trailers(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
    trailers
}

/// Room for fields that are added on the way, such as those of a proxy: a map that grows is filled anew.
const MORE_FIELDS: usize = 12;

/// Turns what httparse found into a map whose values share one copy of `head`, the bytes they were found in.
pub(crate) fn to_map<'a, 'h: 'a>(
    fields: impl Iterator<Item = &'a httparse::Header<'h>>,
    most: usize,
    head: &[u8],
) -> Option<HeaderMap> {
    let block = Bytes::copy_from_slice(head);
    let mut headers = HeaderMap::with_capacity(most + MORE_FIELDS);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        // Both lie in one allocation, so the difference of the addresses is the offset.
        let offset = field.value.as_ptr() as usize - head.as_ptr() as usize;
        let bytes = if field.value.is_empty() {
            Bytes::new()
        } else {
            block.slice(offset..offset + field.value.len())
        };
        let value = HeaderValue::from_maybe_shared(bytes).ok()?;
        headers.append(name, value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Version};

    use super::{ConnectionError, Framing, FramingError, allowed_in_trailers, framing, take_hop_by_hop};

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn only_one_plain_length_is_believed() {
        let read = |value| framing(&headers(&[("content-length", value)]), Version::HTTP_11);
        assert_eq!(read("0"), Ok(Some(Framing::Length(0))));
        assert_eq!(read("18446744073709551615"), Ok(Some(Framing::Length(u64::MAX))));
        for wrong in
            ["", "+1", "-1", "00", "01", "0x1", "1,1", "1, 1", "1 1", "18446744073709551616", "1e3", "1."]
        {
            assert_eq!(read(wrong), Err(FramingError::BadLength), "{wrong}");
        }
        let twice = headers(&[("content-length", "1"), ("content-length", "1")]);
        assert_eq!(framing(&twice, Version::HTTP_11), Err(FramingError::SeveralLengths));
    }

    #[test]
    fn only_plain_chunked_is_believed() {
        let read = |value| framing(&headers(&[("transfer-encoding", value)]), Version::HTTP_11);
        assert_eq!(read("chunked"), Ok(Some(Framing::Chunked)));
        for wrong in
            ["Chunked", "xchunked", "chunked, chunked", "gzip, chunked", "chunked;q=1", "identity", ""]
        {
            assert_eq!(read(wrong), Err(FramingError::BadEncoding), "{wrong}");
        }
        let both = headers(&[("content-length", "1"), ("transfer-encoding", "chunked")]);
        assert_eq!(framing(&both, Version::HTTP_11), Err(FramingError::LengthAndEncoding));
        let old = headers(&[("transfer-encoding", "chunked")]);
        assert_eq!(framing(&old, Version::HTTP_10), Err(FramingError::EncodingInOldVersion));
    }

    #[test]
    fn fields_named_by_connection_are_removed_and_essential_ones_cannot_be() {
        let mut map = headers(&[("connection", "close, X-Secret"), ("x-secret", "1"), ("x-other", "2")]);
        let options = take_hop_by_hop(&mut map).unwrap();
        assert!(options.close && !options.upgrade);
        assert_eq!(map.len(), 1);
        let mut map = headers(&[("connection", "Host"), ("host", "a")]);
        assert_eq!(take_hop_by_hop(&mut map), Err(ConnectionError::NamesEssentialField));
        let mut map = headers(&[("connection", "a b")]);
        assert_eq!(take_hop_by_hop(&mut map), Err(ConnectionError::NotAToken));
    }

    #[test]
    fn trailers_cannot_frame_or_route() {
        for name in ["content-length", "host", "transfer-encoding", "authorization", "upgrade", "age"] {
            assert!(!allowed_in_trailers(&name.parse().unwrap()), "{name}");
        }
        assert!(allowed_in_trailers(&"grpc-status".parse().unwrap()));
    }
}
