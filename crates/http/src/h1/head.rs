//! Parses the head of a request. Whatever two servers could read in two ways is refused (RFC 9112, 3 and 11.2).

use bytes::Bytes;
use http::header::TE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::fields::{self, Framing};
use super::marks::{self, Kind, MOST_FIELDS, Marks};
use crate::field_block::{FieldBlock, Keep};
use crate::settings::Limits;

/// Header fields that are parsed at most, whatever the settings say: they lie on the stack.
pub const MOST_HEADERS: usize = MOST_FIELDS;

/// A request's head, checked.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target as it was sent.
    pub uri: Uri,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The fields, without those that belong to the connection only.
    pub headers: HeaderMap,
    /// The same fields as a block, where one was asked for; the map is empty then.
    pub block: Option<FieldBlock>,
    /// The host asked for, lower case, without port.
    pub host: Option<String>,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the client wants to use the connection again.
    pub keep_alive: bool,
    /// Whether the client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// The protocol that the client wants to change to.
    pub upgrade: Option<String>,
}

/// Why a request is refused, and with which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejection {
    /// 400, 408, 413, 414, 417, 431, 501 or 505.
    pub status: StatusCode,
    /// For people, and for the metric's label.
    pub reason: &'static str,
}

impl Rejection {
    /// A request that breaks the rules.
    pub const fn bad(reason: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }

    const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }
}

/// Parses a whole head: `head` ends with the empty line and its lines end with CR LF, as
/// [`HeadScanner`](super::lines::HeadScanner) ensures.
pub fn parse(head: &[u8], limits: &Limits) -> Result<RequestHead, Rejection> {
    parse_keeping(head, limits, Keep::Map)
}

/// Like [`parse`]. With [`Keep::Block`] the fields of a usual request are kept as a block: one that asks for nothing
/// of its connection but whether it stays.
pub fn parse_keeping(head: &[u8], limits: &Limits, keep: Keep) -> Result<RequestHead, Rejection> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MOST_HEADERS];
    let most = limits.headers.min(MOST_HEADERS);
    let mut request = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut request,
        head,
        &mut slots[..most],
    );
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Rejection::bad("malformed head")),
        Err(error) => return Err(rejection(error, head)),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Rejection::bad("malformed head"));
    };
    if target.len() > limits.target_bytes {
        return Err(Rejection::new(StatusCode::URI_TOO_LONG, "target too long"));
    }
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Rejection::bad("malformed method"))?;

    let found = &*request.headers;
    let mut kinds = [Kind::Other; MOST_FIELDS];
    let marks = Marks::of(found, head, &mut kinds);
    if marks.has_disguised_encoding() {
        return Err(framing_rejection(fields::FramingError::BadEncoding));
    }
    let uri = target_uri(&method, target)?;
    let host = host(&uri, &marks, version)?;
    let framing = marks.framing(version).map_err(framing_rejection)?.unwrap_or(Framing::Length(0));
    if let Framing::Length(length) = framing
        && length > limits.body_bytes
    {
        return Err(Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, "body too large"));
    }
    let expects_continue = expectation(&marks, version)?;
    let (options, named) = marks.options(found, &kinds).map_err(|error| {
        Rejection::bad(match error {
            fields::ConnectionError::NotAToken => "malformed Connection",
            fields::ConnectionError::NamesEssentialField => "Connection names an essential field",
        })
    })?;
    let upgrade = marks
        .upgrade
        .filter(|_| options.upgrade && version == Version::HTTP_11 && framing == Framing::Length(0))
        .and_then(marks::text)
        // RFC 9113, 3.1 took h2c by Upgrade away; it was mostly used to reach past proxies.
        .filter(|protocol| !protocol.split(',').any(|name| name.trim().eq_ignore_ascii_case("h2c")));
    let is_usual = marks.expect.first.is_none() && upgrade.is_none() && !marks.takes_trailers;
    let keep = if is_usual { keep } else { Keep::Map };
    let (mut headers, block) =
        Marks::kept(found, &kinds, head, &named, keep).ok_or(Rejection::bad("malformed header field"))?;
    if marks.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let keep_alive =
        if version == Version::HTTP_11 { !options.close } else { options.keep_alive && !options.close };
    Ok(RequestHead {
        method,
        uri,
        version,
        headers,
        block,
        host,
        framing,
        keep_alive,
        expects_continue,
        upgrade,
    })
}

