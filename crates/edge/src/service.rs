//! Answers requests on one worker.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use mainstay_http::access_log::AccessLog;
use mainstay_http::compress::{self, Wish};
use mainstay_http::path::SitePath;
use mainstay_http::request_id::RequestIds;
use mainstay_http::{Answer, Body, FieldBlock, Keep, Request, Response, Service};
use tokio::sync::mpsc;

use crate::balance::random::Random;
use crate::cache::Key;
use crate::client;
use crate::control::Told;
use crate::fields::{self, AddressValues, Arrival, X_REQUEST_ID};
use crate::flight::Failed;
use crate::forward::{self, Known, Outgoing, Place};
use crate::health::Event;
use crate::in_force::SharedGroup;
use crate::metrics::Metrics;
use crate::passing::{self, Way};
use crate::record::{Id, Record};
use crate::retry::Failure;
use crate::route::Asked;
use crate::site::{Action, Forward, Site};
use crate::trip::{Journey, Trip};
use crate::{pages, rate, shed, target, trace};

/// Seconds after which a client that met a busy group may try again.
const BUSY_SECS: u32 = 1;

/// One worker's load balancer.
pub(crate) struct Edge(pub(crate) Rc<Worker>);

/// What one worker has.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) site: RefCell<Rc<Site>>,
    pub(crate) metrics: Metrics,
    pub(crate) log: Rc<AccessLog>,
    pub(crate) ids: RequestIds,
    pub(crate) random: RefCell<Random>,
    pub(crate) addresses: AddressValues,
    pub(crate) told: mpsc::Sender<Told>,
}

/// Why a request gets no answer of an upstream.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// Where it was turned away by us: the reason, in metrics and log.
    pub(crate) reason: Option<&'static str>,
    pub(crate) retry_after_secs: Option<u32>,
}

impl Refusal {
    pub(crate) fn plain(status: StatusCode) -> Self {
        Self { status, reason: None, retry_after_secs: None }
    }

    pub(crate) fn busy(reason: &'static str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, reason: Some(reason), retry_after_secs: Some(BUSY_SECS) }
    }

    /// No upstream answered.
    pub(crate) fn upstream(failed: &Failed) -> Self {
        let status = match failed.failure {
            Failure::Timeout | Failure::WentDown => StatusCode::GATEWAY_TIMEOUT,
            Failure::NotConnected => return Self::busy("unreachable"),
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::plain(status)
    }
}

impl Service for Edge {
    const KEEP: Keep = Keep::Block;

    async fn answer(self: Rc<Self>, mut request: Request, block: Option<FieldBlock>) -> Answer {
        if let Some(block) = block {
            let worker = &self.0;
            let site = Rc::clone(&worker.site.borrow());
            match Way::of(worker, &site, &request, &block) {
                Some(way) => return passing::pass(worker, &site, request, block, way).await,
                None => request.headers = block.into_map(),
            }
        }
        self.call(request).await.into()
    }

