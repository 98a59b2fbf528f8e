//! A client that sends exactly the bytes it is told to, and one that makes load.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Nothing in these stories takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A response, with its body freed of chunks.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a field; empty if it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The origin that answered.
    pub(crate) fn origin(&self) -> String {
        self.field("x-origin").to_owned()
    }
}

/// A connection that is kept.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// The edge may have closed already; then what it answered tells more than the failure to write.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub(crate) fn more(&mut self) -> std::io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                Ok(count > 0)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All that comes until the connection ends.
    pub(crate) fn rest(&mut self) -> String {
        while self.more().expect("the connection ends") {}
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// Reads up to and with this text; an error where the connection ends before.
    pub(crate) fn until(&mut self, text: &str) -> Result<String, String> {
        loop {
            if let Some(at) = self.read.windows(text.len()).position(|window| window == text.as_bytes()) {
                let rest = self.read.split_off(at + text.len());
                return Ok(String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned());
            }
            if !self.more().map_err(|error| error.to_string())? {
                return Err(format!("closed after {:?}", String::from_utf8_lossy(&self.read)));
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.read.len() < count {
            if !self.more().map_err(|error| error.to_string())? {
                return Err(format!("closed after {} bytes of {count}", self.read.len()));
            }
        }
        let rest = self.read.split_off(count);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    /// Reads one response.
    pub(crate) fn answer(&mut self) -> Result<Answer, String> {
        let head = self.until("\r\n\r\n")?;
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(format!("no status: {head:?}"))?;
        let mut answer = Answer { status, head, body: Vec::new() };
        if !answer.field("content-length").is_empty() {
            answer.body = self.take(answer.field("content-length").parse().unwrap())?;
        } else if answer.field("transfer-encoding") == "chunked" {
            loop {
                let line = self.until("\r\n")?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(|error| error.to_string())?;
                if size == 0 {
                    while self.until("\r\n")? != "\r\n" {}
                    break;
                }
                answer.body.extend(self.take(size)?);
                if self.take(2)? != b"\r\n" {
                    return Err("a chunk without an end".to_owned());
                }
            }
        }
        Ok(answer)
    }

    pub(crate) fn ask(&mut self, request: &str) -> Result<Answer, String> {
        self.send(request);
        self.answer()
    }
}

/// GET on a connection of its own, with further fields, each ending with CRLF.
pub(crate) fn get(address: SocketAddr, path: &str, fields: &str) -> Answer {
    request(address, &format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n"))
}

/// Any request on a connection of its own.
pub(crate) fn request(address: SocketAddr, request: &str) -> Answer {
    Wire::to(address).ask(request).unwrap()
}

/// Sends bytes, and reads until the edge closes.
pub(crate) fn exchange(address: SocketAddr, bytes: &str) -> String {
    let mut wire = Wire::to(address);
    wire.send(bytes);
    wire.rest()
}

/// Clients that ask without a pause, each request with a token that only its own answer has.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, clients: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client_thread = |client: usize| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut failures, mut wire) = (Vec::new(), None);
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) || failures.len() > 20 {
                        break;
                    }
                    let token = format!("{client}-{number}");
                    let open = wire.get_or_insert_with(|| Wire::to(address));
                    let put = number % 5 == 4;
                    let request = if put {
                        format!("PUT /{token} HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{token}", token.len())
                    } else {
                        format!("GET /{token} HTTP/1.1\r\nhost: a.test\r\n\r\n")
                    };
                    match open.ask(&request) {
                        Ok(answer) if answer.status == 200 && answer.text().contains(&format!(" /{token} ")) => {
                            if put && !answer.text().ends_with(&format!("\n\n{token}")) {
                                failures.push(format!("{token}: the body is another: {}", answer.text()));
                            }
                            if answer.field("connection") == "close" {
                                wire = None;
                            }
                        }
                        Ok(answer) => failures.push(format!("{token}: {} {}", answer.status, answer.text())),
                        Err(error) => {
                            failures.push(format!("{token}: {error}"));
                            wire = None;
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failures
            })
        };
        let threads = (0..clients).map(client_thread).collect();
        Self { stop, threads, done }
    }

    /// Waits until so many more requests are done.
    pub(crate) fn pass(&self, count: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + count;
        crate::edge::until("the load passes", || self.done.load(Ordering::Relaxed) >= wanted);
    }

    /// Stops; answers what failed.
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}
