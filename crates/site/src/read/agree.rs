//! Rules that hold between the parts of the file.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{
    App, AppKind, DatabaseSettings, EdgeSettings, Network, Role, Server, WebSettings, web_port,
};
use crate::section::{At, Section};

pub(super) fn check(
    root: &Section<'_>,
    network: &At<Network>,
    servers: &[At<Server>],
    apps: &[At<App>],
    web: &At<WebSettings>,
    database: &At<DatabaseSettings>,
    edge: &At<EdgeSettings>,
) {
    unique_addresses(root, network, servers);
    roles_are_served(root, servers, apps);
    edge_leads_somewhere(root, servers, edge);
    ports(root, servers, web, database, edge);
    routes_differ(root, apps);
    memory_suffices(root, servers, apps, database);
}

fn unique_addresses(root: &Section<'_>, network: &At<Network>, servers: &[At<Server>]) {
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for floating in &network.value.floating_ips {
        if owners.insert((*floating).into(), "a floating IP").is_some() {
            root.problems.note(&network.at, format!("the floating IP {floating} stands twice"));
        }
    }
    for server in servers {
        let six = server.value.address6.map(IpAddr::from);
        for address in std::iter::once(IpAddr::from(server.value.address)).chain(six) {
            if let Some(other) = owners.insert(address, server.value.name.as_str()) {
                root.problems.help(
                    &server.at,
                    format!(
                        "server `{}` has the address {address}, which {other} has already",
                        server.value.name
                    ),
                    "give every server an address of its own",
                );
            }
        }
    }
}

fn roles_are_served(root: &Section<'_>, servers: &[At<Server>], apps: &[At<App>]) {
    let has = |role: Role| servers.iter().any(|server| server.value.has(role));
    if servers.is_empty() {
        return;
    }
    for (role, needed) in [(Role::App, "app"), (Role::Web, "web")] {
        if let Some(app) = apps.first().filter(|_| !has(role)) {
            root.problems.help(
                &app.at,
                format!("app `{}` has nowhere to run: no server has the role `{needed}`", app.value.name),
                format!("add \"{needed}\" to the roles of a server"),
            );
        }
    }
    if apps.is_empty()
        && let Some(server) = servers.iter().find(|server| server.value.has(Role::App))
    {
        root.problems.help(
            &server.at,
            format!("server `{}` has the role `app`, but the file has no app", server.value.name),
            "add one:  [app.NAME]  with  kind  and  code",
        );
    }
    for server in servers {
        if server.value.has(Role::App) && !server.value.has(Role::Web) {
            root.problems.help(
                &server.at,
                format!("server `{}` has the role `app` without `web`", server.value.name),
                "apps answer on a Unix socket that the web server beside them speaks to: add \"web\"",
            );
        }
    }
    if let Some(app) = apps.iter().find(|app| app.value.schema.is_some() && !has(Role::Database)) {
        root.problems.help(
            &app.at,
            format!("app `{}` has a schema, but no server has the role `database`", app.value.name),
            "add \"database\" to the roles of a server, or leave `schema` out",
        );
    }
}

/// A load balancer needs somebody to send requests to.
fn edge_leads_somewhere(root: &Section<'_>, servers: &[At<Server>], edge: &At<EdgeSettings>) {
    let has = |role: Role| servers.iter().any(|server| server.value.has(role));
    let Some(server) = servers.iter().find(|server| server.value.has(Role::Edge)) else { return };
    if !has(Role::Web) && edge.value.groups.is_empty() && edge.value.routes.is_empty() {
        root.problems.help(
            &server.at,
            format!("the load balancer on `{}` has nobody to send requests to", server.value.name),
            "add \"web\" to the roles of a server, or a group of others:  [edge.group.NAME]  with  addresses = [...]",
        );
    }
}

/// The listeners of each role, as (protocol, port, what for).
fn listeners(
    server: &Server,
    web: u16,
    database: u16,
    edge: &EdgeSettings,
) -> Vec<(&'static str, u16, String)> {
    let mut found = Vec::new();
    let mut listen = |protocol, port, role: &str| found.push((protocol, port, role.to_owned()));
    for role in &server.roles {
        match role {
            Role::Dns => {
                listen("udp", 53, "dns");
                listen("tcp", 53, "dns");
            }
            Role::Web => listen("tcp", web_port(server, web), "web"),
            Role::Database => listen("tcp", database, "database"),
            Role::Edge => {
                listen("tcp", 80, "edge");
                listen("tcp", 443, "edge");
                for service in &edge.tcp {
                    listen("tcp", service.listen, &format!("edge ({})", service.name));
                }
            }
            Role::App | Role::Monitor | Role::Coordinator => {}
        }
    }
    found
}

fn ports(
    root: &Section<'_>,
    servers: &[At<Server>],
    web: &At<WebSettings>,
    database: &At<DatabaseSettings>,
    edge: &At<EdgeSettings>,
) {
    for server in servers {
        let mut seen: BTreeMap<(&str, u16), String> = BTreeMap::new();
        let all = listeners(&server.value, web.value.port, database.value.port, &edge.value);
        for (protocol, port, role) in all {
            let Some(other) = seen.insert((protocol, port), role.clone()) else { continue };
            let is = |wanted: &str| role.starts_with(wanted) || other.starts_with(wanted);
            // Where the file says something of one of the two; a default has no place.
            let places = [("edge (", &edge.at), ("web", &web.at), ("database", &database.at)];
            let at = places.into_iter().find(|(name, at)| is(name) && !at.is_empty());
            let at = at.map_or(&server.at, |(_, at)| at);
            root.problems.help(
                at,
                format!(
                    "`{other}` and `{role}` would both listen on {protocol} port {port} of server `{}`",
                    server.value.name
                ),
                "give one of them another `port`, or another server",
            );
        }
    }
}

fn routes_differ(root: &Section<'_>, apps: &[At<App>]) {
    for (index, app) in apps.iter().enumerate() {
        let same = apps[..index]
            .iter()
            .find(|other| other.value.path == app.value.path && (other.value.hosts == app.value.hosts));
        if let Some(other) = same {
            root.problems.help(
                &app.at,
                format!(
                    "apps `{}` and `{}` would answer the same requests",
                    other.value.name, app.value.name
                ),
                "give one of them a `path` or `hosts` of its own",
            );
        }
        if app.value.path != "/" && matches!(app.value.kind, AppKind::Php { .. }) {
            root.problems.help(
                &app.at,
                format!("the PHP app `{}` cannot live under the path `{}`", app.value.name, app.value.path),
                "give it `hosts` of its own instead: its scripts' addresses begin at /",
            );
        }
    }
}

fn memory_suffices(
    root: &Section<'_>,
    servers: &[At<Server>],
    apps: &[At<App>],
    database: &At<DatabaseSettings>,
) {
    for server in servers {
        let Some(memory) = server.value.memory else { continue };
        let mut wanted = 0;
        if server.value.has(Role::Database) {
            wanted += database.value.memory.map_or(0, super::super::size::ByteSize::bytes);
        }
        if server.value.has(Role::App) {
            wanted += apps
                .iter()
                .filter_map(|app| app.value.memory)
                .map(super::super::size::ByteSize::bytes)
                .sum::<u64>();
        }
        if wanted > memory.bytes() {
            root.problems.help(
                &server.at,
                format!(
                    "server `{}` has {memory}, but its database and apps are given {}",
                    server.value.name,
                    crate::ByteSize::from_bytes(wanted)
                ),
                "give the server more `memory`, or its roles less",
            );
        }
    }
}
