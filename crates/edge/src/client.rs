//! Who a client is: its own address, or, where a trusted proxy speaks for it, the one that the proxy tells.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

use mainstay_http::networks::Networks;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Addresses of `X-Forwarded-For` that are looked at.
const MOST_HOPS: usize = 32;

/// The address that limits, hashes and logs are about. Each proxy adds the address it was spoken to from, so the list
/// is read from its end, and what no trusted proxy wrote is not believed.
pub(crate) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut client = peer;
    let mut hops = 0;
    for field in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for element in field.as_bytes().rsplit(|byte| *byte == b',') {
            hops += 1;
            if !trusted.contains(client) || hops > MOST_HOPS {
                return client;
            }
            match std::str::from_utf8(element.trim_ascii()).ok().and_then(parse) {
                Some(address) => client = address,
                None => return client,
            }
        }
    }
    client
}

/// An address, which some proxies write with a port or in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    inside.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::address;
    use mainstay_http::networks::Networks;
    use http::HeaderMap;

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        let trusted = Networks::parse(&["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()]).unwrap();
        let client = |peer: &str, fields: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("x-forwarded-for", field.parse().unwrap());
            }
            address(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(client("192.0.2.1", &["6.6.6.6"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 192.0.2.9"]), "192.0.2.9");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 192.0.2.9, 10.0.0.2"]), "192.0.2.9");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "192.0.2.9"]), "192.0.2.9");
        assert_eq!(client("10.0.0.1", &["192.0.2.9, nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["[2001:db8::1]:5"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("fd00::1", &["10.0.0.3"]), "10.0.0.3");
    }
}
