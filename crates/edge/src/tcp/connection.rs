//! One connection, from its first byte to its last.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mainstay_http::per_client::ClientPlace;
use mainstay_http::proxy_protocol::{self, Addresses, Header};
use mainstay_http::tls;
use mainstay_http::tls::client_hello::{HelloError, HelloReader, MOST_BYTES};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::choose::{NoRoom, Target, Upstreams};
use super::copy::{Broken, Counters, copy};
use super::metrics::ServiceMetrics;
use super::service::{Service, Tls};
use super::side::Side;
use crate::balance::NoUpstream;

/// Upstreams that are tried for one connection.
const TRIES: usize = 5;

/// Why a connection ends before bytes flow, or while they do. Each is a name that metrics count by.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("untrusted PROXY header")]
    Untrusted,
    #[error("the client has as many connections as it may")]
    TooMany,
    #[error("{0}")]
    Proxy(#[from] proxy_protocol::ReadError),
    #[error("{0}")]
    Hello(#[from] HelloError),
    #[error("{0}")]
    Handshake(#[from] tls::HandshakeError),
    #[error("the client broke off before it said whom it wants: {0}")]
    ClientLeft(#[from] io::Error),
    #[error("the client was slow to say whom it wants")]
    Slow,
    #[error("no group is for {0:?}")]
    NoGroup(Option<String>),
    #[error("no upstream of group {0} takes connections")]
    NoUpstream(String),
    #[error("{0}")]
    NoRoom(NoRoom),
    #[error("{0}")]
    Broken(Broken),
}

impl Ended {
    fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted => "PROXY header from untrusted network",
            Self::TooMany => "too many of one client",
            Self::Proxy(error) => error.reason(),
            Self::Hello(HelloError::NoTls) => "no TLS",
            Self::Hello(HelloError::TooLarge) => "client hello too large",
            Self::Hello(HelloError::Malformed) => "malformed client hello",
            Self::Handshake(_) => "TLS handshake",
            Self::ClientLeft(_) => "client left early",
            Self::Slow => "client slow at start",
            Self::NoGroup(_) => "no group for name",
            Self::NoUpstream(_) | Self::NoRoom(NoRoom::Nobody) => "no upstream",
            Self::NoRoom(NoRoom::QueueFull) => "queue full",
            Self::NoRoom(NoRoom::QueueTime) => "queue timeout",
            Self::Broken(Broken::Client(_)) => "client broke",
            Self::Broken(Broken::Upstream(_)) => "upstream broke",
            Self::Broken(Broken::Idle) => "idle",
        }
    }
}

/// Serves a connection; what goes wrong is counted.
pub(crate) async fn serve<U: Upstreams>(
    stream: TcpStream,
    peer: SocketAddr,
    service: &Service,
    upstreams: &U,
    metrics: &ServiceMetrics,
) {
    if let Err(ended) = pass(stream, peer, service, upstreams, metrics).await {
        metrics.error(ended.reason());
        if let Ended::Handshake(error) = &ended {
            metrics.tls.failed(error);
        }
        tracing::debug!(service = service.name, %peer, "{ended}");
    }
}

async fn pass<U: Upstreams>(
    stream: TcpStream,
    peer: SocketAddr,
    service: &Service,
    upstreams: &U,
    metrics: &ServiceMetrics,
) -> Result<(), Ended> {
    // What only the start needs is given back after it.
    let opened = timeout(service.handshake, Box::pin(open(stream, peer, service, metrics))).await;
    let Opened { mut client, ends, name, first, place } = opened.map_err(|_| Ended::Slow)??;
    let _place = place;
    let group = service.group_of(name.as_deref()).ok_or(Ended::NoGroup(name.clone()))?;
    let connected = Box::pin(connect(group, ends, upstreams, metrics)).await;
    let (mut upstream, target) = connected.inspect_err(|_| client.break_off())?;
    let counters = Counters { received: &metrics.received, sent: &metrics.sent };
    let copied = copy(&mut client, &mut upstream, first, service.idle, counters).await;
    drop(target);
    copied.map_err(|broken| {
        client.break_off();
        upstream.break_off();
        Ended::Broken(broken)
    })
}

/// A connection whose client has said whom it wants.
struct Opened {
    client: Side,
    /// For a PROXY header to the upstream.
    ends: Option<Addresses>,
    /// The server asked for, in lower case.
    name: Option<String>,
    /// What was read and belongs to the upstream.
    first: Vec<u8>,
    /// Its place among those of its client.
    place: Option<ClientPlace>,
}

async fn open(
    mut stream: TcpStream,
    peer: SocketAddr,
    service: &Service,
    metrics: &ServiceMetrics,
) -> Result<Opened, Ended> {
    let mut ends = Some(Addresses { source: peer, destination: stream.local_addr()? });
    if let Some(trusted) = &service.proxy_protocol {
        if !trusted.contains(peer.ip()) {
            return Err(Ended::Untrusted);
        }
        match proxy_protocol::read(&mut stream).await? {
            Header::Client(told) => ends = Some(told),
            Header::Unix => ends = None,
            Header::Own => {}
        }
    }
    // Behind a PROXY header the client that it names counts.
    let place = match (&service.clients, &ends) {
        (Some(clients), Some(ends)) => clients.enter(ends.source.ip()).map_err(|_| Ended::TooMany)?,
        _ => None,
    };
    let (client, name, first) = match &service.tls {
        Tls::None => (Side::Plain(stream), None, Vec::new()),
        Tls::Passthrough => {
            let (name, first) = hello(&mut stream).await?;
            (Side::Plain(stream), name, first)
        }
        Tls::Terminate(tls) => {
            let (stream, info) = tls::accept(stream, tls, &metrics.tls).await?;
            (Side::Client(stream), info.server_name, Vec::new())
        }
    };
    Ok(Opened { client, ends, name, first, place })
}

/// Reads a client's hello; answers the name asked for, and all that was read.
async fn hello(stream: &mut TcpStream) -> Result<(Option<String>, Vec<u8>), Ended> {
    let (mut reader, mut read) = (HelloReader::default(), Vec::with_capacity(2048));
    loop {
        if let Some(hello) = reader.read(&read)? {
            return Ok((hello.server_name, read));
        }
        if read.len() > MOST_BYTES {
            return Err(HelloError::TooLarge.into());
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Connects to an upstream of the group that has room, and to the next one if that fails.
async fn connect<U: Upstreams>(
    group: &str,
    ends: Option<Addresses>,
    upstreams: &U,
    metrics: &ServiceMetrics,
) -> Result<(Side, Target), Ended> {
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let target = match upstreams.choose(group, &tried) {
            Ok(target) => target,
            Err(NoUpstream::Full) => upstreams.wait(group, &tried).await.map_err(Ended::NoRoom)?,
            Err(NoUpstream::Nobody) => break,
        };
        let connected = timeout(target.connect, connect_to(&target, ends)).await;
        let connected = connected.unwrap_or_else(|_| Err(late(target.connect)));
        metrics.connect(&target.name, connected.is_ok());
        upstreams.connected(group, &target, connected.is_ok());
        match connected {
            Ok(side) => return Ok((side, target)),
            Err(error) => {
                tracing::debug!(upstream = &*target.name, %error, "an upstream takes no connection");
                tried.push(target.address);
            }
        }
    }
    Err(Ended::NoUpstream(group.to_owned()))
}

fn late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))
}

async fn connect_to(target: &Target, ends: Option<Addresses>) -> io::Result<Side> {
    let mut stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    if let Some(version) = target.proxy_protocol {
        stream.write_all(&proxy_protocol::header(version, ends)).await?;
    }
    Ok(match &target.tls {
        None => Side::Plain(stream),
        Some(tls) => Side::Upstream(Box::new(tls.connect(stream, Some(target.address.ip())).await?)),
    })
}