fn rejection(error: httparse::Error, head: &[u8]) -> Rejection {
    match error {
        httparse::Error::TooManyHeaders => {
            Rejection::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields")
        }
        httparse::Error::Version if names_a_version(head) => {
            Rejection::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "unknown version")
        }
        httparse::Error::Token => Rejection::bad("malformed request line"),
        httparse::Error::HeaderName => Rejection::bad("malformed header name"),
        httparse::Error::HeaderValue => Rejection::bad("malformed header value"),
        _ => Rejection::bad("malformed head"),
    }
}

/// Whether the request line ends with a version of HTTP that is not ours, and is well formed otherwise.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Parses the target in the one form that its method allows (RFC 9112, 3.2).
fn target_uri(method: &Method, target: &str) -> Result<Uri, Rejection> {
    if *method == Method::CONNECT {
        return Err(Rejection::new(StatusCode::NOT_IMPLEMENTED, "CONNECT"));
    }
    let bytes = target.as_bytes();
    let absolute = match bytes {
        [b'/', ..] => false,
        b"*" if *method == Method::OPTIONS => false,
        _ if starts_with_scheme(bytes) => true,
        _ => return Err(Rejection::bad("malformed target")),
    };
    if bytes.iter().any(|byte| *byte == b'#' || !byte.is_ascii_graphic()) {
        return Err(Rejection::bad("malformed target"));
    }
    let uri = Uri::from_maybe_shared(Bytes::copy_from_slice(bytes))
        .map_err(|_| Rejection::bad("malformed target"))?;
    if absolute != uri.authority().is_some() {
        return Err(Rejection::bad("malformed target"));
    }
    Ok(uri)
}

fn starts_with_scheme(target: &[u8]) -> bool {
    [&b"http://"[..], b"https://"]
        .iter()
        .any(|scheme| target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme))
}

/// The host that the request is for. HTTP/1.1 needs exactly one `Host`; a target with an authority must agree with it.
fn host(uri: &Uri, marks: &Marks<'_>, version: Version) -> Result<Option<String>, Rejection> {
    if marks.host.again {
        return Err(Rejection::bad("several Host fields"));
    }
    let Some(field) = marks.host.first else {
        return match uri.authority() {
            _ if version == Version::HTTP_11 => Err(Rejection::bad("no Host")),
            Some(authority) => host_name(authority.as_str().as_bytes()).map(Some),
            None => Ok(None),
        };
    };
    if let Some(authority) = uri.authority()
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(field)
    {
        return Err(Rejection::bad("target and Host disagree"));
    }
    host_name(field).map(Some)
}

/// Takes `name`, `name:port`, `[v6]` or `[v6]:port` apart; returns the name in lower case.
pub(crate) fn host_name(value: &[u8]) -> Result<String, Rejection> {
    const BAD: Rejection = Rejection::bad("malformed Host");
    let (name, port) = if value.first() == Some(&b'[') {
        let end = value.iter().position(|byte| *byte == b']').ok_or(BAD)?;
        let inside = std::str::from_utf8(&value[1..end]).map_err(|_| BAD)?;
        inside.parse::<std::net::Ipv6Addr>().map_err(|_| BAD)?;
        (&value[..=end], &value[end + 1..])
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if end == 0 || end > 255 || !value[..end].iter().all(allowed) {
            return Err(BAD);
        }
        (&value[..end], &value[end..])
    };
    if let Some((colon, digits)) = port.split_first() {
        let text = std::str::from_utf8(digits).map_err(|_| BAD)?;
        if *colon != b':' || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(BAD);
        }
        // An empty port means the scheme's own (RFC 3986, 3.2.3).
        if !text.is_empty() && text.parse::<u16>().is_err() {
            return Err(BAD);
        }
    }
    let mut name = String::from_utf8(name.to_vec()).map_err(|_| BAD)?;
    name.make_ascii_lowercase();
    Ok(name)
}

fn expectation(marks: &Marks<'_>, version: Version) -> Result<bool, Rejection> {
    match marks.expect.first {
        None => Ok(false),
        // RFC 9110, 10.1.1: from an HTTP/1.0 client it is to be ignored.
        Some(_) if version < Version::HTTP_11 => Ok(false),
        Some(value) if !marks.expect.again && value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Rejection::new(StatusCode::EXPECTATION_FAILED, "unknown expectation")),
    }
}

