//! The fields of a request on its way to an upstream, and of a response on its way to a client.
//!
//! What belongs to one connection only was removed by the engine. What only a proxy may say is said by us alone,
//! unless a trusted proxy stands before us: then what it says stays, and is added to.

use std::cell::RefCell;
use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use mainstay_site::plan::edge::FieldEdits;

use crate::client::X_FORWARDED_FOR;

pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const X_CLIENT_CERTIFICATE_SUBJECT: HeaderName =
    HeaderName::from_static("x-client-certificate-subject");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of the forwarding fields that a trusted proxy may have filled before us; what is longer begins anew.
const FORWARDED_BYTES: usize = 2048;

/// What is told of a request's way here.
pub(crate) struct Arrival<'a> {
    /// Who is connected to us.
    pub(crate) peer: Option<IpAddr>,
    /// Who is meant: the peer, or whom a trusted proxy names.
    pub(crate) client: Option<IpAddr>,
    /// The peer is a trusted proxy.
    pub(crate) trusted: bool,
    /// The client spoke TLS.
    pub(crate) secure: bool,
    /// The subject of the certificate that the client showed to us.
    pub(crate) subject: Option<&'a str>,
    /// The port that the client connected to.
    pub(crate) port: Option<u16>,
    /// The host with its port, as the client wrote it.
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) id: &'a HeaderValue,
}

/// Whether a field from a stranger is a lie, or is taken for one by those behind us:
/// - what only a proxy may say;
/// - `Proxy`, which CGI programs would take as the environment's `HTTP_PROXY` (httpoxy);
/// - names with `_`, which CGI and WSGI cannot tell from those with `-`.
pub(crate) fn is_lie(name: &[u8]) -> bool {
    let known = match name.first() {
        Some(b'x') => {
            name.starts_with(b"x-forwarded-")
                || name.starts_with(b"x-client-certificate-")
                || matches!(name, b"x-real-ip" | b"x-request-id")
        }
        Some(b'f') => name == b"forwarded",
        Some(b'p') => matches!(name, b"proxy" | b"proxy-connection"),
        _ => false,
    };
    known || memchr::memchr(b'_', name).is_some()
}

/// The value of an address, which is mostly that of the request before: kept, so that it costs no memory anew.
#[derive(Default)]
pub(crate) struct AddressValues {
    last: RefCell<Option<(IpAddr, HeaderValue)>>,
    port: RefCell<Option<(u16, HeaderValue)>>,
}

impl AddressValues {
    pub(crate) fn of_port(&self, port: u16) -> HeaderValue {
        let mut last = self.port.borrow_mut();
        match &*last {
            Some((known, value)) if *known == port => value.clone(),
            _ => last.insert((port, HeaderValue::from(port))).1.clone(),
        }
    }

    pub(crate) fn of(&self, address: IpAddr) -> Option<HeaderValue> {
        let mut last = self.last.borrow_mut();
        if let Some((known, value)) = &*last
            && *known == address
        {
            return Some(value.clone());
        }
        let value = HeaderValue::try_from(address.to_string()).ok()?;
        *last = Some((address, value.clone()));
        Some(value)
    }
}