    async fn call(self: Rc<Self>, request: Request) -> Response {
        let worker = &self.0;
        let site = Rc::clone(&worker.site.borrow());
        let peer = request.peer.map(|peer| peer.ip().to_canonical());
        let trusted = peer.is_some_and(|peer| site.trusted.contains(peer));
        let fresh = worker.ids.next();
        let brought = (trusted && site.in_force.plan.keep_request_ids)
            .then(|| fields::brought_id(&request.headers).cloned())
            .flatten();
        let id = brought.map_or(Id::Own(fresh), Id::Brought);
        let mut record = Record::new(worker, &site.nobody, &request, id, Instant::now());
        if trusted && let Some(peer) = peer {
            record.client = Some(client::address(peer, &request.headers, &site.trusted));
        }
        let json = pages::wants_json(&request.headers);
        let wish = site.in_force.plan.compress.then(|| {
            Wish::of(&request.method, &request.headers, request.host.as_deref().unwrap_or_default())
        });
        let answered = worker.answer(&site, request, trusted, &fresh, &mut record).await;
        let mut response = match answered {
            Ok(response) => match &wish {
                Some(wish) => compress::response(response, wish),
                None => response,
            },
            Err(Turned::Away(refusal)) => {
                record.trip.journey.refused = refusal.reason;
                pages::error(refusal.status, record.id.as_bytes(), json, refusal.retry_after_secs)
            }
            Err(Turned::Closed) => {
                record.trip.journey.refused = Some("maintenance");
                match &site.maintenance {
                    Some(closed) => pages::maintenance(&closed.message, closed.retry_after_secs, json),
                    None => pages::error(StatusCode::SERVICE_UNAVAILABLE, record.id.as_bytes(), json, None),
                }
            }
        };
        for (policy, left) in record.rates.drain(..) {
            response.headers_mut().append(rate::POLICY, policy);
            response.headers_mut().append(rate::LEFT, left);
        }
        record.route.response_edits.apply(response.headers_mut());
        response.headers_mut().insert(X_REQUEST_ID, record.id.value());
        let status = response.status();
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = record.answered(status, body);
        response
    }
}

/// Why a request is not answered as it wishes.
enum Turned {
    Away(Refusal),
    /// Maintenance.
    Closed,
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self::Away(refusal)
    }
}

impl From<StatusCode> for Turned {
    fn from(status: StatusCode) -> Self {
        Self::Away(Refusal::plain(status))
    }
}

impl Worker {
    /// Tells the control thread what was seen of an upstream. If that is too busy, it will see the next one.
    pub(crate) fn tell(&self, group: &Arc<SharedGroup>, event: Event) {
        if self.told.try_send(Told::Health(Arc::clone(group), event)).is_err() {
            self.metrics.events_dropped.inc();
        }
    }