fn framing_rejection(error: fields::FramingError) -> Rejection {
    Rejection::bad(match error {
        fields::FramingError::SeveralLengths => "several Content-Length fields",
        fields::FramingError::BadLength => "malformed Content-Length",
        fields::FramingError::LengthAndEncoding => "Content-Length and Transfer-Encoding",
        fields::FramingError::BadEncoding => "Transfer-Encoding other than chunked",
        fields::FramingError::EncodingInOldVersion => "Transfer-Encoding in HTTP/1.0",
    })
}

#[cfg(test)]
mod tests {
    use http::{StatusCode, Version};
    use proptest::prelude::*;

    use super::{RequestHead, parse};
    use crate::h1::lines::{HeadScanner, Scan};
    use crate::settings::Limits;

    fn accepted(head: &str) -> RequestHead {
        parse(head.as_bytes(), &Limits::default()).unwrap_or_else(|error| panic!("{head:?}: {error}"))
    }

    fn refused(head: &str) -> StatusCode {
        match parse(head.as_bytes(), &Limits::default()) {
            Ok(_) => panic!("accepted {head:?}"),
            Err(rejection) => rejection.status,
        }
    }

    #[test]
    fn the_host_is_lower_case_and_without_port() {
        let host = |value: &str| accepted(&format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n")).host;
        assert_eq!(host("WWW.Foobar.com:8080").as_deref(), Some("www.foobar.com"));
        assert_eq!(host("[::1]:80").as_deref(), Some("[::1]"));
        for wrong in ["", "a@b", "a:b", "a:99999", "a:1:2", "[::1", "[zz]", "a b", "a/b", "a:+1", "a\u{e9}"] {
            assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: {wrong}\r\n\r\n")), 400, "{wrong}");
        }
    }

    #[test]
    fn each_form_of_target_has_its_method() {
        assert_eq!(accepted("GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n").uri.path(), "/b");
        accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        for target in ["*", "a:80", "a/b", "http://b/", "/a#b", "http://", "ftp://a/", "/\u{e4}", "?a"] {
            assert_eq!(refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), 400, "{target}");
        }
        assert_eq!(refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), 501);
    }

    #[test]
    fn versions_other_than_1_are_told_so() {
        assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
        assert_eq!(refused("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 505);
        assert_eq!(refused("GET /\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTX/1.1\r\nHost: a\r\n\r\n"), 400);
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_is_never_h2c() {
        let head = |fields: &str| accepted(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).upgrade;
        assert_eq!(head("Connection: Upgrade\r\nUpgrade: websocket\r\n").as_deref(), Some("websocket"));
        assert_eq!(head("Upgrade: websocket\r\n"), None);
        assert_eq!(
            head("Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
            None
        );
    }

    #[test]
    fn limits_have_their_own_status() {
        let many = "A: b\r\n".repeat(101);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), 431);
        let long = "a".repeat(17 * 1024);
        assert_eq!(refused(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), 414);
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n"), 413);
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n"), 417);
    }

    /// Pieces out of which heads are made, good ones and bad ones.
    const PIECES: [&str; 24] = [
        "GET ",
        "POST ",
        "/",
        "/a?b",
        "*",
        "http://a/",
        " HTTP/1.1",
        " HTTP/1.0",
        " HTTP/9.9",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "Host: a\r\n",
        "Host: b\r\n",
        "Content-Length: 1\r\n",
        "Content-Length: +1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, host\r\n",
        ": ",
        " ",
        "\t",
        "\0",
        "\u{e4}",
    ];

    proptest! {
        #[test]
        fn any_bytes_have_one_reading_however_they_arrive(
            pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..12),
        ) {
            let bytes = pieces.concat().into_bytes();
            let whole = HeadScanner::default().scan(&bytes);
            let mut scanner = HeadScanner::default();
            let split = (0..=bytes.len())
                .map(|end| scanner.scan(&bytes[..end]))
                .find(|scan| !matches!(scan, Ok(Scan::Partial { .. })))
                .unwrap_or(whole);
            prop_assert_eq!(whole.is_ok(), split.is_ok());
            if let Ok(Scan::Complete { start, end }) = whole {
                prop_assert_eq!(whole, split);
                if let Ok(head) = parse(&bytes[start..end], &Limits::default()) {
                    prop_assert!(head.host.is_some() || head.version == Version::HTTP_10);
                }
            }
        }
    }
}