/// Makes a client's fields those of a proxied request.
pub(crate) fn forward(headers: &mut HeaderMap, arrival: &Arrival<'_>, values: &AddressValues) {
    let own_proto = HeaderValue::from_static(if arrival.secure { "https" } else { "http" });
    if arrival.trusted {
        keep_what_is_sound(headers);
    } else {
        remove_lies(headers);
    }
    let peer = arrival.peer.map(|peer| peer.to_canonical());
    let peer_value = peer.and_then(|peer| values.of(peer));
    forwarded(headers, arrival, peer, peer_value.as_ref());
    if let Some(value) = &peer_value {
        let value = join(headers, &X_FORWARDED_FOR, value, arrival.trusted);
        headers.insert(X_FORWARDED_FOR, value);
    }
    if let Some(value) = arrival.client.and_then(|client| values.of(client.to_canonical())) {
        headers.insert(X_REAL_IP, value);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(own_proto);
    if let Some(host) = arrival.host {
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
    if let Some(port) = arrival.port {
        headers.entry(X_FORWARDED_PORT).or_insert_with(|| values.of_port(port));
    }
    // Characters beyond ASCII are told as their bytes in UTF-8.
    if let Some(subject) = arrival.subject
        && let Ok(subject) = HeaderValue::from_bytes(subject.as_bytes())
    {
        headers.insert(X_CLIENT_CERTIFICATE_SUBJECT, subject);
    }
    headers.insert(X_REQUEST_ID, arrival.id.clone());
}

fn remove_lies(headers: &mut HeaderMap) {
    let mut lies: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        if is_lie(name.as_str().as_bytes()) {
            lies.push(name.clone());
        }
    }
    for name in lies {
        headers.remove(name);
    }
}

/// Also a trusted proxy may pass on what a client made up.
fn keep_what_is_sound(headers: &mut HeaderMap) {
    let told = |name: &str| name.starts_with("x-forwarded-") || name == "forwarded";
    let odd: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            is_lie(name.as_str().as_bytes()) && (!told(name.as_str()) || name.as_str().contains('_'))
        })
        .cloned()
        .collect();
    for name in odd {
        headers.remove(name);
    }
    let proto = headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
    if proto.is_some_and(|proto| !matches!(proto, b"http" | b"https")) {
        headers.remove(X_FORWARDED_PROTO);
    }
    for name in [X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO] {
        if headers.get_all(&name).iter().count() > 1 {
            headers.remove(name);
        }
    }
}

/// What stands in a list field, with one more element.
fn join(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue, keep: bool) -> HeaderValue {
    if !keep || !headers.contains_key(name) {
        return value.clone();
    }
    let mut joined = Vec::new();
    for before in headers.get_all(name) {
        joined.extend_from_slice(before.as_bytes());
        joined.extend_from_slice(b", ");
    }
    if joined.len() > FORWARDED_BYTES {
        return value.clone();
    }
    joined.extend_from_slice(value.as_bytes());
    HeaderValue::try_from(joined).unwrap_or_else(|_| value.clone())
}

/// `Forwarded` (RFC 7239).
fn forwarded(
    headers: &mut HeaderMap,
    arrival: &Arrival<'_>,
    peer: Option<IpAddr>,
    address: Option<&HeaderValue>,
) {
    let mut text: Vec<u8> = Vec::with_capacity(96);
    let (before, after): (&[u8], &[u8]) = match peer {
        Some(IpAddr::V6(_)) => (b"for=\"[", b"]\";"),
        _ => (b"for=", b";"),
    };
    text.extend_from_slice(before);
    text.extend_from_slice(address.map_or(b"unknown", HeaderValue::as_bytes));
    text.extend_from_slice(after);
    if let Some(host) = arrival.host {
        text.extend_from_slice(b"host=\"");
        text.extend(host.as_bytes().iter().filter(|byte| !matches!(byte, b'"' | b'\\')));
        text.extend_from_slice(b"\";");
    }
    text.extend_from_slice(if arrival.secure { b"proto=https" } else { b"proto=http" });
    if let Ok(value) = HeaderValue::try_from(text) {
        let value = join(headers, &FORWARDED, &value, arrival.trusted);
        headers.insert(FORWARDED, value);
    }
}

/// The id that a trusted proxy gave a request, where it is one.
pub(crate) fn brought_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    let id = ids.next().filter(|_| ids.next().is_none())?;
    let sound = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    ((8..=128).contains(&id.len()) && id.as_bytes().iter().all(sound)).then_some(id)
}

