//! Queries in datagrams.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use mainstay_http::Phase;
use tokio::net::UdpSocket;

use crate::answer::{Transport, answer};
use crate::rate::Verdict;
use crate::response;
use crate::server::Worker;

/// The longest query; a longer one is cut by the kernel and then refused as malformed. Queries have some 50 bytes.
const QUERY_BYTES: usize = 4096;
/// Queries answered before others on the same worker get their turn.
const BATCH: usize = 64;

/// Serves a socket until the role drains. What waits in the socket then is left to the process that takes it over.
pub(crate) async fn serve(socket: UdpSocket, worker: Rc<Worker>) -> io::Result<()> {
    let mut query = vec![0; QUERY_BYTES];
    let mut response = Vec::with_capacity(QUERY_BYTES);
    let mut draining = pin!(worker.shutdown.reached(Phase::Draining));
    loop {
        tokio::select! {
            biased;
            () = &mut draining => return Ok(()),
            ready = socket.readable() => ready?,
        }
        for _ in 0..BATCH {
            match socket.try_recv_from(&mut query) {
                Ok((length, client)) => respond(&socket, &worker, &query[..length], client, &mut response),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody's fault but the network's: a router's complaint about an earlier response, say.
                Err(error) => {
                    tracing::debug!(%error, "receiving failed");
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

fn respond(socket: &UdpSocket, worker: &Worker, query: &[u8], client: SocketAddr, response: &mut Vec<u8>) {
    let began = Instant::now();
    let Some(answered) = answer(&worker.zones, query, Transport::Udp, response) else {
        worker.metrics.borrow().ignored();
        return;
    };
    let since_start = began.saturating_duration_since(worker.started);
    let verdict = worker.limiter.borrow_mut().judge(client.ip(), answered.kind, since_start);
    let mut metrics = worker.metrics.borrow_mut();
    match verdict {
        Verdict::Send => {}
        Verdict::Truncate => response::cut(response, answered.question_end),
        Verdict::Drop => response.clear(),
    }
    // A full queue drops the response, as any hop on the way may; the client asks again.
    if !response.is_empty() && socket.try_send_to(response, client).is_err() {
        metrics.unsent();
    }
    metrics.limited(verdict);
    metrics.answered(&answered, Transport::Udp, began.elapsed());
}
