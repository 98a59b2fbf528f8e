//! Clients that shake hands slowly, too much, twice, or not at all.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_http::Settings;
use mainstay_http::tls::ServerOptions;

use super::authority::Authority;
use super::support::{PATIENCE, eventually};
use super::tls::{Client, ask, serving, serving_with, socket};

/// Writes every byte by itself.
struct Trickle(TcpStream);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Trickle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_hello_in_segments_of_one_byte_is_understood() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let mut stream = Client::of(&authority).connect_over(Trickle(socket(&server)), "a.test").unwrap();
    assert!(ask(&mut stream, "a.test", "/tls").unwrap().contains("TLSv1.3"));
}

#[test]
fn a_slow_handshake_is_cut_off_by_its_deadline() {
    let authority = Authority::new("a");
    let mut settings = Settings::default();
    settings.timeouts.handshake = Duration::from_millis(300);
    let server = serving_with(&settings, &[authority.issue(&["a.test"])], ServerOptions::default());
    let begin = Instant::now();
    let mut silent = socket(&server);
    let mut halted = socket(&server);
    halted.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).unwrap();
    for socket in [&mut silent, &mut halted] {
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(begin.elapsed() < PATIENCE);
    eventually("both are counted", || {
        server.metric("http_tls_handshake_failures_total{reason=\"timed out\"}") == "2"
    });
}

#[test]
fn what_is_no_handshake_or_too_large_a_one_is_cut_off() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let mut plain = socket(&server);
    plain.write_all(b"\x05\x01\x00 nonsense").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.first().is_none_or(|first| *first == 21), "an alert, or nothing: {answer:?}");
    // A hello of 64 KiB, in many records.
    let mut large = socket(&server);
    let message = [&[1, 0, 0xff, 0xff][..], &vec![3; 0xffff]].concat();
    for piece in message.chunks(1000) {
        let record = [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
        if large.write_all(&record).is_err() {
            break;
        }
    }
    let _ = large.read(&mut [0; 100]);
    eventually("both are counted", || {
        let of = |reason| server.metric(&format!("http_tls_handshake_failures_total{{reason=\"{reason}\"}}"));
        of("no TLS") == "1" && of("too large") == "1"
    });
}

#[test]
fn plain_http_is_told_that_this_is_a_port_of_https() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    // In one piece, in single bytes, and with a body that is larger than what is read of it.
    let long =
        [b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n", &vec![b'x'; 1_000_000][..]]
            .concat();
    for (bytes, size) in
        [(&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], 100), (b"GET /", 1), (&long, 1 << 20)]
    {
        let mut plain = socket(&server);
        for piece in bytes.chunks(size) {
            // The answer may be there, and the end, before all is sent.
            let _ = plain.write_all(piece);
        }
        let mut answer = vec![0; 4096];
        let mut read = 0;
        while let Ok(count @ 1..) = plain.read(&mut answer[read..]) {
            read += count;
        }
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        // A client that does not stop to send may lose the answer with the connection.
        if bytes.len() < 1000 {
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
            assert!(answer.contains("connection: close\r\n") && answer.contains("speaks HTTPS"), "{answer}");
        }
    }
    eventually("all are counted", || {
        server.metric("http_tls_handshake_failures_total{reason=\"plain HTTP\"}") == "3"
    });
}

#[test]
fn a_client_that_says_it_speaks_http_and_no_more_is_not_waited_for() {
    let authority = Authority::new("a");
    let mut settings = Settings::default();
    settings.timeouts.handshake = Duration::from_millis(300);
    let server = serving_with(&settings, &[authority.issue(&["a.test"])], ServerOptions::default());
    let mut plain = socket(&server);
    plain.write_all(b"G").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    eventually("it is closed though the client keeps its side open", || {
        server.metric("http_connections_open") == "0"
    });
}

#[test]
fn a_draining_server_waits_for_handshakes_a_moment_and_no_longer() {
    let authority = Authority::new("a");
    let mut settings = Settings::default();
    settings.timeouts.drain_idle = Duration::from_millis(200);
    let mut server = serving_with(&settings, &[authority.issue(&["a.test"])], ServerOptions::default());
    let mut waiting = socket(&server);
    eventually("it is accepted", || server.metric("http_connections_open") == "1");
    server.shutdown.drain();
    server.join();
    assert_eq!(waiting.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(server.metric("http_tls_handshake_failures_total{reason=\"server stops\"}"), "1");
}

#[test]
fn connections_without_a_handshake_make_room_for_others() {
    let authority = Authority::new("a");
    let mut settings = Settings::default();
    settings.limits.connections = 3;
    let server = serving_with(&settings, &[authority.issue(&["a.test"])], ServerOptions::default());
    let silent: Vec<TcpStream> = (0..20).map(|_| socket(&server)).collect();
    assert!(Client::of(&authority).ask(&server, "a.test").unwrap().contains("TLSv1.3"));
    drop(silent);
}

#[test]
fn a_client_cannot_shake_hands_again() {
    let authority = Authority::new("a");
    // OpenSSL waits for an answer that does not come: the server ends that.
    let mut settings = Settings::default();
    settings.timeouts.head = Duration::from_millis(500);
    let server = serving_with(&settings, &[authority.issue(&["a.test"])], ServerOptions::default());
    let connect = server.address.to_string();
    let child = Command::new("openssl")
        .args(["s_client", "-connect", &connect, "-servername", "a.test", "-tls1_2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return };
    child.stdin.take().unwrap().write_all(b"R\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
}
