//! Forwards a request: chooses an upstream, waits for room, sends, and tries another one where that does no harm.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use http::header::{EXPECT, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use mainstay_http::pool::{ClientError, Head, Sent};
use mainstay_http::{Answer, Body, FieldBlock, Interim, Keep, Request};
use mainstay_site::plan::edge::{BalancePlan, HashKey};

use crate::balance::{self, NoUpstream, Tried};
use crate::flight::{Failed, Flight};
use crate::replay::Replay;
use crate::retry::{self, Decision, Failure, Try};
use crate::service::{Refusal, Worker};
use crate::site::Forward;
use crate::sticky;
use crate::trip::Trip;
use crate::upstreams::{Chosen, Group};

/// A request that can be sent more than once.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    version: Version,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    host: Option<String>,
    protocol: Option<String>,
    interim: Interim,
    pub(crate) body: Replay,
    /// The fields, in the place of those of the map.
    block: Option<FieldBlock>,
}

impl Outgoing {
    pub(crate) fn new(request: Request) -> Self {
        Self {
            method: request.method,
            uri: request.uri,
            headers: request.headers,
            version: request.version,
            peer: request.peer,
            local: request.local,
            host: request.host,
            protocol: request.upgrade.map(|upgrade| upgrade.protocol),
            interim: request.interim,
            body: Replay::new(request.body),
            block: None,
        }
    }

    /// Whether there is a body that its client sends.
    pub(crate) fn has_body(&self) -> bool {
        matches!(self.body, Replay::Stream(_))
    }

    /// Waits for a small body, so that a client that is slow to send it keeps nothing from others meanwhile. One that
    /// asks first whether its body is wanted asks the upstream.
    pub(crate) async fn gather(&self) -> Result<(), Refusal> {
        if self.headers.contains_key(EXPECT) {
            return Ok(());
        }
        let gathered = self.body.gather().await;
        gathered.map_err(|error| broken_request(&ClientError::RequestBody(error)))
    }

    /// A request whose fields are in a block.
    pub(crate) fn of_block(request: Request, block: FieldBlock) -> Self {
        Self { block: Some(block), ..Self::new(request) }
    }

    /// What a try needs of it beside the body.
    fn head(&self) -> Head<'_> {
        Head {
            method: &self.method,
            uri: &self.uri,
            version: self.version,
            headers: &self.headers,
            block: self.block.as_ref(),
            keep: if self.block.is_some() { Keep::Block } else { Keep::Map },
            peer: self.peer,
            local: self.local,
            host: self.host.as_deref(),
            protocol: self.protocol.as_deref(),
            interim: &self.interim,
        }
    }
}

/// What a client is known by, for hashing and for limits.
pub(crate) struct Known<'a> {
    pub(crate) client: Option<IpAddr>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) path: &'a [u8],
}

/// The seed of hashes on which all workers and all edges of a site must agree.
const AGREED_SEED: u64 = 0x6d61_696e_7374_6179;

impl Known<'_> {
    /// The hash of what a request is known by.
    pub(crate) fn hash(&self, by: &HashKey) -> u64 {
        let value = match by {
            HashKey::Client => None,
            HashKey::Path => Some(self.path),
            HashKey::Field { name } => self.headers.get(name.as_str()).map(HeaderValue::as_bytes),
            HashKey::Cookie { name } => sticky::values(self.headers, name).next(),
        };
        match (value, self.client) {
            (Some(value), _) => balance::hash::key(value, AGREED_SEED),
            (None, Some(IpAddr::V4(address))) => balance::hash::key(&address.octets(), AGREED_SEED),
            // A network of a size that one household has.
            (None, Some(IpAddr::V6(address))) => balance::hash::key(&address.octets()[..8], AGREED_SEED),
            (None, None) => 0,
        }
    }
}

/// Where a request goes: the group, and the upstream that its cookie names.
pub(crate) struct Place {
    pub(crate) group: Rc<Group>,
    pub(crate) stuck_to: Option<usize>,
}

