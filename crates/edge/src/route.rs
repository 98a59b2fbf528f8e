//! Which route takes a request.
//!
//! Routes are tried in the plan's order, and the first that matches takes the request. So that thousands of them stay
//! cheap, only those are looked at whose host and first segment of the path can match.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Method};
use mainstay_http::KnownKeys;
use mainstay_http::networks::Networks;
use mainstay_http::path::under;
use mainstay_site::plan::HostPattern;
use mainstay_site::plan::edge::{FieldValue, PathCondition, RouteCondition};

use crate::query;

/// Wildcard hosts (`*.a.b`, `*.b`, ...) that may match one name.
const NESTED: usize = 8;
/// Lists that may hold the route of one request: with and without a segment, for each host that matches.
const LISTS: usize = 2 * (NESTED + 2);

/// The hosts that are answered.
#[derive(Default)]
pub(crate) struct Hosts {
    exact: HashSet<String, KnownKeys>,
    /// Names that others lie below.
    below: HashSet<String, KnownKeys>,
}

impl Hosts {
    pub(crate) fn new(patterns: &[HostPattern]) -> Self {
        let mut hosts = Self::default();
        for pattern in patterns {
            let names = if pattern.wildcard { &mut hosts.below } else { &mut hosts.exact };
            names.insert(pattern.name.as_str().to_ascii_lowercase());
        }
        hosts
    }

    /// Whether one of them is this name; lower case, without port.
    pub(crate) fn contains(&self, host: &str) -> bool {
        self.exact.contains(host)
            || (!self.below.is_empty() && parents(host).any(|parent| self.below.contains(parent)))
    }
}

/// The names above a name: `b.c` and `c` for `a.b.c`.
fn parents(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(host.split_once('.').map(|(_, parent)| parent), |name| {
        name.split_once('.').map(|(_, parent)| parent)
    })
}

/// What of a request decides its route.
pub(crate) struct Asked<'a> {
    /// Lower case, without port.
    pub(crate) host: &'a str,
    /// Decoded and normalised.
    pub(crate) path: &'a [u8],
    pub(crate) query: Option<&'a str>,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) client: Option<IpAddr>,
}

/// The conditions of all routes, in order.
pub(crate) struct Routes {
    conditions: Vec<Condition>,
    exact: HashMap<String, Bucket, KnownKeys>,
    below: HashMap<String, Bucket, KnownKeys>,
    everywhere: Bucket,
}

/// Numbers of routes, ascending.
#[derive(Default)]
struct Bucket {
    /// Those whose path begins with a certain segment.
    segments: HashMap<Vec<u8>, Vec<u32>, KnownKeys>,
    others: Vec<u32>,
}

impl Bucket {
    fn add(&mut self, segment: Option<&[u8]>, number: u32) {
        let list = match segment {
            Some(segment) => self.segments.entry(segment.to_vec()).or_default(),
            None => &mut self.others,
        };
        if list.last() != Some(&number) {
            list.push(number);
        }
    }
}

impl Routes {
    /// Compiles the conditions; an error says which of them cannot be.
    pub(crate) fn compile<'a>(
        conditions: impl IntoIterator<Item = (&'a str, &'a RouteCondition)>,
    ) -> Result<Self, String> {
        let mut routes = Self {
            conditions: Vec::new(),
            exact: HashMap::default(),
            below: HashMap::default(),
            everywhere: Bucket::default(),
        };
        for (name, planned) in conditions {
            let number = routes.conditions.len() as u32;
            let condition = Condition::new(planned).map_err(|error| format!("route {name}: {error}"))?;
            let segment = match &condition.path {
                PathCondition::Prefix(path) | PathCondition::Exact(path) => first_segment(path.as_bytes()),
                PathCondition::Suffix(_) => None,
            };
            for host in &planned.hosts {
                let hosts = if host.wildcard { &mut routes.below } else { &mut routes.exact };
                hosts.entry(host.name.as_str().to_ascii_lowercase()).or_default().add(segment, number);
            }
            if planned.hosts.is_empty() {
                routes.everywhere.add(segment, number);
            }
            routes.conditions.push(condition);
        }
        for name in routes.below.keys() {
            if parents(name).filter(|parent| routes.below.contains_key(*parent)).count() >= NESTED {
                return Err(format!("*.{name} lies below {NESTED} other wildcard hosts, which is too many"));
            }
        }
        Ok(routes)
    }

    /// Whether some route asks for header fields.
    pub(crate) fn ask_for_fields(&self) -> bool {
        self.conditions.iter().any(|condition| !condition.fields.is_empty())
    }

    /// The number of the first route that takes a request.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Option<usize> {
        let mut lists: [&[u32]; LISTS] = [&[]; LISTS];
        let mut count = 0;
        let segment = first_segment(asked.path);
        let buckets = self
            .exact
            .get(asked.host)
            .into_iter()
            .chain(
                parents(asked.host)
                    .filter(|_| !self.below.is_empty())
                    .filter_map(|parent| self.below.get(parent)),
            )
            .chain(std::iter::once(&self.everywhere));
        for bucket in buckets {
            let listed = segment.and_then(|segment| bucket.segments.get(segment));
            for list in [listed.map_or(&[][..], Vec::as_slice), &bucket.others] {
                if !list.is_empty() && count < LISTS {
                    lists[count] = list;
                    count += 1;
                }
            }
        }
        let lists = &mut lists[..count];
        loop {
            let next = lists.iter().filter_map(|list| list.first()).min().copied()?;
            if self.conditions[next as usize].takes(asked) {
                return Some(next as usize);
            }
            for list in lists.iter_mut() {
                if list.first() == Some(&next) {
                    *list = &list[1..];
                }
            }
        }
    }
}

