//! The least plan there is, for tests.

use mainstay_site::plan::edge::{
    BalancePlan, EdgeListener, EdgePlan, EdgeRoute, FieldEdits, RetryPlan, RouteAction, RouteCondition,
    Upstream, UpstreamGroup, UpstreamProtocol,
};
use mainstay_site::plan::{HostPattern, WebLimits};

pub(crate) fn plan() -> EdgePlan {
    EdgePlan {
        server: "lb1".to_owned().try_into().unwrap(),
        listeners: vec![EdgeListener {
            address: "127.0.0.1:80".parse().unwrap(),
            tls: false,
            proxy_protocol: false,
        }],
        redirect_to_tls: false,
        tcp: Vec::new(),
        certificates: Vec::new(),
        client_certificates: None,
        hosts: vec![host("a.test"), host("*.b.test")],
        routes: vec![route("all", RouteCondition::default())],
        groups: vec![group("web", &["127.0.0.1:1"])],
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

pub(crate) fn route(name: &str, condition: RouteCondition) -> EdgeRoute {
    EdgeRoute {
        name: name.to_owned(),
        condition,
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

pub(crate) fn group(name: &str, addresses: &[&str]) -> UpstreamGroup {
    let upstream = |(number, address): (usize, &&str)| Upstream {
        name: format!("u{number}"),
        address: address.parse().unwrap(),
        weight: 100,
        backup: false,
        drain: false,
    };
    UpstreamGroup {
        name: name.to_owned(),
        balance: BalancePlan::RoundRobin,
        sticky: None,
        upstreams: addresses.iter().enumerate().map(upstream).collect(),
        protocol: UpstreamProtocol::Http1,
        tls: None,
        proxy_protocol: None,
        health: None,
        outlier: None,
        slow_start_ms: 0,
        connections: 0,
        queue: 100,
        queue_ms: 1000,
        connect_ms: 1000,
        first_byte_ms: 5000,
        between_bytes_ms: 5000,
        idle_ms: 5000,
        retry: RetryPlan { attempts: 2, budget_percent: 20, on_status: true },
    }
}
