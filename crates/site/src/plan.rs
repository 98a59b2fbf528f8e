//! What one server has to run. The agent carries a [`Plan`] out; it knows nothing of the site file.
//!
//! A plan holds no secret: it names them, and the files lie under [`paths::secrets`](crate::paths::secrets).

pub mod cluster;
pub mod edge;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{AppName, ByteSize, DomainName, ServerName, SiteName};
pub use cluster::{ClusterPlan, CoordinatorPlan, SqlRouterPlan};
pub use edge::EdgePlan;

/// Everything that one server runs, listens on, and lets in and out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The site.
    pub site: SiteName,
    /// The site's zone.
    pub domain: DomainName,
    /// This server.
    pub server: ServerName,
    /// This server's addresses: the IPv4 one first, then the IPv6 one if it has one.
    pub addresses: Vec<IpAddr>,
    /// Changes whenever anything else in the plan does: the first 16 hexadecimal digits of its SHA-256.
    pub revision: String,
    /// What the server has, where the file says so.
    pub resources: Resources,
    /// The `dns` role, if this server has it.
    pub dns: Option<DnsPlan>,
    /// The `edge` role, if this server has it.
    #[serde(default)]
    pub edge: Option<EdgePlan>,
    /// The `web` role, if this server has it.
    pub web: Option<WebPlan>,
    /// The apps of the `app` role; empty without that role.
    pub apps: Vec<AppPlan>,
    /// The `database` role, if this server has it.
    pub database: Option<DatabasePlan>,
    /// The `coordinator` role, if this server has it.
    #[serde(default)]
    pub coordinator: Option<CoordinatorPlan>,
    /// What the apps of this server take for the database, where it is on several servers.
    #[serde(default)]
    pub router: Option<SqlRouterPlan>,
    /// The connections that this server takes part in. Nothing else is to pass.
    pub flows: Vec<Flow>,
}

/// What a server has. In the lab these are limits; on a real server they are what the roles are tuned to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Memory; without it, what the machine (or cgroup) has.
    pub memory: Option<ByteSize>,
    /// Processors, such as 1.5; without it, what the machine has.
    pub cpus: Option<f64>,
    /// The disk under `/var/lib/mainstay`; only the lab makes one of this size.
    pub disk: Option<ByteSize>,
}

/// Authoritative DNS: the zones to answer for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DnsPlan {
    /// Addresses to answer on, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The zones; on a site's server exactly one.
    pub zones: Vec<Zone>,
    /// Responses per second to one client network (IPv4 /24, IPv6 /56) before answers are dropped or truncated.
    pub responses_per_second: u32,
}

/// One zone: its apex and every record in it. The records hold names in full, without the final dot; the
/// name of the root zone is the empty text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    /// The apex, such as `foobar.com`; empty for the root zone.
    pub apex: String,
    /// The start of authority.
    pub soa: Soa,
    /// All other records, in the order of the file. NS records below the apex delegate.
    pub records: Vec<Record>,
}

/// The start of authority (RFC 1035, 3.3.13). Times in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Soa {
    /// The primary name server.
    pub primary: String,
    /// The mailbox of who is responsible, as a domain name (`hostmaster.foobar.com`).
    pub mailbox: String,
    /// Grows when the zone changes.
    pub serial: u32,
    /// Seconds between a secondary's refreshes.
    pub refresh: u32,
    /// Seconds until a secondary retries.
    pub retry: u32,
    /// Seconds until a secondary gives up.
    pub expire: u32,
    /// Time to live of a negative answer (RFC 2308).
    pub minimum: u32,
}

/// One resource record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Owner name in full, without the final dot. A leading `*.` is a wildcard (RFC 4592).
    pub name: String,
    /// Time to live in seconds.
    pub ttl: u32,
    /// Type and content.
    pub data: RecordData,
}

/// A record's type and content. Names in full, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum RecordData {
    /// An IPv4 address.
    A {
        /// The address.
        address: std::net::Ipv4Addr,
    },
    /// An IPv6 address.
    Aaaa {
        /// The address.
        address: std::net::Ipv6Addr,
    },
    /// A name server.
    Ns {
        /// Its name.
        target: String,
    },
    /// An alias.
    Cname {
        /// The canonical name.
        target: String,
    },
    /// Text; longer than 255 bytes is split into strings when sent.
    Txt {
        /// The text.
        text: String,
    },
    /// A mail exchange.
    Mx {
        /// Lower is preferred.
        preference: u16,
        /// The mail server's name.
        target: String,
    },
    /// Which authorities may issue certificates (RFC 8659).
    Caa {
        /// The issuer-critical flag.
        critical: bool,
        /// `issue`, `issuewild` or `iodef`.
        tag: String,
        /// The value.
        value: String,
    },
}

