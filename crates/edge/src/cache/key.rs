//! What a stored response is found by.

use std::sync::Arc;

use http::Method;
use http::header::HOST;
use mainstay_http::Request;
use mainstay_http::path::SitePath;

/// A URL in its one form, and the part of the cache in which it is looked up.
///
/// The URL is `scheme://authority/path?query`: the authority in lower case and with the port that the client wrote, as
/// apps make links of it; the path normalised as it is for routing and forwarding; the query as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub(crate) url: Arc<str>,
    pub(crate) partition: Arc<str>,
}

impl Key {
    /// The key of a request. Responses of one `partition` are not given in another: routes that choose by more than
    /// the URL (by a field, by the client's network) have one each. `None` where the URL has no single reading.
    pub fn of(request: &Request, tls: bool, partition: &Arc<str>) -> Option<Self> {
        let authority = match request.uri.authority() {
            Some(authority) => authority.as_str(),
            None => request.headers.get(HOST)?.to_str().ok()?,
        };
        let scheme = if tls { "https" } else { "http" };
        let url = join(scheme, authority, request.uri.path(), request.uri.query())?;
        Some(Self { url: url.into(), partition: Arc::clone(partition) })
    }

    /// The URL in its one form.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `https://host`, which is what two URLs of one origin have in common.
    pub(crate) fn origin(&self) -> &str {
        let host = self.url.find("://").map_or(0, |at| at + 3);
        let end = self.url[host..].find('/').map_or(self.url.len(), |slash| host + slash);
        &self.url[..end]
    }

    /// The URL of this origin that a field such as `Location` names (RFC 9111, 4.4); `None` for other origins.
    pub(crate) fn sibling(&self, reference: &str) -> Option<String> {
        let reference = reference.split('#').next().unwrap_or_default();
        let url = match reference.strip_prefix('/') {
            Some(path) if !path.starts_with('/') => normalise(&format!("{}{reference}", self.origin()))?,
            _ => normalise(reference)?,
        };
        let rest = url.strip_prefix(self.origin())?;
        rest.starts_with('/').then_some(url)
    }
}

/// Brings a URL that a person wrote to the form in which it is kept; `None` if it is no `http` or `https` URL.
pub fn normalise(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = ["https", "http"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))?;
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    join(scheme, authority, path, query)
}

fn join(scheme: &str, authority: &str, path: &str, query: Option<&str>) -> Option<String> {
    let odd = |byte: u8| byte <= b' ' || byte >= 0x7f || matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\');
    if authority.is_empty() || authority.bytes().any(odd) {
        return None;
    }
    let path = SitePath::parse(if path.is_empty() { "/" } else { path }).ok()?;
    let query_bytes = query.map_or(0, |query| query.len() + 1);
    let mut url =
        String::with_capacity(scheme.len() + 3 + authority.len() + path.encoded.len() + query_bytes);
    url.push_str(scheme);
    url.push_str("://");
    url.push_str(authority);
    url.make_ascii_lowercase();
    url.push_str(&path.encoded);
    if let Some(query) = query {
        url.push('?');
        url.push_str(query);
    }
    Some(url)
}

/// Whether a method promises to change nothing (RFC 9110, 9.2.1); what is not known does not.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Key, normalise};

    #[test]
    fn two_spellings_of_one_url_are_one() {
        let one = normalise("HTTP://A.b:8080//x/./y/../%7Ez?q=%7e").unwrap();
        assert_eq!(one, "http://a.b:8080/x/~z?q=%7e");
        assert_eq!(normalise("https://a.b").unwrap(), "https://a.b/");
        assert_eq!(normalise("https://a.b?x").unwrap(), "https://a.b/?x");
        for wrong in [
            "a.b/x",
            "ftp://a.b/",
            "http:///x",
            "http://a@b/",
            "http://a b/",
            "http://a/%2f",
            "http://a/../x",
        ] {
            assert_eq!(normalise(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_urls_of_the_same_origin_are_siblings() {
        let key = Key { url: "https://a.b/x?y".into(), partition: Arc::from("") };
        assert_eq!(key.origin(), "https://a.b");
        assert_eq!(key.sibling("/z#top").unwrap(), "https://a.b/z");
        assert_eq!(key.sibling("https://A.B/z?1").unwrap(), "https://a.b/z?1");
        for other in ["//evil/x", "http://a.b/", "https://a.b.evil/", "https://a.b:444/", "z", ""] {
            assert_eq!(key.sibling(other), None, "{other}");
        }
    }
}
