//! The least plan there is, for the tests of modules and for the stories.

use std::net::SocketAddr;

use mainstay_site::plan::edge::{
    BalancePlan, EdgeListener, EdgePlan, EdgeRoute, FieldEdits, PathCondition, RetryPlan, RouteAction,
    RouteCondition, Upstream, UpstreamGroup, UpstreamProtocol,
};
use mainstay_site::plan::{HostPattern, WebLimits};

/// Listens on one address and forwards everything to the group `web`.
pub(crate) fn plan(listen: SocketAddr, groups: Vec<UpstreamGroup>) -> EdgePlan {
    EdgePlan {
        server: "lb1".to_owned().try_into().unwrap(),
        redirect_to_tls: false,
        listeners: vec![EdgeListener { address: listen, tls: false, proxy_protocol: false }],
        tcp: Vec::new(),
        certificates: Vec::new(),
        client_certificates: None,
        hosts: vec![host("a.test"), host("*.b.test")],
        routes: vec![route("all", "/")],
        groups,
        trusted_proxies: Vec::new(),
        limits: WebLimits::default(),
        connections_per_client: 0,
        rates: Vec::new(),
        compress: false,
        cache: None,
        maintenance: None,
        shed: false,
        keep_request_ids: false,
        drain_ms: 1000,
        cookie_secret: "cookies".to_owned(),
    }
}

pub(crate) fn host(pattern: &str) -> HostPattern {
    let (name, wildcard) = pattern.strip_prefix("*.").map_or((pattern, false), |name| (name, true));
    HostPattern { name: name.to_owned().try_into().unwrap(), wildcard }
}

/// A route to the group `web`.
pub(crate) fn route(name: &str, prefix: &str) -> EdgeRoute {
    EdgeRoute {
        name: name.to_owned(),
        condition: RouteCondition {
            path: PathCondition::Prefix(prefix.to_owned()),
            ..RouteCondition::default()
        },
        action: RouteAction::Forward { groups: vec![("web".to_owned(), 1)], rewrite: None, host: None },
        request_fields: FieldEdits::default(),
        response_fields: FieldEdits::default(),
        body: None,
        timeout_ms: 0,
        rates: Vec::new(),
        concurrent: 0,
        cache: false,
        client_certificate: false,
    }
}

pub(crate) fn upstream(name: &str, address: SocketAddr) -> Upstream {
    Upstream { name: name.to_owned(), address, weight: 100, backup: false, drain: false }
}

/// A group that takes turns and checks nothing.
pub(crate) fn group(name: &str, upstreams: Vec<Upstream>) -> UpstreamGroup {
    UpstreamGroup {
        name: name.to_owned(),
        balance: BalancePlan::RoundRobin,
        sticky: None,
        upstreams,
        protocol: UpstreamProtocol::Http1,
        tls: None,
        proxy_protocol: None,
        health: None,
        outlier: None,
        slow_start_ms: 0,
        connections: 0,
        queue: 100,
        queue_ms: 5000,
        connect_ms: 2000,
        first_byte_ms: 10_000,
        between_bytes_ms: 10_000,
        idle_ms: 30_000,
        retry: RetryPlan { attempts: 2, budget_percent: 20, on_status: true },
    }
}
