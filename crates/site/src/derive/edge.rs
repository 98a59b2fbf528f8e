//! The load balancer's plan: listeners, groups with their upstreams, and the routes of the file before the one for all.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Inputs, addresses};
use crate::model::edge::{
    DEFAULT_GROUP, DEFAULT_WEIGHT, EdgeSettings, GroupRule, HealthKind, HealthSettings, Members, PoolSettings,
};
use crate::model::{Role, SecretSource, Server, Site};
use crate::plan::EdgePlan;
use crate::plan::edge::{
    CertificatePlan, ClientCertificates, EdgeListener, EdgeRoute, FieldEdits, HealthCheck, HealthPlan,
    RouteAction, RouteCondition, TcpService, Upstream, UpstreamGroup, UpstreamTls,
};

/// The route for what no route of the file takes.
const LAST_ROUTE: &str = "site";
/// The secret that signs the edges' cookies.
const COOKIE_SECRET: &str = "edge-cookie";
/// The secret that holds the authorities of clients' certificates.
const CLIENT_AUTHORITIES: &str = "tls-client-authorities";
/// Where HTTP and HTTPS are answered.
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// The ports of an edge that anyone may reach, each with what it is for.
pub(super) fn ports(site: &Site) -> Vec<(u16, String)> {
    let mut ports = vec![(HTTP, "edge: HTTP from everyone".to_owned())];
    if !site.certificate_files().is_empty() {
        ports.push((HTTPS, "edge: HTTPS from everyone".to_owned()));
    }
    let services = &site.edge.tcp;
    ports.extend(services.iter().map(|rule| (rule.listen, format!("edge: {} from everyone", rule.name))));
    ports
}