/// The first segment of a path, if it has one.
fn first_segment(path: &[u8]) -> Option<&[u8]> {
    path.split(|byte| *byte == b'/').nth(1).filter(|segment| !segment.is_empty())
}

/// What a request must be like, but for its host, which the index looks at.
struct Condition {
    path: PathCondition,
    methods: Vec<Method>,
    fields: Vec<(HeaderName, Option<FieldValue>)>,
    query: Vec<(String, Option<String>)>,
    clients: Option<Networks>,
}

impl Condition {
    fn new(planned: &RouteCondition) -> Result<Self, String> {
        let method =
            |name: &String| Method::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no method"));
        Ok(Self {
            path: planned.path.clone(),
            methods: planned.methods.iter().map(method).collect::<Result<_, _>>()?,
            fields: planned
                .fields
                .iter()
                .map(|field| {
                    let name = HeaderName::from_bytes(field.name.as_bytes())
                        .map_err(|_| format!("`{}` is no field name", field.name))?;
                    Ok((name, field.value.clone()))
                })
                .collect::<Result<_, String>>()?,
            query: planned.query.clone(),
            clients: match planned.clients.as_slice() {
                [] => None,
                clients => Some(Networks::parse(clients)?),
            },
        })
    }

    fn takes(&self, asked: &Asked<'_>) -> bool {
        let path = match &self.path {
            PathCondition::Prefix(prefix) => under(asked.path, prefix).is_some(),
            PathCondition::Exact(path) => asked.path == path.as_bytes(),
            PathCondition::Suffix(suffix) => asked.path.ends_with(suffix.as_bytes()),
        };
        path && (self.methods.is_empty() || self.methods.contains(asked.method))
            && self.fields.iter().all(|(name, value)| has_field(asked.headers, name, value.as_ref()))
            && self
                .query
                .iter()
                .all(|(name, value)| query::has(asked.query.unwrap_or_default(), name, value.as_deref()))
            && self
                .clients
                .as_ref()
                .is_none_or(|clients| asked.client.is_some_and(|client| clients.contains(client)))
    }
}

