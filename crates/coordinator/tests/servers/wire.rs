//! A wire between a client and a server, which can be cut, silenced, and made to swallow answers.

use std::sync::Arc;

use mainstay_coordinator::Endpoint;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Carries both ways.
    Whole,
    /// Carries what the client says, and nothing back.
    AnswersLost,
    /// Accepts connections, and carries nothing.
    Silent,
    /// Closes every connection at once.
    Cut,
}

pub struct Wire {
    address: std::net::SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Wire {
    pub async fn to(server: Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, seen) = watch::channel(Mode::Whole);
        let server = Arc::new(server);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, mode) = (Arc::clone(&server), seen.clone());
                tokio::spawn(carry(client, server, mode));
            }
        });
        Self { address, mode, task }
    }

    pub fn endpoint(&self) -> Endpoint {
        format!("http://{}", self.address).parse().unwrap()
    }

    pub fn mend(&self) {
        self.mode.send_replace(Mode::Whole);
    }

    pub fn lose_answers(&self) {
        self.mode.send_replace(Mode::AnswersLost);
    }

    pub fn silence(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    /// Ends every connection, and each new one.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: Arc<Endpoint>, mode: watch::Receiver<Mode>) {
    let mut cut = mode.clone();
    tokio::select! {
        () = both_ways(client, &server, mode) => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn both_ways(client: TcpStream, server: &Endpoint, mode: watch::Receiver<Mode>) {
    let (from_client, to_client) = client.into_split();
    match server {
        Endpoint::Unix(path) => {
            let (from_server, to_server) = UnixStream::connect(path).await.unwrap().into_split();
            there_and_back(from_client, to_client, from_server, to_server, mode).await;
        }
        Endpoint::Http { host, port } | Endpoint::Https { host, port } => {
            let (from_server, to_server) =
                TcpStream::connect((host.as_str(), *port)).await.unwrap().into_split();
            there_and_back(from_client, to_client, from_server, to_server, mode).await;
        }
    }
}

async fn there_and_back(
    from_client: impl AsyncRead + Unpin,
    to_client: impl AsyncWrite + Unpin,
    from_server: impl AsyncRead + Unpin,
    to_server: impl AsyncWrite + Unpin,
    mode: watch::Receiver<Mode>,
) {
    let carries = |mode: Mode| matches!(mode, Mode::Whole | Mode::AnswersLost);
    tokio::select! {
        () = copy(from_client, to_server, mode.clone(), carries) => {}
        () = copy(from_server, to_client, mode, |mode| mode == Mode::Whole) => {}
    }
}

/// Carries while the mode allows it. What was read and may not be carried is lost, so a connection stays silent for good.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mode: watch::Receiver<Mode>,
    carries: impl Fn(Mode) -> bool,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut lost = false;
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        lost |= !carries(*mode.borrow());
        if !lost && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
