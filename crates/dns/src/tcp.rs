//! Queries over connections (RFC 7766): several may come before the first is answered, and are answered in order.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mainstay_http::Phase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::answer::{Transport, answer};
use crate::rate::Network;
use crate::server::Worker;

/// The longest query; who sends a longer one is hung up on. Queries have some 50 bytes.
const QUERY_BYTES: usize = 4096;
/// Responses collected before they are sent.
const OUTPUT_BYTES: usize = 64 * 1024;
/// Time for the next whole query to arrive; a byte now and then does not prolong it.
const IDLE: Duration = Duration::from_secs(10);
/// Time for the client to take responses.
const WRITE: Duration = Duration::from_secs(10);
/// Once draining, time for a query that is on its way: a connection that closes under it looks like a refusal.
const DRAIN_IDLE: Duration = Duration::from_millis(500);
/// Open connections of the whole role.
pub(crate) const CONNECTIONS: usize = 1024;
/// Of those, from one client network on one worker.
const CONNECTIONS_OF_NETWORK: usize = 64;
/// Pause after accepting failed for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The open connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    of_networks: RefCell<HashMap<Network, usize>>,
}

/// A connection's place among those that are open.
struct Place {
    worker: Rc<Worker>,
    network: Network,
}

impl Place {
    fn take(worker: &Rc<Worker>, network: Network) -> Option<Self> {
        let mut networks = worker.connections.of_networks.borrow_mut();
        if networks.values().sum::<usize>() >= worker.connection_limit {
            return None;
        }
        let count = networks.entry(network).or_default();
        if *count >= CONNECTIONS_OF_NETWORK {
            return None;
        }
        *count += 1;
        worker.metrics.borrow().connections.add(1);
        Some(Self { worker: Rc::clone(worker), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut networks = self.worker.connections.of_networks.borrow_mut();
        if let Some(count) = networks.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                networks.remove(&self.network);
            }
        }
        self.worker.metrics.borrow().connections.add(-1);
    }
}

/// Accepts until the role drains, then waits until the connections have ended.
pub(crate) async fn serve(listener: TcpListener, worker: Rc<Worker>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut draining = pin!(worker.shutdown.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut draining => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Without descriptors to spare, the connection waits in the queue; the client that is gone is no matter.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        match Place::take(&worker, Network::of(client.ip())) {
            Some(place) => {
                connections.spawn_local(async move {
                    if let Err(error) = converse(stream, &place.worker).await {
                        tracing::debug!(%client, %error, "a connection ended");
                    }
                });
            }
            None => worker.metrics.borrow().refused_connections.inc(),
        }
    }
    // The kernel must not give this queue any more connections that nobody takes.
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Answers one connection's queries until the client leaves, is silent for too long, or the role drains.
async fn converse(mut stream: TcpStream, worker: &Worker) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input: Vec<u8> = Vec::with_capacity(512);
    let mut output = Vec::new();
    let mut response = Vec::new();
    let mut drained = pin!(async {
        worker.shutdown.reached(Phase::Draining).await;
        sleep(DRAIN_IDLE).await;
    });
    loop {
        let mut idle = pin!(sleep(IDLE));
        let length = loop {
            if let Some(length) = message_length(&input)? {
                break length;
            }
            tokio::select! {
                biased;
                () = &mut drained, if input.is_empty() => return stream.shutdown().await,
                () = &mut idle => return Err(io::ErrorKind::TimedOut.into()),
                read = stream.read_buf(&mut input) => if read? == 0 {
                    return stream.shutdown().await;
                }
            }
        };
        let goes_on = respond(worker, &input[2..2 + length], &mut response, &mut output);
        input.drain(..2 + length);
        if !goes_on || message_length(&input)?.is_none() || output.len() >= OUTPUT_BYTES {
            timeout(WRITE, stream.write_all(&output)).await??;
            output.clear();
        }
        if !goes_on {
            return stream.shutdown().await;
        }
    }
}

/// The length of the message at the front, if it is there as a whole.
fn message_length(input: &[u8]) -> io::Result<Option<usize>> {
    let Some((prefix, rest)) = input.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length > QUERY_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the query is too long"));
    }
    Ok((rest.len() >= length).then_some(length))
}

/// Appends the response to the output. False: the client does not speak DNS.
fn respond(worker: &Worker, query: &[u8], response: &mut Vec<u8>, output: &mut Vec<u8>) -> bool {
    let began = Instant::now();
    let Some(answered) = answer(&worker.zones, query, Transport::Tcp, response) else {
        worker.metrics.borrow().ignored();
        return false;
    };
    output.extend_from_slice(&(response.len() as u16).to_be_bytes());
    output.extend_from_slice(response);
    worker.metrics.borrow_mut().answered(&answered, Transport::Tcp, began.elapsed());
    true
}
