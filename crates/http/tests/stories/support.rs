//! A running server with one service for all stories, and a client that sends exactly the bytes it is told.

use std::fs::File;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::{
    Body, BodyError, BodyStream, FileRange, Listener, ListenerOptions, Request, Response, Server, Service,
    Settings, Shutdown, read_all,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

/// Nothing in these stories takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) shutdown: Shutdown,
    /// Whether `/later` is answered.
    later: watch::Sender<bool>,
    server: Option<Server>,
    _folder: tempfile::TempDir,
}

/// Bytes of the file behind `/file`.
pub(crate) const FILE_BYTES: usize = 3_000_000;

pub(crate) fn file_byte(at: usize) -> u8 {
    (at % 251) as u8
}

impl Running {
    pub(crate) fn new() -> Self {
        Self::with(&Settings::default())
    }

    pub(crate) fn with(settings: &Settings) -> Self {
        Self::listening(settings, Listener::Tcp)
    }

    /// A server whose listener has TLS, PROXY headers or both.
    pub(crate) fn with_options(settings: &Settings, options: ListenerOptions) -> Self {
        Self::listening(settings, |listener| Listener::TcpWith(listener, options))
    }

    fn listening(settings: &Settings, make: impl FnOnce(TcpListener) -> Listener) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, (0..FILE_BYTES).map(file_byte).collect::<Vec<_>>()).unwrap();
        let (registry, shutdown) = (Registry::default(), Shutdown::new());
        let metrics = EngineMetrics::new(&registry);
        let listeners = vec![vec![make(listener)]];
        let (later, is_later) = watch::channel(false);
        let service =
            move |_| Stories { file: Rc::new(File::open(&file).unwrap()), is_later: is_later.clone() };
        let server = Server::start(listeners, settings, &metrics, &shutdown, service).unwrap();
        Self { address, registry, shutdown, later, server: Some(server), _folder: folder }
    }

    pub(crate) fn connect(&self) -> Wire {
        Wire::to(self.address)
    }

    /// Sends bytes on a new connection and reads until the server closes it.
    pub(crate) fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut wire = self.connect();
        wire.send(bytes);
        wire.rest()
    }

    /// Has `/later` answered, which waits until then.
    pub(crate) fn is_later(&self) {
        self.later.send(true).unwrap();
    }

    /// Waits for the server to end by itself.
    pub(crate) fn join(&mut self) {
        self.server.take().unwrap().join().unwrap();
    }

    pub(crate) fn metric(&self, name: &str) -> String {
        let text = self.registry.render();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.end();
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name)
            .map(|(_, v)| v)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Wire {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// The server may have closed already; then what it answered tells more than the failure to write.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// All that comes until the connection ends.
    pub(crate) fn rest(&mut self) -> String {
        while self.more() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.more()
    }

    /// Reads up to and with this text.
    pub(crate) fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(text.len()).position(|window| window == text.as_bytes()) {
                let rest = self.read.split_off(at + text.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
            }
            assert!(self.more(), "closed after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// The next so many bytes; none if the connection ends before.
    pub(crate) fn try_take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if !self.more() {
                return None;
            }
        }
        let rest = self.read.split_off(count);
        Some(std::mem::replace(&mut self.read, rest))
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.more(), "closed after {} bytes of {count}", self.read.len());
        }
        let rest = self.read.split_off(count);
        std::mem::replace(&mut self.read, rest)
    }

    /// Reads one response with a length, or in chunks.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.until("\r\n\r\n");
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if let Some(length) = answer.field("content-length") {
            answer.body = self.take(length.parse().unwrap());
        } else if answer.field("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.until("\r\n");
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                if size == 0 {
                    while self.until("\r\n") != "\r\n" {}
                    break;
                }
                answer.body.extend(self.take(size));
                assert_eq!(self.take(2), b"\r\n");
            }
        }
        answer
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.answer()
    }
}

struct Stories {
    file: Rc<File>,
    is_later: watch::Receiver<bool>,
}

