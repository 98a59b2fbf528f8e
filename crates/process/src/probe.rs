//! Asks a child whether it is ready. Each question is bounded in time and in bytes.

mod fast_cgi;

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::Probe;

/// One question takes at most this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The first questions follow each other this closely, so that a quick child is ready quickly.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Pauses grow up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The protocol version in a MySQL greeting; an error packet has 255 in its place.
const MYSQL_PROTOCOL: u8 = 10;

/// Why a child is not ready.
#[derive(Debug, Error)]
pub enum NotReady {
    /// Nothing answers, or it hangs up.
    #[error("no answer: {0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    TooSlow,
    /// It answers, but not as something that is ready.
    #[error("it answers {0}")]
    Answer(String),
}

/// Asks until the child with the main process `pid` is ready, and tells `hear` why it is not yet. Abort the task to give up.
pub async fn until_ready(probe: &Probe, pid: i32, hear: impl Fn(&NotReady)) {
    let mut pause = FIRST_PAUSE;
    while let Err(reason) = ask(probe, pid).await {
        hear(&reason);
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Asks once.
pub async fn ask(probe: &Probe, pid: i32) -> Result<(), NotReady> {
    tokio::time::timeout(ANSWER_WITHIN, ask_without_limit(probe, pid)).await.unwrap_or(Err(NotReady::TooSlow))
}

async fn ask_without_limit(probe: &Probe, pid: i32) -> Result<(), NotReady> {
    match probe {
        Probe::Started => Ok(()),
        Probe::UnixConnect { path } => Ok(UnixStream::connect(path).await.map(drop)?),
        Probe::TcpConnect { port } => Ok(connect(*port).await.map(drop)?),
        Probe::UnixHttp { socket, path } => http(UnixStream::connect(socket).await?, path).await,
        Probe::UnixAnswer { socket } => http_status(UnixStream::connect(socket).await?, "/").await.map(drop),
        Probe::OwnHttp { socket, path } => {
            let stream = UnixStream::connect(socket).await?;
            // The process that began to listen on the socket.
            let listener = stream.peer_cred()?.pid();
            if listener != Some(pid) {
                return Err(NotReady::Answer("through another process".to_owned()));
            }
            http(stream, path).await
        }
        Probe::TcpHttp { port, path } => http(connect(*port).await?, path).await,
        Probe::FastCgiPing { socket, path } => fast_cgi::ping(socket, path).await,
        Probe::FastCgiGet { socket, public, script, path } => {
            fast_cgi::get(socket, public, script, path).await
        }
        Probe::MysqlGreeting { socket } => mysql(socket).await,
    }
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<(), NotReady> {
    match http_status(stream, path).await? {
        200..=399 => Ok(()),
        status => Err(NotReady::Answer(format!("{path} with status {status}"))),
    }
}

async fn http_status(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<u16, NotReady> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mainstay\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // `HTTP/1.1 200`: the status is all we want to know.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..)?.parse::<u16>().ok());
    status.ok_or_else(|| NotReady::Answer(format!("{text:?} instead of HTTP")))
}

async fn mysql(socket: &std::path::Path) -> Result<(), NotReady> {
    let mut stream = UnixStream::connect(socket).await?;
    // Three bytes of length, one of sequence, then the first byte of the greeting.
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    if head[4] == MYSQL_PROTOCOL {
        return Ok(());
    }
    Err(NotReady::Answer(format!("with packet type {}", head[4])))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    async fn http_server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn an_http_server_is_ready_when_it_answers_well() {
        let path = "/health".to_owned();
        let port = http_server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        ask(&Probe::TcpHttp { port, path: path.clone() }, 0).await.unwrap();
        let port = http_server(b"HTTP/1.1 503 Busy\r\n\r\n").await;
        let error = ask(&Probe::TcpHttp { port, path: path.clone() }, 0).await.unwrap_err();
        assert_eq!(error.to_string(), "it answers /health with status 503");
        let port = http_server(b"SSH-2.0-OpenSSH_9").await;
        assert!(matches!(ask(&Probe::TcpHttp { port, path }, 0).await, Err(NotReady::Answer(_))));
    }

    #[tokio::test]
    async fn of_an_unknown_program_any_answer_counts_and_silence_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("app.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            for answer in [&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], b""] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        let probe = Probe::UnixAnswer { socket };
        ask(&probe, 0).await.unwrap();
        assert!(ask(&probe, 0).await.is_err());
    }

    #[tokio::test]
    async fn a_database_that_only_accepts_or_refuses_by_packet_is_not_ready() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("mysqld.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            for greeting in [&[74, 0, 0, 0, 10, b'1'][..], &[23, 0, 0, 0, 255, 16]] {
                listener.accept().await.unwrap().0.write_all(greeting).await.unwrap();
            }
        });
        let probe = Probe::MysqlGreeting { socket };
        ask(&probe, 0).await.unwrap();
        assert!(ask(&probe, 0).await.is_err());
    }

    #[tokio::test]
    async fn the_answer_of_an_older_generation_does_not_make_the_newer_one_ready() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // The first one asking hangs up as soon as it sees who listens.
                if stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                }
            }
        });
        let probe = Probe::OwnHttp { socket, path: "/health".into() };
        let this = std::process::id().cast_signed();
        assert!(ask(&probe, this + 1).await.is_err());
        ask(&probe, this).await.unwrap();
    }
}