    async fn answer(
        self: &Rc<Self>,
        site: &Rc<Site>,
        mut request: Request,
        trusted: bool,
        fresh: &[u8; 32],
        record: &mut Record,
    ) -> Result<Response, Turned> {
        let host = request.host.as_deref().unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        // Also where the client was shown a certificate that is not this host's (RFC 9110, 15.5.20).
        if !site.hosts.contains(host) || request.tls.as_ref().is_some_and(|tls| !tls.is_for(host)) {
            return Err(StatusCode::MISDIRECTED_REQUEST.into());
        }
        if request.method == Method::TRACE || request.method == Method::CONNECT {
            return Err(StatusCode::METHOD_NOT_ALLOWED.into());
        }
        // `OPTIONS *` is about the server, and has no path (RFC 9110, 9.3.7).
        if request.uri.path() == "*" {
            return Ok(options());
        }
        let raw = request.uri.path().to_owned();
        let path = SitePath::parse(&raw).map_err(|_| StatusCode::BAD_REQUEST)?;
        if let Some(closed) = &site.maintenance
            && !record.client.is_some_and(|client| closed.allow.contains(client))
        {
            return Err(Turned::Closed);
        }
        if site.in_force.plan.redirect_to_tls && request.tls.is_none() {
            let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            return redirect(
                StatusCode::PERMANENT_REDIRECT,
                &format!("https://{host}{}{query}", path.encoded),
            );
        }
        let asked = Asked {
            host,
            path: &path.decoded,
            query: request.uri.query(),
            method: &request.method,
            headers: &request.headers,
            client: record.client,
        };
        let number = site.routes.find(&asked).ok_or(StatusCode::NOT_FOUND)?;
        let route = Rc::clone(&site.targets[number]);
        record.route = Rc::clone(&route);
        let certificate = request.tls.as_ref().is_some_and(|tls| tls.client.is_some());
        if route.client_certificate && !certificate {
            return Err(StatusCode::FORBIDDEN.into());
        }
        let known = Known { client: record.client, headers: &request.headers, path: &path.decoded };
        for rate in &route.rates {
            let key = rate.by.as_ref().map_or(0, |by| known.hash(by));
            let verdict = rate.table.check(key, record.started);
            if let Ok(left) = HeaderValue::try_from(rate.fields.limit_field(&verdict)) {
                record.rates.push((rate.policy.clone(), left));
            }
            if let Some(seconds) = verdict.retry_after_secs() {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let retry_after_secs = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
                return Err(Refusal { status, reason: Some("rate"), retry_after_secs }.into());
            }
        }
        if let Some(slots) = &route.slots {
            record.slot = Some(slots.take().ok_or_else(|| Refusal::busy("concurrency"))?);
        }
        let forward = match &route.action {
            Action::Redirect { to, status, segments } => {
                let rest = target::after_segments(&path.encoded, *segments);
                return redirect(*status, &target::location(to, rest, request.uri.query()));
            }
            Action::Respond { status, body } => return Ok(fixed(*status, body)),
            Action::Forward(forward) => forward,
        };
        if let Some(length) = request.headers.get(CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            route.metrics.received.add(length.unwrap_or(0));
        }
        request.body = forward::limited(std::mem::take(&mut request.body), route.body_bytes)?;
        let place = forward.place(self, &request.headers).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let key = forward::key(&place.group, &known);
        record.group = Some(Rc::clone(&place.group.label));
        record.trip.deadline = route.timeout.map(|timeout| record.started + timeout);
        // What one who showed a certificate gets is for nobody else.
        let cache = site.cache.as_ref().filter(|_| route.cache && !certificate);
        let cached = cache
            .and_then(|cache| Some((cache, Key::of(&request, request.tls.is_some(), &route.partition)?)));
        self.prepare(&mut request, &path, forward, trusted, fresh, record)?;
        route.request_edits.apply(&mut request.headers);
        // A route without a time limit has long polls, which are slow for reasons of their own.
        let shed = site.in_force.plan.shed && route.timeout.is_some();
        let sending = async {
            match cached {
                None => {
                    let outgoing = Outgoing::new(request);
                    self.send(&place, key, outgoing, shed, &mut record.trip).await.map(Answer::into_response)
                }
                Some((cache, key_of_cache)) => {
                    let journey = Rc::new(RefCell::new(Journey::default()));
                    let fetch = self.fetch(place, key, shed, record, &journey);
                    // Boxed, so that requests that go past the cache do not carry its room along.
                    let answer = Box::pin(cache.answer(request, key_of_cache, fetch));
                    let (response, status) = answer.await;
                    record.cache = Some(status.outcome.name());
                    record.trip.journey = journey.take();
                    Ok(response)
                }
            }
        };
        // Awaited in place: what is moved into an `await` is copied, and this is large.
        let mut sending = pin!(sending);
        match route.timeout {
            None => Ok(sending.as_mut().await?),
            Some(timeout) => match tokio::time::timeout(timeout, sending.as_mut()).await {
                Ok(sent) => Ok(sent?),
                Err(_) => Err(StatusCode::GATEWAY_TIMEOUT.into()),
            },
        }
    }

