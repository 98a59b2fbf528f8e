//! The three upstreams, and the load balancers in front of them, in a temporary folder.

use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay_benches::running::{Running, free_port, name, until_answered};
use mainstay_edge::Config;
use mainstay_site::plan::edge::{
    BalancePlan, CertificatePlan, EdgeListener, EdgePlan, EdgeRoute, FieldEdits, OutlierPlan, RetryPlan,
    RouteAction, RouteCondition, Upstream, UpstreamGroup, UpstreamProtocol,
};
use mainstay_site::plan::{HostPattern, WebLimits};
use tempfile::TempDir;

/// The host that is asked for, and that the certificate is for.
pub(crate) const HOST: &str = "bench.test";
/// Upstreams behind every load balancer.
const UPSTREAMS: usize = 3;
/// Client connections that each is set up for.
const CONNECTIONS: u32 = 20_000;

/// The upstreams, the certificate, and the folder of all configurations.
pub(crate) struct Ground {
    folder: TempDir,
    upstreams: Vec<u16>,
    /// The certificate, to be trusted by clients.
    pub(crate) certificate: Vec<u8>,
    /// Where HAProxy sends its log to, if it keeps one.
    syslog: Option<SocketAddr>,
    _origin: Running,
}

/// A load balancer that listens.
pub(crate) struct Balancer {
    /// How it is called in tables.
    pub(crate) name: &'static str,
    /// Where it speaks HTTP/1.1.
    pub(crate) port: u16,
    /// Where it speaks HTTP/1.1 and h2 over TLS.
    pub(crate) tls_port: u16,
    running: Running,
}

impl Balancer {
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }
}