impl Forward {
    /// The group that a cookie names, or one by weight.
    pub(crate) fn place(&self, worker: &Worker, headers: &HeaderMap) -> Option<Place> {
        for (group, _) in &self.groups {
            let roster = group.roster();
            if let Some(stuck_to) = roster.sticky.as_ref().and_then(|sticky| sticky.upstream(headers)) {
                return Some(Place { group: Rc::clone(group), stuck_to: Some(stuck_to) });
            }
        }
        let group = match self.groups.as_slice() {
            [] => return None,
            [(group, _)] => group,
            groups => {
                let total: u64 = groups.iter().map(|(_, weight)| u64::from(*weight)).sum();
                let mut at = worker.random.borrow_mut().below(total);
                let found = groups.iter().find(|(_, weight)| {
                    let here = at < u64::from(*weight);
                    at = at.saturating_sub(u64::from(*weight));
                    here
                });
                &found.or(groups.first())?.0
            }
        };
        Some(Place { group: Rc::clone(group), stuck_to: None })
    }
}

/// Sends a request to a group, and again where that does no harm.
pub(crate) async fn send(
    worker: &Rc<Worker>,
    place: &Place,
    key: Option<u64>,
    request: &Outgoing,
    trip: &mut Trip,
    mut now: Instant,
) -> Result<Answer, Refusal> {
    let group = &place.group;
    let idempotent = retry::is_idempotent(&request.method);
    let mut tried = Tried::NONE;
    let mut stuck_to = place.stuck_to;
    group.budget.borrow_mut().request(trip.started);
    loop {
        let (chosen, began) = match stuck_to.take().and_then(|index| group.choose_sticky(index, now)) {
            Some(chosen) => (chosen, now),
            None => choose(group, key, &tried, trip, now).await?,
        };
        let index = chosen.index;
        let mut flight = Flight::begin(worker, group, chosen, began);
        let member = Rc::clone(&flight.chosen.member);
        let roster = Rc::clone(&flight.chosen.roster);
        trip.journey.upstream = Some(Rc::clone(&member.name));
        trip.journey.tries += 1;
        tried.insert(index);
        let mut sending = pin!(roster.pool.send_head(&member.upstream, request.head(), request.body.body()));
        let sent = if idempotent {
            tokio::select! {
                biased;
                sent = &mut sending => Some(sent),
                () = member.went_down.notified() => None,
            }
        } else {
            Some(sending.as_mut().await)
        };
        now = Instant::now();
        let (failed, bytes_sent, answer) = match sent {
            Some(Ok(answer)) => {
                let status = answer.response.status();
                if !matches!(status.as_u16(), 502..=504) {
                    let latency = flight.answered(now);
                    trip.journey.upstream_time = Some(latency);
                    if let Some(admitted) = &mut trip.admitted {
                        admitted.latency = Some(latency);
                    }
                    trip.flight = Some(flight);
                    return Ok(with_cookie(answer, place, &roster, index, trip.secure));
                }
                (Failed::of_status(status.as_u16()), true, Some(answer))
            }
            Some(Err(error)) => match Failed::of(&error) {
                Some(mut failed) => {
                    let bytes_sent = error.sent() != Sent::Nothing;
                    if !bytes_sent && failed.failure == Failure::Closed {
                        failed.failure = Failure::NotProcessed;
                    }
                    tracing::debug!(group = group.name, upstream = &*member.name, %error, "an upstream failed a request");
                    (failed, bytes_sent, None)
                }
                None => return Err(broken_request(&error)),
            },
            None => (Failed::went_down(), true, None),
        };
        flight.failed(&failed, now);
        let decision = {
            let failed = Try {
                failure: failed.failure,
                tries: trip.journey.tries,
                idempotent,
                sent: bytes_sent,
                body_at_hand: request.body.is_whole(),
                another: group.has_another(&tried, now),
                deadline: trip.deadline,
            };
            let plan = &roster.shared.plan.retry;
            let mut budget = group.budget.borrow_mut();
            retry::decide(plan, &failed, &mut budget, &mut worker.random.borrow_mut(), now)
        };
        match decision {
            Decision::Retry { after } => {
                worker.metrics.retried(&group.name, failed.label);
                drop((answer, flight));
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                now = Instant::now();
            }
            Decision::Stop(_) => {
                return match answer {
                    Some(answer) => {
                        trip.flight = Some(flight);
                        Ok(with_cookie(answer, place, &roster, index, trip.secure))
                    }
                    None => Err(Refusal::upstream(&failed)),
                };
            }
        }
    }
}

