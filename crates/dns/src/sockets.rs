//! The sockets that each worker serves: those that the agent handed over, or, started by hand, our own.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use mainstay_process::sockets::Sockets;
use mainstay_process::{InheritedSocket, SocketSpec, inherited_sockets};

use crate::server::Error;

/// The sockets of one worker.
#[derive(Debug, Default)]
pub(crate) struct Share {
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: Vec<TcpListener>,
}

/// One element per worker. Every socket is somebody's: a share that nobody serves would swallow its part of the
/// queries.
pub(crate) fn shares(listen: &[SocketAddr]) -> Result<Vec<Share>, Error> {
    let mut sockets = inherited_sockets()?;
    if sockets.is_empty() {
        sockets = own(listen)?;
    }
    let mut shares: Vec<Share> = Vec::new();
    let mut next: HashMap<(SocketAddr, &str), usize> = HashMap::new();
    for socket in sockets {
        let key = match &socket {
            InheritedSocket::Udp { address, .. } => (*address, "udp"),
            InheritedSocket::Tcp { address, .. } => (*address, "tcp"),
            InheritedSocket::Unix { path, .. } => return Err(Error::ForeignSocket(path.clone())),
        };
        let index = next.entry(key).or_default();
        if shares.len() == *index {
            shares.push(Share::default());
        }
        match socket {
            InheritedSocket::Udp { socket, .. } => shares[*index].udp.push(socket),
            InheritedSocket::Tcp { listener, .. } => shares[*index].tcp.push(listener),
            InheritedSocket::Unix { .. } => {}
        }
        *index += 1;
    }
    if shares.is_empty() {
        return Err(Error::NoAddress);
    }
    Ok(shares)
}

fn own(listen: &[SocketAddr]) -> Result<Vec<InheritedSocket>, Error> {
    let shares = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64)) as u16;
    let mut sockets = Sockets::default();
    let mut opened = Vec::new();
    for address in listen.iter().copied() {
        for spec in [SocketSpec::Udp { address, shares }, SocketSpec::Tcp { address, shares }] {
            sockets.open(&spec)?;
            for (_, descriptor) in sockets.of(std::slice::from_ref(&spec))? {
                let descriptor = descriptor.try_clone_to_owned().map_err(Error::Socket)?;
                opened.push(if matches!(spec, SocketSpec::Udp { .. }) {
                    let socket = UdpSocket::from(descriptor);
                    socket.set_nonblocking(true).map_err(Error::Socket)?;
                    InheritedSocket::Udp { address, socket }
                } else {
                    let listener = TcpListener::from(descriptor);
                    listener.set_nonblocking(true).map_err(Error::Socket)?;
                    InheritedSocket::Tcp { address, listener }
                });
            }
        }
    }
    Ok(opened)
}
