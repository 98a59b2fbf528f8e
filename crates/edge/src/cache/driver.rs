//! The way of a request through the cache.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LOCATION, LOCATION, RANGE};
use http::{Method, StatusCode};
use mainstay_http::{Body, Request, Response};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Cache;
use super::directives::RequestDirectives;
use super::fetch::{self, Fetch, Fetched};
use super::fill::Patience;
use super::flight::{Flight, Stage};
use super::key::{Key, is_safe};
use super::policy::{self, Moment, Pass, Use};
use super::reply::reply;
use super::status::{CacheStatus, Outcome};
use super::store::Turn;
use super::stored::Stored;
use super::validate;

/// How long a request waits for another one's fetch, in all.
const WAIT: Duration = Duration::from_secs(5);
/// How often a request looks again after it waited: once for what `Vary` is found to name, once if who fetched left.
const LOOKS: usize = 3;
/// Background tasks of a worker.
const MOST_TASKS: usize = 1024;

/// The cache as one worker uses it. It owns the tasks that refresh and fill, which end with it.
pub struct WorkerCache {
    cache: Arc<Cache>,
    tasks: RefCell<JoinSet<()>>,
}

impl WorkerCache {
    /// One worker's share.
    pub fn new(cache: &Arc<Cache>) -> Self {
        Self { cache: Arc::clone(cache), tasks: RefCell::default() }
    }

    /// The cache itself.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Answers a request from the cache, or with what `fetch` brings, which is asked at most once. `fetch` tells a
    /// failure to get a response by 502, 503 or 504. It may outlive the request. `Cache-Status` is added.
    pub async fn answer<F, Fut>(&self, request: Request, key: Key, fetch: F) -> (Response, CacheStatus)
    where
        F: FnOnce(Request) -> Fut + 'static,
        Fut: Future<Output = Response> + 'static,
    {
        let (mut response, status) = match policy::lookup(&request) {
            Ok(()) => self.look(request, key, fetch).await,
            Err(pass) => self.pass(request, &key, pass, fetch).await,
        };
        self.cache.metrics.count(status.outcome);
        status.tell(response.headers_mut());
        (response, status)
    }

    async fn pass<F, Fut>(&self, request: Request, key: &Key, pass: Pass, fetch: F) -> (Response, CacheStatus)
    where
        F: FnOnce(Request) -> Fut,
        Fut: Future<Output = Response>,
    {
        let is_unsafe = !is_safe(&request.method);
        let response = fetch(request).await;
        if is_unsafe && (response.status().is_success() || response.status().is_redirection()) {
            self.invalidate(key, &response);
        }
        let outcome = if pass == Pass::Method { Outcome::PassMethod } else { Outcome::Pass };
        let status = CacheStatus { upstream: Some(response.status()), ..CacheStatus::of(outcome) };
        (response, status)
    }

    /// Forgets what an unsafe request may have changed (RFC 9111, 4.4).
    fn invalidate(&self, key: &Key, response: &Response) {
        let mut count = self.cache.store.remove_url(&key.url);
        for name in [LOCATION, CONTENT_LOCATION] {
            let named = response.headers().get(name).and_then(|field| field.to_str().ok());
            if let Some(url) = named.and_then(|reference| key.sibling(reference)) {
                count += self.cache.store.remove_url(&url);
            }
        }
        self.cache.metrics.invalidated.add(count as u64);
    }

    async fn look<F, Fut>(&self, request: Request, key: Key, fetch: F) -> (Response, CacheStatus)
    where
        F: FnOnce(Request) -> Fut + 'static,
        Fut: Future<Output = Response> + 'static,
    {
        let asks = RequestDirectives::of(&request.headers);
        let deadline = Instant::now() + WAIT;
        let mut looks = 0;
        loop {
            looks += 1;
            let now = self.cache.now();
            let (stored, has_others) = self.cache.store.find(&key, &request.headers);
            // Whoever says who they are gets only what says that it is for them too (3.5).
            let authorized = request.headers.contains_key(AUTHORIZATION);
            let stored = stored.filter(|stored| !authorized || stored.terms.authorized);
            let usage = stored.as_ref().map(|stored| stored.terms.usage(&asks, stored.age_ms(now)));
            if let (Some(stored), Some(usage)) = (&stored, usage)
                && usage != Use::Validate
                && let Some(response) = self.reply(stored, &request, now)
            {
                let outcome = if usage == Use::Fresh { Outcome::Hit } else { Outcome::Stale };
                let status = CacheStatus { ttl_secs: Some(ttl(stored, now)), ..CacheStatus::of(outcome) };
                if usage == Use::StaleWhileRevalidate {
                    self.refresh(&request, key, Arc::clone(stored), fetch);
                }
                return (response, status);
            }
            if asks.only_if_cached {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
                return (response, CacheStatus::of(Outcome::OnlyIfCached));
            }
            let miss = match (&stored, has_others) {
                (Some(_), _) => Outcome::Expired,
                (None, true) => Outcome::VaryMiss,
                (None, false) => Outcome::Miss,
            };
            let part = request.headers.contains_key(RANGE) && stored.is_none();
            if request.method == Method::HEAD || asks.no_store || part {
                let response = fetch(request).await;
                let status = CacheStatus { upstream: Some(response.status()), ..CacheStatus::of(miss) };
                return (response, status);
            }
            let turn = self.cache.store.join(&key, &request.headers, now.monotonic_ms);
            let (lead, ticket_alone) = match turn {
                Turn::Lead(lead) => (Some(lead), None),
                Turn::Alone(ticket) => (None, Some(ticket)),
                Turn::Wait(flight) => match self.wait(&flight, &request, &asks, deadline).await {
                    Waited::Answer(response, status) => return (response, status),
                    Waited::Again if looks < LOOKS => continue,
                    Waited::Again | Waited::Alone => (None, Some(self.cache.store.alone(&key))),
                },
            };
            let what = Fetch { request, key, stored, miss, lead, alone: ticket_alone };
            return self.fetch(what, fetch).await;
        }
    }

