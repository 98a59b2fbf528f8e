//! `Cache-Control` and its kin (RFC 9111, 5.2; RFC 9213), read so that doubt means less caching.

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};

/// Seconds beyond this are this many (RFC 9111, 1.2.2).
const MOST_SECONDS: u64 = 1 << 31;
/// A cache in front of the origin reads this field instead of `Cache-Control` (RFC 9213).
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// What a response says about keeping it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// Not to be kept. Also set where the field cannot be read.
    pub no_store: bool,
    /// Not to be given without asking the origin; with field names it is taken as if without.
    pub no_cache: bool,
    /// For one user; with field names it is taken as if without.
    pub private: bool,
    /// For all.
    pub public: bool,
    /// Never to be given stale.
    pub must_revalidate: bool,
    /// Never to be given stale by a shared cache.
    pub proxy_revalidate: bool,
    /// Only to be kept by who knows the status; `no_store` is for the others.
    pub must_understand: bool,
    /// Freshness in seconds.
    pub max_age: Option<u64>,
    /// Freshness in seconds, in shared caches.
    pub s_maxage: Option<u64>,
    /// Seconds of staleness while it is refreshed (RFC 5861, 3).
    pub stale_while_revalidate: Option<u64>,
    /// Seconds of staleness while the origin fails (RFC 5861, 4).
    pub stale_if_error: Option<u64>,
    /// Read from `CDN-Cache-Control`; `Expires` and `Pragma` do not count then.
    pub targeted: bool,
}

impl ResponseDirectives {
    /// Reads the fields of a response.
    pub fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(&CDN_CACHE_CONTROL)
            && let Some(directives) = Self::read(headers, &CDN_CACHE_CONTROL)
        {
            return Self { targeted: true, ..directives };
        }
        Self::read(headers, &CACHE_CONTROL).unwrap_or(Self { no_store: true, ..Self::default() })
    }

    fn read(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut these = Self::default();
        for field in headers.get_all(name) {
            let readable = each(field.to_str().ok()?, |name, value| match name {
                "no-store" => these.no_store = true,
                "no-cache" => these.no_cache = true,
                "private" => these.private = true,
                "public" => these.public = true,
                "must-revalidate" => these.must_revalidate = true,
                "proxy-revalidate" => these.proxy_revalidate = true,
                "must-understand" => these.must_understand = true,
                "max-age" => shorten(&mut these.max_age, value),
                "s-maxage" => shorten(&mut these.s_maxage, value),
                "stale-while-revalidate" => shorten(&mut these.stale_while_revalidate, value),
                "stale-if-error" => shorten(&mut these.stale_if_error, value),
                _ => {}
            });
            if !readable {
                return None;
            }
        }
        Some(these)
    }
}

/// What a request says about answers from a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// Nothing of it is to be kept. Also set where the field cannot be read.
    pub no_store: bool,
    /// Ask the origin.
    pub no_cache: bool,
    /// Do not ask the origin.
    pub only_if_cached: bool,
    /// The greatest age in seconds.
    pub max_age: Option<u64>,
    /// Seconds of staleness that are borne; without a number, any.
    pub max_stale: Option<u64>,
    /// Seconds for which it must stay fresh.
    pub min_fresh: Option<u64>,
}

impl RequestDirectives {
    /// Reads the fields of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut these = Self::default();
        for field in headers.get_all(CACHE_CONTROL) {
            let readable = field.to_str().is_ok_and(|field| {
                each(field, |name, value| match name {
                    "no-store" => these.no_store = true,
                    "no-cache" => these.no_cache = true,
                    "only-if-cached" => these.only_if_cached = true,
                    "max-age" => shorten(&mut these.max_age, value),
                    "max-stale" if value.is_none() => these.max_stale = Some(MOST_SECONDS),
                    "max-stale" => shorten(&mut these.max_stale, value),
                    "min-fresh" => {
                        let seconds = value.and_then(|value| seconds(&value)).unwrap_or(MOST_SECONDS);
                        these.min_fresh = Some(these.min_fresh.unwrap_or(0).max(seconds));
                    }
                    _ => {}
                })
            });
            these.no_store |= !readable;
        }
        // RFC 9111, 5.4: only where the newer field is absent.
        if !headers.contains_key(CACHE_CONTROL) {
            these.no_cache = headers.get_all(PRAGMA).iter().any(|field| {
                field.to_str().is_ok_and(|field| {
                    field.split(',').any(|element| element.trim().eq_ignore_ascii_case("no-cache"))
                })
            });
        }
        these
    }
}

/// Of several values the smallest counts, and what is no number is none at all: stale at once (RFC 9111, 4.2.1).
fn shorten(place: &mut Option<u64>, value: Option<String>) {
    let new = value.and_then(|value| seconds(&value)).unwrap_or(0);
    *place = Some(place.map_or(new, |old| old.min(new)));
}

