//! A response that is kept.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, DATE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use mainstay_http::date;

use super::fill::Fill;
use super::key::Key;
use super::policy::{Moment, Terms};
use super::vary::Vary;

/// A response as the upstream sent it, with what it is found by and the terms under which it is kept.
#[derive(Debug)]
pub struct Stored {
    /// Its URL and part of the cache.
    pub key: Key,
    /// Which requests it is for.
    pub vary: Vary,
    /// The status.
    pub status: StatusCode,
    /// The fields, without those that are of one connection or one moment.
    pub headers: HeaderMap,
    /// How long it may be given.
    pub terms: Terms,
    /// When it came.
    pub received: Moment,
    /// The body.
    pub content: Content,
}

/// A body in memory.
#[derive(Debug, Clone)]
pub enum Content {
    /// All of it.
    Whole(Bytes),
    /// It is still coming.
    Growing(Arc<Fill>),
}

/// Fields that are not kept (RFC 9111, 3.1), and such as are of one request.
const NOT_KEPT: [HeaderName; 10] = [
    AGE,
    CONTENT_LENGTH,
    HeaderName::from_static("connection"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("set-cookie"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("server-timing"),
];

/// What an entry takes beside its names, fields and body: maps, queues, counters.
const OVERHEAD_BYTES: usize = 512;
/// What a field takes beside its name and value.
const FIELD_BYTES: usize = 96;

impl Stored {
    /// Milliseconds since the origin made it (RFC 9111, 4.2.3).
    pub fn age_ms(&self, now: Moment) -> u64 {
        self.terms.initial_age_ms + now.monotonic_ms.saturating_sub(self.received.monotonic_ms)
    }

    /// The length of the body, where it is known.
    pub fn length(&self) -> Option<u64> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes.len() as u64),
            Content::Growing(fill) => fill.length(),
        }
    }

    /// The same with all of the body.
    pub(crate) fn with(&self, bytes: Bytes) -> Self {
        Self {
            key: self.key.clone(),
            vary: self.vary.clone(),
            status: self.status,
            headers: self.headers.clone(),
            terms: self.terms,
            received: self.received,
            content: Content::Whole(bytes),
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let fields: usize =
            self.headers.iter().map(|(name, value)| FIELD_BYTES + name.as_str().len() + value.len()).sum();
        let body = match &self.content {
            Content::Whole(bytes) => bytes.len(),
            Content::Growing(_) => 0,
        };
        // The URL is a key too.
        OVERHEAD_BYTES + 2 * self.key.url.len() + self.vary.bytes() + fields + body
    }
}

/// The fields of a response that are kept, with the date on which it came if it has none (RFC 9110, 6.6.1).
pub(crate) fn kept_fields(response: &HeaderMap, now: Moment) -> HeaderMap {
    let mut headers = response.clone();
    for name in NOT_KEPT {
        headers.remove(name);
    }
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_bytes(&date::format(now.wall_secs))
    {
        headers.insert(DATE, date);
    }
    headers
}
