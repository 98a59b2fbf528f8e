//! The least load balancer there is, for measuring: `balance PORT WORKERS UPSTREAM...`.

use std::net::SocketAddr;

use mainstay_edge::{Config, Server};
use mainstay_site::plan::edge::{
    BalancePlan, EdgeListener, EdgePlan, EdgeRoute, FieldEdits, RetryPlan, RouteAction, RouteCondition,
    Upstream, UpstreamGroup, UpstreamProtocol,
};
use mainstay_site::plan::{HostPattern, WebLimits};
use socket2::{Domain, Socket, Type};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("a port")?.parse()?;
    let workers: usize = args.next().ok_or("workers")?.parse()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let upstreams = args.enumerate().map(|(number, address)| {
        let name = format!("u{number}");
        Ok(Upstream { name, address: address.parse()?, weight: 100, backup: false, drain: false })
    });
    let upstreams = upstreams.collect::<Result<Vec<_>, std::net::AddrParseError>>()?;
    let listen = || -> std::io::Result<_> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(vec![socket.into()])
    };
    let sockets = (0..workers).map(|_| listen()).collect::<std::io::Result<Vec<_>>>()?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("run"))?;
    let plan = plan(address, upstreams)?;
    let config = Config { plan, run: path("run"), log: path("log"), secrets: path("secrets") };
    Server::start(config, sockets)?.join()?;
    Ok(())
}

fn plan(address: SocketAddr, upstreams: Vec<Upstream>) -> Result<EdgePlan, Box<dyn std::error::Error>> {
    Ok(EdgePlan {
        server: "lb1".to_owned().try_into()?,
        listeners: vec![EdgeListener { address, tls: false, proxy_protocol: false }],
        tcp: Vec::new(),
        certificates: Vec::new(),
        hosts: vec![HostPattern { name: "a.test".to_owned().try_into()?, wildcard: false }],
        routes: vec![EdgeRoute {
            name: "all".to_owned(),
            condition: RouteCondition::default(),
            action: RouteAction::Forward { groups: vec![("web".to_owned(), 1)], rewrite: None, host: None },
            request_fields: FieldEdits::default(),
            response_fields: FieldEdits::default(),
            body: None,
            timeout_ms: 0,
            rates: Vec::new(),
            concurrent: 0,
            cache: false,
        }],
        groups: vec![UpstreamGroup {
            name: "web".to_owned(),
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
            queue: 1000,
            queue_ms: 5000,
            connect_ms: 2000,
            first_byte_ms: 10_000,
            between_bytes_ms: 10_000,
            idle_ms: 30_000,
            retry: RetryPlan { attempts: 2, budget_percent: 20, on_status: true },
        }],
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
    })
}