/// Chooses an upstream; waits for one to have room. Answers also when it was chosen.
async fn choose(
    group: &Rc<Group>,
    key: Option<u64>,
    tried: &Tried,
    trip: &mut Trip,
    now: Instant,
) -> Result<(Chosen, Instant), Refusal> {
    // Nobody overtakes those that wait.
    if !group.roster().shared.queue.is_used() {
        match group.choose(key, tried, now) {
            Ok(chosen) => return Ok((chosen, now)),
            Err(NoUpstream::Nobody) => return Err(Refusal::busy("no_upstream")),
            Err(NoUpstream::Full) => {}
        }
    }
    // Boxed, for it is rare: a request that need not wait does not carry its room along.
    let chosen = Box::pin(choose_later(group, key, tried, trip, now)).await?;
    Ok((chosen, Instant::now()))
}

/// Waits in the queue for an upstream to have room.
async fn choose_later(
    group: &Rc<Group>,
    key: Option<u64>,
    tried: &Tried,
    trip: &mut Trip,
    began: Instant,
) -> Result<Chosen, Refusal> {
    let shared = group.plan();
    let Some(_waiting) = shared.queue.join(shared.plan.queue) else {
        return Err(Refusal::busy("queue_full"));
    };
    let until = began + shared.patience();
    let chosen = loop {
        let room = shared.queue.room.notified();
        let now = Instant::now();
        match group.choose(key, tried, now) {
            Ok(chosen) => break Ok(chosen),
            Err(NoUpstream::Nobody) => break Err(Refusal::busy("no_upstream")),
            Err(NoUpstream::Full) if now >= until => break Err(Refusal::busy("queue_timeout")),
            Err(NoUpstream::Full) => {}
        }
        // Also without a word there may be room: health and limits change.
        let look_again = (now + LOOK_AGAIN).min(until);
        let _ = tokio::time::timeout_at(look_again.into(), room).await;
    };
    let waited = began.elapsed();
    trip.journey.queued = Some(trip.journey.queued.unwrap_or_default() + waited);
    chosen
}

/// How long one that waits believes that nothing has changed.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Sticks the client to the upstream that answered.
fn with_cookie(
    mut answer: Answer,
    place: &Place,
    roster: &crate::upstreams::Roster,
    index: usize,
    secure: bool,
) -> Answer {
    if place.stuck_to != Some(index)
        && let Some(sticky) = &roster.sticky
        && let Some(cookie) = sticky.set_cookie(index, secure)
    {
        answer.response.headers_mut().append(SET_COOKIE, cookie);
    }
    answer
}

fn broken_request(error: &ClientError) -> Refusal {
    Refusal { status: error.status(), reason: None, retry_after_secs: None }
}

/// A body that is no longer than a route allows.
pub(crate) fn limited(body: Body, most: u64) -> Result<Body, StatusCode> {
    match body {
        Body::Stream(stream) => match stream.remaining() {
            Some(length) if length > most => Err(StatusCode::PAYLOAD_TOO_LARGE),
            Some(_) => Ok(Body::Stream(stream)),
            None => Ok(Body::Stream(Box::new(crate::limited::Limited { stream, left: most, most }))),
        },
        Body::Full(bytes) if bytes.len() as u64 > most => Err(StatusCode::PAYLOAD_TOO_LARGE),
        body => Ok(body),
    }
}

/// Whether a group's choice needs a key.
pub(crate) fn key(group: &Group, known: &Known<'_>) -> Option<u64> {
    match &group.plan().plan.balance {
        BalancePlan::ConsistentHash { by, .. } => Some(known.hash(by)),
        _ => None,
    }
}
