//! HTTP/1.1 at a fixed rate, for latencies: a client that sends as fast as it is answered hides them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::load::Load;

/// How long answers are waited for after the last request.
const LINGER: Duration = Duration::from_secs(5);

/// Requests over kept connections, so many per second in all, each sent when it is due or as soon after as a connection is free.
/// Latencies count from when a request was due. The client spins, so that its own waking up adds nothing.
pub fn run(to: SocketAddr, request: &[u8], connections: u32, rate: f64, seconds: u32) -> io::Result<Load> {
    let mut connections = (0..connections).map(|_| Connection::open(to)).collect::<io::Result<Vec<_>>>()?;
    let every = Duration::from_secs_f64(1.0 / rate.max(1.0));
    let started = Instant::now();
    let until = Duration::from_secs(u64::from(seconds));
    let (mut next, mut due) = (Duration::ZERO, VecDeque::new());
    let mut times = Vec::new();
    let mut load = Load::default();
    loop {
        let now = started.elapsed();
        while next <= now && next < until {
            due.push_back(next);
            next += every;
        }
        let mut is_busy = false;
        for connection in &mut connections {
            match connection.turn(request, &mut due, started) {
                Ok(Some(latency)) => times.push(latency),
                Ok(None) => {}
                Err(_) => {
                    load.failures += 1;
                    *connection = Connection::open(to)?;
                }
            }
            is_busy |= connection.since.is_some();
        }
        if (now >= until && due.is_empty() && !is_busy) || now > until + LINGER {
            break;
        }
    }
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).map(|time| time.as_secs_f64() * 1000.0);
    (load.p50_ms, load.p99_ms) = (at(50), at(99));
    load.requests = times.len() as u64;
    load.rate = load.requests as f64 / f64::from(seconds);
    Ok(load)
}

struct Connection {
    stream: TcpStream,
    /// When the request that is on its way was due.
    since: Option<Duration>,
    response: Vec<u8>,
}

impl Connection {
    fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, since: None, response: Vec::with_capacity(4096) })
    }

    /// Reads what is there, then sends what is due. The time that a finished request took.
    fn turn(
        &mut self,
        request: &[u8],
        due: &mut VecDeque<Duration>,
        started: Instant,
    ) -> io::Result<Option<Duration>> {
        let mut took = None;
        if let Some(since) = self.since {
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.response.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if let Some(is_good) = finished(&self.response)? {
                self.response.clear();
                self.since = None;
                if !is_good {
                    return Err(ErrorKind::InvalidData.into());
                }
                took = Some(started.elapsed().saturating_sub(since));
            }
        }
        if self.since.is_none()
            && let Some(since) = due.pop_front()
        {
            self.since = Some(since);
            self.stream.write_all(request)?;
        }
        Ok(took)
    }
}

/// Whether the response is there in whole, and if so whether it is a 200. Only responses that say their length are known.
fn finished(response: &[u8]) -> io::Result<Option<bool>> {
    let Some(end) = response.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&response[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).ok_or(ErrorKind::InvalidData)?;
    Ok((response.len() >= end + 4 + length).then(|| head.starts_with("http/1.1 200")))
}

#[cfg(test)]
mod tests {
    use super::finished;

    #[test]
    fn a_response_is_finished_when_its_body_is_there() {
        assert_eq!(finished(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh").ok(), Some(None));
        assert_eq!(finished(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").ok(), Some(Some(true)));
        assert_eq!(finished(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").ok(), Some(Some(false)));
        assert!(finished(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "nobody could tell where it ends");
    }
}
