//! Asking the origin whether a stored response is still right, and what follows from its word (RFC 9111, 4.3).

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, Method};
use mainstay_http::{Body, Request};

use super::stored::Stored;

/// Fields of a 304 that do not replace the stored ones (RFC 9111, 3.2): they tell of the body that is kept.
const OF_THE_BODY: [HeaderName; 4] = [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE];

/// A copy of a request without a body.
pub(crate) fn copy(request: &Request) -> Request {
    Request {
        method: request.method.clone(),
        uri: request.uri.clone(),
        version: request.version,
        headers: request.headers.clone(),
        body: Body::Empty,
        peer: request.peer,
        local: request.local,
        tls: request.tls.clone(),
        host: request.host.clone(),
        upgrade: None,
        // It may outlive the client that asked.
        interim: mainstay_http::Interim::default(),
    }
}

/// The request that fetches the whole of a resource, or has the stored response confirmed. The client's own conditions
/// are left to the cache, which answers them from what it gets.
pub(crate) fn full(request: &Request, stored: Option<&Stored>) -> Request {
    let mut request = copy(request);
    request.method = Method::GET;
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE] {
        request.headers.remove(name);
    }
    if let Some(stored) = stored {
        for (condition, validator) in [(IF_NONE_MATCH, ETAG), (IF_MODIFIED_SINCE, LAST_MODIFIED)] {
            if let Some(value) = stored.headers.get(validator) {
                request.headers.insert(condition, value.clone());
            }
        }
    }
    request
}

/// Whether a stored response can be asked for by a condition.
pub(crate) fn has_validator(stored: &Stored) -> bool {
    stored.headers.contains_key(ETAG) || stored.headers.contains_key(LAST_MODIFIED)
}

/// Whether a 304 is about this response and not about another one (4.3.4).
pub fn confirms(stored: &HeaderMap, fresh: &HeaderMap) -> bool {
    let opaque = |headers: &HeaderMap| {
        headers.get(ETAG).map(|tag| tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes()).to_vec())
    };
    match (opaque(stored), opaque(fresh)) {
        (Some(stored), Some(fresh)) => stored == fresh,
        _ => true,
    }
}

/// The stored fields, brought up to date by those of a 304 (3.2). `fresh` has no fields of one connection any more.
pub fn merge(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
    let mut merged = stored.clone();
    for name in fresh.keys().filter(|name| !OF_THE_BODY.contains(name)) {
        merged.remove(name);
        for value in fresh.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{confirms, merge};

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_304_brings_fields_up_to_date_but_not_those_of_the_body() {
        let stored = headers(&[
            ("cache-control", "max-age=1"),
            ("x-a", "1"),
            ("content-type", "text/html"),
            ("x-b", "2"),
        ]);
        let fresh = headers(&[
            ("cache-control", "max-age=9"),
            ("x-a", "3"),
            ("x-a", "4"),
            ("content-type", "text/plain"),
            ("content-length", "0"),
        ]);
        let merged = merge(&stored, &fresh);
        let expected = headers(&[
            ("cache-control", "max-age=9"),
            ("x-a", "3"),
            ("x-a", "4"),
            ("content-type", "text/html"),
            ("x-b", "2"),
        ]);
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_304_about_another_version_confirms_nothing() {
        let stored = headers(&[("etag", "\"a\"")]);
        assert!(confirms(&stored, &headers(&[("etag", "W/\"a\"")])));
        assert!(confirms(&stored, &headers(&[])));
        assert!(!confirms(&stored, &headers(&[("etag", "\"b\"")])));
    }
}
