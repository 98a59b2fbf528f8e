//! Which connections a server takes part in, each with its purpose in plain words.

use crate::model::{Role, Server, Site};
use crate::plan::{Direction, Flow, Peer, Protocol};

pub(super) fn of(site: &Site, server: &Server) -> Vec<Flow> {
    let mut flows = Vec::new();
    if server.has(Role::Dns) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            flows.push(inwards(protocol, 53, Peer::Anywhere, "dns: the site's zone, for everyone"));
        }
    }
    if server.has(Role::Web) {
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

fn inwards(protocol: Protocol, port: u16, peer: Peer, purpose: &str) -> Flow {
    Flow { direction: Direction::In, protocol, port, peer, purpose: purpose.to_owned() }
}
