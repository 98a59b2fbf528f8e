//! The load balancer's part of a plan: what it listens on, which requests it takes, and who answers them.
//!
//! Requests meet [`EdgeRoute`]s in order; the first that matches takes them. A route that forwards names
//! [`UpstreamGroup`]s, and a group's [`Upstream`]s are the servers among which it balances. Names of routes, groups and
//! upstreams are labels in metrics and logs. All times are whole milliseconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{HostPattern, WebLimits};
use crate::{ByteSize, ServerName};

/// The load balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgePlan {
    /// The server that this edge runs on; told in logs.
    pub server: ServerName,
    /// Where HTTP is answered.
    pub listeners: Vec<EdgeListener>,
    /// Requests that came without TLS are redirected (308) to the same address with `https`, on port 443.
    #[serde(default)]
    pub redirect_to_tls: bool,
    /// Services that are no HTTP: bytes are passed on as they are.
    pub tcp: Vec<TcpService>,
    /// Certificates for listeners with TLS; the first answers clients that name no server.
    pub certificates: Vec<CertificatePlan>,
    /// Certificates that clients show to listeners with TLS, where they are asked for them.
    #[serde(default)]
    pub client_certificates: Option<ClientCertificates>,
    /// The names that are answered; a request for another name gets 421.
    pub hosts: Vec<HostPattern>,
    /// The first that matches takes the request; none: 404.
    pub routes: Vec<EdgeRoute>,
    /// Groups of upstreams, which routes and services name.
    pub groups: Vec<UpstreamGroup>,
    /// Networks (`10.0.0.0/8`) whose `Forwarded`, `X-Forwarded-*` and PROXY headers are believed.
    pub trusted_proxies: Vec<String>,
    /// Limits on what clients may send.
    pub limits: WebLimits,
    /// Open connections of one client address; 0: as many as `limits` allows.
    pub connections_per_client: u32,
    /// Limits on how often, named by routes.
    pub rates: Vec<RateLimit>,
    /// Whether text is compressed on the fly for clients that accept it.
    pub compress: bool,
    /// The shared cache; none unless the file asks.
    pub cache: Option<CachePlan>,
    /// Turns everyone away but the allowed networks, while it is there.
    pub maintenance: Option<Maintenance>,
    /// Requests worked on at once are limited by what the upstreams are seen to bear, so that overload keeps goodput.
    pub shed: bool,
    /// Requests from trusted networks keep the request id they bring.
    pub keep_request_ids: bool,
    /// How long a replaced process keeps connections that left HTTP, such as `WebSocket`s.
    pub drain_ms: u64,
    /// The name of the secret that signs cookies; equal on all edges of a site.
    pub cookie_secret: String,
}

/// An address that HTTP is answered on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeListener {
    /// The address.
    pub address: SocketAddr,
    /// With TLS: HTTP/1.1 and h2 by ALPN. Without: HTTP/1.1 and h2c.
    pub tls: bool,
    /// Every connection begins with a PROXY header (version 1 or 2), from a trusted network.
    pub proxy_protocol: bool,
}

/// A certificate with its key. The names are in the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatePlan {
    /// The secret that holds the chain in PEM, the server's own certificate first.
    pub chain_secret: String,
    /// The secret that holds the private key in PEM.
    pub key_secret: String,
}

/// What clients show of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificates {
    /// The secret that holds the certificates of those who issue them, in PEM.
    pub authorities_secret: String,
    /// Whether a client without one gets no connection.
    pub required: bool,
}

/// A service that is no HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpService {
    /// Its name, in metrics and logs.
    pub name: String,
    /// Where it is offered.
    pub listen: SocketAddr,
    /// What becomes of TLS.
    pub tls: TcpTls,
    /// Every connection begins with a PROXY header, from a trusted network.
    pub proxy_protocol: bool,
    /// Groups by the server name that a client's TLS hello names; the first that matches. Empty without `tls`.
    pub by_name: Vec<(HostPattern, String)>,
    /// The group for all others; none: they are turned away.
    pub group: Option<String>,
    /// Silence in both directions after which a connection is closed.
    pub idle_ms: u64,
    /// Open connections.
    pub connections: u32,
    /// Open connections of one client; 0: as many as `connections` allows.
    #[serde(default)]
    pub connections_per_client: u32,
}

/// What a TCP service does with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TcpTls {
    /// Bytes are bytes.
    None,
    /// The hello is read for its server name and passed on untouched.
    Passthrough,
    /// TLS ends here.
    Terminate,
}

