//! The short way of a usual request: its fields, and those of its response, stay bytes.
//!
//! Most requests are passed on as they came, with a few fields of ours. Whether one is such a request is decided before
//! anything is done about it ([`Way::of`]); all others take the way through [`service`](crate::service), with their
//! fields in a map. Choosing upstreams, retries, limits of time, metrics and log are the same for both.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use mainstay_http::compress::{self, Wish};
use mainstay_http::h1::head::parse_keeping;
use mainstay_http::h1::lines::{HeadScanner, Scan};
use mainstay_http::path::SitePath;
use mainstay_http::request_id::RequestId;
use mainstay_http::settings::Limits;
use mainstay_http::{Answer, FieldBlock, Keep, Request};
use mainstay_site::plan::edge::{BalancePlan, HashKey};

use crate::client::X_FORWARDED_FOR;
use crate::fields::{
    AddressValues, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP, X_REQUEST_ID, is_lie,
};
use crate::forward::{self, Known, Outgoing, Place};
use crate::pages;
use crate::record::{Id, Record};
use crate::route::Asked;
use crate::service::{Refusal, Worker};
use crate::site::{Action, Forward, Route, Site};
use crate::trace::{self, TraceId};

/// Where a usual request goes.
pub(crate) struct Way {
    route: Rc<Route>,
    place: Place,
    key: Option<u64>,
    peer: IpAddr,
}

impl Way {
    /// The way of a usual request; `None` where it needs a closer look. Nothing is done here that would show.
    pub(crate) fn of(worker: &Worker, site: &Site, request: &Request, block: &FieldBlock) -> Option<Self> {
        let peer = request.peer?.ip().to_canonical();
        let plan = &site.in_force.plan;
        let unusual = !site.passes
            || site.trusted.contains(peer)
            || request.upgrade.is_some()
            || (request.uri.authority().is_some() && request.version != Version::HTTP_2)
            || matches!(request.method, Method::TRACE | Method::CONNECT)
            || (plan.redirect_to_tls && request.tls.is_none());
        if unusual {
            return None;
        }
        let host = request.host.as_deref()?;
        let host = host.strip_suffix('.').unwrap_or(host);
        if !site.hosts.contains(host) || request.tls.as_ref().is_some_and(|tls| !tls.is_for(host)) {
            return None;
        }
        let path = SitePath::parse(request.uri.path()).ok().filter(SitePath::is_borrowed)?;
        let headers = &request.headers;
        let number = site.routes.find(&Asked {
            host,
            path: &path.decoded,
            query: request.uri.query(),
            method: &request.method,
            headers,
            client: Some(peer),
        })?;
        let route = Rc::clone(&site.targets[number]);
        let forward = route.forward().filter(|_| route.passes)?;
        if forward.groups.iter().any(|(group, _)| group.asks_for_fields()) {
            return None;
        }
        block.first(b"host")?;
        let place = forward.place(worker, headers)?;
        let key = forward::key(&place.group, &Known { client: Some(peer), headers, path: &path.decoded });
        Some(Self { route, place, key, peer })
    }
}

/// Passes a usual request on.
pub(crate) async fn pass(
    worker: &Rc<Worker>,
    site: &Site,
    mut request: Request,
    block: FieldBlock,
    way: Way,
) -> Answer {
    let fresh = worker.ids.next();
    let mut record = Record::new(worker, &way.route, &request, Id::Own(fresh), Instant::now());
    record.host = request.host.take();
    let sent = send(worker, site, request, &block, &way, &fresh, &mut record).await;
    let answer = match sent {
        Ok(answer) => finish(site, answer, &block, &fresh, &record),
        Err(refusal) => {
            record.trip.journey.refused = refusal.reason;
            let json = pages::wants_json(&block.to_map());
            let mut error = pages::error(refusal.status, &fresh, json, refusal.retry_after_secs);
            error.headers_mut().insert(X_REQUEST_ID, record.id.value());
            error.into()
        }
    };
    record.block = Some(block);
    let Answer { mut response, block } = answer;
    let status = response.status();
    let body = std::mem::take(response.body_mut());
    *response.body_mut() = record.answered(status, body);
    Answer { response, block }
}