/// Ports of the site's servers that the edges send requests to.
pub(super) fn upstream_ports(site: &Site, server: &Server) -> Vec<u16> {
    let mut ports: Vec<u16> = groups(site)
        .iter()
        .filter_map(|group| match &group.members {
            Members::Web => server.has(Role::Web).then(|| site.web_port(server)),
            Members::Servers(names, port) => {
                names.contains(&server.name).then(|| port.unwrap_or_else(|| site.web_port(server)))
            }
            Members::Addresses(_) => None,
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The file's groups, and the default one where the file does not describe it.
fn groups(site: &Site) -> Vec<GroupRule> {
    let settings = &site.edge;
    let mut groups = settings.groups.clone();
    let has_default = groups.iter().any(|group| group.name == DEFAULT_GROUP);
    if !has_default && site.with_role(Role::Web).next().is_some() {
        groups.push(GroupRule {
            name: DEFAULT_GROUP.to_owned(),
            members: Members::Web,
            backup: Vec::new(),
            pool: settings.pool.clone(),
        });
    }
    groups
}

pub(super) fn plan(site: &Site, server: &Server, inputs: &Inputs) -> EdgePlan {
    let settings = &site.edge;
    let tls = !site.certificate_files().is_empty();
    let listen = |port: u16, tls: bool| {
        let proxy_protocol = settings.proxy_protocol;
        addresses(server).into_iter().map(move |address| EdgeListener {
            address: SocketAddr::new(address, port),
            tls,
            proxy_protocol,
        })
    };
    let mut listeners: Vec<EdgeListener> = listen(HTTP, false).collect();
    if tls {
        listeners.extend(listen(HTTPS, true));
    }
    let groups = groups(site);
    let mut routes = settings.routes.clone();
    routes.extend(last_route(settings, &groups));
    EdgePlan {
        server: server.name.clone(),
        listeners,
        redirect_to_tls: tls && site.tls.as_ref().is_some_and(|tls| tls.redirect),
        tcp: services(site, server),
        client_certificates: site.client_authorities().map(|(_, required)| ClientCertificates {
            authorities_secret: CLIENT_AUTHORITIES.to_owned(),
            required,
        }),
        certificates: (0..site.certificate_files().len()).map(certificate).collect(),
        hosts: site.hosts.iter().chain(&inputs.more_hosts).cloned().collect(),
        routes,
        groups: groups.iter().map(|group| upstream_group(site, group)).collect(),
        trusted_proxies: settings.trusted_proxies.clone(),
        limits: settings.limits,
        connections_per_client: settings.connections_per_client,
        rates: settings.rates.clone(),
        compress: settings.compress,
        cache: settings.cache,
        maintenance: settings.maintenance.clone(),
        shed: settings.shed,
        keep_request_ids: settings.keep_request_ids,
        drain_ms: millis(settings.drain_timeout),
        cookie_secret: COOKIE_SECRET.to_owned(),
    }
}

/// What every edge needs to keep to itself.
pub(super) fn secrets(site: &Site) -> BTreeMap<String, SecretSource> {
    let cookie = (COOKIE_SECRET.to_owned(), SecretSource::Generated(COOKIE_SECRET.to_owned()));
    let files = site.certificate_files().iter().enumerate().flat_map(|(index, files)| {
        let CertificatePlan { chain_secret, key_secret } = certificate(index);
        [
            (chain_secret, SecretSource::File(files.certificate.clone())),
            (key_secret, SecretSource::File(files.key.clone())),
        ]
    });
    let clients = site
        .client_authorities()
        .map(|(file, _)| (CLIENT_AUTHORITIES.to_owned(), SecretSource::File(file.to_owned())));
    std::iter::once(cookie).chain(files).chain(clients).collect()
}

fn certificate(index: usize) -> CertificatePlan {
    let number = index + 1;
    CertificatePlan {
        chain_secret: format!("tls-certificate-{number}"),
        key_secret: format!("tls-key-{number}"),
    }
}

/// Everything that no route of the file takes goes to the web servers.
fn last_route(settings: &EdgeSettings, groups: &[GroupRule]) -> Option<EdgeRoute> {
    let group = groups.iter().find(|group| group.name == DEFAULT_GROUP)?;
    Some(EdgeRoute {
        name: LAST_ROUTE.to_owned(),
        condition: RouteCondition::default(),
        action: RouteAction::Forward { groups: vec![(group.name.clone(), 1)], rewrite: None, host: None },
        request_fields: FieldEdits::default(),
        response_fields: FieldEdits::default(),
        body: None,
        timeout_ms: millis(settings.request_timeout),
        rates: Vec::new(),
        concurrent: 0,
        cache: true,
        client_certificate: false,
    })
}

/// A service listens on each address of the edge.
fn services(site: &Site, server: &Server) -> Vec<TcpService> {
    let on_address = |address: std::net::IpAddr| {
        site.edge.tcp.iter().map(move |rule| TcpService {
            name: if address.is_ipv4() { rule.name.clone() } else { format!("{}-6", rule.name) },
            listen: SocketAddr::new(address, rule.listen),
            tls: rule.tls,
            proxy_protocol: rule.proxy_protocol,
            by_name: rule.by_name.clone(),
            group: rule.group.clone(),
            idle_ms: millis(rule.idle),
            connections: rule.connections,
            connections_per_client: rule.connections_per_client,
        })
    };
    addresses(server).into_iter().flat_map(on_address).collect()
}

fn upstream_group(site: &Site, group: &GroupRule) -> UpstreamGroup {
    let PoolSettings { balance, sticky, slow_start, health, outlier, retry, .. } = &group.pool;
    let pool = &group.pool;
    let tls = pool.tls.clone();
    UpstreamGroup {
        name: group.name.clone(),
        balance: balance.clone(),
        sticky: sticky.clone(),
        upstreams: upstreams(site, group),
        protocol: pool.protocol,
        tls: tls.map(|server_name| UpstreamTls { server_name, authorities_secret: None, certificate: None }),
        proxy_protocol: pool.send_proxy_protocol,
        health: health_plan(site, health),
        outlier: *outlier,
        slow_start_ms: millis(*slow_start),
        connections: pool.max_connections,
        queue: pool.queue,
        queue_ms: millis(pool.queue_timeout),
        connect_ms: millis(pool.connect_timeout),
        first_byte_ms: millis(pool.first_byte_timeout),
        between_bytes_ms: millis(pool.between_bytes_timeout),
        idle_ms: millis(pool.idle_timeout),
        retry: *retry,
    }
}

fn upstreams(site: &Site, group: &GroupRule) -> Vec<Upstream> {
    let of_server = |server: &Server, port: Option<u16>| {
        let port = port.unwrap_or_else(|| site.web_port(server));
        Upstream {
            name: server.name.to_string(),
            address: SocketAddr::new(server.address.into(), port),
            weight: site.edge.weights.get(&server.name).copied().unwrap_or(DEFAULT_WEIGHT),
            backup: group.backup.iter().any(|name| *name == server.name.as_str()),
            drain: site.edge.draining.contains(&server.name),
        }
    };
    match &group.members {
        Members::Web => site.with_role(Role::Web).map(|server| of_server(server, None)).collect(),
        Members::Servers(names, port) => names
            .iter()
            .filter_map(|name| site.servers.iter().find(|server| server.name == *name))
            .map(|server| of_server(server, *port))
            .collect(),
        Members::Addresses(all) => all
            .iter()
            .map(|address| Upstream {
                name: address.to_string(),
                address: *address,
                weight: DEFAULT_WEIGHT,
                backup: group.backup.contains(&address.to_string()),
                drain: false,
            })
            .collect(),
    }
}

fn health_plan(site: &Site, health: &HealthSettings) -> Option<HealthPlan> {
    let check = match health.kind {
        HealthKind::None => return None,
        HealthKind::Tcp => HealthCheck::Tcp,
        HealthKind::Grpc => HealthCheck::Grpc { service: String::new() },
        HealthKind::Http => HealthCheck::Http {
            path: health.path.clone().unwrap_or_else(|| readiness(site)),
            host: health.host.clone().unwrap_or_else(|| first_host(site)),
            status: health.status,
            body: health.body.clone(),
        },
    };
    Some(HealthPlan {
        check,
        port: health.port,
        interval_ms: millis(health.interval),
        timeout_ms: millis(health.timeout),
        rise: health.rise,
        fall: health.fall,
    })
}

/// Where the app at `/` says that it is well, or the start page.
fn readiness(site: &Site) -> String {
    let app = site.apps.iter().find(|app| app.path == "/" && app.hosts.is_empty());
    app.and_then(|app| app.readiness.clone()).unwrap_or_else(|| "/".to_owned())
}

fn first_host(site: &Site) -> String {
    let host = site.hosts.iter().find(|host| !host.wildcard);
    host.map_or_else(|| site.domain.to_string(), |host| host.name.to_string())
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
