//! The sockets that each worker serves: those that the agent handed over, or, started by hand, our own.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use mainstay_process::{InheritedSocket, SocketSpec, worker_sockets};

use crate::server::Error;

/// The sockets of one worker.
#[derive(Debug, Default)]
pub(crate) struct Share {
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: Vec<TcpListener>,
}

/// One element per worker.
pub(crate) fn shares(listen: &[SocketAddr]) -> Result<Vec<Share>, Error> {
    let both = |address, shares| [SocketSpec::Udp { address, shares }, SocketSpec::Tcp { address, shares }];
    let own = |shares| listen.iter().flat_map(|address| both(*address, shares)).collect();
    worker_sockets(own)?.into_iter().map(share).collect()
}

fn share(sockets: Vec<InheritedSocket>) -> Result<Share, Error> {
    let mut share = Share::default();
    for socket in sockets {
        match socket {
            InheritedSocket::Udp { socket, .. } => share.udp.push(socket),
            InheritedSocket::Tcp { listener, .. } => share.tcp.push(listener),
            InheritedSocket::Unix { path, .. } => return Err(Error::ForeignSocket(path)),
        }
    }
    Ok(share)
}
