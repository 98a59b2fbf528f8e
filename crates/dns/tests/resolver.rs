//! A resolver that others wrote finds the site through the delegation: root zone, then the site's zone.
//!
//! Root hints have no ports, so this needs port 53, and with it a network namespace of its own, and with that root.
//! The namespace is that of one thread and of all that it starts, and goes away with them.
#![allow(clippy::unwrap_used)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use mainstay_dns::{Config, Server};
use mainstay_site::plan::{DnsPlan, Record, RecordData, Soa, Zone};
use nix::sched::{CloneFlags, unshare};

const ROOT: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SITE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const DEADLINE: Duration = Duration::from_secs(20);

/// Ends its process when the test does, however that may be.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is fine too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn zone(apex: &str, records: Vec<Record>) -> Zone {
    let soa = Soa {
        primary: "ns1.foobar.com".into(),
        mailbox: "hostmaster.foobar.com".into(),
        serial: 1,
        refresh: 3600,
        retry: 600,
        expire: 86400,
        minimum: 60,
    };
    Zone { apex: apex.into(), soa, records }
}

fn record(name: &str, data: RecordData) -> Record {
    Record { name: name.into(), ttl: 60, data }
}

fn serve(folder: &Path, address: Ipv4Addr, zone: Zone) -> Server {
    let run = folder.join(address.to_string());
    std::fs::create_dir(&run).unwrap();
    let plan = DnsPlan { listen: vec![(address, 53).into()], zones: vec![zone], responses_per_second: 50 };
    Server::start(&Config { plan, run }).unwrap()
}

fn unbound(folder: &Path) -> Running {
    let hints = folder.join("root.hints");
    std::fs::write(&hints, format!(". 3600 IN NS a.root.\na.root. 3600 IN A {ROOT}\n")).unwrap();
    let config = folder.join("unbound.conf");
    let text = format!(
        "server:\n  interface: {RESOLVER}\n  outgoing-interface: {RESOLVER}\n  do-not-query-localhost: no\n  \
         root-hints: \"{}\"\n  chroot: \"\"\n  username: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  do-daemonize: no\n  module-config: \"iterator\"\n  qname-minimisation: yes\n  \
         use-caps-for-id: yes\nremote-control:\n  control-enable: no\n",
        hints.display(),
        folder.display(),
    );
    std::fs::write(&config, text).unwrap();
    let child = Command::new("unbound")
        .arg("-c")
        .arg(&config)
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's unbound, which scripts/packages installs");
    Running(child)
}

fn ask(name: &str, record_type: RecordType) -> io::Result<Message> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(SocketAddr::from((RESOLVER, 53)))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    socket.send(&message.to_vec().unwrap())?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    Message::from_vec(&buffer[..length]).map_err(io::Error::other)
}

fn resolve(name: &str, record_type: RecordType) -> Message {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match ask(name, record_type) {
            Ok(response) => return response,
            // The resolver is still starting.
            Err(error) => assert!(Instant::now() < deadline, "no answer for {name}: {error}"),
        }
        std::thread::yield_now();
    }
}

fn story() {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    let address = |last| RecordData::A { address: Ipv4Addr::new(10, 10, 0, last) };
    let ns1 = || RecordData::Ns { target: "ns1.foobar.com".into() };
    let glue = || record("ns1.foobar.com", RecordData::A { address: SITE });
    let root = zone(
        "",
        vec![
            record("", RecordData::Ns { target: "a.root".into() }),
            record("a.root", RecordData::A { address: ROOT }),
            record("foobar.com", ns1()),
            glue(),
        ],
    );
    let mut records = vec![
        record("foobar.com", ns1()),
        glue(),
        record("www.foobar.com", address(11)),
        record("blog.foobar.com", RecordData::Cname { target: "www.foobar.com".into() }),
        record("*.wild.foobar.com", address(12)),
        record("long.foobar.com", RecordData::Txt { text: "x".repeat(3000) }),
    ];
    records.push(record("foobar.com", RecordData::Mx { preference: 10, target: "www.foobar.com".into() }));
    let site = zone("foobar.com", records);
    let servers = [serve(folder.path(), ROOT, root), serve(folder.path(), SITE, site)];
    let resolver = unbound(folder.path());

    let www = resolve("www.foobar.com.", RecordType::A);
    assert_eq!(www.response_code, ResponseCode::NoError);
    let RData::A(found) = &www.answers[0].data else { panic!("no address: {www}") };
    assert_eq!(found.0, Ipv4Addr::new(10, 10, 0, 11));

    assert_eq!(resolve("blog.foobar.com.", RecordType::A).answers.len(), 2);
    assert_eq!(resolve("any.wild.foobar.com.", RecordType::A).answers.len(), 1);
    assert_eq!(resolve("foobar.com.", RecordType::MX).answers.len(), 1);
    assert_eq!(resolve("nowhere.foobar.com.", RecordType::A).response_code, ResponseCode::NXDomain);
    assert_eq!(resolve("example.org.", RecordType::A).response_code, ResponseCode::NXDomain);
    let nothing = resolve("www.foobar.com.", RecordType::MX);
    assert_eq!((nothing.response_code, nothing.answers.len()), (ResponseCode::NoError, 0));
    // Too long for UDP on the way from us to the resolver, which therefore came by TCP.
    let long = resolve("long.foobar.com.", RecordType::TXT);
    assert!(long.truncation || long.answers.len() == 1);
    assert_ne!(long.response_code, ResponseCode::ServFail);

    drop(resolver);
    for server in servers {
        server.shutdown().drain();
        server.join().unwrap();
    }
}

#[test]
fn debians_unbound_resolves_the_site_through_the_delegation() {
    // A namespace of its own for this thread, not for the other tests of the process.
    std::thread::spawn(story).join().expect("the story holds");
}
