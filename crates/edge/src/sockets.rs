//! The sockets of each worker: those that the agent handed over, or, started by hand, our own.

use std::net::TcpListener;

use mainstay_http::networks::Networks;
use mainstay_http::{Listener, worker::ListenerOptions};
use mainstay_process::{InheritedSocket, SocketSpec, worker_sockets};
use mainstay_site::plan::EdgePlan;

use crate::certificates::Served;
use crate::role::Error;
use crate::services::Services;
use crate::tcp::Listening;

/// Opens or takes over the sockets of a plan, a list for each worker.
pub(crate) fn open(plan: &EdgePlan) -> Result<Vec<Vec<TcpListener>>, Error> {
    let http = plan.listeners.iter().map(|listener| listener.address);
    let addresses = http.chain(plan.tcp.iter().map(|service| service.listen));
    let own = |shares| addresses.map(|address| SocketSpec::Tcp { address, shares }).collect();
    let listener = |socket| match socket {
        InheritedSocket::Tcp { listener, .. } => Ok(listener),
        InheritedSocket::Unix { path, .. } => Err(Error::ForeignSocket(path.display().to_string())),
        InheritedSocket::Udp { address, .. } => Err(Error::ForeignSocket(address.to_string())),
    };
    let listeners = |sockets: Vec<_>| sockets.into_iter().map(listener).collect();
    worker_sockets(own)?.into_iter().map(listeners).collect()
}

/// What sockets are for, by worker.
pub(crate) struct Assigned {
    pub(crate) http: Vec<Vec<Listener>>,
    /// Of services that are no HTTP.
    pub(crate) tcp: Vec<Vec<Listening>>,
}

/// Finds out what each worker's sockets are for.
pub(crate) fn assign(
    plan: &EdgePlan,
    sockets: Vec<Vec<TcpListener>>,
    tls: &Served,
    services: &Services,
) -> Result<Assigned, Error> {
    let trusted = Networks::parse(&plan.trusted_proxies).map_err(Error::Config)?;
    let mut assigned = Assigned { http: Vec::new(), tcp: Vec::new() };
    for sockets in sockets {
        let (mut listeners, mut listening) = (Vec::new(), Vec::new());
        for socket in sockets {
            let address = socket.local_addr().map_err(Error::System)?;
            if let Some(service) = services.at(address) {
                listening.push(Listening { socket, service: service.clone() });
                continue;
            }
            let planned = plan.listeners.iter().find(|listener| listener.address == address);
            let planned = planned.ok_or_else(|| Error::ForeignSocket(address.to_string()))?;
            let options = ListenerOptions {
                tls: tls.http.clone().filter(|_| planned.tls),
                proxy_protocol: planned.proxy_protocol.then(|| trusted.clone()),
            };
            listeners.push(if options.tls.is_none() && options.proxy_protocol.is_none() {
                Listener::Tcp(socket)
            } else {
                Listener::TcpWith(socket, options)
            });
        }
        if !listeners.is_empty() {
            assigned.http.push(listeners);
        }
        if !listening.is_empty() {
            assigned.tcp.push(listening);
        }
    }
    Ok(assigned)
}
