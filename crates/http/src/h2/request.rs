//! Turns the head of an h2 request into ours, with the same strictness as for HTTP/1.1 (RFC 9113, 8.2 and 8.3).

use h2::ext::Protocol;
use http::header::{COOKIE, HOST, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::h1::fields;
use crate::h1::head::{Rejection, host_name};
use crate::settings::Limits;
use crate::websocket;

/// Checks what the `h2` crate does not; answers the host asked for.
pub(crate) fn check(head: &mut Parts, limits: &Limits) -> Result<Option<String>, Rejection> {
    if head.method == Method::CONNECT {
        // RFC 8441 makes it a request for another protocol, of which we know one.
        let protocol = head.extensions.get::<Protocol>().map(Protocol::as_str);
        if !protocol.is_some_and(websocket::is_asked_for) {
            return Err(Rejection { status: StatusCode::NOT_IMPLEMENTED, reason: "CONNECT" });
        }
        head.method = Method::GET;
    }
    if head.headers.len() > limits.headers {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Rejection { status, reason: "too many header fields" });
    }
    let target = head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    if target.len() > limits.target_bytes {
        return Err(Rejection { status: StatusCode::URI_TOO_LONG, reason: "target too long" });
    }
    let in_form = target.starts_with('/') || (target == "*" && head.method == Method::OPTIONS);
    if !in_form || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Rejection::bad("malformed target"));
    }
    if !matches!(head.uri.scheme_str(), Some("http" | "https")) {
        return Err(Rejection::bad("malformed scheme"));
    }
    let host = host(head)?;
    let mut lengths = head.headers.get_all(http::header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let length = fields::content_length(length.as_bytes())
            .map_err(|_| Rejection::bad("malformed Content-Length"))?;
        if lengths.next().is_some() {
            return Err(Rejection::bad("several Content-Length fields"));
        }
        if length > limits.body_bytes {
            return Err(Rejection { status: StatusCode::PAYLOAD_TOO_LARGE, reason: "body too large" });
        }
    }
    join_cookies(&mut head.headers);
    let takes_trailers = fields::takes_trailers(&head.headers);
    fields::remove_hop_by_hop(&mut head.headers);
    if takes_trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(host)
}

/// `:authority` and `host` must agree; one of them must be there.
fn host(head: &Parts) -> Result<Option<String>, Rejection> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Rejection::bad("several Host fields"));
    }
    match (head.uri.authority(), host) {
        (None, None) => Err(Rejection::bad("no Host")),
        (Some(authority), Some(host))
            if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(Rejection::bad("target and Host disagree"))
        }
        (Some(authority), _) => host_name(authority.as_str().as_bytes()).map(Some),
        (None, Some(host)) => host_name(host.as_bytes()).map(Some),
    }
}

/// Clients may send each cookie in a field of its own; everyone behind us expects one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::check;
    use crate::settings::Limits;

    fn checked(uri: &str, fields: &[(&str, &str)]) -> Result<(Option<String>, http::HeaderMap), u16> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        let host = check(&mut head, &Limits::default()).map_err(|rejection| rejection.status.as_u16())?;
        Ok((host, head.headers))
    }

    #[test]
    fn authority_and_host_must_agree() {
        assert_eq!(checked("http://A.b:80/", &[]).unwrap().0.as_deref(), Some("a.b"));
        assert!(checked("http://a/", &[("host", "a")]).is_ok());
        assert_eq!(checked("http://a/", &[("host", "b")]).unwrap_err(), 400);
        assert_eq!(checked("http://a/", &[("host", "a"), ("host", "a")]).unwrap_err(), 400);
        assert_eq!(checked("http://u@a/", &[]).unwrap_err(), 400);
        assert_eq!(checked("/", &[]).unwrap_err(), 400);
    }

    #[test]
    fn cookies_become_one() {
        let headers =
            checked("http://a/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]).unwrap().1;
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
        assert_eq!(headers["cookie"], "a=1; b=2; c=3");
    }

    #[test]
    fn lengths_are_as_strict_as_in_http_1() {
        assert_eq!(checked("http://a/", &[("content-length", "+1")]).unwrap_err(), 400);
        assert_eq!(
            checked("http://a/", &[("content-length", "1"), ("content-length", "1")]).unwrap_err(),
            400
        );
        assert_eq!(checked("http://a/", &[("content-length", "99999999999")]).unwrap_err(), 413);
    }
}
