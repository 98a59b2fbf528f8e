//! What may be looked up, what may be kept and for how long, and what may be given of it: RFC 9111, 3 and 4. Pure.

use http::header::{
    AGE, AUTHORIZATION, CONTENT_RANGE, COOKIE, DATE, ETAG, EXPIRES, IF_MATCH, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, SET_COOKIE, TRAILER,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use mainstay_http::{Body, Request, date};
use mainstay_site::plan::edge::CachePlan;

use super::directives::{RequestDirectives, ResponseDirectives, seconds};
use super::vary::{Unmatchable, Vary};

/// A point in time, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds of a clock that only runs forwards.
    pub monotonic_ms: u64,
    /// Seconds since 1970, to compare with dates that others wrote.
    pub wall_secs: u64,
}

/// Why a request is not looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Its method is neither GET nor HEAD.
    Method,
    /// It has a body, wants another protocol or a certain version of the resource, or asks for one thing by its URL and
    /// for another one by a field.
    Request,
}

/// Fields by which some frameworks answer another request than that of the request line. A stored answer to one would
/// poison the URL for all.
const OVERRIDES: [HeaderName; 6] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-middleware-subrequest"),
];

/// Whether a request may be answered from the cache at all.
pub fn lookup(request: &Request) -> Result<(), Pass> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Pass::Method);
    }
    let has_body = !matches!(&request.body, Body::Empty) && request.body.length() != Some(0);
    // The conditions of 13.1.1 and 13.1.4 of RFC 9110 are the origin's to judge.
    let exact = request.headers.contains_key(IF_MATCH) || request.headers.contains_key(IF_UNMODIFIED_SINCE);
    let overridden = OVERRIDES.iter().any(|field| request.headers.contains_key(field));
    if has_body || exact || overridden || request.upgrade.is_some() { Err(Pass::Request) } else { Ok(()) }
}

/// Whether a request says who asks.
pub(crate) fn is_personal(request: &HeaderMap) -> bool {
    request.contains_key(AUTHORIZATION) || request.contains_key(COOKIE)
}

/// Why a response is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request or the response says `no-store`.
    NoStore,
    /// It is for one user: `private`, a cookie is set, or it answers a request with `Authorization` without saying that
    /// it is for others too (3.5).
    Private,
    /// Its status is not one that is kept.
    Status,
    /// It is a part, or has trailers.
    Partial,
    /// It depends on more than can be compared.
    Vary,
    /// It says nothing about its freshness.
    NoFreshness,
    /// It is larger than what is kept.
    Size,
}

impl Refusal {
    /// Whether the next response for this URL is likely to be like that.
    pub(crate) fn is_lasting(self, status: StatusCode) -> bool {
        !status.is_server_error() && !matches!(self, Self::Partial)
    }
}

/// Under which terms a response is kept. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Its age when it came (4.2.3).
    pub initial_age_ms: u64,
    /// How old it may get and still be fresh (4.2.1).
    pub lifetime_ms: u64,
    /// The origin is asked each time.
    pub no_cache: bool,
    /// Never given stale.
    pub must_revalidate: bool,
    /// How long it may be given stale while it is refreshed.
    pub stale_while_revalidate_ms: u64,
    /// How long it may be given stale while the origin fails.
    pub stale_if_error_ms: u64,
    /// Also for requests with `Authorization` (3.5).
    pub authorized: bool,
}

/// Statuses that are kept; those that a cache may keep by heuristics come first (RFC 9110, 15.1).
const KEPT: [u16; 14] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501, 302, 303, 307];
const KEPT_BY_HEURISTICS: usize = 11;

impl Terms {
    /// Judges a response to a GET that took `delay_ms` to come and came at `now`.
    pub fn of(
        plan: &CachePlan,
        request: &HeaderMap,
        status: StatusCode,
        response: &HeaderMap,
        now: Moment,
        delay_ms: u64,
    ) -> Result<(Self, Vary), Refusal> {
        let says = ResponseDirectives::of(response);
        let known = KEPT.iter().position(|kept| *kept == status.as_u16());
        let no_store = says.no_store && !(says.must_understand && known.is_some());
        if no_store || RequestDirectives::of(request).no_store {
            return Err(Refusal::NoStore);
        }
        let authorized = says.public || says.s_maxage.is_some() || says.must_revalidate;
        if says.private
            || response.contains_key(SET_COOKIE)
            || (request.contains_key(AUTHORIZATION) && !authorized)
        {
            return Err(Refusal::Private);
        }
        if status == StatusCode::PARTIAL_CONTENT
            || response.contains_key(CONTENT_RANGE)
            || response.contains_key(TRAILER)
        {
            return Err(Refusal::Partial);
        }
        let known = known.ok_or(Refusal::Status)?;
        let vary = Vary::of(response, request).map_err(|why| match why {
            Unmatchable::Star => Refusal::Vary,
            Unmatchable::Person => Refusal::Private,
        })?;
        let by_heuristics = known < KEPT_BY_HEURISTICS && !is_personal(request);
        let lifetime_ms = lifetime_ms(plan, &says, response, now, by_heuristics);
        let validates = response.contains_key(ETAG) || response.contains_key(LAST_MODIFIED);
        let lifetime_ms = match lifetime_ms {
            Some(lifetime_ms) => lifetime_ms,
            None if says.public || says.no_cache => 0,
            None => return Err(Refusal::NoFreshness),
        };
        let explicit_stale = says.stale_while_revalidate.is_some() || says.stale_if_error.is_some();
        if (lifetime_ms == 0 || says.no_cache) && !validates && !explicit_stale {
            // It could never be used.
            return Err(Refusal::NoFreshness);
        }
        // Whoever says nothing of staleness gets the plan's, unless what it says of freshness forbids it (4.2.4).
        let may_default = lifetime_ms > 0 && says.s_maxage.is_none();
        let or_default = |said: Option<u64>, default_ms: u64| match said {
            Some(seconds) => seconds * 1000,
            None if may_default => default_ms,
            None => 0,
        };
        let terms = Self {
            initial_age_ms: initial_age_ms(response, now, delay_ms),
            lifetime_ms,
            no_cache: says.no_cache,
            must_revalidate: says.must_revalidate || says.proxy_revalidate,
            stale_while_revalidate_ms: or_default(
                says.stale_while_revalidate,
                plan.stale_while_revalidate_ms,
            ),
            stale_if_error_ms: or_default(says.stale_if_error, plan.stale_if_error_ms),
            authorized,
        };
        Ok((terms, vary))
    }

