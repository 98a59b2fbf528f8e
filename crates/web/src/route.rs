//! Which target takes a request.

use std::collections::HashSet;

use mainstay_site::plan::HostPattern;

use mainstay_http::path::under;

/// The hosts that the site answers to.
pub(crate) struct Hosts {
    exact: HashSet<String>,
    /// Names with their dot in front: `.example.com`.
    below: Vec<String>,
}

impl Hosts {
    pub(crate) fn new(patterns: &[HostPattern]) -> Self {
        let (wildcards, exact): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.wildcard);
        Self {
            exact: exact.into_iter().map(|pattern| pattern.name.as_str().to_owned()).collect(),
            below: wildcards.into_iter().map(|pattern| format!(".{}", pattern.name)).collect(),
        }
    }

    /// Whether the site has this name; lower case, without port.
    pub(crate) fn contains(&self, host: &str) -> bool {
        self.exact.contains(host) || self.below.iter().any(|name| is_below(host, name))
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.len() > name.len() && host.ends_with(name)
}

/// What a request must be like to be taken.
pub(crate) struct Condition {
    host: Option<Hosts>,
    pub(crate) path: String,
}

impl Condition {
    pub(crate) fn new(host: Option<&HostPattern>, path: &str) -> Self {
        Self { host: host.map(|host| Hosts::new(std::slice::from_ref(host))), path: path.to_owned() }
    }

    /// What follows the path's prefix, if the request is taken: empty, or beginning with a slash.
    pub(crate) fn takes<'a>(&self, host: &str, path: &'a [u8]) -> Option<&'a [u8]> {
        under(path, &self.path).filter(|_| self.host.as_ref().is_none_or(|hosts| hosts.contains(host)))
    }
}

/// Where a redirect leads: `to`, whose final `*` becomes what followed the route's prefix, with the query.
pub(crate) fn location(to: &str, rest: &str, query: Option<&str>) -> String {
    let Some(start) = to.strip_suffix('*') else { return to.to_owned() };
    let rest = if start.ends_with('/') { rest.strip_prefix('/').unwrap_or(rest) } else { rest };
    let mut location = format!("{start}{rest}");
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    location
}

#[cfg(test)]
mod tests {
    use super::{Condition, Hosts, location};
    use mainstay_site::plan::HostPattern;

    fn pattern(name: &str, wildcard: bool) -> HostPattern {
        HostPattern { name: name.to_owned().try_into().unwrap(), wildcard }
    }

    #[test]
    fn a_wildcard_takes_names_below_and_not_the_name_itself() {
        let hosts = Hosts::new(&[pattern("www.foobar.com", false), pattern("foobar.org", true)]);
        assert!(hosts.contains("www.foobar.com"));
        assert!(hosts.contains("a.b.foobar.org"));
        for other in ["foobar.com", "foobar.org", "xfoobar.org", "", ".foobar.org", "www.foobar.com.evil.org"]
        {
            assert!(!hosts.contains(other) || other == "www.foobar.com", "{other}");
        }
    }

    #[test]
    fn a_route_takes_its_host_and_path_only() {
        let condition = Condition::new(Some(&pattern("a.com", false)), "/x");
        assert_eq!(condition.takes("a.com", b"/x/y"), Some(&b"/y"[..]));
        assert_eq!(condition.takes("b.com", b"/x/y"), None);
        assert_eq!(condition.takes("a.com", b"/xy"), None);
        assert_eq!(Condition::new(None, "/").takes("b.com", b"/q"), Some(&b"/q"[..]));
    }

    #[test]
    fn a_star_keeps_the_rest() {
        assert_eq!(location("https://a.com/*", "/x/y", Some("q=1")), "https://a.com/x/y?q=1");
        assert_eq!(location("https://a.com*", "/x", None), "https://a.com/x");
        assert_eq!(location("/new", "/x", Some("q")), "/new");
    }
}
