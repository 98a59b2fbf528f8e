//! Running services and upstreams that play a part.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mainstay_edge::tcp::{LeastConnections, Listening, Live, Server, Service, TcpMetrics, Tls};
use mainstay_http::Shutdown;
use mainstay_http::metrics::Registry;
use mainstay_http::networks::Networks;
use mainstay_http::tls::ClientTls;
use mainstay_site::plan::HostPattern;
use mainstay_site::plan::edge::{
    BalancePlan, ProxyVersion, RetryPlan, Upstream, UpstreamGroup, UpstreamProtocol,
};

/// Nothing in these stories takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A group of these upstreams.
pub(crate) fn group(name: &str, upstreams: &[SocketAddr]) -> UpstreamGroup {
    UpstreamGroup {
        name: name.into(),
        balance: BalancePlan::LeastConnections,
        sticky: None,
        upstreams: upstreams
            .iter()
            .enumerate()
            .map(|(index, address)| Upstream {
                name: format!("{name}-{index}"),
                address: *address,
                weight: 1,
                backup: false,
                drain: false,
            })
            .collect(),
        protocol: UpstreamProtocol::Http1,
        tls: None,
        proxy_protocol: None,
        health: None,
        outlier: None,
        slow_start_ms: 0,
        connections: 0,
        queue: 0,
        queue_ms: 0,
        connect_ms: 2000,
        first_byte_ms: 0,
        between_bytes_ms: 0,
        idle_ms: 0,
        retry: RetryPlan { attempts: 0, budget_percent: 0, on_status: false },
    }
}

pub(crate) fn with_proxy(mut group: UpstreamGroup, version: ProxyVersion) -> UpstreamGroup {
    group.proxy_protocol = Some(version);
    group
}

/// A service that passes everything to the group `all`.
pub(crate) fn service() -> Service {
    Service {
        name: "story".into(),
        tls: Tls::None,
        proxy_protocol: None,
        by_name: Vec::new(),
        group: Some("all".into()),
        handshake: PATIENCE,
        idle: PATIENCE,
        connections: 1000,
        clients: None,
    }
}

pub(crate) fn pattern(text: &str) -> HostPattern {
    let (wildcard, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
    HostPattern { name: name.parse().unwrap(), wildcard }
}

pub(crate) fn trusted() -> Networks {
    Networks::parse(&["127.0.0.0/8".into()]).unwrap()
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) shutdown: Shutdown,
    pub(crate) live: Live,
    server: Option<Server>,
}

impl Running {
    pub(crate) fn new(service: Service, groups: Vec<UpstreamGroup>) -> Self {
        let groups = groups.into_iter().map(|group| (group, None)).collect();
        Self::with(service, groups, PATIENCE, |_| true)
    }

    pub(crate) fn with(
        service: Service,
        groups: Vec<(UpstreamGroup, Option<ClientTls>)>,
        drain: Duration,
        fit: impl Fn(usize) -> bool + Clone + Send + Sync + 'static,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (registry, shutdown, live) = (Registry::default(), Shutdown::new(), Live::new(service));
        let shares = vec![vec![Listening { socket, service: live.clone() }]];
        let upstreams = move |_| {
            let fit = fit.clone();
            LeastConnections::new(groups.clone(), move |_: &str, index| fit(index))
        };
        let server = Server::start(shares, &TcpMetrics::new(&registry), drain, &shutdown, upstreams).unwrap();
        Self { address, registry, shutdown, live, server: Some(server) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub(crate) fn join(&mut self) {
        self.server.take().unwrap().join().unwrap();
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.registry.render();
        let name = format!("mainstay_edge_tcp_{name}");
        let line = text.lines().find(|line| line.starts_with(&name));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
    }

    pub(crate) fn errors(&self, reason: &str) -> u64 {
        self.metric(&format!("errors_total{{service=\"story\",reason=\"{reason}\"}}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.end();
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An upstream: each connection gets a thread that plays the part.
pub(crate) struct Actor {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Actor {
    pub(crate) fn new(part: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let part = part.clone();
                std::thread::spawn(move || part(stream));
            }
        });
        Self { address, connections }
    }

    /// Says its name, then sends back what comes, and closes when that ends.
    pub(crate) fn echo(name: &'static str) -> Self {
        Self::new(move |mut stream| {
            let _ = stream.write_all(name.as_bytes());
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An address on which no one listens.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Reads exactly so many bytes as text.
pub(crate) fn take(stream: &mut impl Read, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn rest(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