/// The web server: listeners, and where each request goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebPlan {
    /// Addresses to answer HTTP/1.1 and h2c on.
    pub listen: Vec<SocketAddr>,
    /// Told in the `X-Served-By` response header and in the access log.
    pub server: ServerName,
    /// The names that this site answers to; a request for another name gets 421.
    pub hosts: Vec<HostPattern>,
    /// The first route that matches takes the request; none: 404.
    pub routes: Vec<Route>,
    /// Limits on what clients may send.
    pub limits: WebLimits,
    /// Whether text is compressed on the fly for clients that accept it.
    pub compress: bool,
    /// Networks (`10.10.0.5/32`) whose word is taken on the client's address, protocol and request id: the site's load
    /// balancers.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// How long a replaced process keeps connections that left HTTP, such as `WebSocket`s, in milliseconds.
    #[serde(default = "drain_ms")]
    pub drain_ms: u64,
}

/// For plans that do not say how long.
fn drain_ms() -> u64 {
    3_600_000
}

/// A host name, or `*.example.com` for every name one or more labels below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPattern {
    /// The name without the `*.`.
    pub name: DomainName,
    /// Whether names below it are meant (and not the name itself).
    pub wildcard: bool,
}

/// Which requests go where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Only requests for this host; without it, every host.
    pub host: Option<HostPattern>,
    /// Only paths that equal this prefix or lie under it. `/` takes all.
    pub path: String,
    /// Who answers.
    pub target: Target,
}

/// Who answers a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// An app: its public files, and its backend for the rest.
    App(WebApp),
    /// Files only.
    Static {
        /// The folder.
        root: PathBuf,
    },
    /// A redirect to `to`; a final `*` in it is replaced by the path and query that follow the route's prefix.
    Redirect {
        /// The new location.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
}

/// What the web server knows of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebApp {
    /// The app.
    pub name: AppName,
    /// The release that is live; told in the `X-Release` response header and in the access log.
    pub release: String,
    /// Files under this folder are served as they are (never a PHP source, never a hidden file).
    pub public: PathBuf,
    /// Folders that lie elsewhere but are seen under a path of the site, such as uploads. Never executed.
    pub mounts: Vec<Mount>,
    /// Who answers what is no file.
    pub backend: Backend,
}

/// A folder seen under a path of the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The path of the site, such as `/uploads`.
    pub path: String,
    /// The folder.
    pub root: PathBuf,
}

/// How an app is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Backend {
    /// php-fpm on a Unix socket.
    FastCgi {
        /// The socket.
        socket: PathBuf,
        /// The script that answers paths which are neither a file nor a script, such as `/index.php`.
        front_controller: Option<String>,
        /// Requests that php-fpm can work on at once; the web server never holds more connections to it.
        max_requests: u32,
    },
    /// An HTTP server on a Unix socket.
    HttpSocket {
        /// The socket.
        socket: PathBuf,
    },
    /// An HTTP server on 127.0.0.1. Its port changes from start to start; the file holds the one in use.
    HttpPort {
        /// A file with the port number in decimal.
        port_file: PathBuf,
    },
}

/// Bounds on what a client may send, and on how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WebLimits {
    /// The largest request body.
    pub body: ByteSize,
    /// The largest request head (request line and header fields).
    pub head: ByteSize,
    /// The most header fields.
    pub headers: u16,
    /// Seconds for a whole request head to arrive.
    pub head_timeout_secs: u32,
    /// Seconds without a byte of the body.
    pub body_timeout_secs: u32,
    /// Seconds that a kept-alive connection may be idle.
    pub idle_timeout_secs: u32,
    /// Seconds that the backend may take until its response's head.
    pub backend_timeout_secs: u32,
    /// Open client connections.
    pub connections: u32,
}

impl Default for WebLimits {
    fn default() -> Self {
        Self {
            body: ByteSize::from_mebibytes(64),
            head: ByteSize::from_bytes(32 * 1024),
            headers: 100,
            head_timeout_secs: 15,
            body_timeout_secs: 30,
            idle_timeout_secs: 75,
            backend_timeout_secs: 60,
            connections: 20_000,
        }
    }
}