/// Which requests go where, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeRoute {
    /// Its name, in metrics and logs.
    pub name: String,
    /// What a request must be like.
    pub condition: RouteCondition,
    /// What becomes of it.
    pub action: RouteAction,
    /// Edits of the request's fields on the way to the upstream.
    pub request_fields: FieldEdits,
    /// Edits of the response's fields on the way to the client.
    pub response_fields: FieldEdits,
    /// The largest request body, where the route has a limit of its own.
    pub body: Option<ByteSize>,
    /// From the request's head to the end of the response; 0: no limit.
    pub timeout_ms: u64,
    /// Names of rate limits that requests must pass.
    pub rates: Vec<String>,
    /// Requests of this route worked on at once; 0: no limit.
    pub concurrent: u32,
    /// Whether responses may be kept in the cache, where there is one.
    pub cache: bool,
    /// Whether clients that showed no certificate are refused.
    #[serde(default)]
    pub client_certificate: bool,
}

/// What a request must be like; all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteCondition {
    /// One of these hosts; empty: every host.
    pub hosts: Vec<HostPattern>,
    /// The path, decoded and normalised.
    pub path: PathCondition,
    /// One of these methods; empty: every method.
    pub methods: Vec<String>,
    /// All of these fields.
    pub fields: Vec<FieldCondition>,
    /// All of these parameters of the query: name, and value if a certain one is wanted.
    pub query: Vec<(String, Option<String>)>,
    /// The client is in one of these networks; empty: everywhere.
    pub clients: Vec<String>,
}

/// What a path must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathCondition {
    /// Equal to it, or below it (`/shop` takes `/shop` and `/shop/cart`, not `/shopping`). `/` takes all.
    Prefix(String),
    /// Equal to it.
    Exact(String),
    /// Ends with it, such as `.php`.
    Suffix(String),
}

impl Default for PathCondition {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// What a field must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldCondition {
    /// The field's name, in lower case.
    pub name: String,
    /// What one of its values must be; without it, the field must be there.
    pub value: Option<FieldValue>,
}

/// What a field's value must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldValue {
    /// Equal to it.
    Exact(String),
    /// Begins with it.
    Prefix(String),
    /// Contains it.
    Contains(String),
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouteAction {
    /// To a group; with several, by their weights, a client's sticky cookie first.
    Forward {
        /// Names of groups with their weights.
        groups: Vec<(String, u32)>,
        /// How the path changes on the way.
        rewrite: Option<Rewrite>,
        /// The `Host` that the upstream sees; without it, the client's.
        host: Option<String>,
    },
    /// A redirect to `to`; a final `*` in it is replaced by the path and query that follow the route's prefix.
    Redirect {
        /// The new location.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// A fixed answer.
    Respond {
        /// The status.
        status: u16,
        /// The body, as `text/plain` unless a response field says otherwise.
        body: String,
    },
}

/// How a path changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rewrite {
    /// The condition's prefix is replaced by this one.
    Prefix(String),
    /// The whole path is replaced; the query stays.
    Path(String),
}

/// Edits of header fields, in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldEdits {
    /// Names of fields to remove.
    pub remove: Vec<String>,
    /// Fields whose values are replaced.
    pub set: BTreeMap<String, String>,
    /// Fields that get one more value.
    pub add: BTreeMap<String, String>,
}

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

/// How often requests may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Its name, which routes give.
    pub name: String,
    /// Requests of the same key share one allowance; without a key, all do.
    pub by: Option<HashKey>,
    /// All of these must hold.
    pub windows: Vec<RateWindow>,
}

/// So many requests in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateWindow {
    /// Requests.
    pub requests: u32,
    /// The time.
    pub per_ms: u64,
    /// Requests that may come at once.
    pub burst: u32,
}

/// The shared cache (RFC 9111).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachePlan {
    /// Memory for all that is kept.
    pub memory: ByteSize,
    /// The largest response that is kept.
    pub object: ByteSize,
    /// How long a response without freshness of its own may be kept at most, by a tenth of its age; 0: not at all.
    pub heuristic_ms: u64,
    /// How long a stale response may be given while a new one is fetched, where it does not say itself.
    pub stale_while_revalidate_ms: u64,
    /// How long a stale response may be given when there is no other, where it does not say itself.
    pub stale_if_error_ms: u64,
}

/// Everyone is turned away with 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// What people are told.
    pub message: String,
    /// Seconds until clients may try again.
    pub retry_after_secs: u32,
    /// Networks that are let through.
    pub allow: Vec<String>,
}
