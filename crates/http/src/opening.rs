//! What comes before HTTP on a connection: a PROXY header, then a TLS handshake, both under one deadline.

mod plain;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::net::TcpStream;

use crate::message::Peer;
use crate::per_client::ClientPlace;
use crate::proxy_protocol::{self, Header};
use crate::tls::{self, HandshakeError, TlsStream};
use crate::watch::{NEVER, Watch};
use crate::worker::{ListenerOptions, Worker};

/// A connection on which HTTP comes next.
pub(crate) enum Opened {
    Plain(TcpStream, Peer),
    Tls(TlsStream<TcpStream>, Peer),
}

/// Why a step was not done.
enum Late {
    TimedOut,
    Stopped,
}

/// Takes what comes first. `None`: the connection is to be closed, which was counted.
pub(crate) async fn open(
    mut stream: TcpStream,
    address: SocketAddr,
    options: &ListenerOptions,
    worker: &Rc<Worker>,
    watch: &Rc<Watch>,
) -> Option<(Opened, Option<ClientPlace>)> {
    let mut peer = Peer { address: Some(address), local: stream.local_addr().ok(), tls: None };
    watch.read_by.set(worker.watches.clock.after(worker.settings.timeouts.handshake));
    // Until it has proven to be worth it, it makes room for others.
    watch.idle.set(true);
    let mut place = None;
    if let Some(trusted) = &options.proxy_protocol {
        if !trusted.contains(address.ip()) {
            worker.metrics.protocol_error("PROXY header from untrusted network");
            return None;
        }
        let header = match in_time(proxy_protocol::read(&mut stream), worker, watch).await {
            Ok(Ok(header)) => header,
            Ok(Err(error)) => {
                worker.metrics.protocol_error(error.reason());
                tracing::debug!(%error, %address, "no connection without its PROXY header");
                return None;
            }
            Err(_) => {
                worker.metrics.protocol_error("PROXY header timeout");
                return None;
            }
        };
        match header {
            Header::Client(ends) => {
                peer.address = Some(ends.source);
                peer.local = Some(ends.destination);
            }
            Header::Unix => (peer.address, peer.local) = (None, None),
            Header::Own => {}
        }
        place = worker.enter(peer.address).ok()?;
    }
    let opened = match &options.tls {
        None => Opened::Plain(stream, peer),
        Some(tls) => {
            let metrics = &worker.metrics.tls;
            if in_time(plain::is_http(&stream), worker, watch).await.unwrap_or(false) {
                metrics.failed(&HandshakeError::PlainHttp);
                tracing::debug!(peer = ?peer.address, "plain HTTP came to a port of HTTPS");
                let date = worker.watches.clock.date();
                // Within the time of the handshake; a client that does not listen is not waited for.
                let _ = in_time(plain::refuse(stream, &date), worker, watch).await;
                return None;
            }
            let accepted = match in_time(tls::accept(stream, tls, metrics), worker, watch).await {
                Ok(accepted) => accepted,
                Err(Late::TimedOut) => Err(HandshakeError::TimedOut),
                Err(Late::Stopped) => Err(HandshakeError::Stopped),
            };
            let (stream, info) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    metrics.failed(&error);
                    tracing::debug!(%error, peer = ?peer.address, "a TLS handshake failed");
                    return None;
                }
            };
            peer.tls = Some(Rc::new(info));
            Opened::Tls(stream, peer)
        }
    };
    watch.read_by.set(NEVER);
    watch.idle.set(false);
    Some((opened, place))
}

/// Goes on until the connection's deadline, or for a moment once the server drains.
async fn in_time<F: Future>(step: F, worker: &Worker, watch: &Watch) -> Result<F::Output, Late> {
    let mut step = pin!(step);
    poll_fn(|cx| {
        if let Poll::Ready(done) = step.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        watch.set_task(cx);
        let now = worker.watches.clock.now_ms();
        if worker.draining.get() {
            let soon = worker.settings.timeouts.drain_idle.as_millis() as u64;
            watch.read_by.set(watch.read_by.get().min(worker.draining_since_ms.get() + soon));
            if watch.read_by.get() <= now {
                return Poll::Ready(Err(Late::Stopped));
            }
        }
        if watch.read_by.get() <= now { Poll::Ready(Err(Late::TimedOut)) } else { Poll::Pending }
    })
    .await
}