fn has_field(headers: &HeaderMap, name: &HeaderName, wanted: Option<&FieldValue>) -> bool {
    let Some(wanted) = wanted else { return headers.contains_key(name) };
    headers.get_all(name).iter().any(|value| {
        let value = value.as_bytes();
        match wanted {
            FieldValue::Exact(text) => value == text.as_bytes(),
            FieldValue::Prefix(text) => value.starts_with(text.as_bytes()),
            FieldValue::Contains(text) => memchr::memmem::find(value, text.as_bytes()).is_some(),
        }
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use mainstay_site::plan::edge::{FieldCondition, FieldValue, PathCondition, RouteCondition};
    use proptest::prelude::*;

    use super::{Asked, Hosts, Routes};
    use crate::fixture::host;

    fn condition(hosts: &[&str], path: &str) -> RouteCondition {
        RouteCondition {
            hosts: hosts.iter().map(|name| host(name)).collect(),
            path: PathCondition::Prefix(path.to_owned()),
            ..RouteCondition::default()
        }
    }

    fn compile(conditions: &[RouteCondition]) -> Routes {
        Routes::compile(conditions.iter().map(|condition| ("r", condition))).unwrap()
    }

    fn find(routes: &Routes, host: &str, path: &str) -> Option<usize> {
        ask(routes, host, path, &[], "")
    }

    fn ask(
        routes: &Routes,
        host: &str,
        path: &str,
        fields: &[(&'static str, &str)],
        query: &str,
    ) -> Option<usize> {
        let headers: HeaderMap =
            fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        routes.find(&Asked {
            host,
            path: path.as_bytes(),
            query: Some(query),
            method: &Method::GET,
            headers: &headers,
            client: Some("10.1.2.3".parse().unwrap()),
        })
    }

    #[test]
    fn the_first_route_in_order_takes_a_request_wherever_it_is_indexed() {
        let routes = compile(&[
            condition(&["*.b.e.test"], "/x"),
            condition(&[], "/shop"),
            condition(&["a.e.test"], "/shop"),
            condition(&["a.e.test"], "/"),
            condition(&["*.e.test"], "/"),
        ]);
        assert_eq!(find(&routes, "c.b.e.test", "/x/y"), Some(0));
        assert_eq!(find(&routes, "b.e.test", "/x/y"), Some(4));
        assert_eq!(find(&routes, "a.e.test", "/shop/cart"), Some(1));
        assert_eq!(find(&routes, "a.e.test", "/shopping"), Some(3));
        assert_eq!(find(&routes, "d.c.b.e.test", "/"), Some(4));
        assert_eq!(find(&routes, "other", "/"), None);
    }

    #[test]
    fn all_that_is_asked_must_hold() {
        let mut planned = condition(&[], "/");
        planned.fields = vec![FieldCondition {
            name: "x-kind".to_owned(),
            value: Some(FieldValue::Contains("be".to_owned())),
        }];
        planned.query = vec![("a".to_owned(), Some("1 2".to_owned())), ("b".to_owned(), None)];
        planned.clients = vec!["10.0.0.0/8".to_owned()];
        planned.methods = vec!["GET".to_owned()];
        let routes = compile(&[planned]);
        assert_eq!(ask(&routes, "h", "/", &[("x-kind", "beta")], "a=1%202&b"), Some(0));
        assert_eq!(ask(&routes, "h", "/", &[("x-kind", "alpha")], "a=1%202&b"), None);
        assert_eq!(ask(&routes, "h", "/", &[("x-kind", "beta")], "a=1&b"), None);
        assert_eq!(ask(&routes, "h", "/", &[("x-kind", "beta")], "a=1+2"), None);
    }

    #[test]
    fn a_wildcard_is_for_names_below_it_only() {
        let hosts = Hosts::new(&[host("a.test"), host("*.b.test")]);
        assert!(hosts.contains("a.test") && hosts.contains("x.b.test") && hosts.contains("y.x.b.test"));
        assert!(!hosts.contains("b.test") && !hosts.contains("x.a.test") && !hosts.contains("xb.test"));
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_look_at_every_route_finds(
            routes in proptest::collection::vec((0_usize..5, 0_usize..6), 1..40),
            host in 0_usize..5,
            path in 0_usize..6,
        ) {
            let hosts = ["", "a.e.test", "*.e.test", "*.a.e.test", "b.a.e.test"];
            let paths = ["/", "/a", "/a/b", "/b", "/b/", "/c/d"];
            let planned: Vec<_> = routes
                .iter()
                .map(|(host, path)| {
                    let host: &[&str] = if *host == 0 { &[] } else { &hosts[*host..=*host] };
                    condition(host, paths[*path])
                })
                .collect();
            let compiled = compile(&planned);
            let host = ["a.e.test", "b.e.test", "b.a.e.test", "c.b.a.e.test", "e.test"][host];
            let expected = planned.iter().position(|planned| {
                let PathCondition::Prefix(prefix) = &planned.path else { unreachable!() };
                (planned.hosts.is_empty() || Hosts::new(&planned.hosts).contains(host))
                    && mainstay_http::path::under(paths[path].as_bytes(), prefix).is_some()
            });
            prop_assert_eq!(find(&compiled, host, paths[path]), expected);
        }
    }
}