/// Edits of fields, checked once.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// Fields that frame a message or belong to a connection: they are the engine's alone.
const FRAMING: [HeaderName; 7] = [CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

impl Edits {
    pub(crate) fn compile(planned: &FieldEdits) -> Result<Self, String> {
        let name = |text: &String| {
            let name =
                HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no field name"))?;
            if FRAMING.contains(&name) {
                Err(format!("the field `{text}` cannot be edited"))
            } else {
                Ok(name)
            }
        };
        let pair = |(field, value): (&String, &String)| {
            let value = HeaderValue::from_str(value).map_err(|_| format!("`{value}` is no field value"))?;
            Ok::<_, String>((name(field)?, value))
        };
        Ok(Self {
            remove: planned.remove.iter().map(name).collect::<Result<_, _>>()?,
            set: planned.set.iter().map(pair).collect::<Result<_, _>>()?,
            add: planned.add.iter().map(pair).collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderValue};
    use mainstay_site::plan::edge::FieldEdits;

    use super::{AddressValues, Arrival, Edits, brought_id, forward};

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn forwarded(fields: &[(&str, &str)], peer: &str, client: &str, trusted: bool) -> HeaderMap {
        let mut headers = headers(fields);
        let host = HeaderValue::from_static("a.test:8080");
        let arrival = Arrival {
            subject: None,
            peer: Some(peer.parse().unwrap()),
            client: Some(client.parse::<IpAddr>().unwrap()),
            trusted,
            secure: true,
            port: Some(443),
            host: Some(&host),
            id: &HeaderValue::from_static("id"),
        };
        forward(&mut headers, &arrival, &AddressValues::default());
        headers
    }

    const LIES: [(&str, &str); 10] = [
        ("x-client-certificate-subject", "CN=root"),
        ("x-forwarded-for", "6.6.6.6"),
        ("X-Forwarded-For", "7.7.7.7"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x-request-id", "evil"),
        ("proxy", "evil"),
        ("x_forwarded_for", "6.6.6.6"),
    ];

    #[test]
    fn strangers_cannot_speak_for_a_proxy() {
        let headers = forwarded(&LIES, "192.0.2.1", "192.0.2.1", false);
        let mut seen: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "forwarded: for=192.0.2.1;host=\"a.test:8080\";proto=https",
                "x-forwarded-for: 192.0.2.1",
                "x-forwarded-host: a.test:8080",
                "x-forwarded-port: 443",
                "x-forwarded-proto: https",
                "x-real-ip: 192.0.2.1",
                "x-request-id: id",
            ]
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_stays_and_is_added_to() {
        let headers = forwarded(&LIES, "::ffff:10.0.0.1", "7.7.7.7", true);
        assert_eq!(headers["x-forwarded-for"], "6.6.6.6, 7.7.7.7, 10.0.0.1");
        assert_eq!(headers["forwarded"], "for=6.6.6.6, for=10.0.0.1;host=\"a.test:8080\";proto=https");
        assert_eq!(headers["x-forwarded-host"], "evil");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-real-ip"], "7.7.7.7");
        assert_eq!(headers["x-request-id"], "id");
        assert!(!headers.contains_key("proxy") && !headers.contains_key("x_forwarded_for"));
        let long = "6.6.6.6, ".repeat(400);
        let headers = forwarded(&[("x-forwarded-for", &long)], "10.0.0.1", "10.0.0.1", true);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
    }

    #[test]
    fn an_id_that_is_brought_is_an_id() {
        assert!(brought_id(&headers(&[("x-request-id", "0123-4567")])).is_some());
        for wrong in ["", "short", "with space", "quote\"\"\"\"\"", &"x".repeat(200)] {
            assert!(brought_id(&headers(&[("x-request-id", wrong)])).is_none(), "{wrong}");
        }
        assert!(
            brought_id(&headers(&[("x-request-id", "01234567"), ("x-request-id", "01234567")])).is_none()
        );
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let planned = FieldEdits {
            remove: vec!["a".to_owned()],
            set: [("B".to_owned(), "1".to_owned())].into(),
            add: [("b".to_owned(), "2".to_owned())].into(),
        };
        let mut fields = headers(&[("a", "x"), ("b", "x"), ("b", "y")]);
        Edits::compile(&planned).unwrap().apply(&mut fields);
        assert_eq!(fields, headers(&[("b", "1"), ("b", "2")]));
        for (name, value) in [("content-length", "1"), ("host", "x"), ("a b", "x"), ("a", "x\r\ny: z")] {
            let planned =
                FieldEdits { set: [(name.to_owned(), value.to_owned())].into(), ..FieldEdits::default() };
            assert!(Edits::compile(&planned).is_err(), "{name}");
        }
    }
}