async fn send(
    worker: &Rc<Worker>,
    site: &Site,
    mut request: Request,
    block: &FieldBlock,
    way: &Way,
    fresh: &RequestId,
    record: &mut Record,
) -> Result<Answer, Refusal> {
    let route = &way.route;
    let Some(forward) = route.forward() else { return Err(Refusal::plain(StatusCode::NOT_FOUND)) };
    route.metrics.received.add(request.body.length().unwrap_or(0));
    request.body =
        forward::limited(std::mem::take(&mut request.body), route.body_bytes).map_err(Refusal::plain)?;
    record.group = Some(Rc::clone(&way.place.group.label));
    record.trip.deadline = route.timeout.map(|timeout| record.started + timeout);
    let arrival = Arrival {
        peer: way.peer,
        secure: record.tls.is_some(),
        port: request.local.map(|local| local.port()),
        host: forward.host.as_ref(),
        fresh,
    };
    let (fields, trace) = upstream_block(block, &arrival, &worker.addresses);
    record.trace = Some(trace);
    if !forward.change.is_none() {
        let raw = request.uri.path().to_owned();
        let path = SitePath::parse(&raw).map_err(|_| Refusal::plain(StatusCode::BAD_REQUEST))?;
        let changed = forward.change.apply(&mut request.uri, &path);
        changed.map_err(|_| Refusal::plain(StatusCode::BAD_REQUEST))?;
    }
    let shed = site.in_force.plan.shed && route.timeout.is_some();
    let outgoing = Outgoing::of_block(request, fields);
    let mut sending = pin!(worker.send(&way.place, way.key, outgoing, shed, &mut record.trip));
    match route.timeout {
        None => sending.as_mut().await,
        Some(timeout) => match tokio::time::timeout(timeout, sending.as_mut()).await {
            Ok(sent) => sent,
            Err(_) => Err(Refusal::plain(StatusCode::GATEWAY_TIMEOUT)),
        },
    }
}

/// What the client gets to see of the response.
fn finish(site: &Site, answer: Answer, asked: &FieldBlock, fresh: &RequestId, record: &Record) -> Answer {
    let Some(mut block) = answer.block else { return named(answer, record) };
    let response = answer.response;
    if site.in_force.plan.compress {
        if !Wish::is_nothing(asked) {
            let host = record.host.as_deref().unwrap_or_default();
            let wish = Wish::of(&record.method, &asked.to_map(), host);
            let response = Answer { response, block: Some(block) }.into_response();
            return named(compress::response(response, &wish).into(), record);
        }
        compress::mark(response.status(), &mut block, response.body());
    }
    let is_id = |name: &[u8]| name == X_REQUEST_ID.as_str().as_bytes();
    if block.iter().any(|field| is_id(field.name)) {
        let mut without = FieldBlock::with_capacity(block.lines().len() + OWN_BYTES, block.len() + 1);
        without.extend(&block, |field| !is_id(field.name));
        block = without;
    }
    // Hexadecimal digits are a valid value.
    let _ = block.push_parts(&X_REQUEST_ID, &[fresh]);
    Answer { response, block: Some(block) }
}

fn named(answer: Answer, record: &Record) -> Answer {
    let mut response = answer.into_response();
    response.headers_mut().insert(X_REQUEST_ID, record.id.value());
    response.into()
}

/// What is told of a request's way here.
struct Arrival<'a> {
    peer: IpAddr,
    secure: bool,
    port: Option<u16>,
    /// The host that the upstream is asked for, where it is not the client's.
    host: Option<&'a HeaderValue>,
    fresh: &'a RequestId,
}

/// A stranger's fields as those of a proxied request: what [`fields::forward`](crate::fields::forward) and
/// [`trace::pass_on`] make of a map.
fn upstream_block(
    client: &FieldBlock,
    arrival: &Arrival<'_>,
    values: &AddressValues,
) -> (FieldBlock, TraceId) {
    let (mut host, mut parents, mut came, mut state_bytes) = (&[][..], 0, None, 0);
    for field in client {
        match field.name {
            b"host" => host = field.value,
            b"traceparent" => {
                parents += 1;
                came = trace::parse(field.value);
            }
            b"tracestate" => state_bytes += field.value.len(),
            _ => {}
        }
    }
    let came = came.filter(|_| parents == 1);
    let keep_state = came.is_some() && state_bytes <= trace::STATE_BYTES;
    let room = client.lines().len() + OWN_BYTES;
    let mut block = FieldBlock::with_capacity(room, client.len() + OWN_FIELDS);
    block.extend(client, |field| match field.name {
        b"host" => arrival.host.is_none(),
        b"traceparent" => false,
        b"tracestate" => keep_state,
        name => !is_lie(name),
    });
    // All parts are values already, or made of what fits into one; what was no value would be left out.
    let mut put = |name: HeaderName, parts: &[&[u8]]| block.push_parts(&name, parts).unwrap_or_default();
    if let Some(host) = arrival.host {
        put(HOST, &[host.as_bytes()]);
    }
    let address = values.of(arrival.peer);
    let address = address.as_ref().map_or(&b"unknown"[..], HeaderValue::as_bytes);
    let (before, after): (&[u8], &[u8]) = match arrival.peer {
        IpAddr::V6(_) => (b"for=\"[", b"]\";host=\""),
        IpAddr::V4(_) => (b"for=", b";host=\""),
    };
    let proto: &[u8] = if arrival.secure { b"https" } else { b"http" };
    // A host has neither quotes nor backslashes: it was parsed.
    put(FORWARDED, &[before, address, after, host, b"\";proto=", proto]);
    put(X_FORWARDED_FOR, &[address]);
    put(X_REAL_IP, &[address]);
    put(X_FORWARDED_PROTO, &[proto]);
    put(X_FORWARDED_HOST, &[host]);
    if let Some(port) = arrival.port {
        put(X_FORWARDED_PORT, &[values.of_port(port).as_bytes()]);
    }
    put(X_REQUEST_ID, &[arrival.fresh]);
    let (trace, parent) = trace::parent(came, arrival.fresh);
    put(trace::TRACEPARENT, &[&parent]);
    (block, trace)
}