/// Delta-seconds; more than fit are the most.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(MOST_SECONDS).min(MOST_SECONDS))
}

/// Hands each directive over, its name in lower case. `false` where the list is malformed: a quote that does not end, or
/// something behind one.
fn each(list: &str, mut take: impl FnMut(&str, Option<String>)) -> bool {
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return true;
        }
        let end = rest.find([',', '=']).unwrap_or(rest.len());
        let name = rest[..end].trim().to_ascii_lowercase();
        let value;
        rest = &rest[end..];
        match rest.strip_prefix('=') {
            None => value = None,
            Some(after) => {
                let after = after.trim_start_matches([' ', '\t']);
                if let Some(quoted) = after.strip_prefix('"') {
                    let Some((text, behind)) = unquote(quoted) else { return false };
                    value = Some(text);
                    rest = behind.trim_start_matches([' ', '\t']);
                    if !rest.is_empty() && !rest.starts_with(',') {
                        return false;
                    }
                } else {
                    let end = after.find(',').unwrap_or(after.len());
                    if after[..end].contains('"') {
                        return false;
                    }
                    value = Some(after[..end].trim().to_owned());
                    rest = &after[end..];
                }
            }
        }
        if name.contains('"') {
            return false;
        }
        take(&name, value);
    }
}

/// The content of a quoted string whose opening quote is gone, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((content, &text[at + 1..])),
            '\\' => content.push(characters.next()?.1),
            _ => content.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::{MOST_SECONDS, RequestDirectives, ResponseDirectives};

    fn response(field: &str) -> ResponseDirectives {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", field.parse().unwrap());
        ResponseDirectives::of(&headers)
    }

    #[test]
    fn directives_are_read_in_any_spelling() {
        let read =
            response("Public , MAX-AGE=\"60\",s-maxage=5,, stale-while-revalidate = 7,x=\"a,no-store\"");
        assert!(read.public && !read.no_store && !read.private);
        assert_eq!((read.max_age, read.s_maxage, read.stale_while_revalidate), (Some(60), Some(5), Some(7)));
        assert!(response("private=\"set-cookie\"").private);
        assert!(response("no-cache=\"a\", max-age=1").no_cache);
    }

    #[test]
    fn doubt_means_less_caching() {
        assert_eq!(response("max-age=60, max-age=5").max_age, Some(5));
        for wrong in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=a", "max-age=+1"] {
            assert_eq!(response(wrong).max_age, Some(0), "{wrong}");
        }
        assert_eq!(response("max-age=99999999999999999999999").max_age, Some(MOST_SECONDS));
        for unreadable in ["max-age=5, private=\"", "max-age=\"5\"5", "max-age=5\"", "\"max-age=5"] {
            assert!(response(unreadable).no_store, "{unreadable}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", http::HeaderValue::from_bytes(b"max-age=5, \xff").unwrap());
        assert!(ResponseDirectives::of(&headers).no_store);
    }

    #[test]
    fn a_field_for_caches_like_this_one_counts_alone() {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", "no-store".parse().unwrap());
        headers.insert("cdn-cache-control", "max-age=60".parse().unwrap());
        let read = ResponseDirectives::of(&headers);
        assert_eq!((read.no_store, read.max_age, read.targeted), (false, Some(60), true));
        headers.insert("cdn-cache-control", "max-age=\"".parse().unwrap());
        assert!(ResponseDirectives::of(&headers).no_store);
    }

    #[test]
    fn requests_are_read_too() {
        let read = |name: &'static str, field: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, field.parse().unwrap());
            RequestDirectives::of(&headers)
        };
        assert!(read("pragma", "no-cache").no_cache);
        assert_eq!(read("cache-control", "max-stale").max_stale, Some(MOST_SECONDS));
        assert_eq!(read("cache-control", "max-stale=5, min-fresh=3").min_fresh, Some(3));
        assert!(read("cache-control", "only-if-cached").only_if_cached);
        assert!(read("cache-control", "x=\"").no_store);
    }

    proptest! {
        #[test]
        fn any_text_is_read(field in "[a-z=\"\\\\, 0-9-]{0,60}") {
            response(&field);
        }

        #[test]
        fn what_forbids_is_found_wherever_it_stands(before in "[a-z-]{1,9}(=[0-9]{1,3}|=\"[a-z,= ]{0,9}\")?", after in "[a-z]{1,5}") {
            let (no_store, private) = (format!("{before},no-store,{after}"), format!("{before}, private, {after}"));
            prop_assert!(response(&no_store).no_store && response(&private).private);
        }
    }
}
