//! Which requests a stored response is for (RFC 9111, 4.1).

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, COOKIE, VARY};
use http::{HeaderMap, HeaderName};

/// The fields that `Vary` names, with the values of the request that was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vary(Box<[(HeaderName, Option<Box<[u8]>>)]>);

/// Names beyond this many are not worth keeping a response for.
const MOST_NAMES: usize = 16;

/// Why a response cannot be for any other request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatchable {
    /// `Vary: *`, or a field that cannot be read.
    Star,
    /// It depends on who asked, and someone did.
    Person,
}

impl Vary {
    /// What a response says of itself, by the request that it answers.
    pub fn of(response: &HeaderMap, request: &HeaderMap) -> Result<Self, Unmatchable> {
        let mut names: Vec<HeaderName> = Vec::new();
        for field in response.get_all(VARY) {
            let field = field.to_str().map_err(|_| Unmatchable::Star)?;
            for name in field.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                // `*` is no field name.
                names.push(name.parse().ok().filter(|_| name != "*").ok_or(Unmatchable::Star)?);
            }
        }
        // An upstream that forgets to say so would have clients get codings that they do not take.
        if response.contains_key(CONTENT_ENCODING) {
            names.push(ACCEPT_ENCODING);
        }
        names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        if names.len() > MOST_NAMES {
            return Err(Unmatchable::Star);
        }
        let personal = |name: &HeaderName| *name == COOKIE || *name == AUTHORIZATION;
        if names.iter().any(|name| personal(name) && request.contains_key(name)) {
            return Err(Unmatchable::Person);
        }
        Ok(Self(
            names
                .into_iter()
                .map(|name| {
                    let value = value(request, &name);
                    (name, value)
                })
                .collect(),
        ))
    }

    /// Whether a response with this `Vary` is for a request.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|(name, there)| value(request, name) == *there)
    }

    /// The names alone, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let of = |(name, value): &(HeaderName, Option<Box<[u8]>>)| {
            64 + name.as_str().len() + value.as_ref().map_or(0, |value| value.len())
        };
        self.0.iter().map(of).sum()
    }
}

/// A field's value in the form in which two are compared; `None` where it is absent.
pub(crate) fn value(headers: &HeaderMap, name: &HeaderName) -> Option<Box<[u8]>> {
    if !headers.contains_key(name) {
        return None;
    }
    let mut joined = Vec::new();
    for field in headers.get_all(name) {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(field.as_bytes().trim_ascii());
    }
    if *name == ACCEPT_ENCODING
        && let Ok(text) = std::str::from_utf8(&joined)
    {
        joined = codings(text).into_bytes();
    }
    Some(joined.into())
}

/// Which codings are taken and which are not, whatever their order and weights: browsers spell one list in many ways,
/// and a response in a coding of the list suits all of them.
fn codings(list: &str) -> String {
    let mut names: Vec<String> = list
        .split(',')
        .filter_map(|element| {
            let (name, weight) = element.split_once(';').unwrap_or((element, ""));
            let name = name.trim().to_ascii_lowercase();
            let weight = weight.split_once('=').map_or("", |(_, weight)| weight.trim());
            let refused = weight.starts_with('0') && weight.bytes().all(|byte| matches!(byte, b'0' | b'.'));
            (!name.is_empty()).then(|| if refused { format!("!{name}") } else { name })
        })
        .collect();
    names.sort();
    names.dedup();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::{Unmatchable, Vary};

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn vary(field: &str, request: &[(&'static str, &str)]) -> Result<Vary, Unmatchable> {
        Vary::of(&headers(&[("vary", field)]), &headers(request))
    }

    #[test]
    fn a_response_is_for_requests_that_are_alike_where_it_varies() {
        let german = vary("Accept-Language, x-a", &[("accept-language", "de"), ("other", "1")]).unwrap();
        assert!(german.matches(&headers(&[("accept-language", " de "), ("other", "2")])));
        assert!(!german.matches(&headers(&[("accept-language", "en")])));
        assert!(!german.matches(&headers(&[("accept-language", "de"), ("x-a", "")])));
        assert!(!german.matches(&headers(&[])));
        assert!(vary("", &[]).unwrap().matches(&headers(&[("accept-language", "en")])));
    }

    #[test]
    fn one_list_of_codings_is_one_however_it_is_spelt() {
        let coded = vary("accept-encoding", &[("accept-encoding", "gzip, br;q=0.9")]).unwrap();
        assert!(coded.matches(&headers(&[("accept-encoding", "BR,gzip;q=1")])));
        assert!(!coded.matches(&headers(&[("accept-encoding", "gzip")])));
        assert!(!coded.matches(&headers(&[("accept-encoding", "gzip, br;q=0.0")])));
        assert!(!coded.matches(&headers(&[("accept-encoding", "gzip, br, identity;q=0")])));
    }

    #[test]
    fn what_is_coded_is_only_for_those_who_take_the_coding() {
        let coded = headers(&[("content-encoding", "gzip")]);
        let vary = Vary::of(&coded, &headers(&[("accept-encoding", "gzip")])).unwrap();
        assert!(!vary.matches(&headers(&[])));
    }

    #[test]
    fn what_depends_on_anything_or_on_a_person_is_for_nobody_else() {
        assert_eq!(vary("accept, *", &[]), Err(Unmatchable::Star));
        assert_eq!(vary("a b", &[]), Err(Unmatchable::Star));
        assert_eq!(vary("cookie", &[("cookie", "a=1")]), Err(Unmatchable::Person));
        assert!(!vary("cookie", &[]).unwrap().matches(&headers(&[("cookie", "a=1")])));
    }

    proptest! {
        #[test]
        fn requests_that_differ_are_told_apart(one in "[a-z]{0,3}", other in "[a-z]{0,3}") {
            let vary = vary("x-field", &[("x-field", &one)]).unwrap();
            prop_assert_eq!(vary.matches(&headers(&[("x-field", &other)])), one == other);
        }
    }
}
