//! What the role counts. Each worker keeps its counters at hand, so that counting takes no lock.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use mainstay_http::metrics::{Counter, Family, Gauge, Histogram, Registry};

use crate::answer::{Answered, Transport};
use crate::rate::Verdict;

/// Upper bounds in seconds: an answer takes microseconds.
const SECONDS: &[f64] = &[5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 1e-2, 1e-1];

/// Types counted by name; all others together, so that strangers cannot grow the metrics.
const TYPES: [(RecordType, &str); 11] = [
    (RecordType::A, "A"),
    (RecordType::AAAA, "AAAA"),
    (RecordType::NS, "NS"),
    (RecordType::SOA, "SOA"),
    (RecordType::CNAME, "CNAME"),
    (RecordType::TXT, "TXT"),
    (RecordType::MX, "MX"),
    (RecordType::CAA, "CAA"),
    (RecordType::HTTPS, "HTTPS"),
    (RecordType::DS, "DS"),
    (RecordType::ANY, "ANY"),
];
const OTHER_TYPE: usize = TYPES.len();

/// All codes that we ever send.
const CODES: [(ResponseCode, &str); 6] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::Refused, "REFUSED"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::BADVERS, "BADVERS"),
];

/// The metrics of one worker.
pub(crate) struct Metrics {
    queries: Family<Counter>,
    /// The counters of `queries` that were needed so far, by transport, code and type.
    seen: [[[Option<Counter>; OTHER_TYPE + 1]; CODES.len()]; 2],
    seconds: [Histogram; 2],
    truncated: Counter,
    slipped: Counter,
    dropped: Counter,
    ignored: Counter,
    unsent: Counter,
    pub(crate) connections: Gauge,
    pub(crate) refused_connections: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let seconds = registry.histograms(
            "mainstay_dns_query_duration_seconds",
            "Time from a query's arrival at the role to its response's departure.",
            SECONDS,
            &["transport"],
        );
        let limited = registry.counters(
            "mainstay_dns_rate_limited_total",
            "Responses over the rate limit of a client network, by what became of them.",
            &["action"],
        );
        Self {
            queries: registry.counters(
                "mainstay_dns_queries_total",
                "Queries answered, by type, response code and transport.",
                &["type", "rcode", "transport"],
            ),
            seen: Default::default(),
            seconds: [seconds.with(&["udp"]), seconds.with(&["tcp"])],
            truncated: registry.counter(
                "mainstay_dns_truncated_total",
                "Responses that were too large for UDP and sent the client to TCP.",
            ),
            slipped: limited.with(&["truncate"]),
            dropped: limited.with(&["drop"]),
            ignored: registry.counter(
                "mainstay_dns_ignored_total",
                "Messages that were no queries: without a header, or responses themselves.",
            ),
            unsent: registry.counter(
                "mainstay_dns_unsent_total",
                "Responses that could not be sent: no route to the client, or the network's queue was full.",
            ),
            connections: registry
                .gauge("mainstay_dns_tcp_connections_open", "TCP connections that are open now."),
            refused_connections: registry.counter(
                "mainstay_dns_tcp_connections_refused_total",
                "TCP connections closed at once because the role or the client's network had too many.",
            ),
        }
    }

    pub(crate) fn answered(&mut self, answered: &Answered, transport: Transport, took: Duration) {
        let by_type = answered.query_type.map_or(OTHER_TYPE, |asked| {
            TYPES.iter().position(|(known, _)| *known == asked).unwrap_or(OTHER_TYPE)
        });
        let by_code = CODES.iter().position(|(known, _)| *known == answered.code).unwrap_or_default();
        let counter = self.seen[transport as usize][by_code][by_type].get_or_insert_with(|| {
            let type_name = TYPES.get(by_type).map_or("other", |(_, name)| *name);
            let transport = if transport == Transport::Udp { "udp" } else { "tcp" };
            self.queries.with(&[type_name, CODES[by_code].1, transport])
        });
        counter.inc();
        if answered.truncated {
            self.truncated.inc();
        }
        self.seconds[transport as usize].observe(took);
    }

    pub(crate) fn limited(&self, verdict: Verdict) {
        match verdict {
            Verdict::Send => {}
            Verdict::Truncate => self.slipped.inc(),
            Verdict::Drop => self.dropped.inc(),
        }
    }

    pub(crate) fn ignored(&self) {
        self.ignored.inc();
    }

    pub(crate) fn unsent(&self) {
        self.unsent.inc();
    }
}
