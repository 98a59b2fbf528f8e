//! A site as the file describes it, in types that cannot say a wrong one.

pub mod edge;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::plan::cluster::Durability;
use crate::plan::{CommandListen, Engine, HostPattern, PythonInterface, RecordData, WebLimits};
use crate::{AppName, ByteSize, DomainName, ServerName, SiteName};
pub use edge::EdgeSettings;

/// The whole of what one file describes.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Names state folders, cgroups and the like.
    pub name: SiteName,
    /// The zone.
    pub domain: DomainName,
    /// The names that the website answers to.
    pub hosts: Vec<HostPattern>,
    /// The servers' network.
    pub network: Network,
    /// The servers, in the order of the file; never empty.
    pub servers: Vec<Server>,
    /// The apps, in the order of the file.
    pub apps: Vec<App>,
    /// Routes that come before the apps.
    pub routes: Vec<RouteRule>,
    /// The web server's limits.
    pub web: WebSettings,
    /// The database's settings.
    pub database: DatabaseSettings,
    /// The zone's settings and further records.
    pub dns: DnsSettings,
    /// The load balancer's settings.
    pub edge: EdgeSettings,
    /// HTTPS, if the file has it.
    pub tls: Option<TlsSettings>,
    /// The firewall, if the file has it.
    pub firewall: Option<FirewallSettings>,
    /// The monitoring platform, if the file has it.
    pub monitor: Option<MonitorSettings>,
    /// Where servers agree, if the file says so.
    pub coordinator: Option<CoordinatorSettings>,
    /// Whether several servers with the database are planned as primary and replicas ([`Self::with_replicas`]); without it, only
    /// the first of them has one.
    pub(crate) plans_replicas: bool,
    /// Backups, if the file has them.
    pub backup: Option<BackupSettings>,
}

/// An IPv4 network such as `10.10.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network4 {
    /// The first address.
    pub base: Ipv4Addr,
    /// Bits of the network part, 8 to 29.
    pub prefix: u8,
}

impl Network4 {
    /// Whether the address lies in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX << (32 - u32::from(self.prefix));
        u32::from(address) & mask == u32::from(self.base) & mask
    }

    /// The router: the first host address.
    pub fn router(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// The broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | !(u32::MAX << (32 - u32::from(self.prefix))))
    }
}

impl std::fmt::Display for Network4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl std::str::FromStr for Network4 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write it as 10.10.0.0/24";
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| format!("the prefix length is missing; {example}"))?;
        let base: Ipv4Addr =
            address.parse().map_err(|_| format!("`{address}` is no IPv4 address; {example}"))?;
        let prefix: u8 = prefix.parse().map_err(|_| format!("`{prefix}` is no prefix length; {example}"))?;
        if !(8..=29).contains(&prefix) {
            return Err("the prefix length must be from 8 to 29".to_owned());
        }
        let network = Self { base, prefix };
        let first = u32::from(base) & (u32::MAX << (32 - u32::from(prefix)));
        if first != u32::from(base) {
            return Err(format!("it has host bits set; the network is {}/{prefix}", Ipv4Addr::from(first)));
        }
        Ok(network)
    }
}

/// The networks that the site lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The servers' network; its first address is the router.
    pub servers: Network4,
    /// Addresses that move between load balancers.
    pub floating_ips: Vec<Ipv4Addr>,
    /// Prefix length of the servers' IPv6 network (addresses come with the servers).
    pub prefix6: u8,
}

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Authoritative DNS.
    Dns,
    /// Load balancer.
    Edge,
    /// Web server.
    Web,
    /// App server.
    App,
    /// Database.
    Database,
    /// Central monitoring.
    Monitor,
    /// Where servers agree.
    Coordinator,
}