    /// Whether it may answer anyone but the request that it was fetched for without another look at the origin.
    pub fn is_shared(&self) -> bool {
        !self.no_cache && self.lifetime_ms > self.initial_age_ms
    }

    /// Milliseconds for which it is still fresh at this age; negative when it is stale.
    pub fn fresh_for_ms(&self, age_ms: u64) -> i64 {
        i64::try_from(self.lifetime_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(age_ms)
    }

    /// What may be done with it at this age for a request that says this (4.2.4, 5.2.1).
    pub fn usage(&self, request: &RequestDirectives, age_ms: u64) -> Use {
        let fresh_for_ms = self.fresh_for_ms(age_ms);
        let too_old = request.max_age.is_some_and(|most| age_ms > most * 1000);
        let too_short = request
            .min_fresh
            .is_some_and(|least| fresh_for_ms < i64::try_from(least * 1000).unwrap_or(i64::MAX));
        if self.no_cache || request.no_cache || too_old || too_short {
            return Use::Validate;
        }
        if fresh_for_ms > 0 {
            return Use::Fresh;
        }
        let stale_ms = fresh_for_ms.unsigned_abs();
        if self.must_revalidate {
            Use::Validate
        } else if request.max_stale.is_some_and(|most| stale_ms <= most * 1000) {
            Use::Stale
        } else if stale_ms < self.stale_while_revalidate_ms {
            Use::StaleWhileRevalidate
        } else {
            Use::Validate
        }
    }

    /// Whether it may be given at this age because the origin failed (RFC 5861, 4).
    pub fn usable_on_error(&self, age_ms: u64) -> bool {
        let fresh_for_ms = self.fresh_for_ms(age_ms);
        let within = fresh_for_ms > 0 || fresh_for_ms.unsigned_abs() < self.stale_if_error_ms;
        within && !self.no_cache && !self.must_revalidate
    }
}

/// What may be done with a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Give it.
    Fresh,
    /// Give it, though it is stale: the client says that it bears that.
    Stale,
    /// Give it, and fetch a new one.
    StaleWhileRevalidate,
    /// Ask the origin first.
    Validate,
}

/// Freshness of its own, or by heuristics (4.2.1, 4.2.2); `None` where there is neither.
fn lifetime_ms(
    plan: &CachePlan,
    says: &ResponseDirectives,
    response: &HeaderMap,
    now: Moment,
    by_heuristics: bool,
) -> Option<u64> {
    if let Some(seconds) = says.s_maxage.or(says.max_age) {
        return Some(seconds * 1000);
    }
    let sent = time(response, &DATE).unwrap_or(now.wall_secs);
    if response.contains_key(EXPIRES) && !says.targeted {
        // What is no date is in the past (5.3). Of several, the first that a reader may take decides: the earliest.
        let times = response.get_all(EXPIRES).iter().map(|field| field.to_str().ok().and_then(date::parse));
        let expires = times.map(Option::unwrap_or_default).min().unwrap_or(0);
        return Some(expires.saturating_sub(sent).saturating_mul(1000).min(1 << 42));
    }
    if !by_heuristics || says.no_cache || plan.heuristic_ms == 0 {
        return None;
    }
    let modified = time(response, &LAST_MODIFIED)?;
    let tenth_ms = sent.saturating_sub(modified).saturating_mul(100);
    Some(tenth_ms.min(plan.heuristic_ms)).filter(|lifetime_ms| *lifetime_ms > 0)
}

/// The age of a response when it came (4.2.3).
fn initial_age_ms(response: &HeaderMap, now: Moment, delay_ms: u64) -> u64 {
    let apparent = time(response, &DATE).map_or(0, |sent| now.wall_secs.saturating_sub(sent));
    let told =
        response.get(AGE).and_then(|field| field.to_str().ok()).and_then(|field| seconds(field.trim()));
    let corrected_ms = told.map_or(0, |told| (told * 1000).saturating_add(delay_ms));
    corrected_ms.max(apparent.saturating_mul(1000))
}

/// A field that holds a date.
pub(crate) fn time(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok().and_then(date::parse)
}
