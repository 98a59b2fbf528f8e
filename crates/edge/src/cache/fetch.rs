//! Asking the upstream, and what becomes of its answer: stored, merged, passed on, or a stale one instead.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode};
use mainstay_http::{Body, BodyStream, Request, Response};

use super::Cache;
use super::driver::ttl;
use super::fill::{End, Fill, Patience, Rest};
use super::flight::{Stage, Ticket};
use super::key::Key;
use super::policy::{Moment, Refusal, Terms};
use super::reply::{Part, part, reply};
use super::status::{CacheStatus, Outcome};
use super::store::Lead;
use super::stored::{Content, Stored, kept_fields};
use super::validate;
use super::vary::Vary;

/// A request on its way to the upstream.
pub(crate) struct Fetch {
    pub(crate) request: Request,
    pub(crate) key: Key,
    /// What is there already, but may not be given as it is.
    pub(crate) stored: Option<Arc<Stored>>,
    /// What the look was, if nothing better comes of it.
    pub(crate) miss: Outcome,
    /// Others wait for it; else:
    pub(crate) lead: Option<Lead>,
    /// leave to store it.
    pub(crate) alone: Option<Ticket>,
}

/// What came of it.
pub(crate) struct Fetched {
    pub(crate) response: Response,
    pub(crate) status: CacheStatus,
    /// A body that somebody has to pump.
    pub(crate) fill: Option<Filling>,
}

/// A body on its way into the store.
pub(crate) struct Filling {
    pub(crate) patience: Patience,
    cache: Arc<Cache>,
    fill: Arc<Fill>,
    stream: Box<dyn BodyStream>,
    rest: Rest,
    stored: Arc<Stored>,
    /// The fields that the stored response is for.
    request: HeaderMap,
    context: Context,
}

/// Who fetches, for whom.
struct Context {
    lead: Option<Lead>,
    alone: Option<Ticket>,
}

impl Context {
    fn publish(&self, stage: Stage) {
        if let Some(lead) = &self.lead {
            lead.publish(stage);
        }
    }

    fn ticket(&self) -> Option<&Ticket> {
        self.lead.as_ref().map(|lead| &lead.ticket).or(self.alone.as_ref())
    }
}

/// Asks the upstream once.
pub(crate) async fn run<F, Fut>(cache: &Arc<Cache>, what: Fetch, fetch: F) -> Fetched
where
    F: FnOnce(Request) -> Fut,
    Fut: Future<Output = Response>,
{
    let Fetch { request, key, stored, miss, lead, alone } = what;
    let context = Context { lead, alone };
    // Where nothing is known against keeping it, the whole is fetched, whatever part or version the client asks for.
    let asks_for_all = context.lead.is_some() || stored.is_some();
    let validates = stored.as_ref().filter(|stored| validate::has_validator(stored));
    let upstream = if asks_for_all {
        validate::full(&request, validates.map(|stored| &**stored))
    } else {
        validate::copy(&request)
    };
    let validates = validates.is_some();
    let begun = cache.now();
    let response = fetch(upstream).await;
    let now = cache.now();
    let delay_ms = now.monotonic_ms.saturating_sub(begun.monotonic_ms);
    let upstream = response.status();
    let status = CacheStatus { upstream: Some(upstream), ..CacheStatus::of(miss) };
    let arrival = Arrival { cache, request, key, now, delay_ms, status, asks_for_all };
    if let Some(stored) = stored {
        if upstream == StatusCode::NOT_MODIFIED && validates {
            return arrival.confirmed(&stored, response, &context);
        }
        let failed = matches!(upstream.as_u16(), 500 | 502..=504);
        if failed && stored.terms.usable_on_error(stored.age_ms(now)) {
            return arrival.failed(&stored, response, &context);
        }
        if !failed {
            // Whatever came is newer. If it is kept, it takes the place; if it is not, the old one is wrong all the same.
            return arrival.arrived(Some(&stored), response, context);
        }
    }
    arrival.arrived(None, response, context)
}

/// A response that just came.
struct Arrival<'a> {
    cache: &'a Arc<Cache>,
    request: Request,
    key: Key,
    now: Moment,
    delay_ms: u64,
    status: CacheStatus,
    asks_for_all: bool,
}

