//! `[database]`, and whether its servers can agree.

use super::later;
use crate::model::{CoordinatorSettings, DatabaseSettings, Role, Server};
use crate::plan::Engine;
use crate::plan::cluster::Durability;
use crate::section::{At, Section};
use crate::{ByteSize, ServerName};

/// The shortest and the longest time for which a primary may be silent, in milliseconds.
const LEASE_MS: std::ops::RangeInclusive<u128> = 1_000..=30_000;

pub(super) fn read(root: &Section<'_>, servers: &[At<Server>]) -> At<DatabaseSettings> {
    let mut settings = DatabaseSettings {
        engine: Engine::Mariadb,
        port: 3306,
        memory: None,
        connections: 200,
        durability: Durability::NoLoss,
        prefer: None,
        never: Vec::new(),
        lease_ms: 2_000,
    };
    let Some(section) = root.section("database") else { return At { value: settings, at: 0..0 } };
    if let Some(engine) = section.choice("engine", &[("mariadb", Engine::Mariadb), ("mysql", Engine::Mysql)])
    {
        settings.engine = engine.value;
    }
    if let Some(port) = section.integer("port", 1..=65535) {
        settings.port = port.value as u16;
    }
    if let Some(memory) = section.parsed::<ByteSize>("memory", "a size") {
        if memory.value < ByteSize::from_mebibytes(64) {
            section.problems.note(&memory.at, "`memory` in [database] must be at least 64MiB");
        }
        settings.memory = Some(memory.value);
    }
    if let Some(connections) = section.integer("connections", 10..=100_000) {
        settings.connections = connections.value as u32;
    }
    let durability = [("no-loss", Durability::NoLoss), ("available", Durability::Available)];
    if let Some(durability) = section.choice("durability", &durability) {
        settings.durability = durability.value;
    }
    if let Some(lease) = later::duration_at(&section, "lease") {
        if LEASE_MS.contains(&lease.value.as_millis()) {
            settings.lease_ms = lease.value.as_millis() as u32;
        } else {
            section.problems.note(&lease.at, "`lease` in [database] must be from 1s to 30s");
        }
    }
    settings.prefer = section.string("prefer").and_then(|name| member(&section, servers, &name));
    if let Some(never) = section.strings("never") {
        settings.never = never.value.iter().filter_map(|name| member(&section, servers, name)).collect();
        promotable(&section, servers, &settings, &never.at);
    }
    let at = section.at.clone();
    section.finish();
    At { value: settings, at }
}

/// A server with the database.
fn member(section: &Section<'_>, servers: &[At<Server>], name: &At<String>) -> Option<ServerName> {
    let names: Vec<&str> = servers.iter().map(|server| server.value.name.as_str()).collect();
    let Some(server) = servers.iter().find(|server| server.value.name.as_str() == name.value) else {
        let message = format!("there is no server `{}`", name.value);
        section.problems.help(&name.at, message, crate::section::suggestion(&name.value, &names));
        return None;
    };
    if !server.value.has(Role::Database) {
        let message = format!("server `{}` has no database", name.value);
        section.problems.help(&name.at, message, "name a server with the role `database`");
        return None;
    }
    Some(server.value.name.clone())
}

fn promotable(
    section: &Section<'_>,
    servers: &[At<Server>],
    settings: &DatabaseSettings,
    at: &std::ops::Range<usize>,
) {
    let mut members = servers.iter().map(|server| &server.value).filter(|server| server.has(Role::Database));
    if settings.prefer.as_ref().is_some_and(|prefer| settings.never.contains(prefer)) {
        section.problems.help(
            at,
            "the server that `prefer` names stands in `never` too",
            "take it out of one of them",
        );
    }
    if !settings.never.is_empty() && members.all(|server| settings.never.contains(&server.name)) {
        section.problems.help(
            at,
            "`never` names every server with the database, so none could be the primary",
            "leave at least two out of it: one to be the primary, and one to take its place",
        );
    }
}

/// Several servers with the database need somewhere to agree on the primary.
pub(super) fn agree(
    root: &Section<'_>,
    servers: &[At<Server>],
    database: &At<DatabaseSettings>,
    coordinator: Option<&CoordinatorSettings>,
) {
    let with = |role: Role| servers.iter().filter(move |server| server.value.has(role));
    let is_external =
        matches!(coordinator, Some(CoordinatorSettings::Etcd { endpoints }) if !endpoints.is_empty());
    if let Some(second) = with(Role::Database).nth(1) {
        if !is_external && with(Role::Coordinator).next().is_none() {
            root.problems.help(
                &second.at,
                "the database is on several servers, which have nowhere to agree on the primary",
                "add the role \"coordinator\" to three servers (to one, if it may be missing for a while)",
            );
        }
        if database.value.engine == Engine::Mysql {
            let at = if database.at.is_empty() { &second.at } else { &database.at };
            root.problems.help(
                at,
                "replicas of MySQL are not supported in this version",
                "use  engine = \"mariadb\", or one server with the role `database`",
            );
        }
    }
    let coordinators: Vec<&At<Server>> = with(Role::Coordinator).collect();
    if is_external || coordinators.len() <= 1 {
        return;
    }
    if coordinator == Some(&CoordinatorSettings::Embedded) {
        root.problems.help(
            &coordinators[1].at,
            "an embedded coordinator is on one server, but several have the role `coordinator`",
            "set  kind = \"etcd\"  in [coordinator], or leave the role to one server",
        );
    }
    if coordinators.len() == 2 {
        root.problems.help(
            &coordinators[1].at,
            "two coordinators cannot do without either: a majority of two is both",
            "give the role `coordinator` to three servers, or to one",
        );
    }
}
