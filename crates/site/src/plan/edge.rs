//! The load balancer's part of a plan: what it listens on, which requests it takes, and who answers them.
//!
//! Requests meet [`EdgeRoute`]s in order; the first that matches takes them. A route that forwards names
//! [`UpstreamGroup`]s, and a group's [`Upstream`]s are the servers among which it balances. Names of routes, groups and
//! upstreams are labels in metrics and logs. All times are whole milliseconds.

mod group;
mod route;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{HostPattern, WebLimits};
use crate::{ByteSize, ServerName};

pub use group::{
    BalancePlan, HashKey, HealthCheck, HealthPlan, OutlierPlan, ProxyVersion, RetryPlan, StickyPlan,
    Upstream, UpstreamGroup, UpstreamProtocol, UpstreamTls,
};
pub use route::{
    EdgeRoute, FieldCondition, FieldEdits, FieldValue, PathCondition, Rewrite, RouteAction, RouteCondition,
};

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