impl Arrival<'_> {
    /// The upstream says that the stored response is still right.
    fn confirmed(mut self, stored: &Arc<Stored>, response: Response, context: &Context) -> Fetched {
        self.status.outcome = Outcome::Revalidated;
        let cookies: Vec<_> = response.headers().get_all(SET_COOKIE).iter().cloned().collect();
        let confirms = validate::confirms(&stored.headers, response.headers());
        let merged = validate::merge(&stored.headers, &kept_fields(response.headers(), self.now));
        let body = match &stored.content {
            Content::Whole(bytes) => bytes.clone(),
            Content::Growing(fill) => fill.whole(),
        };
        let mut told = merged.clone();
        if let Some(age) = response.headers().get(AGE) {
            told.insert(AGE, age.clone());
        }
        let judged = self.judge(stored.status, &told).ok().filter(|_| confirms && cookies.is_empty());
        let given = match judged {
            Some((terms, vary)) => {
                let renewed = Stored {
                    key: self.key.clone(),
                    vary,
                    status: stored.status,
                    headers: merged,
                    terms,
                    received: self.now,
                    content: Content::Whole(body),
                };
                let kept = self.insert(renewed, context.ticket());
                self.status.stored = kept.is_some();
                match &kept {
                    Some(kept) if kept.terms.is_shared() => context.publish(Stage::Ready(Arc::clone(kept))),
                    _ => self.release(context, true),
                }
                kept
            }
            None => {
                self.cache.store.remove(stored);
                self.release(context, true);
                None
            }
        };
        let given = given.unwrap_or_else(|| Arc::clone(stored));
        self.status.ttl_secs = Some(ttl(&given, self.now));
        let reply = reply(&given, &self.request.method, &self.request.headers, self.now, |_| None);
        // What is whole can always be given.
        let mut response = reply.unwrap_or_else(bad_gateway);
        for cookie in cookies {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        Fetched { response, status: self.status, fill: None }
    }

    /// The upstream fails, and the stored response may be given instead (RFC 5861, 4).
    fn failed(mut self, stored: &Arc<Stored>, failure: Response, context: &Context) -> Fetched {
        let reply = reply(stored, &self.request.method, &self.request.headers, self.now, |_| None);
        let Some(response) = reply else {
            return Fetched { response: failure, status: self.status, fill: None };
        };
        context.publish(Stage::Failed(Arc::clone(stored)));
        self.status.outcome = Outcome::StaleIfError;
        self.status.ttl_secs = Some(ttl(stored, self.now));
        Fetched { response, status: self.status, fill: None }
    }

    /// A response of its own.
    fn arrived(mut self, old: Option<&Arc<Stored>>, response: Response, context: Context) -> Fetched {
        let (head, body) = response.into_parts();
        let length = body.length().or_else(|| {
            head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
        });
        let judged = self.judge(head.status, &head.headers).and_then(|judged| match &body {
            Body::Empty | Body::Full(_) | Body::Stream(_)
                if length.is_none_or(|length| length <= self.cache.object_bytes as u64) =>
            {
                Ok(judged)
            }
            _ => Err(Refusal::Size),
        });
        let (terms, vary) = match judged {
            Ok(judged) => judged,
            Err(refusal) => {
                if let Some(old) = old {
                    self.cache.store.remove(old);
                }
                self.release(&context, refusal.is_lasting(head.status));
                return self.pass_on(Response::from_parts(head, body));
            }
        };
        let is_shared = terms.is_shared();
        let mut stored = Stored {
            key: self.key.clone(),
            vary,
            status: head.status,
            headers: kept_fields(&head.headers, self.now),
            terms,
            received: self.now,
            content: Content::Whole(Bytes::new()),
        };
        let stream = match body {
            Body::Stream(stream) => stream,
            body => {
                if let Body::Full(bytes) = body {
                    // A copy, for the bytes may be a slice of a far larger buffer.
                    stored.content = Content::Whole(Bytes::copy_from_slice(&bytes));
                }
                return self.arrived_whole(stored, &context);
            }
        };
        let Some(fill) = Fill::new(length, self.cache.object_bytes, &self.cache.budget) else {
            self.release(&context, false);
            return self.pass_on(Response::from_parts(head, Body::Stream(stream)));
        };
        stored.content = Content::Growing(Arc::clone(&fill));
        let stored = Arc::new(stored);
        let rest = Rest::default();
        let reader_rest = Rc::clone(&rest);
        // It was just made, so that nobody can have given it up.
        let reply = reply(&stored, &self.request.method, &self.request.headers, self.now, |fill| {
            fill.reader(Some(reader_rest))
        });
        let mut response = reply.unwrap_or_else(bad_gateway);
        self.first_hand(&stored, &mut response);
        // A 304 reads nothing, and yet the whole was fetched for the sake of those who come later.
        let reads = matches!(response.body(), Body::Stream(_));
        if !is_shared {
            self.release(&context, true);
        } else if length.is_some() {
            context.publish(Stage::Ready(Arc::clone(&stored)));
        }
        self.status.stored = true;
        self.status.ttl_secs = Some(ttl(&stored, self.now));
        let fill = Filling {
            patience: if reads { Patience::WhileRead } else { Patience::Always },
            cache: Arc::clone(self.cache),
            fill,
            stream,
            rest,
            stored,
            request: self.request.headers,
            context,
        };
        Fetched { response, status: self.status, fill: Some(fill) }
    }

    fn arrived_whole(mut self, stored: Stored, context: &Context) -> Fetched {
        let is_shared = stored.terms.is_shared();
        let reply = reply(&stored, &self.request.method, &self.request.headers, self.now, |_| None);
        let mut response = reply.unwrap_or_else(bad_gateway);
        self.first_hand(&stored, &mut response);
        self.status.ttl_secs = Some(ttl(&stored, self.now));
        let kept = self.insert(stored, context.ticket());
        self.status.stored = kept.is_some();
        match kept {
            Some(kept) if is_shared => context.publish(Stage::Ready(kept)),
            _ => self.release(context, !is_shared),
        }
        Fetched { response, status: self.status, fill: None }
    }

    /// The first one to get a response gets it as it came: `Age` only where it was in another cache.
    fn first_hand(&self, stored: &Stored, response: &mut Response) {
        if stored.age_ms(self.now) < 1000 {
            response.headers_mut().remove(AGE);
        }
    }

    fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Result<(Terms, Vary), Refusal> {
        Terms::of(&self.cache.plan, &self.request.headers, status, headers, self.now, self.delay_ms)
    }

    fn insert(&self, stored: Stored, ticket: Option<&Ticket>) -> Option<Arc<Stored>> {
        insert(self.cache, stored, &self.request.headers, ticket)
    }

    /// Lets those who wait go, and those who come as well if this is going to happen again.
    fn release(&self, context: &Context, is_lasting: bool) {
        if is_lasting {
            self.cache.store.pass(&self.key, &self.request.headers, self.now.monotonic_ms);
        }
        context.publish(Stage::Released);
    }

    /// A response that is not kept. What the client asked for by a condition is answered here if the condition was
    /// taken off on the way.
    fn pass_on(self, mut response: Response) -> Fetched {
        if self.asks_for_all && self.request.method == Method::GET {
            let part = part(
                &self.request.method,
                &self.request.headers,
                response.status(),
                response.headers(),
                None,
            );
            if part == Part::NotModified {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.body_mut() = Body::Empty;
                response.headers_mut().remove(CONTENT_LENGTH);
            }
        }
        Fetched { response, status: self.status, fill: None }
    }
}

