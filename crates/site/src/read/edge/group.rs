//! `[edge.group.NAME]` and `[edge.tcp.NAME]`: who answers.

use std::net::SocketAddr;
use std::time::Duration;

use super::words::{name, time};
use super::{Known, Names, pool};
use crate::ServerName;
use crate::model::edge::{
    DEFAULT_GROUP, EdgeSettings, GroupRule, HealthKind, Members, PoolSettings, TcpRule,
};
use crate::plan::HostPattern;
use crate::plan::edge::{BalancePlan, HashKey, TcpTls};
use crate::section::{At, Section, suggestion};

/// Groups of TCP services are named after them.
const TCP_GROUP: &str = "tcp-";

pub(super) fn read(
    section: &Section<'_>,
    title: &At<String>,
    known: &Known<'_>,
    defaults: &PoolSettings,
) -> Option<GroupRule> {
    let name = name(title, "a group", section);
    let members = read_members(section, known);
    let mut pool = pool::read(section, defaults);
    if section.is_text("tls") {
        let server_name = section.parsed::<crate::DomainName>("tls", "a host name");
        pool.tls = server_name.map(|name| Some(name.value.to_string()));
    } else if let Some(tls) = section.boolean("tls") {
        pool.tls = tls.then_some(None);
    }
    let members = members.or_else(|| {
        let is_default = title.value == DEFAULT_GROUP && !section.has("servers") && !section.has("addresses");
        is_default.then_some(Members::Web)
    });
    if members.is_none() && !section.has("servers") && !section.has("addresses") {
        section.missing(
            "servers",
            "name who answers:  servers = [\"server1\"],  or  addresses = [\"192.0.2.7:8080\"]",
        );
    }
    let backup = section.strings("backup").map_or_else(Vec::new, |names| names.value);
    for one in &backup {
        let there = match &members {
            Some(Members::Servers(servers, _)) => servers.iter().any(|name| name.as_str() == one.value),
            Some(Members::Addresses(all)) => all.iter().any(|address| address.to_string() == one.value),
            Some(Members::Web) => known.server(one, section).is_some(),
            None => true,
        };
        if !there {
            let message = format!("`{}` in `backup` is not of the group", one.value);
            section.problems.help(&one.at, message, "name it among the group's servers too");
        }
    }
    let backup = backup.into_iter().map(|name| name.value).collect();
    Some(GroupRule { name: name?, members: members?, backup, pool })
}

fn read_members(section: &Section<'_>, known: &Known<'_>) -> Option<Members> {
    let servers = section.strings("servers");
    let addresses = section.parsed_list::<SocketAddr>("addresses", "an address with a port");
    let port = section.integer("port", 1..=65535);
    if servers.is_some() && addresses.is_some() {
        section.problems.help(
            &section.at,
            format!("{} has both `servers` and `addresses`", section.title),
            "give it one of them; two groups can share a route",
        );
    }
    if let Some(servers) = servers {
        let named: Vec<ServerName> =
            servers.value.iter().filter_map(|server| known.server(server, section)).collect();
        if servers.value.is_empty() {
            section.problems.note(&servers.at, format!("{} has nobody who answers", section.title));
        }
        return Some(Members::Servers(named, port.map(|port| port.value as u16)));
    }
    let addresses = addresses?;
    if let Some(port) = port {
        let help = "write the port behind each address";
        section.problems.help(&port.at, "`port` belongs to `servers`", help);
    }
    if addresses.is_empty() {
        section.problems.note(&section.at, format!("{} has nobody who answers", section.title));
    }
    Some(Members::Addresses(addresses.into_iter().map(|address| address.value).collect()))
}

/// A TCP service, with the group that it brings along if it names servers itself.
pub(super) fn read_tcp(
    section: &Section<'_>,
    title: &At<String>,
    known: &Known<'_>,
    names: &Names<'_>,
    edge: &EdgeSettings,
) -> Option<(TcpRule, Option<GroupRule>)> {
    let name = name(title, "a service", section);
    let listen = section.integer("listen", 1..=65535);
    if listen.is_none() && !section.has("listen") {
        section.missing("listen", "name the port on the edges:  listen = 5432");
    }
    let kinds =
        [("none", TcpTls::None), ("passthrough", TcpTls::Passthrough), ("terminate", TcpTls::Terminate)];
    let tls = section.choice("tls", &kinds).map_or(TcpTls::None, |kind| kind.value);
    let by_name = read_by_name(section, names, tls);
    let members = read_members(section, known);
    let group = section.string("group");
    if group.is_some() && members.is_some() {
        section.problems.help(
            &section.at,
            format!("{} has both `group` and servers of its own", section.title),
            "give it one of them",
        );
    }
    if group.is_none() && members.is_none() && !section.has("by_name") {
        section.missing(
            "servers",
            "name who answers:  servers = [\"server1\"]  and  port = 5432,  or  group = \"NAME\"",
        );
    }
    if let Some(Members::Servers(_, None)) = members {
        section.missing("port", "name the port on those servers:  port = 5432");
    }
    let mut settings =
        PoolSettings { sticky: None, tls: None, send_proxy_protocol: None, ..edge.pool.clone() };
    settings.health.kind = HealthKind::Tcp;
    settings.health.port = None;
    if let BalancePlan::ConsistentHash { by, .. } = &mut settings.balance {
        // Bytes have no fields, cookies or paths.
        *by = HashKey::Client;
    }
    let settings = pool::read(section, &settings);
    let idle = time(section, "idle_timeout", Duration::from_secs(1), Duration::from_hours(24 * 7));
    let own_group = members.zip(name.clone()).map(|(members, name)| GroupRule {
        name: format!("{TCP_GROUP}{name}"),
        members,
        backup: Vec::new(),
        pool: settings,
    });
    let named_group = group.and_then(|group| names.group(&group, section));
    let rule = TcpRule {
        name: name?,
        listen: listen?.value as u16,
        tls,
        proxy_protocol: section.boolean("proxy_protocol").unwrap_or(false),
        by_name,
        group: own_group.as_ref().map(|group| group.name.clone()).or(named_group),
        idle: idle.unwrap_or(Duration::from_hours(1)),
        connections: section.integer("connections", 1..=1_000_000).map_or(1024, |most| most.value as u32),
        connections_per_client: section
            .integer("connections_per_client", 0..=1_000_000)
            .map_or(edge.connections_per_client, |most| most.value as u32),
    };
    Some((rule, own_group))
}

fn read_by_name(section: &Section<'_>, names: &Names<'_>, tls: TcpTls) -> Vec<(HostPattern, String)> {
    let mut by_name = Vec::new();
    for (host, group) in section.map("by_name") {
        if tls == TcpTls::None {
            let message = format!("{} routes by name, but does not look at TLS", section.title);
            section.problems.help(&group.at, message, "set  tls = \"passthrough\"  or  \"terminate\"");
            break;
        }
        let host = At { value: host, at: group.at.clone() };
        let host = super::super::read_host(&host, None, section.problems);
        by_name.extend(host.zip(names.group(&group, section)));
    }
    by_name
}

impl Known<'_> {
    /// A server of the site.
    pub(super) fn server(&self, name: &At<String>, section: &Section<'_>) -> Option<ServerName> {
        let found = self.servers.iter().find(|server| server.value.name.as_str() == name.value);
        if found.is_none() {
            let names: Vec<&str> = self.servers.iter().map(|server| server.value.name.as_str()).collect();
            let help = suggestion(&name.value, &names);
            section.problems.help(&name.at, format!("there is no server `{}`", name.value), help);
        }
        found.map(|server| server.value.name.clone())
    }
}
