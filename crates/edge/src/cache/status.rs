//! How a request met the cache: for metrics and logs, and as `Cache-Status` (RFC 9211).

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// The field, in lower case.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How a request met the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    /// What came of it.
    pub outcome: Outcome,
    /// For how many more seconds what was given is fresh; negative when it is stale.
    pub ttl_secs: Option<i64>,
    /// The status that the upstream answered with.
    pub upstream: Option<StatusCode>,
    /// It was, or is being, stored.
    pub stored: bool,
    /// It waited for another request's fetch.
    pub collapsed: bool,
}

/// What came of a look into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A fresh response was given.
    Hit,
    /// A stale one was given, while it is refreshed or because the client bears it.
    Stale,
    /// A stale one was given because the upstream failed.
    StaleIfError,
    /// The upstream confirmed the stored one.
    Revalidated,
    /// The stored one was stale, or the client wanted it checked, and another one came.
    Expired,
    /// There was nothing for this URL.
    Miss,
    /// There was nothing for this URL that suits the request.
    VaryMiss,
    /// Another request's fetch answered it.
    Coalesced,
    /// The client wanted nothing but what is there, and nothing is.
    OnlyIfCached,
    /// The request is none that is looked up.
    PassMethod,
    /// The request is none that is looked up, by its fields or body, or the route is not cached.
    Pass,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Hit,
        Self::Stale,
        Self::StaleIfError,
        Self::Revalidated,
        Self::Expired,
        Self::Miss,
        Self::VaryMiss,
        Self::Coalesced,
        Self::OnlyIfCached,
        Self::PassMethod,
        Self::Pass,
    ];

    /// A word for labels and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::StaleIfError => "stale_if_error",
            Self::Revalidated => "revalidated",
            Self::Expired => "expired",
            Self::Miss => "miss",
            Self::VaryMiss => "vary_miss",
            Self::Coalesced => "coalesced",
            Self::OnlyIfCached => "only_if_cached",
            Self::PassMethod => "pass_method",
            Self::Pass => "pass",
        }
    }

    /// The parameters of RFC 9211, 2.1 and 2.2.
    fn parameters(self) -> &'static str {
        match self {
            Self::Hit | Self::Stale => "hit",
            Self::StaleIfError => "fwd=stale; detail=stale-if-error",
            Self::Revalidated | Self::Expired => "fwd=stale",
            Self::Miss | Self::Coalesced => "fwd=uri-miss",
            Self::VaryMiss => "fwd=vary-miss",
            Self::OnlyIfCached => "detail=only-if-cached",
            Self::PassMethod => "fwd=method",
            Self::Pass => "fwd=bypass",
        }
    }
}

impl CacheStatus {
    /// A status that says nothing more.
    pub fn of(outcome: Outcome) -> Self {
        Self { outcome, ttl_secs: None, upstream: None, stored: false, collapsed: false }
    }

    /// Adds the field to a response, behind those of caches nearer to the origin.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let mut text = format!("Mainstay; {}", self.outcome.parameters());
        // Writing to a String cannot fail.
        if let Some(status) = self.upstream {
            let _ = write!(text, "; fwd-status={}", status.as_u16());
        }
        if let Some(ttl) = self.ttl_secs {
            let _ = write!(text, "; ttl={ttl}");
        }
        if self.stored {
            text.push_str("; stored");
        }
        if self.collapsed {
            text.push_str("; collapsed");
        }
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.append(CACHE_STATUS, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::{CACHE_STATUS, CacheStatus, Outcome};

    #[test]
    fn the_field_is_that_of_the_rfc() {
        let mut headers = HeaderMap::new();
        CacheStatus { ttl_secs: Some(-3), ..CacheStatus::of(Outcome::Stale) }.tell(&mut headers);
        let miss =
            CacheStatus { upstream: Some(StatusCode::OK), stored: true, ..CacheStatus::of(Outcome::Miss) };
        miss.tell(&mut headers);
        let all: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(all, ["Mainstay; hit; ttl=-3", "Mainstay; fwd=uri-miss; fwd-status=200; stored"]);
    }
}
