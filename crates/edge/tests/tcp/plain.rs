//! Bytes that are only bytes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_edge::tcp::Service;
use mainstay_http::networks::Networks;
use mainstay_http::per_client::Clients;
use mainstay_http::proxy_protocol::{Addresses, Version, header};
use mainstay_site::plan::edge::ProxyVersion;

use super::support::*;

#[test]
fn each_side_may_say_that_it_is_done_while_the_other_goes_on() {
    // Reads all, then answers: its answer comes after the client's end.
    let after = Actor::new(|mut stream| {
        let all = rest(&mut stream);
        stream.write_all(format!("got {}", all.len()).as_bytes()).unwrap();
    });
    let server = Running::new(service(), vec![group("all", &[after.address])]);
    let mut client = server.connect();
    client.write_all(&[b'x'; 1000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "got 1000");
    // Says that it is done first, and then still reads.
    let (first, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, done) = (Arc::clone(&first), Arc::clone(&read));
    let before = Actor::new(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        count.store(rest(&mut stream).len(), Ordering::SeqCst);
        done.store(true, Ordering::SeqCst);
    });
    let server = Running::new(service(), vec![group("all", &[before.address])]);
    let mut client = server.connect();
    assert_eq!(rest(&mut client), "bye");
    client.write_all(&[b'x'; 500]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    eventually("the upstream read all", || read.load(Ordering::SeqCst));
    assert_eq!(first.load(Ordering::SeqCst), 500);
    eventually("it ends", || server.metric("connections_open") == 0);
    assert_eq!(server.metric("received_bytes_total"), 500);
    assert_eq!(server.metric("sent_bytes_total"), 3);
    assert_eq!(server.metric("errors_total"), 0);
}

#[test]
fn much_flows_both_ways_at_once_and_whole() {
    let echo = Actor::echo("");
    let server = Running::new(service(), vec![group("all", &[echo.address])]);
    let mut client = server.connect();
    let mut writer = client.try_clone().unwrap();
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
    let sent = bytes.clone();
    let thread = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    // The reader is slow to begin: meanwhile everything waits, in bounded memory.
    eventually("some went up", || server.metric("received_bytes_total") > 0);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    thread.join().unwrap();
    assert!(received == bytes);
}

#[test]
fn a_dead_upstream_is_passed_by() {
    let (echo, dead) = (Actor::echo("alive"), nobody());
    let server = Running::new(service(), vec![group("all", &[dead, dead, echo.address])]);
    for _ in 0..4 {
        assert_eq!(take(&mut server.connect(), 5), "alive");
    }
    assert!(
        server.metric("upstream_connects_total{service=\"story\",upstream=\"all-0\",result=\"failed\"}") > 0
    );
    assert_eq!(
        server.metric("upstream_connects_total{service=\"story\",upstream=\"all-2\",result=\"ok\"}"),
        4
    );
}

#[test]
fn with_every_upstream_dead_the_client_sees_a_break_at_once() {
    let server = Running::new(service(), vec![group("all", &[nobody(), nobody()])]);
    let mut client = server.connect();
    // It may have broken already.
    let _ = client.write_all(b"x");
    assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
    eventually("counted", || server.errors("no upstream") == 1);
}

#[test]
fn an_upstream_that_breaks_does_not_look_like_one_that_is_done() {
    let breaking = Actor::new(|mut stream| {
        stream.write_all(b"half an ans").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        // Closing with something unread sends a reset.
    });
    let server = Running::new(service(), vec![group("all", &[breaking.address])]);
    let mut client = server.connect();
    assert_eq!(take(&mut client, 11), "half an ans");
    client.write_all(b"xyz").unwrap();
    assert!(client.read(&mut [0]).is_err(), "a reset");
    eventually("counted", || server.errors("upstream broke") == 1);
}

#[test]
fn the_fit_upstream_with_the_fewest_connections_is_taken() {
    let (a, b, unfit) = (Actor::echo("a"), Actor::echo("b"), Actor::echo("c"));
    let addresses = [a.address, b.address, unfit.address];
    let groups = vec![(group("all", &addresses), None)];
    let server = Running::with(service(), groups, PATIENCE, |index| index != 2);
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..6 {
        let mut stream = server.connect();
        take(&mut stream, 1);
        open.push(stream);
    }
    assert_eq!((a.count(), b.count(), unfit.count()), (3, 3, 0));
    // Those of one upstream end; the next ones go there.
    let of_a: Vec<_> = open.drain(..).enumerate().filter(|(index, _)| index % 2 == 0).collect();
    eventually("three are left", || server.metric("connections_open") == 3);
    let mut more = Vec::new();
    for _ in 0..3 {
        let mut stream = server.connect();
        more.push((take(&mut stream, 1), stream));
    }
    assert!(more.iter().all(|(name, _)| *name == more[0].0), "all at the empty one");
    drop(of_a);
}

#[test]
fn silence_in_both_directions_ends_a_connection_and_bytes_in_one_do_not() {
    // Time is the story: the ticks together last twice as long as silence may.
    let ticking = Actor::new(|mut stream| {
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(100));
            if stream.write_all(b".").is_err() {
                return;
            }
        }
        let _ = stream.read(&mut [0]);
    });
    let quiet = Service { idle: Duration::from_millis(400), ..service() };
    let server = Running::new(quiet, vec![group("all", &[ticking.address])]);
    let mut client = server.connect();
    assert_eq!(take(&mut client, 8), "........");
    assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
    eventually("counted", || server.errors("idle") == 1);
}

