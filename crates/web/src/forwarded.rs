//! What is known of the client: from its own connection, or from the load balancer that stands before this server. And which
//! of the header fields an app gets to see.

use std::net::{IpAddr, SocketAddr};

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue};
use mainstay_http::Request;
use mainstay_http::networks::Networks;
use mainstay_http::request_id::RequestId;

/// Addresses of `X-Forwarded-For` that are looked at.
const MOST_HOPS: usize = 32;
/// The shortest and the longest request id that is taken over.
const ID_BYTES: std::ops::RangeInclusive<usize> = 8..=128;

/// A request's id.
pub(crate) enum Id {
    /// Made here.
    Own(RequestId),
    /// Made by the load balancer; every log on the way has the same one.
    Told(HeaderValue),
}

impl std::ops::Deref for Id {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(id) => id,
            Self::Told(id) => id.as_bytes(),
        }
    }
}

/// What a load balancer says of a request.
#[derive(Default)]
pub(crate) struct Told {
    /// The request's id.
    pub(crate) id: Option<HeaderValue>,
    /// Whether the client spoke TLS.
    pub(crate) is_secure: bool,
}

/// Takes what a trusted peer says, and puts the client's address in the place of the peer's. From anyone else nothing is
/// taken: strangers lie.
pub(crate) fn listen(request: &mut Request, trusted: &Networks) -> Told {
    let Some(peer) = request.peer.filter(|peer| trusted.contains(peer.ip())) else { return Told::default() };
    if let Some(client) = client(peer.ip(), &request.headers, trusted) {
        // The client's port is not told; 0 stands for that.
        request.peer = Some(SocketAddr::new(client, 0));
    }
    let is_secure = last(&request.headers, "x-forwarded-proto").is_some_and(|proto| proto == "https");
    let id = request.headers.get("x-request-id").filter(|id| is_plain(id.as_bytes())).cloned();
    Told { id, is_secure }
}

/// An id goes into logs and pages as it is.
fn is_plain(id: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ID_BYTES.contains(&id.len()) && id.iter().all(is_word)
}

/// The client's address. Each proxy adds the address that it was spoken to from, so the list is read from its end, as long as
/// it was written by those who are trusted.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> Option<IpAddr> {
    let mut client = None;
    let fields = headers.get_all("x-forwarded-for").iter().rev();
    let elements = fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
    for element in elements.take(MOST_HOPS) {
        if !trusted.contains(client.unwrap_or(peer)) {
            break;
        }
        let Some(address) = std::str::from_utf8(element).ok().and_then(|text| text.trim().parse().ok())
        else {
            break;
        };
        client = Some(address);
    }
    client
}

/// The last element of a list.
fn last(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim)
}

/// Whether a field from a stranger reaches an app. Left out are:
/// - what only a proxy may say (`X-Forwarded-*`, `Forwarded`, `X-Real-IP`, `X-Request-Id`), for strangers lie;
/// - `Proxy`, which CGI programs would take as the environment's `HTTP_PROXY` (httpoxy);
/// - names with `_`, which CGI and WSGI cannot tell from those with `-`.
pub(crate) fn reaches_app(name: &HeaderName) -> bool {
    let name = name.as_str();
    let lies = name.starts_with("x-forwarded-")
        || matches!(name, "forwarded" | "x-real-ip" | "x-request-id" | "proxy" | "proxy-connection");
    !lies && !name.contains('_')
}

/// Removes the fields that do not reach an app.
pub(crate) fn clean(headers: &mut HeaderMap) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| !reaches_app(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::{clean, listen};
    use http::{HeaderMap, Method, Version};
    use mainstay_http::networks::Networks;
    use mainstay_http::{Body, Request};

    fn request(peer: &str, fields: &[(&'static str, &str)]) -> Request {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        Request {
            method: Method::GET,
            uri: "/".parse().unwrap(),
            version: Version::HTTP_11,
            headers,
            body: Body::Empty,
            peer: Some(format!("{peer}:4711").parse().unwrap()),
            local: None,
            tls: None,
            host: None,
            upgrade: None,
            interim: mainstay_http::Interim::default(),
        }
    }

    #[test]
    fn a_load_balancer_is_believed_and_nobody_else() {
        let trusted = Networks::parse(&["10.10.0.5/32".to_owned()]).unwrap();
        let fields = [
            ("x-forwarded-for", "6.6.6.6, 192.0.2.9"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "0123456789abcdef"),
        ];
        let mut told = request("10.10.0.5", &fields);
        let heard = listen(&mut told, &trusted);
        assert_eq!(told.peer.unwrap().to_string(), "192.0.2.9:0");
        assert!(heard.is_secure && heard.id.unwrap() == "0123456789abcdef");

        let mut lied = request("10.10.0.6", &fields);
        let heard = listen(&mut lied, &trusted);
        assert_eq!(lied.peer.unwrap().to_string(), "10.10.0.6:4711");
        assert!(!heard.is_secure && heard.id.is_none());
    }

    #[test]
    fn what_could_forge_a_log_line_is_no_request_id() {
        let trusted = Networks::parse(&["10.10.0.5".to_owned()]).unwrap();
        for id in ["a\"b-01234567", "short", "<script>alert</script>", &"x".repeat(129)] {
            assert!(
                listen(&mut request("10.10.0.5", &[("x-request-id", id)]), &trusted).id.is_none(),
                "{id}"
            );
        }
    }

    #[test]
    fn an_address_that_is_none_leaves_the_proxys_own() {
        let trusted = Networks::parse(&["10.10.0.5".to_owned()]).unwrap();
        let mut odd = request("10.10.0.5", &[("x-forwarded-for", "unknown")]);
        listen(&mut odd, &trusted);
        assert_eq!(odd.peer.unwrap().to_string(), "10.10.0.5:4711");
    }

    #[test]
    fn strangers_cannot_speak_for_a_proxy() {
        let names = [
            "x-forwarded-for",
            "X-Forwarded-Proto",
            "forwarded",
            "x-real-ip",
            "proxy",
            "x-request-id",
            "x_forwarded_for",
            "accept",
        ];
        let mut headers: HeaderMap =
            names.iter().map(|name| (name.parse().unwrap(), "x".parse().unwrap())).collect();
        clean(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
    }
}