/// One app: what is started, as whom, with what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppPlan {
    /// The app.
    pub name: AppName,
    /// The release that is to be live. Its files are in `releases(name)/release`.
    pub release: String,
    /// What runs it.
    pub runtime: Runtime,
    /// The environment that the file gives, without secrets.
    pub environment: BTreeMap<String, String>,
    /// Environment variables that come out of secrets: variable to secret's name.
    pub secret_environment: BTreeMap<String, String>,
    /// Folders inside the code base that the app may write; kept across releases under `app_data(name)`.
    pub writable: Vec<String>,
    /// The database, if the site has one.
    pub database: Option<AppDatabase>,
    /// Path asked for over the app's own protocol before it gets traffic, such as `/health`. Without it, the
    /// app is ready when its socket takes a connection (php-fpm: when it answers a ping).
    pub readiness_path: Option<String>,
    /// Memory for all processes of the app.
    pub memory: Option<ByteSize>,
    /// The most processes and threads of the app.
    pub processes: u32,
}

/// What runs an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Runtime {
    /// A php-fpm pool.
    Php {
        /// Requests worked on at once.
        workers: u32,
        /// php.ini settings.
        settings: BTreeMap<String, String>,
    },
    /// Python behind gunicorn (WSGI) or uvicorn (ASGI), in a virtual environment made from `requirements.txt`.
    Python {
        /// Which of the two interfaces the app speaks.
        interface: PythonInterface,
        /// `module:object`.
        entry: String,
        /// Worker processes.
        workers: u32,
        /// The virtual environment's folder.
        environment: PathBuf,
    },
    /// Any command that listens on `$SOCKET` (a Unix socket) or `$PORT` (on 127.0.0.1).
    Command {
        /// Program and arguments; run in the release's folder.
        command: Vec<String>,
        /// What it listens on.
        listen: CommandListen,
    },
}

/// The interface of a Python app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PythonInterface {
    /// PEP 3333, behind gunicorn.
    Wsgi,
    /// Behind uvicorn.
    Asgi,
}

/// What a command listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandListen {
    /// The Unix socket named in `$SOCKET`.
    Socket,
    /// 127.0.0.1 and the port in `$PORT`.
    Port,
}

/// How an app reaches the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppDatabase {
    /// Host as the app sees it.
    pub host: IpAddr,
    /// Port as the app sees it.
    pub port: u16,
    /// The Unix socket, where the database is on the same server.
    pub socket: Option<PathBuf>,
    /// The database's name.
    pub name: String,
    /// The account.
    pub user: String,
    /// The secret that holds the account's password.
    pub password_secret: String,
}

/// One MariaDB or MySQL instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabasePlan {
    /// Which server program.
    pub engine: Engine,
    /// Where it listens, besides its Unix socket.
    pub listen: SocketAddr,
    /// Networks from which the app's account may connect, as MariaDB writes hosts: `localhost`, `10.10.0.12`.
    pub allowed_hosts: Vec<String>,
    /// Memory to tune it to.
    pub memory: ByteSize,
    /// The most client connections.
    pub connections: u32,
    /// Databases with their account and schema.
    pub databases: Vec<DatabaseOfApp>,
    /// The other servers with the database, if there are any.
    #[serde(default)]
    pub cluster: Option<ClusterPlan>,
}

/// A database, its account and its schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseOfApp {
    /// The app it belongs to.
    pub app: AppName,
    /// The database's name.
    pub name: String,
    /// The account, which may do everything in this database and nothing outside it.
    pub user: String,
    /// The secret that holds the account's password.
    pub password_secret: String,
    /// A folder with `*.sql` files inside the release, each applied once, in the order of their names.
    pub schema: Option<PathBuf>,
}

/// The database server program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// MariaDB 10.11 or newer.
    Mariadb,
    /// MySQL 8.4 or newer.
    Mysql,
}

/// A permitted connection, seen from this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Inwards or outwards.
    pub direction: Direction,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// The listening port.
    pub port: u16,
    /// Who is at the other end.
    pub peer: Peer,
    /// Why it is open, for people: `web: HTTP from anywhere`.
    pub purpose: String,
}

/// Seen from this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The peer connects to this server.
    In,
    /// This server connects to the peer.
    Out,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Anyone.
    Anywhere,
    /// Another server of the site.
    Server(ServerName),
    /// A named network, such as the administrators'.
    Network(String),
}