/// Room for our own fields.
const OWN_BYTES: usize = 512;
const OWN_FIELDS: usize = 9;

impl Route {
    fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            _ => None,
        }
    }
}

impl crate::upstreams::Group {
    /// Whether its choice of an upstream may depend on a request's fields.
    fn asks_for_fields(&self) -> bool {
        let roster = self.roster();
        let by_field = matches!(
            &roster.shared.plan.balance,
            BalancePlan::ConsistentHash { by: HashKey::Field { .. } | HashKey::Cookie { .. }, .. }
        );
        roster.sticky.is_some() || by_field
    }
}

/// What an upstream gets of a stranger's head: by the short way, written and read again, and by the long way. For tests
/// and the fuzzer, who hold them against each other; `None` where a head is refused or does not take the short way.
#[doc(hidden)]
pub fn both_ways(
    head: &[u8],
    peer: IpAddr,
    secure: bool,
    other_host: bool,
) -> Option<(HeaderMap, HeaderMap)> {
    let limits = Limits::default();
    let by_map = parse_keeping(head, &limits, Keep::Map);
    let by_block = parse_keeping(head, &limits, Keep::Block);
    assert_eq!(by_map.as_ref().err(), by_block.as_ref().err(), "one way refuses what the other takes");
    let (mut headers, block) = (by_map.ok()?.headers, by_block.ok()?.block?);
    assert_eq!(block.to_map(), headers, "the two forms of a head differ");
    block.first(b"host")?;
    let fresh = b"00112233445566778899aabbccddeeff";
    let other = other_host.then(|| HeaderValue::from_static("other.test"));
    let arrival = Arrival { peer: peer.to_canonical(), secure, port: Some(443), host: other.as_ref(), fresh };
    let (sent, _) = upstream_block(&block, &arrival, &AddressValues::default());
    let text = [&b"GET / HTTP/1.1\r\n"[..], sent.lines(), b"\r\n"].concat();
    assert_eq!(HeadScanner::default().scan(&text), Ok(Scan::Complete { start: 0, end: text.len() }));
    let roomy = Limits { headers: limits.headers + OWN_FIELDS, ..limits };
    let sent = parse_keeping(&text, &roomy, Keep::Map).map(|head| head.headers);

    let host = headers.get(HOST).cloned();
    let told = crate::fields::Arrival {
        subject: None,
        peer: Some(peer),
        client: Some(peer.to_canonical()),
        trusted: false,
        secure,
        port: Some(443),
        host: host.as_ref(),
        id: &HeaderValue::from_static("00112233445566778899aabbccddeeff"),
    };
    crate::fields::forward(&mut headers, &told, &AddressValues::default());
    trace::pass_on(&mut headers, fresh);
    if let Some(host) = other {
        headers.insert(HOST, host);
    }
    // A head that can no longer be read is one that differs.
    Some((sent.unwrap_or_default(), headers))
}

#[cfg(test)]
mod tests {
    use super::both_ways;
    use proptest::prelude::*;

    const NAMES: [&str; 24] = [
        "Accept",
        "accept-encoding",
        "X-Forwarded-For",
        "x-forwarded-Proto",
        "X-FORWARDED-HOST",
        "x-forwarded-other",
        "Forwarded",
        "X-Real-IP",
        "x-request-id",
        "X-Request-Id-Not",
        "Proxy",
        "Proxy-Connection",
        "x_forwarded_for",
        "_",
        "Cookie",
        "Connection",
        "Keep-Alive",
        "TraceParent",
        "tracestate",
        "Content-Length",
        "Trailer",
        "X-Named",
        "f",
        "!#$%&'*+-.^`|~",
    ];
    const VALUES: [&str; 12] = [
        "",
        "a",
        "\u{e4}\t b",
        "close",
        "keep-alive, x-named",
        "X-Named",
        "accept",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        "0",
        "6.6.6.6",
        "for=6.6.6.6",
    ];

    proptest! {
        #[test]
        fn the_short_way_sends_what_the_long_way_sends(
            fields in proptest::collection::vec((0..NAMES.len(), 0..VALUES.len(), 0_usize..4), 0..14),
            host in prop::sample::select(vec!["a.test", "A.test:8080", "[::1]:80", "a_b."]),
            peer in prop::sample::select(vec!["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]),
            secure: bool,
            other_host: bool,
        ) {
            let mut text = format!("GET /a?b HTTP/1.1\r\nHost: {host}\r\n");
            for (name, value, form) in fields {
                // The space around a value is not part of it.
                let (before, after) = [(" ", ""), ("", ""), ("  ", " "), ("\t", "\t")][form];
                text.push_str(&format!("{}:{before}{}{after}\r\n", NAMES[name], VALUES[value]));
            }
            text.push_str("\r\n");
            if let Some((short, long)) = both_ways(text.as_bytes(), peer.parse().unwrap(), secure, other_host) {
                prop_assert_eq!(short, long);
            }
        }
    }
}
