//! Clients that make a new TLS connection for every request, all of them TLS 1.3 with X25519, full or resumed.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_benches::load::Load;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use crate::ground::HOST;

/// Whether clients may resume what they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// Every handshake is a full one.
    Full,
    /// Every handshake after a client's first is resumed.
    Resumed,
}

/// Connects again and again, with so many at once, for so long.
pub(crate) fn run(
    port: u16,
    certificate: &[u8],
    sessions: Sessions,
    at_once: usize,
    seconds: u32,
) -> io::Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let deadline = Instant::now() + Duration::from_secs(u64::from(seconds));
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let mut clients = Vec::new();
        for _ in 0..at_once {
            let connector = connector(certificate, sessions)?;
            clients.push(tokio::task::spawn_local(client(port, connector, sessions, deadline)));
        }
        let mut load = Load::default();
        for client in clients {
            let (requests, failures) = client.await.map_err(io::Error::other)?;
            load.requests += requests;
            load.failures += failures;
        }
        load.rate = load.requests as f64 / f64::from(seconds);
        Ok(load)
    })
}

fn connector(certificate: &[u8], sessions: Sessions) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec())).map_err(io::Error::other)?;
    // The one exchange that all of the servers know.
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if sessions == Sessions::Full {
        config.resumption = Resumption::disabled();
    }
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn client(port: u16, connector: TlsConnector, sessions: Sessions, deadline: Instant) -> (u64, u64) {
    let (mut requests, mut failures) = (0, 0);
    let connector = Rc::new(connector);
    let mut is_first = true;
    while Instant::now() < deadline {
        match visit(port, &connector).await {
            Ok(kind) => {
                let wanted = match sessions {
                    Sessions::Full => HandshakeKind::Full,
                    Sessions::Resumed => HandshakeKind::Resumed,
                };
                if kind == wanted {
                    requests += 1;
                } else if !is_first {
                    failures += 1;
                }
                is_first = false;
            }
            Err(_) => failures += 1,
        }
    }
    (requests, failures)
}

async fn visit(port: u16, connector: &TlsConnector) -> io::Result<HandshakeKind> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
    let mut stream = connector.connect(name, stream).await?;
    let request = format!("GET /1k.bin HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::with_capacity(2048);
    // A server may close without saying goodbye in TLS; the response's length tells that it is whole.
    match stream.read_to_end(&mut response).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    if !response.starts_with(b"HTTP/1.1 200 ") || response.len() < 1024 {
        return Err(io::Error::other("the response is not whole"));
    }
    stream.get_ref().1.handshake_kind().ok_or_else(|| io::Error::other("no handshake"))
}
