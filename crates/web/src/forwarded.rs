//! Which of a client's header fields an app gets to see.

use http::{HeaderMap, HeaderName};

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
    use super::clean;
    use http::HeaderMap;

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
