//! An upstream that tells what it understood, and that can be killed, frozen, slowed, and made to answer nonsense. Its
//! reading of HTTP is its own, so that two readings can be compared.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How it behaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mood {
    /// Answers.
    Well,
    /// Takes connections and requests, and says nothing.
    Frozen,
    /// Answers after this time.
    Slow(Duration),
    /// Works on so many requests at once, each for this time; others wait, however long.
    Hands(usize, Duration),
    /// Answers these bytes, and keeps the connection open.
    Says(&'static [u8]),
    /// Reads a request and closes.
    Hangs,
    /// Answers with this status.
    Status(u16),
}

/// A request as the origin understood it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let first = fields.next().map(|(_, value)| value.as_str());
        assert!(fields.next().is_none(), "{name} came twice: {self:?}");
        first
    }
}

pub(crate) struct Origin {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    listening: Option<std::thread::JoinHandle<()>>,
}

struct State {
    name: &'static str,
    mood: Mutex<Mood>,
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<HashMap<u64, TcpStream>>,
    opened: Mutex<u64>,
    stop: Mutex<bool>,
    /// Requests that hands are at work on.
    busy: Mutex<usize>,
    free: Condvar,
    /// How many hands were at work when each piece of work ended.
    at_work: Mutex<Vec<usize>>,
}

impl Origin {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            name,
            mood: Mutex::new(Mood::Well),
            seen: Mutex::default(),
            connections: Mutex::default(),
            opened: Mutex::default(),
            stop: Mutex::new(false),
            busy: Mutex::default(),
            free: Condvar::new(),
            at_work: Mutex::default(),
        });
        let listening = Some(listen(listener, Arc::clone(&state)));
        Self { name, address, state, listening }
    }

    pub(crate) fn is(&self, mood: Mood) {
        *self.state.mood.lock().unwrap() = mood;
    }

    /// What it understood since it was last asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }

    /// How many requests it understood since it was last asked.
    pub(crate) fn count(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    /// How many hands were at work at the end of each piece of work, since it was last asked.
    pub(crate) fn at_work(&self) -> Vec<usize> {
        std::mem::take(&mut self.state.at_work.lock().unwrap())
    }

    /// Connections that were ever opened.
    pub(crate) fn opened(&self) -> u64 {
        *self.state.opened.lock().unwrap()
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.state.connections.lock().unwrap().len()
    }

    /// Ends as a process that is killed: its port refuses, its connections break.
    pub(crate) fn kill(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        *self.state.stop.lock().unwrap() = true;
        let _ = TcpStream::connect(self.address);
        listening.join().unwrap();
        for (_, connection) in self.state.connections.lock().unwrap().drain() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Is there again, on the same port.
    pub(crate) fn revive(&mut self) {
        *self.state.stop.lock().unwrap() = false;
        let listener = crate::edge::bind(self.address);
        self.listening = Some(listen(listener, Arc::clone(&self.state)));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(listener: TcpListener, state: Arc<State>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept() else { continue };
            if *state.stop.lock().unwrap() {
                return;
            }
            stream.set_nodelay(true).unwrap();
            let key = number + *state.opened.lock().unwrap() * 1_000_000;
            *state.opened.lock().unwrap() += 1;
            state.connections.lock().unwrap().insert(key, stream.try_clone().unwrap());
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                serve(stream, &state);
                state.connections.lock().unwrap().remove(&key);
            });
        }
    })
}

fn serve(mut stream: TcpStream, state: &State) {
    let mut bytes = Vec::new();
    loop {
        let Some(seen) = read(&mut stream, &mut bytes) else { return };
        let mood = state.mood.lock().unwrap().clone();
        let text = describe(&seen);
        let check = seen.field("user-agent") == Some("mainstay-health");
        let head = seen.line.starts_with("HEAD");
        let websocket = seen.field("upgrade").is_some();
        if !check {
            state.seen.lock().unwrap().push(seen.clone());
        }
        let status = match mood {
            Mood::Frozen => {
                // Until it is well again, or killed.
                let mut byte = [0];
                while *state.mood.lock().unwrap() == Mood::Frozen && !*state.stop.lock().unwrap() {
                    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                    if matches!(stream.peek(&mut byte), Ok(0)) {
                        return;
                    }
                }
                stream.set_read_timeout(None).unwrap();
                200
            }
            Mood::Slow(time) => {
                std::thread::sleep(time);
                200
            }
            Mood::Hands(hands, time) => {
                let busy = state.busy.lock().unwrap();
                *state.free.wait_while(busy, |busy| *busy >= hands).unwrap() += 1;
                std::thread::sleep(time);
                let mut busy = state.busy.lock().unwrap();
                state.at_work.lock().unwrap().push(*busy);
                *busy -= 1;
                drop(busy);
                state.free.notify_one();
                200
            }
            Mood::Says(bytes) => {
                if stream.write_all(bytes).is_err() {
                    return;
                }
                continue;
            }
            Mood::Hangs => return,
            Mood::Status(status) => status,
            Mood::Well => 200,
        };
        if websocket {
            websocket_echo(&mut stream);
            return;
        }
        let body = if head { "" } else { text.as_str() };
        let response = format!(
            "HTTP/1.1 {status} X\r\nx-origin: {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
            state.name,
            text.len()
        );
        if stream.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

fn websocket_echo(stream: &mut TcpStream) {
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        bytes[..count].reverse();
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// Request line, fields, empty line, body.
fn describe(seen: &Seen) -> String {
    let fields: String = seen.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    format!("{}\n{fields}\n{}", seen.line, String::from_utf8_lossy(&seen.body))
}

fn fill(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(count @ 1..) => {
            bytes.extend_from_slice(&buffer[..count]);
            Some(())
        }
        _ => None,
    }
}

fn line(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let rest = bytes.split_off(end + 1);
            let line = std::mem::replace(bytes, rest);
            return Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
        }
        fill(stream, bytes)?;
    }
}

/// Reads as lenient servers do: LF ends a line too, and the last of several lengths counts.
fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
    let first = line(stream, bytes)?;
    let mut fields = Vec::new();
    loop {
        let field = line(stream, bytes)?;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').unwrap_or((&field, ""));
        fields.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    let value = |wanted: &str| {
        fields
            .iter()
            .rev()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    };
    let mut body = Vec::new();
    if value("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
        loop {
            let size = usize::from_str_radix(line(stream, bytes)?.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                while !line(stream, bytes)?.is_empty() {}
                break;
            }
            while bytes.len() < size + 2 {
                fill(stream, bytes)?;
            }
            body.extend(bytes.drain(..size));
            bytes.drain(..2);
        }
    } else if let Some(length) = value("content-length").and_then(|value| value.parse().ok()) {
        while bytes.len() < length {
            fill(stream, bytes)?;
        }
        body.extend(bytes.drain(..length));
    }
    Some(Seen { line: first, fields, body })
}
