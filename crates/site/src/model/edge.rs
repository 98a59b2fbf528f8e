//! The load balancer's settings, as the file gives them. What needs the rest of the site (addresses, hosts) is filled in
//! when plans are derived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::ServerName;
use crate::plan::edge::{
    BalancePlan, CachePlan, EdgeRoute, Maintenance, OutlierPlan, ProxyVersion, RateLimit, RetryPlan,
    StickyPlan, TcpTls, UpstreamProtocol,
};
use crate::plan::{HostPattern, WebLimits};

/// The group that routes lead to where the file names no other: all servers with the role `web`.
pub const DEFAULT_GROUP: &str = "web";
/// An upstream's share where the file gives none.
pub const DEFAULT_WEIGHT: u32 = 100;

/// The load balancer's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct EdgeSettings {
    /// How the default group is balanced, and every other one where it does not say otherwise.
    pub pool: PoolSettings,
    /// Groups of the file, in its order.
    pub groups: Vec<GroupRule>,
    /// Routes of the file, in its order; what none of them takes goes to the default group.
    pub routes: Vec<EdgeRoute>,
    /// Services that are no HTTP.
    pub tcp: Vec<TcpRule>,
    /// Shares of servers that have another than [`DEFAULT_WEIGHT`].
    pub weights: BTreeMap<ServerName, u32>,
    /// Servers that get no new requests.
    pub draining: BTreeSet<ServerName>,
    /// Limits on what clients may send.
    pub limits: WebLimits,
    /// Open connections of one client address; 0: as many as there may be at all.
    pub connections_per_client: u32,
    /// Networks whose forwarding headers are believed.
    pub trusted_proxies: Vec<String>,
    /// Whether every connection of HTTP begins with a PROXY header.
    pub proxy_protocol: bool,
    /// Limits on how often.
    pub rates: Vec<RateLimit>,
    /// Whether text is compressed on the fly.
    pub compress: bool,
    /// The shared cache.
    pub cache: Option<CachePlan>,
    /// Turns visitors away.
    pub maintenance: Option<Maintenance>,
    /// Whether requests are limited to what the upstreams are seen to bear.
    pub shed: bool,
    /// Whether trusted proxies choose request ids.
    pub keep_request_ids: bool,
    /// From a request's head to the end of its response, where its route does not say otherwise.
    pub request_timeout: Duration,
    /// How long a replaced process keeps connections that left HTTP.
    pub drain_timeout: Duration,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            pool: PoolSettings::default(),
            groups: Vec::new(),
            routes: Vec::new(),
            tcp: Vec::new(),
            weights: BTreeMap::new(),
            draining: BTreeSet::new(),
            limits: WebLimits::default(),
            connections_per_client: 1000,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            rates: Vec::new(),
            compress: true,
            cache: None,
            maintenance: None,
            shed: true,
            keep_request_ids: false,
            request_timeout: Duration::from_hours(1),
            drain_timeout: Duration::from_hours(1),
        }
    }
}

/// How requests are spread over a group, and what is done when its servers fail.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// How an upstream is chosen.
    pub balance: BalancePlan,
    /// A cookie that keeps a client at its upstream.
    pub sticky: Option<StickyPlan>,
    /// How long an upstream that comes (back) takes to get its full share.
    pub slow_start: Duration,
    /// Active health checks.
    pub health: HealthSettings,
    /// Passive health.
    pub outlier: Option<OutlierPlan>,
    /// Requests in flight at one upstream; 0: no limit.
    pub max_connections: u32,
    /// Requests that wait for a free upstream.
    pub queue: u32,
    /// How long one waits at most.
    pub queue_timeout: Duration,
    /// Second tries.
    pub retry: RetryPlan,
    /// For connecting.
    pub connect_timeout: Duration,
    /// From the request's end until the response's head.
    pub first_byte_timeout: Duration,
    /// Between two pieces of a response.
    pub between_bytes_timeout: Duration,
    /// How long a connection is kept without a request.
    pub idle_timeout: Duration,
    /// What is spoken to the upstreams.
    pub protocol: UpstreamProtocol,
    /// TLS to the upstreams: without it, with the name to verify, or with their addresses to verify.
    pub tls: Option<Option<String>>,
    /// A PROXY header in front of connections to the upstreams.
    pub send_proxy_protocol: Option<ProxyVersion>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            balance: BalancePlan::Latency,
            sticky: None,
            slow_start: Duration::from_secs(10),
            health: HealthSettings::default(),
            outlier: Some(OutlierPlan {
                consecutive: 5,
                latency_percent: 0,
                base_ms: 5_000,
                most_ms: 60_000,
                most_percent: 50,
            }),
            max_connections: 1024,
            queue: 1024,
            queue_timeout: Duration::from_secs(10),
            retry: RetryPlan { attempts: 2, budget_percent: 20, on_status: true },
            connect_timeout: Duration::from_secs(2),
            // A little longer than the web server waits for its app, whose answer then says more.
            first_byte_timeout: Duration::from_secs(70),
            between_bytes_timeout: Duration::from_mins(1),
            // Shorter than the web server's own, so that the edge closes first and never meets a closing connection.
            idle_timeout: Duration::from_secs(30),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            send_proxy_protocol: None,
        }
    }
}

/// What a health check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthKind {
    /// A page.
    Http,
    /// Whether a connection is taken.
    Tcp,
    /// gRPC's own health service.
    Grpc,
    /// Nothing: only failed requests tell.
    None,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// What is asked.
    pub kind: HealthKind,
    /// The path of the page; without it, the readiness path of the app at `/`, or `/`.
    pub path: Option<String>,
    /// The `Host` that is asked for; without it, the site's first.
    pub host: Option<String>,
    /// The lowest and the highest status that pass.
    pub status: (u16, u16),
    /// What the page must contain.
    pub body: Option<String>,
    /// Another port than that of requests.
    pub port: Option<u16>,
    /// From one check to the next.
    pub interval: Duration,
    /// For the whole check.
    pub timeout: Duration,
    /// Passes in a row until an upstream is up.
    pub rise: u32,
    /// Failures in a row until it is down.
    pub fall: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            kind: HealthKind::Http,
            path: None,
            host: None,
            status: (200, 399),
            body: None,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(800),
            rise: 2,
            fall: 3,
        }
    }
}

/// A group of upstreams.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRule {
    /// Its name.
    pub name: String,
    /// Its servers.
    pub members: Members,
    /// Servers (or addresses) that are used only when no other is left.
    pub backup: Vec<String>,
    /// How it is balanced.
    pub pool: PoolSettings,
}

/// Who answers for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// All servers with the role `web`.
    Web,
    /// Servers of the site, and the port there; without it the web server's.
    Servers(Vec<ServerName>, Option<u16>),
    /// Addresses of any machine.
    Addresses(Vec<SocketAddr>),
}

/// A service that is no HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpRule {
    /// Its name.
    pub name: String,
    /// The port on the edges' addresses.
    pub listen: u16,
    /// What becomes of TLS.
    pub tls: TcpTls,
    /// Whether every connection begins with a PROXY header.
    pub proxy_protocol: bool,
    /// Groups by the server name of a client's TLS hello.
    pub by_name: Vec<(HostPattern, String)>,
    /// The group for all others.
    pub group: Option<String>,
    /// Silence after which a connection is closed.
    pub idle: Duration,
    /// Open connections.
    pub connections: u32,
    /// Open connections of one client.
    pub connections_per_client: u32,
}