impl Role {
    /// All roles with their names in the file.
    pub const NAMES: [(&'static str, Role); 7] = [
        ("dns", Role::Dns),
        ("edge", Role::Edge),
        ("web", Role::Web),
        ("app", Role::App),
        ("database", Role::Database),
        ("monitor", Role::Monitor),
        ("coordinator", Role::Coordinator),
    ];

    /// The name in the file.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name.
    pub name: ServerName,
    /// Its address in the servers' network.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// What it does, in the order of the file, without repetition.
    pub roles: Vec<Role>,
    /// Memory.
    pub memory: Option<ByteSize>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Disk of the lab's server.
    pub disk: Option<ByteSize>,
}

impl Server {
    /// Whether the server has the role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// An app: the code base and what runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// The code base's folder, relative to the site file.
    pub code: PathBuf,
    /// Whether symbolic links that lead out of the code base are followed when a release is made.
    pub follow_links: bool,
    /// Folder inside the code base whose files are served as they are.
    pub public: Option<String>,
    /// Only requests for these hosts; empty for all of the site's.
    pub hosts: Vec<HostPattern>,
    /// Only requests at or under this path.
    pub path: String,
    /// What runs it.
    pub kind: AppKind,
    /// Folder with the schema's `*.sql`, inside the code base.
    pub schema: Option<String>,
    /// Folders inside the code base that the app may write.
    pub writable: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Environment out of secrets.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Requests worked on at once; without it, by memory and processors.
    pub workers: Option<u32>,
    /// Memory for all its processes.
    pub memory: Option<ByteSize>,
    /// The most processes and threads.
    pub processes: u32,
    /// Path that answers 200 when it is ready.
    pub readiness: Option<String>,
    /// Whether it gets a database of its own.
    pub database: bool,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Made once, at random, and kept under this name.
    Generated(String),
    /// Read from a file beside the site file.
    File(PathBuf),
    /// Made by the site's own certificate authority.
    Identity(IdentityPart),
}

/// What a server proves itself with to the site's other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityPart {
    /// The authority's certificate: whom to believe.
    Authority,
    /// The server's own certificate.
    Certificate,
    /// Its private key.
    Key,
}

impl IdentityPart {
    /// Its name among the secrets.
    pub fn secret(self) -> &'static str {
        match self {
            Self::Authority => "site-authority",
            Self::Certificate => "server-certificate",
            Self::Key => "server-key",
        }
    }
}

/// What runs an app.
#[derive(Debug, Clone, PartialEq)]
pub enum AppKind {
    /// php-fpm.
    Php {
        /// The script that answers what is neither a file nor a script.
        front_controller: Option<String>,
        /// php.ini settings.
        settings: BTreeMap<String, String>,
    },
    /// gunicorn or uvicorn.
    Python {
        /// The interface that the app speaks.
        interface: PythonInterface,
        /// `module:object`.
        entry: String,
        /// The requirements file inside the code base.
        requirements: String,
    },
    /// Any command.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// What it listens on.
        listen: CommandListen,
    },
}

/// A route of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteRule {
    /// Only for this host.
    pub host: Option<HostPattern>,
    /// At or under this path.
    pub path: String,
    /// Who answers.
    pub target: RouteTarget,
}

/// Who answers a route.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteTarget {
    /// An app.
    App(AppName),
    /// A folder inside an app's code base.
    Static {
        /// The app.
        app: AppName,
        /// The folder.
        folder: String,
    },
    /// Somewhere else.
    Redirect {
        /// The new location.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
}

/// The web server's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WebSettings {
    /// The port.
    pub port: u16,
    /// Limits.
    pub limits: WebLimits,
    /// Compress on the fly.
    pub compress: bool,
    /// How long a replaced process keeps `WebSocket`s.
    pub drain_timeout: Duration,
}

/// The database's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseSettings {
    /// The server program.
    pub engine: Engine,
    /// The port.
    pub port: u16,
    /// Memory; without it, a share of the server's.
    pub memory: Option<ByteSize>,
    /// Client connections.
    pub connections: u32,
    /// What a commit is worth.
    pub durability: Durability,
    /// Server that is the primary when possible.
    pub prefer: Option<ServerName>,
    /// Servers that never become the primary.
    pub never: Vec<ServerName>,
    /// How long a primary may be silent before another takes its place, in milliseconds.
    pub lease_ms: u32,
}

/// The zone's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsSettings {
    /// Seconds that resolvers may keep an answer.
    pub ttl_secs: u32,
    /// Responses a second for one client network.
    pub responses_per_second: u32,
    /// The mailbox of who is responsible, as a domain name.
    pub mailbox: Option<DomainName>,
    /// Further records: owner name in full, time to live, data.
    pub records: Vec<(String, Option<u32>, RecordData)>,
}

/// HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Where certificates come from.
    pub certificates: Certificates,
    /// Whether HTTP is redirected to HTTPS.
    pub redirect: bool,
    /// Whose certificates clients may show: a file in PEM, and whether they must.
    pub clients: Option<(PathBuf, bool)>,
}

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// An ACME authority.
    Acme {
        /// Mail address for the account.
        email: String,
        /// The directory's address; without it, the default authority.
        directory: Option<String>,
    },
    /// Files beside the site file; the first pair answers clients that name no server. Never empty.
    Files(Vec<CertificateFiles>),
    /// The site's own authority, for tests.
    Own,
}