impl Filling {
    /// Pumps the body, and stores the response when it is complete.
    pub(crate) async fn await_end(self) {
        let end = self.fill.pump(self.stream, self.rest, self.patience).await;
        if end != End::Complete {
            self.cache.metrics.broken.inc();
            if end == End::Overflow {
                let now_ms = self.cache.now().monotonic_ms;
                self.cache.store.pass(&self.stored.key, &self.request, now_ms);
                self.context.publish(Stage::Released);
            }
            return;
        }
        let whole = self.stored.with(self.fill.whole());
        let is_shared = whole.terms.is_shared();
        match insert(&self.cache, whole, &self.request, self.context.ticket()) {
            Some(stored) if is_shared => self.context.publish(Stage::Ready(stored)),
            // It can still be read by those who came in time.
            None if is_shared => self.context.publish(Stage::Ready(Arc::clone(&self.stored))),
            _ => {}
        }
    }
}

fn insert(
    cache: &Arc<Cache>,
    stored: Stored,
    request: &HeaderMap,
    ticket: Option<&Ticket>,
) -> Option<Arc<Stored>> {
    let kept = cache.store.insert(stored, request, ticket?);
    if kept.is_some() {
        cache.metrics.stored.inc();
    }
    kept
}

fn bad_gateway() -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
