//! Copies of the data, from keeper to keeper over mutual TLS.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mainstay_coordinator::Tls;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Hands;
use crate::mariadb::seed::{self, Offer};

/// What the asking side says first: the version of what follows.
const HELLO: [u8; 8] = *b"copy/1\r\n";
/// For TLS and the first words.
const OPENING: Duration = Duration::from_secs(5);
/// A probe that waits for so long keeps a copy from its end.
const WAITS_TOO_LONG: Duration = Duration::from_secs(1);
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Threads that read at the donor, which goes on serving meanwhile.
const THREADS: u8 = 2;

/// Hands out copies, one at a time, for ever.
pub(super) async fn serve(hands: Rc<Hands>, listener: TcpListener) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(hands.setup.tls.server().map_err(io::Error::other)?);
    let is_busy = Rc::new(Cell::new(false));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Such as too many open files: what is open now ends some time.
                tracing::warn!(%error, "a connection for a copy cannot be taken");
                tokio::time::sleep(OPENING).await;
                continue;
            }
        };
        let (hands, acceptor, is_busy) = (hands.clone(), acceptor.clone(), is_busy.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = give(&hands, &acceptor, stream, &is_busy).await {
                tracing::warn!(%error, "a copy was not handed out");
            }
        });
    }
}

async fn give(
    hands: &Hands,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    is_busy: &Cell<bool>,
) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the other side was silent");
    let mut stream = timeout(OPENING, acceptor.accept(stream)).await.map_err(|_| late())??;
    let mut hello = [0; HELLO.len()];
    timeout(OPENING, stream.read_exact(&mut hello)).await.map_err(|_| late())??;
    if hello != HELLO || is_busy.replace(true) {
        return Err(io::Error::other("it asked for what is not known, or another copy is under way"));
    }
    let file = hands.setup.configuration_file();
    let offer = Offer { place: &hands.setup.place, settings: &file, threads: THREADS, bytes_per_sec: None };
    let given = tokio::select! {
        given = seed::donate(&offer, &mut stream, |_| {}) => given.map_err(io::Error::other),
        () = until_writes_wait(hands) => Err(io::Error::other("writes wait for it, and it for them; it is begun anew later")),
    };
    is_busy.set(false);
    let given = given?;
    tracing::info!(bytes = given.bytes, "a copy was handed out");
    stream.shutdown().await
}

/// A copy ends with a moment in which nothing commits, and so waits for what waits for an acknowledgement. If that
/// acknowledgement was lost, only another write brings it, which waits for the copy.
async fn until_writes_wait(hands: &Hands) {
    while hands.waits_since.get().is_none_or(|since| since.elapsed() < WAITS_TOO_LONG) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks a member for a copy: what comes is to be read by a seeding.
pub(super) async fn ask(tls: &Tls, from: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
    let connector = TlsConnector::from(Arc::clone(&tls.client().map_err(io::Error::other)?));
    let open = async {
        let stream = TcpStream::connect(from).await?;
        let mut stream = connector.connect(ServerName::from(from.ip()), stream).await?;
        stream.write_all(&HELLO).await?;
        stream.flush().await?;
        Ok::<_, io::Error>(stream)
    };
    timeout(OPENING, open).await.map_err(|_| late())?
}
