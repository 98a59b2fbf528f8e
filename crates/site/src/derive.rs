//! From the site to one [`Plan`] per server. Pure: what is not in the file (releases, the zone's serial) comes in as [`Inputs`].

pub(crate) mod cluster;
mod edge;
mod flows;
mod zone;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sha2::{Digest, Sha256};

use crate::model::{App, AppKind, Role, RouteTarget, SecretSource, Server, Site};
use crate::plan::{
    AppDatabase, AppPlan, Backend, CommandListen, DatabaseOfApp, DatabasePlan, DnsPlan, HostPattern, Mount,
    Resources, Route, Runtime, Target, WebApp, WebPlan,
};
use crate::{AppName, ByteSize, Plan, paths};

/// What a plan needs and the file does not hold.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The release of each app that is to be live.
    pub releases: BTreeMap<AppName, String>,
    /// The virtual environment's folder of each Python app.
    pub environments: BTreeMap<AppName, std::path::PathBuf>,
    /// The zone's serial; grows when the zone changes.
    pub serial: u32,
    /// Further names that the web servers answer to, such as the lab's for browsers on this machine.
    pub more_hosts: Vec<HostPattern>,
}

/// Memory of a server whose file gives none: what the roles are tuned to.
const DEFAULT_MEMORY: ByteSize = ByteSize::from_mebibytes(2048);

impl Site {
    /// One plan per server, in the order of the file.
    pub fn plans(&self, inputs: &Inputs) -> Vec<Plan> {
        self.servers.iter().map(|server| self.plan(server, inputs)).collect()
    }

    fn plan(&self, server: &Server, inputs: &Inputs) -> Plan {
        let mut plan = Plan {
            site: self.name.clone(),
            domain: self.domain.clone(),
            server: server.name.clone(),
            addresses: addresses(server),
            revision: String::new(),
            resources: Resources { memory: server.memory, cpus: server.cpus, disk: server.disk },
            dns: server.has(Role::Dns).then(|| self.dns_plan(server, inputs)),
            edge: server.has(Role::Edge).then(|| edge::plan(self, server, inputs)),
            web: server.has(Role::Web).then(|| self.web_plan(server, inputs)),
            apps: if server.has(Role::App) { self.app_plans(server, inputs) } else { Vec::new() },
            database: self.keeps_data(server).then(|| self.database_plan(server, inputs)),
            coordinator: cluster::coordinator(self, server),
            router: cluster::router(self, server),
            flows: flows::of(self, server),
        };
        plan.revision = revision(&plan);
        plan
    }

    /// The server with the database, where there are no replicas: the preferred one, or the first with the role.
    pub(crate) fn first_database(&self) -> Option<&Server> {
        let preferred = self.database.prefer.as_ref();
        self.with_role(Role::Database)
            .find(|server| Some(&server.name) == preferred)
            .or_else(|| self.with_role(Role::Database).next())
    }

    /// Whether the server runs a database.
    pub(crate) fn keeps_data(&self, server: &Server) -> bool {
        let is_first = || self.first_database().is_some_and(|first| first.name == server.name);
        server.has(Role::Database) && (self.has_replicas() || is_first())
    }

    fn dns_plan(&self, server: &Server, inputs: &Inputs) -> DnsPlan {
        DnsPlan {
            listen: addresses(server).into_iter().map(|address| SocketAddr::new(address, 53)).collect(),
            zones: vec![zone::of(self, inputs.serial)],
            responses_per_second: self.dns.responses_per_second,
        }
    }