/// A certificate with its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallSettings {
    /// Networks from which administrators reach SSH.
    pub admin_networks: Vec<String>,
    /// Further destinations that servers may reach: `host:port`.
    pub outgoing: Vec<String>,
}

/// The monitoring platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorSettings {
    /// How long data is kept.
    pub retention: Duration,
    /// Mail addresses that alerts go to.
    pub alert_emails: Vec<String>,
    /// Addresses of webhooks that alerts go to.
    pub alert_webhooks: Vec<String>,
}

/// Where servers agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoordinatorSettings {
    /// A durable file on the one coordinator server.
    Embedded,
    /// etcd, started by the agents of the coordinator servers, or given by address.
    Etcd {
        /// Existing endpoints; empty to run our own.
        endpoints: Vec<String>,
    },
}

/// Backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSettings {
    /// Where they go: a folder or a bucket's address.
    pub target: String,
    /// Time between full backups.
    pub every: Duration,
    /// How long they are kept.
    pub keep: Duration,
}

impl Site {
    /// The servers with a role, in the order of the file.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(move |server| server.has(role))
    }

    /// The port on which a web server takes requests: the file's, or 8080 beside an edge that needs that port itself.
    pub fn web_port(&self, server: &Server) -> u16 {
        web_port(server, self.web.port)
    }

    /// The certificates that the edges answer HTTPS with; empty: they do not.
    pub fn certificate_files(&self) -> &[CertificateFiles] {
        match self.tls.as_ref().map(|tls| &tls.certificates) {
            Some(Certificates::Files(files)) if self.has_edge() => files,
            _ => &[],
        }
    }

    /// Addresses of the coordinator's servers, where the site has none of its own.
    pub fn external_coordinator(&self) -> &[String] {
        match &self.coordinator {
            Some(CoordinatorSettings::Etcd { endpoints }) => endpoints,
            _ => &[],
        }
    }

    /// The same site, planned with replicas of its database. Agents of this version do not run them yet.
    #[must_use]
    pub fn with_replicas(mut self) -> Self {
        self.plans_replicas = true;
        self
    }

    /// Whether the database is planned on several servers.
    pub fn has_replicas(&self) -> bool {
        self.plans_replicas && self.with_role(Role::Database).count() > 1
    }

    /// Who issues the certificates of clients, and whether clients must show one.
    pub fn client_authorities(&self) -> Option<(&Path, bool)> {
        let (file, required) = self.tls.as_ref().filter(|_| self.has_edge())?.clients.as_ref()?;
        Some((file, *required))
    }

    /// The role of the servers that visitors reach.
    pub fn entry(&self) -> Role {
        if self.has_edge() { Role::Edge } else { Role::Web }
    }

    /// Whether load balancers stand before the web servers.
    pub fn has_edge(&self) -> bool {
        self.with_role(Role::Edge).next().is_some()
    }

    /// What the file asks for that this version of Mainstay does not carry out yet, in plain words.
    pub fn not_yet(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for role in [Role::Monitor, Role::Coordinator] {
            if self.with_role(role).next().is_some() {
                missing.push(format!("the role `{role}`"));
            }
        }
        if self.with_role(Role::Database).count() > 1 {
            missing.push("replicas of the database (only the first database server runs one)".to_owned());
        }
        match self.tls.as_ref().map(|tls| &tls.certificates) {
            Some(_) if !self.has_edge() => {
                missing
                    .push("[tls] without a load balancer (HTTPS is answered by the role `edge`)".to_owned());
            }
            None | Some(Certificates::Files(_)) => {}
            Some(Certificates::Acme { .. }) => {
                missing.push("[tls] by ACME (certificates from files are; until then HTTP only)".to_owned());
            }
            Some(Certificates::Own) => missing.push(
                "[tls] by the site's own authority (certificates from files are; until then HTTP only)"
                    .to_owned(),
            ),
        }
        let sections = [
            ("[firewall]", self.firewall.is_some()),
            ("[monitor]", self.monitor.is_some()),
            ("[coordinator]", self.coordinator.is_some()),
            ("[backup]", self.backup.is_some()),
            ("floating_ips in [network]", !self.network.floating_ips.is_empty()),
        ];
        missing.extend(sections.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.to_owned()));
        missing
    }
}

/// The port of a web server beside an edge.
const WEB_PORT_BESIDE_EDGE: u16 = 8080;

/// The port on which a server's web server takes requests, where the file says `port`.
pub(crate) fn web_port(server: &Server, port: u16) -> u16 {
    if server.has(Role::Edge) && matches!(port, 80 | 443) { WEB_PORT_BESIDE_EDGE } else { port }
}
