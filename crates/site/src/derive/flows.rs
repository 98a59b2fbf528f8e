//! Which connections a server takes part in, each with its purpose in plain words.

use super::edge;
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
    if let Some(primary) = site.primary() {
        let port = site.database.port;
        if primary.name == server.name {
            for other in site.with_role(Role::App).filter(|other| other.name != server.name) {
                let peer = Peer::Server(other.name.clone());
                flows.push(inwards(Protocol::Tcp, port, peer, "database: the app's reads and writes"));
            }
        } else if server.has(Role::App) {
            flows.push(Flow {
                direction: Direction::Out,
                protocol: Protocol::Tcp,
                port,
                peer: Peer::Server(primary.name.clone()),
                purpose: "database: the app's reads and writes".to_owned(),
            });
        }
    }
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
