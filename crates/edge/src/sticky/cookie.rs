//! `Cookie` fields (RFC 6265, section 4.2), read from strangers.

use http::HeaderMap;
use http::header::COOKIE;

/// Pairs that are read of one request; how long its fields may be is bounded before.
const MOST_PAIRS: usize = 200;

/// The values of a request's cookies of a name, in their order. h2 may split cookies over several fields (RFC 9113,
/// section 8.2.3). Whatever is no pair is passed over.
pub fn values<'a>(fields: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs =
        fields.get_all(COOKIE).into_iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.take(MOST_PAIRS).filter_map(move |pair| {
        let equals = memchr::memchr(b'=', pair)?;
        (pair[..equals].trim_ascii() == name.as_bytes()).then(|| unquoted(pair[equals + 1..].trim_ascii()))
    })
}

/// Whether text is a token (RFC 9110, section 5.6.2), as a cookie's name must be.
pub(super) fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}