    fn web_plan(&self, server: &Server, inputs: &Inputs) -> WebPlan {
        let mut routes: Vec<Route> = self
            .routes
            .iter()
            .filter_map(|rule| {
                let target = match &rule.target {
                    RouteTarget::App(name) => Self::web_app(self.app(name)?, inputs),
                    RouteTarget::Static { app, folder } => {
                        Target::Static { root: paths::releases(app).join(release(inputs, app)).join(folder) }
                    }
                    RouteTarget::Redirect { to, status } => {
                        Target::Redirect { to: to.clone(), status: *status }
                    }
                };
                Some(Route { host: rule.host.clone(), path: rule.path.clone(), target })
            })
            .collect();
        routes.extend(self.app_routes(inputs));
        WebPlan {
            listen: addresses(server)
                .into_iter()
                .map(|address| SocketAddr::new(address, self.web_port(server)))
                .collect(),
            server: server.name.clone(),
            hosts: self.hosts.iter().chain(&inputs.more_hosts).cloned().collect(),
            routes,
            limits: self.web.limits,
            compress: self.web.compress,
            trusted_proxies: self.told_by(),
            drain_ms: u64::try_from(self.web.drain_timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Whom a web server believes about clients: the edges, and those who stand before them. Without edges nobody.
    fn told_by(&self) -> Vec<String> {
        if !self.has_edge() {
            return Vec::new();
        }
        let edges = self.with_role(Role::Edge).flat_map(addresses).map(single);
        edges.chain(self.edge.trusted_proxies.iter().cloned()).collect()
    }

    /// Apps of one host come before those of all hosts, and longer paths before shorter ones.
    fn app_routes(&self, inputs: &Inputs) -> Vec<Route> {
        let mut routes = Vec::new();
        for app in &self.apps {
            let target = Self::web_app(app, inputs);
            let hosts: Vec<Option<HostPattern>> =
                if app.hosts.is_empty() { vec![None] } else { app.hosts.iter().cloned().map(Some).collect() };
            for host in hosts {
                routes.push(Route { host, path: app.path.clone(), target: target.clone() });
            }
        }
        routes.sort_by_key(|route| (route.host.is_none(), std::cmp::Reverse(route.path.len())));
        routes
    }

    fn web_app(app: &App, inputs: &Inputs) -> Target {
        let release = release(inputs, &app.name);
        let code = paths::releases(&app.name).join(&release);
        let public =
            app.public.as_ref().map_or_else(|| code.join(".no-public-files"), |folder| code.join(folder));
        let prefix = app.public.as_ref().map(|folder| format!("{folder}/"));
        let mounts = app
            .writable
            .iter()
            .filter_map(|folder| {
                let path = folder.strip_prefix(prefix.as_deref()?)?;
                Some(Mount { path: format!("/{path}"), root: paths::app_data(&app.name).join(folder) })
            })
            .collect();
        let socket = paths::app_socket(&app.name);
        let backend = match &app.kind {
            AppKind::Php { front_controller, .. } => Backend::FastCgi {
                socket,
                front_controller: front_controller.clone(),
                max_requests: workers(app),
            },
            AppKind::Python { .. } | AppKind::Command { listen: CommandListen::Socket, .. } => {
                Backend::HttpSocket { socket }
            }
            AppKind::Command { listen: CommandListen::Port, .. } => {
                Backend::HttpPort { port_file: paths::role_run(&format!("app-{}", app.name)).join("port") }
            }
        };
        Target::App(WebApp { name: app.name.clone(), release, public, mounts, backend })
    }

    fn app_plans(&self, server: &Server, inputs: &Inputs) -> Vec<AppPlan> {
        self.apps
            .iter()
            .map(|app| AppPlan {
                name: app.name.clone(),
                release: release(inputs, &app.name),
                runtime: runtime(app, inputs),
                environment: app.env.clone(),
                secret_environment: app
                    .secrets
                    .keys()
                    .map(|variable| (variable.clone(), secret_name(app, variable)))
                    .collect(),
                writable: app.writable.clone(),
                database: self.app_database(app, server),
                readiness_path: app.readiness.clone(),
                memory: app.memory,
                processes: app.processes,
            })
            .collect()
    }

    fn app_database(&self, app: &App, server: &Server) -> Option<AppDatabase> {
        let first = self.first_database().filter(|_| app.database)?;
        let here = first.name == server.name;
        let (host, socket) = if self.has_replicas() {
            // Beside every app: it knows which server is the primary at the moment.
            (Ipv4Addr::LOCALHOST, Some(paths::router_socket()))
        } else if here {
            (self.database_address(first), Some(paths::database_socket()))
        } else {
            (first.address, None)
        };
        Some(AppDatabase {
            host: host.into(),
            port: self.database.port,
            socket,
            name: database_name(app),
            user: database_name(app),
            password_secret: password_secret(app),
        })
    }

    /// Where the database listens: for apps elsewhere and for replicas on its server's address, else on this machine only.
    fn database_address(&self, server: &Server) -> Ipv4Addr {
        let serves_others =
            self.has_replicas() || self.with_role(Role::App).any(|other| other.name != server.name);
        if serves_others { server.address } else { Ipv4Addr::LOCALHOST }
    }

    fn database_plan(&self, server: &Server, inputs: &Inputs) -> DatabasePlan {
        let others: Vec<String> = self
            .with_role(Role::App)
            .filter(|other| other.name != server.name)
            .map(|other| other.address.to_string())
            .collect();
        let listen = self.database_address(server);
        let mut allowed_hosts = Vec::new();
        if server.has(Role::App) {
            allowed_hosts.extend(["localhost".to_owned(), listen.to_string()]);
        }
        allowed_hosts.extend(others);
        DatabasePlan {
            engine: self.database.engine,
            listen: SocketAddr::new(listen.into(), self.database.port),
            allowed_hosts,
            memory: self.database.memory.unwrap_or_else(|| database_share(server)),
            connections: self.database.connections,
            cluster: cluster::of_database(self, server),
            databases: self
                .apps
                .iter()
                .filter(|app| app.database)
                .map(|app| DatabaseOfApp {
                    app: app.name.clone(),
                    name: database_name(app),
                    user: database_name(app),
                    password_secret: password_secret(app),
                    schema: app.schema.as_ref().map(|folder| {
                        paths::releases(&app.name).join(release(inputs, &app.name)).join(folder)
                    }),
                })
                .collect(),
        }
    }

    fn app(&self, name: &AppName) -> Option<&App> {
        self.apps.iter().find(|app| app.name == *name)
    }

    /// The secrets that a server needs, each with where it comes from.
    pub fn secrets_of(&self, server: &Server) -> BTreeMap<String, SecretSource> {
        let mut secrets = if server.has(Role::Edge) { edge::secrets(self) } else { BTreeMap::new() };
        let runs_apps = server.has(Role::App);
        for app in &self.apps {
            let has_database = self.first_database().is_some();
            if app.database && has_database && (runs_apps || self.keeps_data(server)) {
                let name = password_secret(app);
                secrets.insert(name.clone(), SecretSource::Generated(name));
            }
            if runs_apps {
                for (variable, source) in &app.secrets {
                    secrets.insert(secret_name(app, variable), source.clone());
                }
            }
        }
        secrets.extend(cluster::secrets(self, server));
        secrets
    }
}

/// All addresses of a server, IPv4 first.
fn addresses(server: &Server) -> Vec<IpAddr> {
    std::iter::once(server.address.into()).chain(server.address6.map(Into::into)).collect()
}

/// The network that holds this address alone.
fn single(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn release(inputs: &Inputs, app: &AppName) -> String {
    inputs.releases.get(app).cloned().unwrap_or_else(|| "none".to_owned())
}

/// A database and account name: the app's, with the hyphens that SQL would have to quote replaced.
fn database_name(app: &App) -> String {
    app.name.as_str().replace('-', "_")
}

fn password_secret(app: &App) -> String {
    format!("database-{}", app.name)
}

fn secret_name(app: &App, variable: &str) -> String {
    match &app.secrets[variable] {
        SecretSource::Generated(name) => format!("app-{}-{name}", app.name),
        SecretSource::File(_) | SecretSource::Identity(_) => {
            format!("app-{}-{}", app.name, variable.to_ascii_lowercase().replace('_', "-"))
        }
    }
}

/// Requests that an app works on at once where the file does not say.
fn workers(app: &App) -> u32 {
    app.workers.unwrap_or(match app.kind {
        AppKind::Php { .. } => 8,
        AppKind::Python { .. } | AppKind::Command { .. } => 2,
    })
}

fn runtime(app: &App, inputs: &Inputs) -> Runtime {
    match &app.kind {
        AppKind::Php { settings, .. } => Runtime::Php { workers: workers(app), settings: settings.clone() },
        AppKind::Python { interface, entry, .. } => Runtime::Python {
            interface: *interface,
            entry: entry.clone(),
            workers: workers(app),
            environment: inputs.environments.get(&app.name).cloned().unwrap_or_default(),
        },
        AppKind::Command { command, listen } => {
            Runtime::Command { command: command.clone(), listen: *listen }
        }
    }
}

/// A database alone on its server gets three quarters of the memory; beside apps a third.
fn database_share(server: &Server) -> ByteSize {
    let memory = server.memory.unwrap_or(DEFAULT_MEMORY).bytes();
    let alone = !server.has(Role::App) && !server.has(Role::Web);
    let share = if alone { memory / 4 * 3 } else { memory / 3 };
    ByteSize::from_mebibytes((share / (1024 * 1024)).max(64))
}

fn revision(plan: &Plan) -> String {
    // A plan is plain data with text keys, so turning it into JSON cannot fail; if it ever did, an empty
    // text would only make every such plan look alike, and the agent compares specs anyway.
    let text = serde_json::to_string(plan).unwrap_or_default();
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