    /// Waits for another request's fetch.
    async fn wait(
        &self,
        flight: &Arc<Flight>,
        request: &Request,
        asks: &RequestDirectives,
        deadline: Instant,
    ) -> Waited {
        let Ok(stage) = timeout_at(deadline, flight.stage()).await else {
            self.cache.metrics.wait_timeouts.inc();
            return Waited::Alone;
        };
        let (stored, is_error) = match stage {
            Stage::Ready(stored) => (stored, false),
            Stage::Failed(stored) => (stored, true),
            Stage::Released => return Waited::Alone,
            Stage::Waiting | Stage::Ended => return Waited::Again,
        };
        let authorized = request.headers.contains_key(AUTHORIZATION);
        let suits = stored.key == flight.key
            && stored.vary.matches(&request.headers)
            && (!authorized || stored.terms.authorized);
        let now = self.cache.now();
        // It was fetched after this request came, so that whoever wants it checked has it checked.
        let fresh_enough = is_error
            || asks.min_fresh.is_none_or(|least| ttl(&stored, now) >= least.cast_signed())
                && asks.max_age.is_none_or(|most| stored.terms.initial_age_ms <= most * 1000);
        if !suits || !fresh_enough {
            return Waited::Again;
        }
        let Some(response) = self.reply(&stored, request, now) else { return Waited::Again };
        let outcome = if is_error { Outcome::StaleIfError } else { Outcome::Coalesced };
        let status =
            CacheStatus { ttl_secs: Some(ttl(&stored, now)), collapsed: true, ..CacheStatus::of(outcome) };
        Waited::Answer(response, status)
    }

    /// Fetches for this request, and for those who wait.
    async fn fetch<F, Fut>(&self, what: Fetch, fetch: F) -> (Response, CacheStatus)
    where
        F: FnOnce(Request) -> Fut,
        Fut: Future<Output = Response>,
    {
        let Fetched { response, status, fill } = fetch::run(&self.cache, what, fetch).await;
        if let Some(fill) = fill {
            self.spawn(fill.await_end());
        }
        (response, status)
    }

    /// Fetches in the background what was just given stale, unless someone does that already.
    fn refresh<F, Fut>(&self, request: &Request, key: Key, stored: Arc<Stored>, fetch: F)
    where
        F: FnOnce(Request) -> Fut + 'static,
        Fut: Future<Output = Response> + 'static,
    {
        if !self.has_room() {
            return;
        }
        let now_ms = self.cache.now().monotonic_ms;
        let turn = self.cache.store.join(&key, &request.headers, now_ms);
        let Turn::Lead(lead) = turn else { return };
        let request = validate::full(request, None);
        let what = Fetch {
            request,
            key,
            stored: Some(stored),
            miss: Outcome::Expired,
            lead: Some(lead),
            alone: None,
        };
        self.cache.metrics.refreshes.inc();
        let cache = Arc::clone(&self.cache);
        self.spawn(async move {
            let Fetched { response, fill, .. } = fetch::run(&cache, what, fetch).await;
            drop(response);
            if let Some(mut fill) = fill {
                fill.patience = Patience::Always;
                fill.await_end().await;
            }
        });
    }

    fn reply(&self, stored: &Stored, request: &Request, now: Moment) -> Option<Response> {
        reply(stored, &request.method, &request.headers, now, |fill| fill.reader(None))
    }

    fn has_room(&self) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task of the cache was lost to a bug");
            }
        }
        tasks.len() < MOST_TASKS
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // A body that is on its way is bounded by memory and by connections, and must not stop here.
        self.has_room();
        self.tasks.borrow_mut().spawn_local(task);
    }
}

/// What came of waiting.
enum Waited {
    Answer(Response, CacheStatus),
    /// Look again: what came does not suit, or nothing came.
    Again,
    Alone,
}

/// Seconds of freshness that are left.
pub(crate) fn ttl(stored: &Stored, now: Moment) -> i64 {
    stored.terms.fresh_for_ms(stored.age_ms(now)).div_euclid(1000)
}