    /// Sends a request when its turn has come.
    pub(crate) async fn send(
        self: &Rc<Self>,
        place: &Place,
        key: Option<u64>,
        request: Outgoing,
        shed: bool,
        trip: &mut Trip,
    ) -> Result<Answer, Refusal> {
        let mut now = trip.started;
        if request.has_body() {
            request.gather().await?;
            now = Instant::now();
        }
        if shed {
            let gate = &place.group.gate;
            let admitted = gate.admit().await;
            let began = std::mem::replace(&mut now, Instant::now());
            trip.journey.queued = Some(now.saturating_duration_since(began))
                .filter(|waited| *waited > Duration::from_micros(100));
            let mut admitted = admitted.map_err(|shed| Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                reason: Some(shed.label()),
                retry_after_secs: Some(shed::RETRY_AFTER_SECS),
            })?;
            request.body.pausing(|| admitted.pause(gate));
            trip.admitted = Some(admitted);
        }
        forward::send(self, place, key, &request, trip, now).await
    }

    /// What fetches for the cache. It may outlive the request that began it, and so has a trip of its own.
    fn fetch(
        self: &Rc<Self>,
        place: Place,
        key: Option<u64>,
        shed: bool,
        record: &Record,
        journey: &Rc<RefCell<Journey>>,
    ) -> impl FnOnce(Request) -> Pin<Box<dyn Future<Output = Response>>> + 'static {
        let (worker, journey) = (Rc::clone(self), Rc::clone(journey));
        let (id, secure, limit) = (record.id.clone(), record.tls.is_some(), record.route.timeout);
        move |request| {
            Box::pin(async move {
                let json = pages::wants_json(&request.headers);
                let mut trip = Trip::new(Instant::now(), secure);
                trip.deadline = limit.map(|limit| trip.started + limit);
                let sent = worker.send(&place, key, Outgoing::new(request), shed, &mut trip).await;
                match sent {
                    Ok(answer) => {
                        let mut response = answer.into_response();
                        *journey.borrow_mut() = trip.journey.clone();
                        let body = std::mem::take(response.body_mut());
                        *response.body_mut() = trip.carry(body);
                        response
                    }
                    Err(refusal) => {
                        trip.journey.refused = refusal.reason;
                        *journey.borrow_mut() = trip.journey.clone();
                        pages::error(refusal.status, id.as_bytes(), json, refusal.retry_after_secs)
                    }
                }
            })
        }
    }

    /// Makes a client's request one that an upstream expects from a proxy.
    fn prepare(
        &self,
        request: &mut Request,
        path: &SitePath<'_>,
        forward: &Forward,
        trusted: bool,
        fresh: &[u8; 32],
        record: &mut Record,
    ) -> Result<(), StatusCode> {
        let host = request.headers.get(HOST).cloned().or_else(|| {
            let authority = request.uri.authority()?;
            HeaderValue::from_str(authority.as_str()).ok()
        });
        forward.change.apply(&mut request.uri, path).map_err(|_| StatusCode::BAD_REQUEST)?;
        let tls = request.tls.clone();
        let client = tls.as_ref().and_then(|tls| tls.client.as_ref());
        let arrival = Arrival {
            subject: client.map(|client| client.subject.as_str()),
            peer: request.peer.map(|peer| peer.ip()),
            client: record.client,
            trusted,
            secure: record.tls.is_some(),
            port: request.local.map(|local| local.port()),
            host: host.as_ref(),
            id: &record.id.value(),
        };
        fields::forward(&mut request.headers, &arrival, &self.addresses);
        record.trace = Some(trace::pass_on(&mut request.headers, fresh));
        match (&forward.host, host) {
            (Some(host), _) => {
                request.headers.insert(HOST, host.clone());
            }
            (None, Some(host)) => {
                request.headers.insert(HOST, host);
            }
            (None, None) => {}
        }
        Ok(())
    }
}

fn redirect(status: StatusCode, location: &str) -> Result<Response, Turned> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    let location = HeaderValue::from_str(location).map_err(|_| StatusCode::BAD_REQUEST)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

fn fixed(status: StatusCode, body: &bytes::Bytes) -> Response {
    let mut response = Response::new(Body::Full(body.clone()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn options() -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    response
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use mainstay_http::{Request, Service};

    use super::Edge;

    fn size_of_future<F>(_of: impl FnOnce(Rc<Edge>, Request) -> F) -> usize {
        size_of::<F>()
    }

    /// Each connection carries room for one; what is moved is copied.
    #[test]
    fn a_request_is_a_small_future() {
        let bytes = size_of_future(|edge: Rc<Edge>, request| edge.call(request));
        assert!(bytes <= 6 * 1024, "{bytes}");
    }
}