impl Ground {
    pub(crate) fn new(do_peers_log: bool) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        for name in ["public", "run", "log", "secrets"] {
            fs::create_dir(folder.path().join(name))?;
        }
        for (name, bytes) in [("1k.bin", 1 << 10), ("100k.bin", 100 << 10), ("10m.bin", 10 << 20)] {
            fs::write(folder.path().join("public").join(name), vec![b'x'; bytes])?;
        }
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).map_err(io::Error::other)?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(folder.path().join("secrets/chain"), &chain)?;
        fs::write(folder.path().join("secrets/key"), &key)?;
        fs::write(folder.path().join("site.pem"), format!("{chain}{key}"))?;
        let upstreams = (0..UPSTREAMS).map(|_| free_port()).collect::<io::Result<Vec<_>>>()?;
        let origin = origin(folder.path(), &upstreams)?;
        let syslog = if do_peers_log { Some(syslog()?) } else { None };
        Ok(Self { folder, upstreams, certificate: made.cert.der().to_vec(), syslog, _origin: origin })
    }

    /// Debian's HAProxy.
    pub(crate) fn haproxy(&self, workers: u16) -> io::Result<Balancer> {
        let (port, tls_port) = (free_port()?, free_port()?);
        let root = self.folder.path().display();
        let (to, how) = match self.syslog {
            Some(address) => (format!("  log {address} local0\n"), "  log global\n  option httplog\n"),
            None => (String::new(), ""),
        };
        let mut configuration = format!(
            "global\n{to}  nbthread {workers}\n  maxconn {CONNECTIONS}\n  no strict-limits\n  ssl-default-bind-options ssl-min-ver TLSv1.2\n\
             defaults\n{how}  mode http\n  timeout connect 5s\n  timeout client 75s\n  timeout server 60s\n  http-reuse always\n\
               option forwardfor\n  unique-id-format %{{+X}}o%ci%cp%fi%fp%Ts%rt%pid\n  unique-id-header X-Request-Id\n\
             frontend site\n  bind 127.0.0.1:{port}\n  bind 127.0.0.1:{tls_port} ssl crt {root}/site.pem alpn h2,http/1.1\n  default_backend web\n\
             backend web\n  balance roundrobin\n"
        );
        for (index, upstream) in self.upstreams.iter().enumerate() {
            configuration.push_str(&format!("  server s{index} 127.0.0.1:{upstream}\n"));
        }
        let path = self.folder.path().join("haproxy.cfg");
        fs::write(&path, configuration)?;
        let running = Running::start(Command::new("haproxy").arg("-db").arg("-f").arg(&path))?;
        ready(Balancer { name: "haproxy", port, tls_port, running })
    }

    /// Debian's nginx.
    pub(crate) fn nginx(&self, workers: u16) -> io::Result<Balancer> {
        let (port, tls_port) = (free_port()?, free_port()?);
        let root = self.folder.path().display();
        let servers: String =
            self.upstreams.iter().map(|port| format!("server 127.0.0.1:{port}; ")).collect();
        let configuration = format!(
            "daemon off; worker_processes {workers}; pid {root}/nginx.pid; error_log {root}/nginx-error.log;\n{user}\
             events {{ worker_connections {connections}; }}\n\
             http {{\n\
               access_log {log}; keepalive_requests 100000000; http2_max_concurrent_streams 128;\n\
               client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;\n\
               uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
               upstream web {{ {servers} keepalive 256; keepalive_requests 100000000; }}\n\
               server {{\n\
                 listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.1:{tls_port} ssl http2 backlog=4096; server_name _;\n\
                 ssl_certificate {root}/secrets/chain; ssl_certificate_key {root}/secrets/key; ssl_protocols TLSv1.2 TLSv1.3;\n\
                 location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
                   proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id; }}\n\
               }}\n\
             }}\n",
            user = user(),
            log = self.syslog.map_or("off".to_owned(), |_| format!(
                "{root}/nginx-access.log combined buffer=64k flush=1s"
            )),
            connections = CONNECTIONS * 2,
        );
        let path = self.folder.path().join("nginx.conf");
        fs::write(&path, configuration)?;
        let running =
            Running::start(Command::new("nginx").arg("-p").arg(self.folder.path()).arg("-c").arg(&path))?;
        ready(Balancer { name: "nginx", port, tls_port, running })
    }

    /// Mainstay's edge role, as it is by default: with an access log, metrics, passive health.
    pub(crate) fn mainstay(&self, workers: u16) -> io::Result<Balancer> {
        let (port, tls_port) = (free_port()?, free_port()?);
        let folder = self.folder.path();
        let config = Config {
            plan: self.plan(port, tls_port)?,
            run: folder.join("run"),
            log: folder.join("log"),
            secrets: folder.join("secrets"),
        };
        let path = folder.join("edge.json");
        fs::write(&path, serde_json::to_vec(&config)?)?;
        let running = Running::start(
            Command::new(std::env::current_exe()?)
                .arg("--serve")
                .arg(&path)
                .args(["--workers", &workers.to_string()]),
        )?;
        ready(Balancer { name: "mainstay", port, tls_port, running })
    }

    fn plan(&self, port: u16, tls_port: u16) -> io::Result<EdgePlan> {
        let listener =
            |port, tls| EdgeListener { address: ([127, 0, 0, 1], port).into(), tls, proxy_protocol: false };
        let upstreams = self.upstreams.iter().enumerate().map(|(index, port)| Upstream {
            name: format!("s{index}"),
            address: ([127, 0, 0, 1], *port).into(),
            weight: 1,
            backup: false,
            drain: false,
        });
        let group = UpstreamGroup {
            name: "web".to_owned(),
            balance: BalancePlan::RoundRobin,
            sticky: None,
            upstreams: upstreams.collect(),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            proxy_protocol: None,
            health: None,
            outlier: Some(OutlierPlan {
                consecutive: 5,
                latency_percent: 0,
                base_ms: 10_000,
                most_ms: 300_000,
                most_percent: 50,
            }),
            slow_start_ms: 0,
            connections: 0,
            queue: 1024,
            queue_ms: 2_000,
            connect_ms: 5_000,
            first_byte_ms: 60_000,
            between_bytes_ms: 60_000,
            idle_ms: 60_000,
            retry: RetryPlan { attempts: 2, budget_percent: 20, on_status: false },
        };
        let route = EdgeRoute {
            name: "site".to_owned(),
            condition: RouteCondition::default(),
            action: RouteAction::Forward { groups: vec![("web".to_owned(), 1)], rewrite: None, host: None },
            request_fields: FieldEdits::default(),
            response_fields: FieldEdits::default(),
            body: None,
            timeout_ms: 0,
            rates: Vec::new(),
            concurrent: 0,
            cache: false,
            client_certificate: false,
        };
        let limits = WebLimits { connections: CONNECTIONS, ..WebLimits::default() };
        Ok(EdgePlan {
            server: name("edge1")?,
            listeners: vec![listener(port, false), listener(tls_port, true)],
            redirect_to_tls: false,
            tcp: Vec::new(),
            client_certificates: None,
            certificates: vec![CertificatePlan {
                chain_secret: "chain".to_owned(),
                key_secret: "key".to_owned(),
            }],
            hosts: vec![HostPattern { name: name(HOST)?, wildcard: false }],
            routes: vec![route],
            groups: vec![group],
            trusted_proxies: Vec::new(),
            limits,
            connections_per_client: 0,
            rates: Vec::new(),
            compress: true,
            cache: None,
            maintenance: None,
            shed: false,
            keep_request_ids: false,
            drain_ms: 1_000,
            cookie_secret: "key".to_owned(),
        })
    }
}

