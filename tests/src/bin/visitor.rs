//! Asks for one page at a steady rate, each time over a new connection, until its standard input is closed (or for ten
//! minutes at most), and prints what it saw as JSON. Requests begin on time whether or not earlier ones were answered.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mainstay_tests::Report;

const LONGEST_VISIT: Duration = Duration::from_mins(10);
const PATIENCE: Duration = Duration::from_secs(15);
const THREADS: u64 = 256;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("a URL");
    let rate: u64 = arguments.next().and_then(|rate| rate.parse().ok()).expect("requests per second");
    let (host, path) =
        url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("http://host/path");
    let address =
        (host, 80).to_socket_addrs().ok().and_then(|mut all| all.next()).expect("a name that resolves");
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");

    let over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let report = Mutex::new(Report::default());
    let told = AtomicBool::new(false);
    let watcher = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        watcher.store(true, Ordering::Relaxed);
    });
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && begun.elapsed() < LONGEST_VISIT {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let due = Duration::from_micros(number * 1_000_000 / rate);
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                    let start = begun.elapsed();
                    let result = ask(address, &request);
                    let took = begun.elapsed().saturating_sub(start);
                    let mut report = report.lock().expect("no thread panics while it holds this");
                    report.sent += 1;
                    report.late_ms = report.late_ms.max(start.saturating_sub(due).as_millis() as u64);
                    report.longest_ms = report.longest_ms.max(took.as_millis() as u64);
                    if result.is_err() || took > Duration::from_millis(500) {
                        report.last_trouble_ms =
                            report.last_trouble_ms.max(begun.elapsed().as_millis() as u64);
                    }
                    match result {
                        Err(error) => report.failed.push((start.as_millis() as u64, error)),
                        Ok(()) if !told.swap(true, Ordering::Relaxed) => {
                            let _ = io::stdout().write_all(b"begun\n").and_then(|()| io::stdout().flush());
                        }
                        Ok(()) => {}
                    }
                }
            });
        }
    });
    let text =
        serde_json::to_string(&report.into_inner().expect("all threads have ended")).expect("plain data");
    let _ = io::stdout().write_all(text.as_bytes());
}

fn ask(address: std::net::SocketAddr, request: &str) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(words)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    stream.write_all(request.as_bytes()).map_err(words)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(words)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(if line.is_empty() {
        "the connection was closed without an answer".to_owned()
    } else {
        String::from_utf8_lossy(line).into_owned()
    })
}
