//! An edge that runs inside the test, and plans for it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use mainstay_edge::{Config, Server};
use mainstay_http::client::{self, Answer};
use mainstay_site::plan::edge::{
    BalancePlan, EdgeListener, EdgePlan, EdgeRoute, FieldEdits, HealthCheck, HealthPlan, RetryPlan,
    RouteAction, RouteCondition, Upstream, UpstreamGroup, UpstreamProtocol,
};
use mainstay_site::plan::{HostPattern, WebLimits};
use tempfile::TempDir;

use crate::origin::Origin;

/// A running edge.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) config: Config,
    pub(crate) folder: TempDir,
    pub(crate) server: Option<Server>,
    runtime: tokio::runtime::Runtime,
}

impl Edge {
    /// An edge with one group over these origins.
    pub(crate) fn over(origins: &[&Origin]) -> Self {
        Self::with(origins, |_| {})
    }

    /// The same, with changes to its plan.
    pub(crate) fn with(origins: &[&Origin], change: impl FnOnce(&mut EdgePlan)) -> Self {
        Self::of_workers(1, origins, change)
    }

    pub(crate) fn of_workers(
        workers: usize,
        origins: &[&Origin],
        change: impl FnOnce(&mut EdgePlan),
    ) -> Self {
        Self::start(workers, origins, Vec::new(), &|_| {}, change)
    }

    /// With secrets that are written into the folder given.
    pub(crate) fn prepared(
        origins: &[&Origin],
        secrets: &dyn Fn(&Path),
        change: impl FnOnce(&mut EdgePlan),
    ) -> Self {
        Self::start(1, origins, Vec::new(), secrets, change)
    }

    /// With more sockets than that of HTTP.
    pub(crate) fn listening(
        origins: &[&Origin],
        sockets: Vec<TcpListener>,
        change: impl FnOnce(&mut EdgePlan),
    ) -> Self {
        Self::start(1, origins, sockets, &|_| {}, change)
    }

    fn start(
        workers: usize,
        origins: &[&Origin],
        more: Vec<TcpListener>,
        secrets: &dyn Fn(&Path),
        change: impl FnOnce(&mut EdgePlan),
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("mainstay-test-").tempdir().unwrap();
        for name in ["run", "secrets"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("secrets/cookies"), "0123456789abcdef0123456789abcdef").unwrap();
        secrets(&folder.path().join("secrets"));
        let first = bind("127.0.0.1:0".parse().unwrap());
        let address = first.local_addr().unwrap();
        let mut sockets = vec![vec![first]];
        sockets[0].extend(more);
        sockets.extend((1..workers).map(|_| vec![bind(address)]));
        let mut plan = plan(address, origins);
        change(&mut plan);
        let path = |name: &str| folder.path().join(name);
        let config = Config { plan, run: path("run"), log: path("log"), secrets: path("secrets") };
        let server = Server::start(config.clone(), sockets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { address, config, folder, server: Some(server), runtime }
    }

    /// Gives it a changed plan.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut EdgePlan)) -> Result<(), String> {
        let mut config = self.config.clone();
        change(&mut config.plan);
        let reloader = self.server.as_ref().unwrap().reloader();
        let reloaded = self.runtime.block_on(reloader.reload(config.clone()));
        if reloaded.is_ok() {
            self.config = config;
        }
        reloaded
    }

    pub(crate) fn admin_get(&self, path: &str) -> Answer {
        let socket = self.folder.path().join("run/admin.sock");
        self.runtime.block_on(client::get(socket, path)).unwrap()
    }

    pub(crate) fn admin_post(&self, path: &str) -> Answer {
        let socket = self.folder.path().join("run/admin.sock");
        self.runtime.block_on(client::post(socket, path, None)).unwrap()
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        self.admin_get("/status").json().unwrap()
    }

    /// The state of an upstream of the first group.
    pub(crate) fn state(&self, name: &str) -> String {
        let status = self.status();
        let upstreams = status["groups"][0]["upstreams"].as_array().unwrap().clone();
        let found = upstreams.into_iter().find(|upstream| upstream["name"] == name).unwrap();
        found["state"].as_str().unwrap().to_owned()
    }

    /// The value of a series.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.server.as_ref().unwrap().registry().render();
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Stops, and returns the access log.
    pub(crate) fn stop(&mut self) -> Vec<serde_json::Value> {
        if let Some(server) = self.server.take() {
            server.shutdown().drain();
            server.join().unwrap();
        }
        let log = std::fs::read_to_string(self.folder.path().join("log/edge/access.log")).unwrap_or_default();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().end();
            let _ = server.join();
        }
    }
}

/// A listening socket whose address others may share, as the agent makes them.
pub(crate) fn bind(address: SocketAddr) -> TcpListener {
    use rustix::net::{self, AddressFamily, SocketType, sockopt};
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    until("the address is free", || net::bind(&socket, &address).is_ok());
    net::listen(&socket, 1024).unwrap();
    TcpListener::from(socket)
}

pub(crate) fn plan(address: SocketAddr, origins: &[&Origin]) -> EdgePlan {
    EdgePlan {
        server: "lb1".to_owned().try_into().unwrap(),
        redirect_to_tls: false,
        listeners: vec![EdgeListener { address, tls: false, proxy_protocol: false }],
        tcp: Vec::new(),
        certificates: Vec::new(),
        client_certificates: None,
        hosts: vec![host("a.test"), host("*.b.test")],
        routes: vec![route("all", "/")],
        groups: vec![group("web", origins)],
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
            path: mainstay_site::plan::edge::PathCondition::Prefix(prefix.to_owned()),
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

pub(crate) fn upstream(origin: &Origin) -> Upstream {
    Upstream {
        name: origin.name.to_owned(),
        address: origin.address,
        weight: 100,
        backup: false,
        drain: false,
    }
}

pub(crate) fn group(name: &str, origins: &[&Origin]) -> UpstreamGroup {
    UpstreamGroup {
        name: name.to_owned(),
        balance: BalancePlan::RoundRobin,
        sticky: None,
        upstreams: origins.iter().map(|origin| upstream(origin)).collect(),
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

/// Checks that are quick.
pub(crate) fn health() -> HealthPlan {
    HealthPlan {
        check: HealthCheck::Http {
            path: "/health".to_owned(),
            host: "a.test".to_owned(),
            status: (200, 299),
            body: None,
        },
        port: None,
        interval_ms: 500,
        timeout_ms: 500,
        rise: 2,
        fall: 2,
    }
}

/// Waits until a condition holds; fails after a while.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + crate::client::PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
