//! The role on real sockets.
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use mainstay_dns::{Config, Server};
use mainstay_site::plan::{DnsPlan, Record, RecordData, Soa, Zone};

const DEADLINE: Duration = Duration::from_secs(10);

struct Role {
    server: Option<Server>,
    address: SocketAddr,
    run: tempfile::TempDir,
}

impl Role {
    fn start(responses_per_second: u32) -> Self {
        let address = free_address();
        let run = tempfile::tempdir().unwrap();
        let plan = DnsPlan { listen: vec![address], zones: vec![zone()], responses_per_second };
        let server = Server::start(&Config { plan, run: run.path().to_owned() }).unwrap();
        Self { server: Some(server), address, run }
    }

    fn udp(&self) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(self.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn metrics(&self) -> String {
        get(&self.run.path().join("admin.sock"), "/metrics")
    }

    fn stop(mut self) {
        let server = self.server.take().unwrap();
        server.shutdown().drain();
        server.join().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().end();
        }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn zone() -> Zone {
    let record = |name: &str, data| Record { name: name.to_owned(), ttl: 60, data };
    let mut records = vec![
        record("foobar.com", RecordData::Ns { target: "ns1.foobar.com".into() }),
        record("ns1.foobar.com", RecordData::A { address: Ipv4Addr::new(10, 10, 0, 11) }),
        record("www.foobar.com", RecordData::A { address: Ipv4Addr::new(10, 10, 0, 11) }),
    ];
    records.push(record("long.foobar.com", RecordData::Txt { text: "x".repeat(3000) }));
    Zone {
        apex: "foobar.com".into(),
        soa: Soa {
            primary: "ns1.foobar.com".into(),
            mailbox: "hostmaster.foobar.com".into(),
            serial: 1,
            refresh: 3600,
            retry: 600,
            expire: 86400,
            minimum: 60,
        },
        records,
    }
}

fn query(id: u16, name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message.to_vec().unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

fn read_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    Message::from_vec(&message).unwrap()
}

fn ask(socket: &UdpSocket, message: &[u8]) -> Message {
    socket.send(message).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_datagram_is_answered_from_where_it_was_sent_to() {
    let role = Role::start(0);
    let response = ask(&role.udp(), &query(7, "www.foobar.com.", RecordType::A));
    assert_eq!((response.id, response.response_code, response.answers.len()), (7, ResponseCode::NoError, 1));
    assert!(response.authoritative && !response.recursion_available);
    role.stop();
}

#[test]
fn what_is_too_long_for_a_datagram_comes_whole_over_tcp() {
    let role = Role::start(0);
    let message = query(8, "long.foobar.com.", RecordType::TXT);
    let short = ask(&role.udp(), &message);
    assert!(short.truncation && short.answers.is_empty());
    let mut stream = role.tcp();
    stream.write_all(&framed(&message)).unwrap();
    let whole = read_framed(&mut stream);
    assert!(!whole.truncation && whole.answers.len() == 1);
    role.stop();
}

#[test]
fn queries_in_a_row_on_one_connection_are_all_answered_however_they_are_cut() {
    let role = Role::start(0);
    let mut stream = role.tcp();
    let bytes: Vec<u8> =
        (0..100).flat_map(|id| framed(&query(id, "www.foobar.com.", RecordType::A))).collect();
    for piece in bytes.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    for id in 0..100 {
        assert_eq!(read_framed(&mut stream).id, id);
    }
    role.stop();
}

#[test]
fn a_message_too_long_to_be_a_query_ends_the_connection() {
    let role = Role::start(0);
    let mut stream = role.tcp();
    stream.write_all(&[0xff, 0xff]).unwrap();
    let ended = stream.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0)) || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    role.stop();
}

#[test]
fn one_network_cannot_take_all_connections() {
    let role = Role::start(0);
    let mut open = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while !role.metrics().lines().any(|line| {
        line.strip_prefix("mainstay_dns_tcp_connections_refused_total ").is_some_and(|count| count != "0")
    }) {
        assert!(Instant::now() < deadline, "{} connections and none refused", open.len());
        open.push(role.tcp());
    }
    assert_eq!(
        ask(&role.udp(), &query(1, "www.foobar.com.", RecordType::A)).response_code,
        ResponseCode::NoError
    );
    drop(open);
    role.stop();
}

#[test]
fn a_flood_is_limited_and_a_client_gets_through_over_tcp() {
    let role = Role::start(20);
    let socket = role.udp();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let message = query(9, "www.foobar.com.", RecordType::A);
    for _ in 0..200 {
        socket.send(&message).unwrap();
    }
    let mut buffer = [0; 1500];
    let mut whole = 0;
    let mut truncated = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        let response = Message::from_vec(&buffer[..length]).unwrap();
        if response.truncation { truncated += 1 } else { whole += 1 }
    }
    assert!((1..=40).contains(&whole), "{whole} whole responses");
    assert!((60..=100).contains(&truncated), "{truncated} truncated responses");
    let mut stream = role.tcp();
    stream.write_all(&framed(&message)).unwrap();
    assert_eq!(read_framed(&mut stream).answers.len(), 1);
    let metrics = role.metrics();
    assert!(metrics.contains("mainstay_dns_rate_limited_total{action=\"drop\"}"), "{metrics}");
    role.stop();
}

#[test]
fn draining_answers_what_has_arrived_and_then_ends() {
    let role = Role::start(0);
    let mut idle = role.tcp();
    idle.write_all(&framed(&query(1, "www.foobar.com.", RecordType::A))).unwrap();
    read_framed(&mut idle);
    let mut busy = role.tcp();
    let message = framed(&query(2, "www.foobar.com.", RecordType::A));
    busy.write_all(&message[..5]).unwrap();
    // The half query has arrived once a later connection on the same worker was answered; with several workers, wait for the count.
    let deadline = Instant::now() + DEADLINE;
    while !role.metrics().contains("mainstay_dns_tcp_connections_open 2\n") {
        assert!(Instant::now() < deadline);
    }
    std::thread::scope(|scope| {
        role.server.as_ref().unwrap().shutdown().drain();
        let rest = scope.spawn(|| {
            assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
            busy.write_all(&message[5..]).unwrap();
            busy.read(&mut [0; 512])
        });
        // Answered, or closed if not a byte of it was read before.
        let _ = rest.join().unwrap();
    });
    role.stop();
}

#[test]
fn health_and_metrics_are_told_on_the_admin_socket() {
    let role = Role::start(0);
    ask(&role.udp(), &query(1, "www.foobar.com.", RecordType::A));
    ask(&role.udp(), &query(1, "nowhere.foobar.com.", RecordType::SRV));
    assert!(get(&role.run.path().join("admin.sock"), "/health").starts_with("HTTP/1.1 200"));
    let metrics = role.metrics();
    for expected in [
        "mainstay_dns_queries_total{type=\"A\",rcode=\"NOERROR\",transport=\"udp\"} 1",
        "mainstay_dns_queries_total{type=\"other\",rcode=\"NXDOMAIN\",transport=\"udp\"} 1",
        "mainstay_dns_query_duration_seconds_count{transport=\"udp\"} 2",
    ] {
        assert!(metrics.contains(expected), "{expected} is not in\n{metrics}");
    }
    role.stop();
}
