//! The role as the agent runs it: a process with inherited sockets, replaced by another while clients ask.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use mainstay_dns::Config;
use mainstay_process::SocketSpec;
use mainstay_process::sockets::Sockets;
use mainstay_site::plan::{DnsPlan, Record, RecordData, Soa, Zone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEADLINE: Duration = Duration::from_secs(10);
/// Names the configuration to a process of this test that is to be the role.
const CONFIG: &str = "MAINSTAY_DNS_TEST_CONFIG";

struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        // Already ended is fine too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test but the role: this program starts itself once more with [`CONFIG`] set.
#[test]
fn the_role_itself() {
    if let Some(file) = std::env::var_os(CONFIG) {
        let config: Config = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        mainstay_dns::run(&config).unwrap();
    }
}

fn start(sockets: &Sockets, specs: &[SocketSpec], folder: &Path) -> Role {
    let admin = folder.join("admin.sock");
    let before = std::fs::metadata(&admin).map(|file| file.ino()).ok();
    let mut mappings = Vec::new();
    let mut names = Vec::new();
    for (child_fd, (name, descriptor)) in (3..).zip(sockets.of(specs).unwrap()) {
        mappings.push(FdMapping { parent_fd: descriptor.try_clone_to_owned().unwrap(), child_fd });
        names.push(name);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_role_itself"])
        .env(CONFIG, folder.join("config.json"))
        .env("LISTEN_FDS", names.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .stdout(Stdio::null())
        .fd_mappings(mappings)
        .unwrap()
        .spawn()
        .unwrap();
    let role = Role(child);
    let deadline = Instant::now() + DEADLINE;
    while std::fs::metadata(&admin).map(|file| file.ino()).ok() == before {
        assert!(Instant::now() < deadline, "the role does not open its admin socket");
        std::thread::yield_now();
    }
    role
}

fn terminate(role: &mut Role) {
    kill(Pid::from_raw(role.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = role.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the role does not drain");
        std::thread::yield_now();
    };
    assert!(status.success(), "{status}");
}

fn config(address: SocketAddr, folder: &Path) -> Config {
    let soa = Soa {
        primary: "ns1.foobar.com".into(),
        mailbox: "hostmaster.foobar.com".into(),
        serial: 1,
        refresh: 3600,
        retry: 600,
        expire: 86400,
        minimum: 60,
    };
    let data = RecordData::A { address: Ipv4Addr::new(10, 10, 0, 11) };
    let records = vec![Record { name: "www.foobar.com".into(), ttl: 60, data }];
    let zones = vec![Zone { apex: "foobar.com".into(), soa, records }];
    Config { plan: DnsPlan { listen: vec![address], zones, responses_per_second: 0 }, run: folder.to_owned() }
}

fn query() -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("www.foobar.com.").unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn ask_udp(address: SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send(&query()).unwrap();
    let length = socket.recv(&mut [0; 512]).expect("an answer by UDP");
    assert!(length > 12);
}

fn ask_tcp(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let message = query();
    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).unwrap();
    stream.read_exact(&mut [0; 14]).expect("an answer by TCP");
}

#[test]
fn a_role_that_is_replaced_leaves_no_query_unanswered() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let config = serde_json::to_vec(&config(address, folder.path())).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let specs = [SocketSpec::Udp { address, shares: 2 }, SocketSpec::Tcp { address, shares: 2 }];
    let mut sockets = Sockets::default();
    for spec in &specs {
        sockets.open(spec).unwrap();
    }
    let mut role = start(&sockets, &specs, folder.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = [ask_udp, ask_tcp].map(|ask| {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    ask(address);
                }
            })
        });
        for _ in 0..5 {
            let next = start(&sockets, &specs, folder.path());
            let mut before = std::mem::replace(&mut role, next);
            terminate(&mut before);
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("every query was answered");
        }
    });
    terminate(&mut role);
    assert!(!folder.path().join("admin.sock").exists(), "the last one takes its socket away");
}