#[test]
fn the_client_is_named_to_upstreams_that_ask() {
    let asking = Actor::new(|mut stream| {
        let all = rest(&mut stream);
        stream.write_all(all.as_bytes()).unwrap();
    });
    let groups = vec![with_proxy(group("all", &[asking.address]), ProxyVersion::V1)];
    let server = Running::new(Service { proxy_protocol: Some(trusted()), ..service() }, groups);
    let ends = Addresses {
        source: "192.0.2.7:4711".parse().unwrap(),
        destination: "198.51.100.1:3306".parse().unwrap(),
    };
    for version in [Version::V1, Version::V2] {
        let mut client = server.connect();
        client.write_all(&header(version, Some(ends))).unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut client), "PROXY TCP4 192.0.2.7 198.51.100.1 4711 3306\r\nhello");
    }
    let mut client = server.connect();
    client.write_all(b"no header").unwrap();
    assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
    eventually("counted", || server.errors("no PROXY header") == 1);
    let groups = vec![group("all", &[asking.address])];
    let elsewhere = mainstay_http::networks::Networks::parse(&["10.0.0.0/8".into()]).unwrap();
    let server = Running::new(Service { proxy_protocol: Some(elsewhere), ..service() }, groups);
    let mut client = server.connect();
    assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
    eventually("counted", || server.errors("PROXY header from untrusted network") == 1);
}

#[test]
fn more_connections_than_allowed_wait_until_one_ends() {
    let echo = Actor::echo("x");
    let few = Service { connections: 2, ..service() };
    let server = Running::new(few, vec![group("all", &[echo.address])]);
    let (mut first, mut second, mut third) = (server.connect(), server.connect(), server.connect());
    take(&mut first, 1);
    take(&mut second, 1);
    eventually("it pauses", || server.metric("accept_paused_total") > 0);
    assert_eq!(server.metric("connections_open"), 2);
    drop(first);
    assert_eq!(take(&mut third, 1), "x");
}

#[test]
fn draining_lets_connections_end_and_cuts_those_that_do_not() {
    let echo = Actor::echo("x");
    let groups = vec![(group("all", &[echo.address]), None)];
    let mut server = Running::with(service(), groups, Duration::from_millis(400), |_| true);
    let (mut ending, mut staying) = (server.connect(), server.connect());
    take(&mut ending, 1);
    take(&mut staying, 1);
    server.shutdown.drain();
    eventually("nothing is accepted", || TcpStream::connect(server.address).is_err());
    ending.write_all(b"still").unwrap();
    ending.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut ending), "still");
    server.join();
    assert!(staying.read(&mut [0]).map_or(true, |count| count == 0));
    assert_eq!(server.errors("cut off at the end of draining"), 1);
}

#[test]
fn a_changed_service_is_for_new_connections() {
    let (old, new) = (Actor::echo("old"), Actor::echo("new"));
    let groups = vec![group("all", &[old.address]), group("other", &[new.address])];
    let server = Running::new(service(), groups);
    let mut before = server.connect();
    take(&mut before, 3);
    server.live.replace(Service { group: Some("other".into()), ..service() });
    assert_eq!(take(&mut server.connect(), 3), "new");
    before.write_all(b"?").unwrap();
    assert_eq!(take(&mut before, 1), "?");
}

#[test]
fn a_client_has_no_more_connections_than_its_share() {
    let echo = Actor::echo("a");
    let groups = || vec![group("all", &[echo.address])];
    let two = || Clients::new(2, &trusted());
    let behind = Service { proxy_protocol: Some(trusted()), clients: two(), ..service() };
    let server = Running::new(behind, groups());
    let from = |client: &str| {
        let (source, destination) = (format!("{client}:1000").parse().unwrap(), server.address);
        let mut stream = server.connect();
        // It may be closed already.
        let _ = stream.write_all(&header(Version::V2, Some(Addresses { source, destination })));
        stream
    };
    let mut first = vec![from("192.0.2.1"), from("192.0.2.1")];
    for stream in &mut first {
        assert_eq!(take(stream, 1), "a");
    }
    let refused = |mut stream: TcpStream| stream.read(&mut [0]).map_or(true, |count| count == 0);
    assert!(refused(from("192.0.2.1")));
    assert_eq!(take(&mut from("192.0.2.2"), 1), "a", "others are not in its way");
    assert_eq!(server.errors("too many of one client"), 1);
    // The same limit in a changed service goes on counting.
    server.live.replace(Service {
        proxy_protocol: Some(trusted()),
        clients: two(),
        idle: PATIENCE / 2,
        ..service()
    });
    assert!(refused(from("192.0.2.1")));
    drop(first.pop());
    eventually("its place is free", || {
        let mut again = from("192.0.2.1");
        let mut byte = [0];
        matches!(again.read(&mut byte), Ok(1))
    });
    // Without a PROXY header, the one who connects counts; trusted proxies, which carry many clients, do not.
    let server = Running::new(Service { clients: two(), ..service() }, groups());
    let mut many: Vec<TcpStream> = (0..5).map(|_| server.connect()).collect();
    assert!(many.iter_mut().all(|stream| take(stream, 1) == "a"));
    let nobody = Networks::default();
    let server = Running::new(Service { clients: Clients::new(2, &nobody), ..service() }, groups());
    let mut held = [server.connect(), server.connect()];
    assert!(held.iter_mut().all(|stream| take(stream, 1) == "a"));
    assert!(refused(server.connect()));
}
