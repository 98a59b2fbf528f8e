//! Which connections a server takes part in, each with its purpose in plain words.

use super::{cluster, edge};
use crate::model::{Role, Server, Site};
use crate::plan::{Direction, Flow, Peer, Protocol};

pub(super) fn of(site: &Site, server: &Server) -> Vec<Flow> {
    let mut flows = Vec::new();
    if server.has(Role::Dns) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            flows.push(inwards(protocol, 53, Peer::Anywhere, "dns: the site's zone, for everyone"));
        }
    }
    if server.has(Role::Edge) {
        for (port, purpose) in edge::ports(site) {
            flows.push(inwards(Protocol::Tcp, port, Peer::Anywhere, &purpose));
        }
        for other in site.servers.iter().filter(|other| other.name != server.name) {
            for port in edge::upstream_ports(site, other) {
                let peer = Peer::Server(other.name.clone());
                let purpose = purpose(site, other, port).to_owned();
                flows.push(Flow { direction: Direction::Out, protocol: Protocol::Tcp, port, peer, purpose });
            }
        }
    }
    if site.has_edge() {
        for edge in site.with_role(Role::Edge).filter(|edge| edge.name != server.name) {
            for port in edge::upstream_ports(site, server) {
                let peer = Peer::Server(edge.name.clone());
                flows.push(inwards(Protocol::Tcp, port, peer, purpose(site, server, port)));
            }
        }
    } else if server.has(Role::Web) {
        flows.push(inwards(Protocol::Tcp, site.web.port, Peer::Anywhere, "web: HTTP from everyone"));
    }
    flows.extend(inside(site).into_iter().filter_map(|inner| inner.seen_by(server)));
    flows
}

/// What an edge wants of a port of a server.
fn purpose(site: &Site, server: &Server, port: u16) -> &'static str {
    if server.has(Role::Web) && port == site.web_port(server) {
        "web: HTTP from the load balancer"
    } else {
        "edge: what the load balancer passes on"
    }
}

fn inwards(protocol: Protocol, port: u16, peer: Peer, purpose: &str) -> Flow {
    Flow { direction: Direction::In, protocol, port, peer, purpose: purpose.to_owned() }
}

/// A connection from one server of the site to another.
struct Inner<'a> {
    from: &'a Server,
    to: &'a Server,
    port: u16,
    purpose: &'static str,
}

impl Inner<'_> {
    /// What it is to one of the servers.
    fn seen_by(&self, server: &Server) -> Option<Flow> {
        let (direction, peer) = match server.name == self.from.name {
            true => (Direction::Out, self.to),
            false if server.name == self.to.name => (Direction::In, self.from),
            false => return None,
        };
        Some(Flow {
            direction,
            protocol: Protocol::Tcp,
            port: self.port,
            peer: Peer::Server(peer.name.clone()),
            purpose: self.purpose.to_owned(),
        })
    }
}

/// What passes between servers for the database and for agreeing.
fn inside<'a>(site: &'a Site) -> Vec<Inner<'a>> {
    let mut inner = Vec::new();
    let mut pass = |from: Role, to: Vec<&'a Server>, port: u16, purpose: &'static str| {
        let mut found = Vec::new();
        for from in site.with_role(from) {
            let others = to.iter().filter(|to| to.name != from.name);
            found.extend(others.map(|to| Inner { from, to, port, purpose }));
        }
        inner.extend(found);
    };
    let with = |role: Role| site.with_role(role).collect::<Vec<_>>();
    let databases: Vec<&Server> =
        with(Role::Database).into_iter().filter(|server| site.keeps_data(server)).collect();
    pass(Role::App, databases.clone(), site.database.port, "database: the app's reads and writes");
    if site.has_replicas() {
        pass(Role::Database, databases.clone(), site.database.port, "database: replication");
        pass(Role::Database, databases, cluster::COPIES_PORT, "database: copies for new replicas");
    }
    if site.external_coordinator().is_empty() && site.has_replicas() {
        let coordinators = with(Role::Coordinator);
        for role in [Role::Database, Role::App] {
            let purpose = "coordinator: who is the primary";
            pass(role, coordinators.clone(), cluster::COORDINATOR_PORT, purpose);
        }
        let purpose = "coordinator: its members among themselves";
        pass(Role::Coordinator, coordinators, cluster::COORDINATOR_PEER_PORT, purpose);
    }
    // A server with several roles needs some of them twice: one rule each is enough.
    let mut seen = std::collections::BTreeSet::new();
    inner.retain(|flow| seen.insert((flow.from.name.clone(), flow.to.name.clone(), flow.port)));
    inner
}
