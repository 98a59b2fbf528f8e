//! `[server.NAME]`: the machines.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::{Network, Role, Server};
use crate::section::{At, Section};
use crate::{ByteSize, ServerName};

/// Names that `mainstay exec` uses for the lab's other hosts, or that mean the machine itself.
const TAKEN: [&str; 3] = ["client", "internet", "localhost"];

pub(super) fn read(root: &Section<'_>, network: &Network) -> Vec<At<Server>> {
    let named = root.named("server");
    if named.is_empty() && !root.has("server") {
        root.problems.help(
            &(0..0),
            "the file has no server",
            "add one:  [server.server1]  with  address = \"10.10.0.11\"  and  roles = [\"dns\", \"web\", \"app\", \"database\"]",
        );
    }
    named.into_iter().filter_map(|(name, section)| read_server(&name, section, network)).collect()
}

fn read_server(name: &At<String>, section: Section<'_>, network: &Network) -> Option<At<Server>> {
    let problems = section.problems;
    let parsed = match name.value.parse::<ServerName>() {
        Ok(_) if TAKEN.contains(&name.value.as_str()) => {
            problems.help(
                &name.at,
                format!("a server cannot be called `{}`: Mainstay uses the name itself", name.value),
                "choose another name, such as server1",
            );
            None
        }
        Ok(parsed) => Some(parsed),
        Err(error) => {
            problems.note(&name.at, format!("`{}` is not a server's name: {error}", name.value));
            None
        }
    };
    let address = section.parsed::<Ipv4Addr>("address", "an IPv4 address");
    match &address {
        Some(address) => check_address(&section, address, network),
        None if !section.has("address") => {
            section
                .missing("address", &format!("add  address = \"...\"  from the network {}", network.servers));
        }
        None => {}
    }
    let address6 = section.parsed::<Ipv6Addr>("address6", "an IPv6 address");
    let roles = read_roles(&section);
    let memory = section.parsed::<ByteSize>("memory", "a size");
    if let Some(memory) = memory.as_ref().filter(|memory| memory.value < ByteSize::from_mebibytes(256)) {
        problems.note(
            &memory.at,
            format!("{} is too little memory for a server; give it at least 256MiB", memory.value),
        );
    }
    let disk = section.parsed::<ByteSize>("disk", "a size");
    if let Some(disk) = disk.as_ref().filter(|disk| disk.value < ByteSize::from_mebibytes(512)) {
        problems.note(
            &disk.at,
            format!("{} is too small a disk for a server; give it at least 512MiB", disk.value),
        );
    }
    let cpus = section.number("cpus", 0.1..=1024.0);
    let at = name.at.clone();
    section.finish();
    let value = Server {
        name: parsed?,
        address: address?.value,
        address6: address6.map(|address| address.value),
        roles,
        memory: memory.map(|memory| memory.value),
        cpus,
        disk: disk.map(|disk| disk.value),
    };
    Some(At { value, at })
}

fn check_address(section: &Section<'_>, address: &At<Ipv4Addr>, network: &Network) {
    let servers = network.servers;
    let free = format!("choose a free address of {servers}, whose first one is the router's");
    if !servers.contains(address.value) {
        let message = format!("the address {} is not in the servers' network {servers}", address.value);
        section.problems.help(&address.at, message, format!("{free}; or set `servers` in [network]"));
    } else if address.value == servers.router() {
        section.problems.help(&address.at, format!("{} is the router's address", address.value), free);
    } else if address.value == servers.broadcast() || address.value == servers.base {
        let message = format!("{} is not an address that a server can have", address.value);
        section.problems.help(&address.at, message, free);
    }
}

fn read_roles(section: &Section<'_>) -> Vec<Role> {
    let Some(texts) = section.strings("roles") else {
        if !section.has("roles") {
            section.missing("roles", "say what it does:  roles = [\"web\", \"app\"]");
        }
        return Vec::new();
    };
    if texts.value.is_empty() {
        let names = Role::NAMES.map(|(name, _)| name).join(", ");
        section.problems.help(
            &texts.at,
            format!("{} has no role", section.title),
            format!("choose from {names}"),
        );
    }
    let mut roles = Vec::new();
    for text in &texts.value {
        let Some(role) = section.choose(text, "role", &Role::NAMES) else { continue };
        if roles.contains(&role.value) {
            section
                .problems
                .note(&text.at, format!("the role `{}` stands twice in {}", role.value, section.title));
        } else {
            roles.push(role.value);
        }
    }
    roles
}
