//! Groups of upstreams: who is in them, and how they are chosen, reached, checked and tried again.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::CertificatePlan;

/// Servers that answer the same requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamGroup {
    /// Its name, in metrics and logs.
    pub name: String,
    /// How one is chosen.
    pub balance: BalancePlan,
    /// A cookie that keeps a client at its upstream.
    pub sticky: Option<StickyPlan>,
    /// The servers.
    pub upstreams: Vec<Upstream>,
    /// What is spoken to them.
    pub protocol: UpstreamProtocol,
    /// TLS to them.
    pub tls: Option<UpstreamTls>,
    /// A PROXY header in front of every connection to them. Connections are then not shared by clients.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Active health checks.
    pub health: Option<HealthPlan>,
    /// Passive health: upstreams that fail requests are left out for a while.
    pub outlier: Option<OutlierPlan>,
    /// After it comes (back), an upstream's share grows to its full weight over this time; 0: at once.
    pub slow_start_ms: u64,
    /// Requests in flight at one upstream, of the whole edge; 0: no limit.
    pub connections: u32,
    /// Requests that wait for a free upstream, of the whole edge.
    pub queue: u32,
    /// How long one waits at most.
    pub queue_ms: u64,
    /// How long connecting (with TLS) may take.
    pub connect_ms: u64,
    /// From the request's end until the response's head.
    pub first_byte_ms: u64,
    /// Between two pieces of a response.
    pub between_bytes_ms: u64,
    /// How long a connection is kept without a request.
    pub idle_ms: u64,
    /// Second tries.
    pub retry: RetryPlan,
}

/// One server of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name, in metrics and logs: the server's.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share compared with the others', 0 to 1000; with 0 it gets no new requests.
    pub weight: u32,
    /// Used only when no other is left.
    pub backup: bool,
    /// Gets no new requests, but those of clients that stick to it.
    pub drain: bool,
}

/// How an upstream is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BalancePlan {
    /// Each in turn, by weight, smoothly.
    RoundRobin,
    /// The one with the fewest requests in flight, by weight.
    LeastConnections,
    /// The better of two at random, by a moving average of latency that remembers peaks, and requests in flight.
    Latency,
    /// The same key to the same upstream, unless that one has too many.
    ConsistentHash {
        /// What is hashed.
        by: HashKey,
        /// The most that one upstream may have, in per cent of the mean (over 100).
        bound_percent: u32,
    },
}

/// What a request is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address (IPv6: its /64).
    Client,
    /// A field's value; requests without it by the client's address.
    Field {
        /// The field's name, in lower case.
        name: String,
    },
    /// A cookie's value; requests without it by the client's address.
    Cookie {
        /// The cookie's name.
        name: String,
    },
    /// The path.
    Path,
}

/// A signed cookie that names an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyPlan {
    /// The cookie's name.
    pub cookie: String,
    /// Its life in seconds; 0: the browser's session.
    pub max_age_secs: u64,
}

/// What is spoken to upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge without TLS and by ALPN with it.
    Http2,
}

/// TLS to upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTls {
    /// The name that is sent and verified; without it, the upstream's address is verified.
    pub server_name: Option<String>,
    /// The secret that holds the authorities' certificates in PEM; without it, the system's authorities.
    pub authorities_secret: Option<String>,
    /// A certificate to show.
    pub certificate: Option<CertificatePlan>,
}

/// Versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthPlan {
    /// What is asked.
    pub check: HealthCheck,
    /// Another port than that of requests.
    pub port: Option<u16>,
    /// From one check to the next; up to a tenth is added or taken at random.
    pub interval_ms: u64,
    /// For the whole check.
    pub timeout_ms: u64,
    /// Passes in a row until an upstream that was down is up.
    pub rise: u32,
    /// Failures in a row until an upstream that was up is down.
    pub fall: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HealthCheck {
    /// A connection is taken.
    Tcp,
    /// A GET is answered as expected.
    Http {
        /// The path, with query.
        path: String,
        /// The `Host` to ask for.
        host: String,
        /// The lowest and the highest status that pass.
        status: (u16, u16),
        /// What the body's first 64 KiB must contain.
        body: Option<String>,
    },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// The service asked for; empty for the whole server.
        service: String,
    },
}

/// Passive health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierPlan {
    /// Failed requests in a row (no connection, no response, 502 to 504) that put an upstream out.
    pub consecutive: u32,
    /// An upstream is slow if its mean latency is over this many per cent of the group's median; 0: never.
    pub latency_percent: u32,
    /// How long one is out the first time; doubled each time, up to `most_ms`.
    pub base_ms: u64,
    /// The longest time out.
    pub most_ms: u64,
    /// The share of a group that may be out, in per cent; at least one upstream always stays.
    pub most_percent: u32,
}

/// Second tries on another upstream. Only requests of which nothing can have been processed twice are tried again:
/// none of it was sent, or the method is idempotent, and its body is still at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPlan {
    /// Tries after the first; 0: none.
    pub attempts: u32,
    /// Retries may add this many per cent to the requests of the last seconds.
    pub budget_percent: u32,
    /// Whether idempotent requests that were answered 502, 503 or 504 are tried again too.
    pub on_status: bool,
}
