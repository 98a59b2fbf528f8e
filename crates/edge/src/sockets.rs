//! The sockets of each worker: those that the agent handed over, or, started by hand, our own.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};

use mainstay_http::networks::Networks;
use mainstay_http::tls::ServerTls;
use mainstay_http::{Listener, worker::ListenerOptions};
use mainstay_process::sockets::Sockets;
use mainstay_process::{InheritedSocket, SocketSpec, inherited_sockets};
use mainstay_site::plan::EdgePlan;

use crate::role::Error;

/// Opens or takes over the sockets of a plan, a list for each worker. Every socket is some worker's: a share that nobody
/// serves would swallow its part of the connections.
pub(crate) fn open(plan: &EdgePlan) -> Result<Vec<Vec<TcpListener>>, Error> {
    let inherited = inherited_sockets()?;
    let sockets = if inherited.is_empty() { own(plan)? } else { inherited };
    let mut workers: Vec<Vec<TcpListener>> = Vec::new();
    let mut next: HashMap<SocketAddr, usize> = HashMap::new();
    for socket in sockets {
        match socket {
            InheritedSocket::Tcp { address, listener } => {
                let index = next.entry(address).or_default();
                if workers.len() == *index {
                    workers.push(Vec::new());
                }
                workers[*index].push(listener);
                *index += 1;
            }
            InheritedSocket::Unix { path, .. } => return Err(Error::ForeignSocket(path.display().to_string())),
            InheritedSocket::Udp { address, .. } => return Err(Error::ForeignSocket(address.to_string())),
        }
    }
    if workers.is_empty() { Err(Error::NoAddress) } else { Ok(workers) }
}

fn own(plan: &EdgePlan) -> Result<Vec<InheritedSocket>, Error> {
    let shares = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64)) as u16;
    let mut sockets = Sockets::default();
    let mut opened = Vec::new();
    let http = plan.listeners.iter().map(|listener| listener.address);
    for address in http.chain(plan.tcp.iter().map(|service| service.listen)) {
        let spec = SocketSpec::Tcp { address, shares };
        sockets.open(&spec)?;
        for (_, descriptor) in sockets.of(std::slice::from_ref(&spec))? {
            let descriptor = descriptor.try_clone_to_owned().map_err(Error::System)?;
            opened.push(InheritedSocket::Tcp { address, listener: TcpListener::from(descriptor) });
        }
    }
    Ok(opened)
}

/// What each worker's sockets are for.
pub(crate) fn listeners(
    plan: &EdgePlan,
    sockets: Vec<Vec<TcpListener>>,
    tls: Option<&ServerTls>,
) -> Result<Vec<Vec<Listener>>, Error> {
    let trusted = Networks::parse(&plan.trusted_proxies).map_err(Error::Config)?;
    let mut workers = Vec::new();
    for sockets in sockets {
        let mut listeners = Vec::new();
        for socket in sockets {
            let address = socket.local_addr().map_err(Error::System)?;
            let planned = plan.listeners.iter().find(|listener| listener.address == address);
            let planned = planned.ok_or_else(|| Error::ForeignSocket(address.to_string()))?;
            let options = ListenerOptions {
                tls: tls.filter(|_| planned.tls).cloned(),
                proxy_protocol: planned.proxy_protocol.then(|| trusted.clone()),
            };
            listeners.push(if options.tls.is_none() && options.proxy_protocol.is_none() {
                Listener::Tcp(socket)
            } else {
                Listener::TcpWith(socket, options)
            });
        }
        workers.push(listeners);
    }
    Ok(workers)
}
