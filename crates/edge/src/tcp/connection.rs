//! One connection, from its first byte to its last.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mainstay_http::proxy_protocol::{self, Addresses, Header};
use mainstay_http::tls;
use mainstay_http::tls::client_hello::{HelloError, HelloReader, MOST_BYTES};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::choose::{Target, Upstreams};
use super::copy::{Broken, Counters, copy};
use super::metrics::ServiceMetrics;
use super::service::{Service, Tls};
use super::side::Side;

/// Upstreams that are tried for one connection.
const TRIES: usize = 5;

/// Why a connection ends before bytes flow, or while they do. Each is a name that metrics count by.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("untrusted PROXY header")]
    Untrusted,
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
    Broken(Broken),
}

impl Ended {
    fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted => "PROXY header from untrusted network",
            Self::Proxy(error) => error.reason(),
            Self::Hello(HelloError::NoTls) => "no TLS",
            Self::Hello(HelloError::TooLarge) => "client hello too large",
            Self::Hello(HelloError::Malformed) => "malformed client hello",
            Self::Handshake(_) => "TLS handshake",
            Self::ClientLeft(_) => "client left early",
            Self::Slow => "client slow at start",
            Self::NoGroup(_) => "no group for name",
            Self::NoUpstream(_) => "no upstream",
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
    let opened = timeout(service.handshake, open(stream, peer, service, metrics)).await;
    let Opened { mut client, ends, name, first } = opened.map_err(|_| Ended::Slow)??;
    let group = service.group_of(name.as_deref()).ok_or(Ended::NoGroup(name.clone()))?;
    let Some((mut upstream, target)) = connect(group, ends, upstreams, metrics).await else {
        client.break_off();
        return Err(Ended::NoUpstream(group.to_owned()));
    };
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
    match &service.tls {
        Tls::None => Ok(Opened { client: Side::Plain(stream), ends, name: None, first: Vec::new() }),
        Tls::Passthrough => {
            let (name, first) = hello(&mut stream).await?;
            Ok(Opened { client: Side::Plain(stream), ends, name, first })
        }
        Tls::Terminate(tls) => {
            let (stream, info) = tls::accept(stream, tls, &metrics.tls).await?;
            let client = Side::Client(Box::new(stream));
            Ok(Opened { client, ends, name: info.server_name, first: Vec::new() })
        }
    }
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

/// Connects to an upstream of the group, and to the next one if that fails.
async fn connect<U: Upstreams>(
    group: &str,
    ends: Option<Addresses>,
    upstreams: &U,
    metrics: &ServiceMetrics,
) -> Option<(Side, Target)> {
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let target = upstreams.choose(group, &tried)?;
        let connected = timeout(target.connect, connect_to(&target, ends)).await;
        let connected = connected.unwrap_or_else(|_| Err(late(target.connect)));
        metrics.connect(&target.name, connected.is_ok());
        upstreams.connected(group, &target, connected.is_ok());
        match connected {
            Ok(side) => return Some((side, target)),
            Err(error) => {
                tracing::debug!(upstream = &*target.name, %error, "an upstream takes no connection");
                tried.push(target.address);
            }
        }
    }
    None
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
