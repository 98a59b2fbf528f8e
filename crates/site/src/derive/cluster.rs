//! The coordinator, the database's members, and who reaches them.

use std::net::SocketAddr;

use crate::model::{CoordinatorSettings, IdentityPart, Role, SecretSource, Server, Site};
use crate::paths;
use crate::plan::cluster::{
    ClusterMember, ClusterPlan, CoordinatorAccess, CoordinatorPlan, EtcdMember, Promotion, SqlAccount,
    SqlRouterPlan,
};

/// Where a coordinator answers clients: etcd's port.
pub(crate) const COORDINATOR_PORT: u16 = 2379;
/// Where members of etcd speak to each other.
pub(crate) const COORDINATOR_PEER_PORT: u16 = 2380;
/// Where a database's keeper hands out copies of the data.
pub(crate) const COPIES_PORT: u16 = 3309;
/// The secret with the password of the account that replicas copy with.
pub(crate) const REPLICATION_SECRET: &str = "database-replication";

pub(super) fn coordinator(site: &Site, server: &Server) -> Option<CoordinatorPlan> {
    if !site.has_replicas() || !server.has(Role::Coordinator) || !site.external_coordinator().is_empty() {
        return None;
    }
    let listen = at(server, COORDINATOR_PORT);
    if site.with_role(Role::Coordinator).count() == 1 && !is_etcd(site) {
        return Some(CoordinatorPlan::Embedded { listen });
    }
    let members = site.with_role(Role::Coordinator).map(|member| EtcdMember {
        server: member.name.clone(),
        peers: at(member, COORDINATOR_PEER_PORT),
        clients: at(member, COORDINATOR_PORT),
    });
    Some(CoordinatorPlan::Etcd { listen, members: members.collect() })
}

fn is_etcd(site: &Site) -> bool {
    matches!(site.coordinator, Some(CoordinatorSettings::Etcd { .. }))
}

/// How a server reaches the coordinator: its own first, the others after it in the order of the file.
fn access(site: &Site, server: &Server) -> CoordinatorAccess {
    let prefix = format!("/mainstay/{}/", site.name);
    let external = site.external_coordinator();
    if !external.is_empty() {
        return CoordinatorAccess { endpoints: external.to_vec(), prefix };
    }
    let mut members: Vec<&Server> = site.with_role(Role::Coordinator).collect();
    members.sort_by_key(|member| member.name != server.name);
    let endpoint = |member: &&Server| format!("https://{}", at(member, COORDINATOR_PORT));
    CoordinatorAccess { endpoints: members.iter().map(endpoint).collect(), prefix }
}

pub(super) fn of_database(site: &Site, server: &Server) -> Option<ClusterPlan> {
    site.has_replicas().then(|| ClusterPlan {
        members: members(site),
        durability: site.database.durability,
        lease_ms: site.database.lease_ms,
        coordinator: access(site, server),
        replication_secret: REPLICATION_SECRET.to_owned(),
    })
}

fn members(site: &Site) -> Vec<ClusterMember> {
    let promotion = |server: &Server| {
        if site.database.never.contains(&server.name) {
            Promotion::Never
        } else if site.database.prefer.as_ref() == Some(&server.name) {
            Promotion::Prefer
        } else {
            Promotion::Usual
        }
    };
    let member = |server: &Server| ClusterMember {
        server: server.name.clone(),
        address: at(server, site.database.port),
        copies: at(server, COPIES_PORT),
        promotion: promotion(server),
    };
    site.with_role(Role::Database).map(member).collect()
}

pub(super) fn router(site: &Site, server: &Server) -> Option<SqlRouterPlan> {
    (server.has(Role::App) && site.has_replicas()).then(|| SqlRouterPlan {
        listen: SocketAddr::from(([127, 0, 0, 1], site.database.port)),
        socket: paths::router_socket(),
        accounts: site
            .apps
            .iter()
            .filter(|app| app.database)
            .map(|app| SqlAccount {
                user: super::database_name(app),
                database: super::database_name(app),
                password_secret: super::password_secret(app),
            })
            .collect(),
        members: members(site),
        coordinator: access(site, server),
    })
}

/// What a server proves itself with to others, and the replicas' password.
pub(super) fn secrets(site: &Site, server: &Server) -> Vec<(String, SecretSource)> {
    let mut secrets = Vec::new();
    let takes_part = [Role::Database, Role::App, Role::Coordinator].iter().any(|role| server.has(*role));
    if site.has_replicas() && takes_part {
        for part in [IdentityPart::Authority, IdentityPart::Certificate, IdentityPart::Key] {
            secrets.push((part.secret().to_owned(), SecretSource::Identity(part)));
        }
    }
    if site.has_replicas() && server.has(Role::Database) {
        let source = SecretSource::Generated(REPLICATION_SECRET.to_owned());
        secrets.push((REPLICATION_SECRET.to_owned(), source));
    }
    secrets
}

fn at(server: &Server, port: u16) -> SocketAddr {
    SocketAddr::new(server.address.into(), port)
}
