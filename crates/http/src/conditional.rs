//! Conditional requests (RFC 9110, 13).

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName};

use crate::date;

/// What a representation is compared by.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// The entity tag as it is sent, with its quotes and perhaps `W/`.
    pub etag: &'a str,
    /// Seconds since 1970.
    pub modified: u64,
}

/// What the conditions of a GET or HEAD come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Judges the conditions in the order of 13.2.2.
pub fn judge(headers: &HeaderMap, validators: Validators<'_>) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !lists(headers, &IF_MATCH, validators.etag, strong) {
            return Verdict::Failed;
        }
    } else if let Some(since) = time(headers, &IF_UNMODIFIED_SINCE)
        && validators.modified > since
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if lists(headers, &IF_NONE_MATCH, validators.etag, weak) {
            return Verdict::NotModified;
        }
    } else if let Some(since) = time(headers, &IF_MODIFIED_SINCE)
        && validators.modified <= since
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether a `Range` field is to be honoured, as far as `If-Range` goes (13.1.5).
pub fn range_applies(headers: &HeaderMap, validators: Validators<'_>) -> bool {
    let Some(field) = headers.get(IF_RANGE) else { return true };
    let Ok(field) = field.to_str() else { return false };
    if field.contains('"') {
        return strong(field, validators.etag);
    }
    date::parse(field) == Some(validators.modified)
}

fn time(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok().and_then(date::parse)
}

fn strong(theirs: &str, ours: &str) -> bool {
    theirs == ours && !theirs.starts_with("W/")
}

fn weak(theirs: &str, ours: &str) -> bool {
    theirs.strip_prefix("W/").unwrap_or(theirs) == ours.strip_prefix("W/").unwrap_or(ours)
}

/// Whether a field with a list of entity tags has one that equals `etag`, or is `*`.
fn lists(headers: &HeaderMap, name: &HeaderName, etag: &str, equal: fn(&str, &str) -> bool) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .any(|field| field.trim() == "*" || tags(field).any(|theirs| equal(theirs, etag)))
}

/// The entity tags of a list. A tag may hold commas, so the list cannot be split at them.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let start = if rest.starts_with("W/") { 2 } else { 0 };
        let opaque = rest[start..].strip_prefix('"')?;
        let end = start + 1 + opaque.find('"')? + 1;
        let tag;
        (tag, rest) = rest.split_at(end);
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::{Validators, Verdict, judge, range_applies, tags};
    use http::HeaderMap;
    use proptest::prelude::*;

    const MODIFIED: u64 = 784_111_777;
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn verdict(fields: &[(&'static str, &str)]) -> Verdict {
        judge(&headers(fields), Validators { etag: "\"a\"", modified: MODIFIED })
    }

    #[test]
    fn tags_come_before_dates() {
        assert_eq!(verdict(&[("if-none-match", "\"a\"")]), Verdict::NotModified);
        assert_eq!(verdict(&[("if-none-match", "\"b\", W/\"a\"")]), Verdict::NotModified);
        assert_eq!(verdict(&[("if-none-match", "*")]), Verdict::NotModified);
        assert_eq!(verdict(&[("if-none-match", "\"b\""), ("if-modified-since", THEN)]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-modified-since", THEN)]), Verdict::NotModified);
        assert_eq!(verdict(&[("if-modified-since", BEFORE)]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-modified-since", "yesterday")]), Verdict::Proceed);
    }

    #[test]
    fn what_must_match_is_asked_first() {
        assert_eq!(verdict(&[("if-match", "\"b\""), ("if-none-match", "\"a\"")]), Verdict::Failed);
        assert_eq!(verdict(&[("if-match", "\"b\", \"a\"")]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-match", "W/\"a\"")]), Verdict::Failed);
        assert_eq!(verdict(&[("if-match", "*")]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-unmodified-since", BEFORE)]), Verdict::Failed);
        assert_eq!(verdict(&[("if-unmodified-since", THEN)]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-match", "\"a\""), ("if-unmodified-since", BEFORE)]), Verdict::Proceed);
    }

    #[test]
    fn a_range_of_another_version_is_not_sent() {
        let applies = |field: &str, etag: &str| {
            range_applies(&headers(&[("if-range", field)]), Validators { etag, modified: MODIFIED })
        };
        assert!(applies("\"a\"", "\"a\""));
        assert!(!applies("\"b\"", "\"a\""));
        assert!(!applies("W/\"a\"", "W/\"a\""));
        assert!(applies(THEN, "\"a\""));
        assert!(!applies(BEFORE, "\"a\""));
        assert!(range_applies(&HeaderMap::new(), Validators { etag: "\"a\"", modified: 0 }));
    }

    #[test]
    fn tags_may_hold_commas() {
        assert_eq!(tags("\"a,b\" , W/\"c\",,\"\"").collect::<Vec<_>>(), ["\"a,b\"", "W/\"c\"", "\"\""]);
        assert_eq!(tags("a, \"b\"").count(), 0);
    }

    proptest! {
        #[test]
        fn any_list_ends(list in "[\"W/a, é]{0,40}") {
            prop_assert!(tags(&list).count() <= list.len());
        }
    }
}