impl Service for Stories {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        let mut response = Response::default();
        match request.uri.path() {
            "/echo" => *response.body_mut() = request.body,
            "/read" => match read_all(request.body, 1 << 30).await {
                Ok(bytes) => *response.body_mut() = text(bytes.len().to_string()),
                Err(error) => {
                    *response.status_mut() = error.status();
                    *response.body_mut() = text(error.to_string());
                }
            },
            "/fields" => *response.body_mut() = text(fields(&request)),
            "/tls" => *response.body_mut() = text(tls(&request)),
            "/peer" => *response.body_mut() = text(format!("{:?} {:?}", request.peer, request.local)),
            "/file" => *response.body_mut() = self.file(0, FILE_BYTES as u64),
            "/small-file" => *response.body_mut() = self.file(10, 1000),
            "/shrunk" => *response.body_mut() = self.file(0, FILE_BYTES as u64 + 1),
            "/stream" => *response.body_mut() = Body::Stream(Box::new(Counting { left: 3, length: None })),
            "/told-stream" => {
                *response.body_mut() = Body::Stream(Box::new(Counting { left: 3, length: Some(6) }));
            }
            "/short-stream" => {
                *response.body_mut() = Body::Stream(Box::new(Counting { left: 3, length: Some(7) }));
            }
            "/long-stream" => {
                *response.body_mut() = Body::Stream(Box::new(Counting { left: 3, length: Some(5) }));
            }
            "/endless" => *response.body_mut() = Body::Stream(Box::new(Endless)),
            "/never" => std::future::pending().await,
            "/later" => {
                // It is never later if the story ends before.
                let _ = self.is_later.clone().wait_for(|is_later| *is_later).await;
                *response.body_mut() = text("later".into());
            }
            "/panic" => panic!("a bug in a service"),
            "/interim" => *response.status_mut() = StatusCode::CONTINUE,
            "/empty" => *response.status_mut() = StatusCode::NO_CONTENT,
            "/not-modified" => {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response.headers_mut().insert("etag", HeaderValue::from_static("\"x\""));
            }
            "/upgrade" if request.upgrade.is_some() => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                if let Some(key) = request.headers.get("sec-websocket-key") {
                    response.headers_mut().insert("sec-websocket-accept", websocket_accept(key));
                }
                *response.body_mut() = Body::Upgrade(Box::new(|mut io| {
                    Box::pin(async move {
                        let mut buffer = [0; 1024];
                        while let Ok(count @ 1..) = io.read(&mut buffer).await {
                            let shouted = buffer[..count].to_ascii_uppercase();
                            if io.write_all(&shouted).await.is_err() {
                                break;
                            }
                        }
                    })
                }));
            }
            _ => *response.body_mut() = text(format!("{} {}", request.method, request.uri.path())),
        }
        response
    }
}

impl Stories {
    fn file(&self, offset: u64, length: u64) -> Body {
        Body::File(FileRange { file: Rc::clone(&self.file), offset, length })
    }
}

/// The answer of a `WebSocket` server to a client's challenge (RFC 6455, 4.2.2).
pub(crate) fn websocket_accept(key: &HeaderValue) -> HeaderValue {
    let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    let bits: String = digest.as_ref().iter().map(|byte| format!("{byte:08b}")).collect();
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: &[u8]| {
        let group = format!("{:0<6}", String::from_utf8_lossy(group));
        char::from(digits[usize::from_str_radix(&group, 2).unwrap()])
    };
    let text: String = bits.as_bytes().chunks(6).map(digit).collect();
    (text + "=").parse().unwrap()
}

fn text(text: String) -> Body {
    Body::Full(Bytes::from(text))
}

fn tls(request: &Request) -> String {
    let Some(tls) = &request.tls else { return "none".into() };
    let client = tls.client.as_ref().map(|client| (&client.subject, &client.names));
    let host = request.host.as_deref().unwrap_or_default();
    format!(
        "name={:?} version={} cipher={} group={:?} resumed={} client={client:?} for_host={}",
        tls.server_name,
        tls.version,
        tls.cipher,
        tls.group,
        tls.resumed,
        tls.is_for(host)
    )
}

fn fields(request: &Request) -> String {
    let mut lines = format!("host={:?} upgrade={}\n", request.host, request.upgrade.is_some());
    for (name, value) in &request.headers {
        lines.push_str(&[name.as_str(), "=", value.to_str().unwrap_or("?"), "\n"].concat());
    }
    lines
}

/// `a0`, `a1`, ... and a trailer.
struct Counting {
    left: usize,
    length: Option<u64>,
}

impl BodyStream for Counting {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        // A stream that is not always ready.
        if self.left.is_multiple_of(2) && self.length.is_none() {
            self.left = self.left * 10 + 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left > 10 {
            self.left /= 10;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Bytes::from(format!("a{}", self.left)))))
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("3"));
        trailers.insert("content-length", HeaderValue::from_static("3"));
        Some(trailers)
    }

    fn remaining(&self) -> Option<u64> {
        self.length
    }
}

struct Endless;

impl BodyStream for Endless {
    fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(Some(Ok(Bytes::from_static(&[b'x'; 16 * 1024]))))
    }
}

/// Reads a stream to its end.
pub(crate) async fn collect(body: Body) -> Result<Vec<u8>, BodyError> {
    match body {
        Body::Stream(mut stream) => {
            let mut all = Vec::new();
            while let Some(piece) = poll_fn(|cx| stream.poll_data(cx)).await {
                all.extend_from_slice(&piece?);
            }
            Ok(all)
        }
        body => read_all(body, u64::MAX).await.map(|bytes| bytes.to_vec()),
    }
}
