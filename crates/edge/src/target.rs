//! The target of a request on its way to an upstream, and where a redirect leads.

use http::Uri;
use http::uri::PathAndQuery;
use mainstay_http::path::SitePath;
use mainstay_site::plan::edge::{PathCondition, Rewrite};

/// How the path of a route's requests changes.
#[derive(Debug)]
pub(crate) enum Change {
    /// Not at all.
    Keep,
    /// So many segments at its beginning are replaced by this, which has no slash at its end.
    Prefix(usize, String),
    /// All of it.
    Whole(String),
}

impl Change {
    pub(crate) fn compile(rewrite: Option<&Rewrite>, path: &PathCondition) -> Result<Self, String> {
        let sound = |to: &String| {
            let parsed = SitePath::parse(to).map_err(|error| format!("the path `{to}`: {error}"))?;
            Ok::<_, String>(parsed.encoded.into_owned())
        };
        match (rewrite, path) {
            (None, _) => Ok(Self::Keep),
            (Some(Rewrite::Path(to)), _) => sound(to).map(Self::Whole),
            (Some(Rewrite::Prefix(to)), PathCondition::Prefix(from)) => {
                let to = sound(to)?;
                Ok(Self::Prefix(segments(from), to.strip_suffix('/').unwrap_or(&to).to_owned()))
            }
            (Some(Rewrite::Prefix(_)), _) => {
                Err("a prefix is replaced, but the route asks for none".to_owned())
            }
        }
    }

    /// Whether a path in its one form stays as it is.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// Writes the changed path into a request. What is not changed costs nothing.
    pub(crate) fn apply(&self, uri: &mut Uri, path: &SitePath<'_>) -> Result<(), http::Error> {
        let query = uri.query();
        let target = match self {
            Self::Keep if uri.authority().is_none() && *path.encoded == *uri.path() => return Ok(()),
            Self::Keep => with_query(&path.encoded, "", query),
            Self::Prefix(count, to) => with_query(to, after_segments(&path.encoded, *count), query),
            Self::Whole(to) => with_query(to, "", query),
        };
        *uri = Uri::from(PathAndQuery::from_maybe_shared(bytes::Bytes::from(target))?);
        Ok(())
    }
}

fn with_query(path: &str, rest: &str, query: Option<&str>) -> String {
    let mut target =
        String::with_capacity(path.len() + rest.len() + query.map_or(0, |query| query.len() + 1) + 1);
    target.push_str(path);
    target.push_str(rest);
    if target.is_empty() {
        target.push('/');
    }
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// Segments of a prefix; a slash at its end is none.
pub(crate) fn segments(prefix: &str) -> usize {
    prefix.split('/').filter(|segment| !segment.is_empty()).count()
}

/// What follows so many segments: empty, or beginning with a slash. Segments are the same in both forms of a path, for
/// no encoded slash is in one.
pub(crate) fn after_segments(path: &str, count: usize) -> &str {
    let mut slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
    slashes.nth(count).map_or("", |at| &path[at..])
}

/// Where a redirect leads: `to`, whose final `*` becomes what followed the route's prefix, with the query.
pub(crate) fn location(to: &str, rest: &str, query: Option<&str>) -> String {
    let Some(start) = to.strip_suffix('*') else { return to.to_owned() };
    let rest = if start.ends_with('/') { rest.strip_prefix('/').unwrap_or(rest) } else { rest };
    with_query(start, rest, query)
}

#[cfg(test)]
mod tests {
    use super::{Change, location};
    use http::Uri;
    use mainstay_http::path::SitePath;
    use mainstay_site::plan::edge::{PathCondition, Rewrite};

    fn changed(rewrite: Option<&Rewrite>, prefix: &str, target: &str) -> String {
        let change = Change::compile(rewrite, &PathCondition::Prefix(prefix.to_owned())).unwrap();
        let mut uri: Uri = target.parse().unwrap();
        let raw = uri.path().to_owned();
        change.apply(&mut uri, &SitePath::parse(&raw).unwrap()).unwrap();
        uri.to_string()
    }

    #[test]
    fn what_is_forwarded_is_what_was_routed() {
        assert_eq!(changed(None, "/", "/a//b/../c?x=%2F"), "/a/c?x=%2F");
        assert_eq!(changed(None, "/", "http://h:1/a/%62"), "/a/b");
        assert_eq!(changed(None, "/", "/a/%3Bb?q"), "/a/%3Bb?q");
    }

    #[test]
    fn prefixes_are_replaced_segment_by_segment() {
        let to = |to: &str| Some(Rewrite::Prefix(to.to_owned()));
        assert_eq!(changed(to("/").as_ref(), "/shop", "/shop/cart?a"), "/cart?a");
        assert_eq!(changed(to("/").as_ref(), "/shop/", "/shop"), "/");
        assert_eq!(changed(to("/v2/").as_ref(), "/sh%20op", "/sh%20op/c%20t"), "/v2/c%20t");
        assert_eq!(changed(to("/x").as_ref(), "/", "/shop"), "/x/shop");
        assert_eq!(changed(Some(&Rewrite::Path("/i".to_owned())), "/", "/a?b"), "/i?b");
        let no_prefix = Change::compile(to("/").as_ref(), &PathCondition::Exact("/".to_owned()));
        assert!(no_prefix.is_err());
    }

    #[test]
    fn a_redirect_takes_the_rest_along() {
        assert_eq!(location("https://b.test/*", "/x/y", Some("q")), "https://b.test/x/y?q");
        assert_eq!(location("https://b.test/new", "/x", Some("q")), "https://b.test/new");
        assert_eq!(location("/new*", "/x", None), "/new/x");
    }
}