/// Waits until it answers.
fn ready(balancer: Balancer) -> io::Result<Balancer> {
    until_answered(balancer.port, HOST, "/1k.bin")?;
    Ok(balancer)
}

/// Runs as the edge role until a signal ends the process.
pub(crate) fn serve(config: &Path, workers: u16) -> io::Result<()> {
    let config: Config = serde_json::from_slice(&fs::read(config)?)?;
    let bound = config.plan.listeners.iter().map(|listener| TcpListener::bind(listener.address));
    let bound = bound.collect::<io::Result<Vec<_>>>()?;
    let listeners = (0..workers)
        .map(|_| bound.iter().map(TcpListener::try_clone).collect())
        .collect::<io::Result<Vec<_>>>()?;
    let server = mainstay_edge::Server::start(config, listeners).map_err(io::Error::other)?;
    server.join().map_err(io::Error::other)
}

/// What was measured, and beside what.
pub(crate) fn versions() -> io::Result<String> {
    let first = |program: &str, flag: &str| -> io::Result<String> {
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
    };
    let mut text = Vec::new();
    writeln!(text, "{}", first("haproxy", "-v")?)?;
    writeln!(text, "{}", first("nginx", "-v")?)?;
    writeln!(text, "mainstay {}", env!("CARGO_PKG_VERSION"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A syslog daemon that takes everything and keeps nothing, on a thread of this process.
fn syslog() -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    let address = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut message = [0; 8192];
        while socket.recv(&mut message).is_ok() {}
    });
    Ok(address)
}

/// One nginx that listens as three servers.
fn origin(folder: &Path, ports: &[u16]) -> io::Result<Running> {
    let root = folder.display();
    let listens: String =
        ports.iter().map(|port| format!("listen 127.0.0.1:{port} backlog=4096; ")).collect();
    let configuration = format!(
        "daemon off; worker_processes 1; pid {root}/origin.pid; error_log {root}/origin-error.log;\n{user}\
         events {{ worker_connections 16384; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 300s; open_file_cache max=10;\n\
           client_body_temp_path {root}/o1; proxy_temp_path {root}/o2; fastcgi_temp_path {root}/o3;\n\
           uwsgi_temp_path {root}/o4; scgi_temp_path {root}/o5;\n\
           server {{ {listens} root {root}/public; }} }}\n",
        user = user(),
    );
    let path: PathBuf = folder.join("origin.conf");
    fs::write(&path, configuration)?;
    let running = Running::start(Command::new("nginx").arg("-p").arg(folder).arg("-c").arg(&path))?;
    for port in ports {
        until_answered(*port, HOST, "/1k.bin")?;
    }
    Ok(running)
}

fn user() -> &'static str {
    if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" }
}
