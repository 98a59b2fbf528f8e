//! Debian's etcd, as [`Member::command`] starts it.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use mainstay_coordinator::Endpoint;
use mainstay_coordinator::etcd::{Beginning, Member, Peer, Upkeep};
use tempfile::TempDir;

use super::{Server, client_at, eventually};

/// An address of 127.0.0.0/8 with a port that nobody else uses: the address is this process' own, so that tests that run at the
/// same time do not meet.
pub fn loopback(host: u8) -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let address = Ipv4Addr::new(127, (100 + process / 200 % 100) as u8, (process % 200) as u8, host);
    loop {
        let port = 20_000 + (NEXT.fetch_add(1, Ordering::Relaxed) * 7 + process) % 10_000;
        let address = SocketAddr::from((address, port as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A member that runs, and is killed with this.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it. It dies with the thread that started it, should a test be killed.
    pub fn start(member: &Member) -> Self {
        Self::start_with(member, &[])
    }

    /// The same with further arguments, which override those before them.
    pub fn start_with(member: &Member, further: &[&str]) -> Self {
        let command = member.command();
        let log = member.data_folder.with_extension("log");
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&command.program)
            .args(&command.arguments)
            .args(further)
            .env_clear()
            .envs(command.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("etcd is not installed: scripts/packages test");
        Self { child, log }
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("etcd's last lines, the newest first:\n{}", tail.join("\n"));
        }
        self.kill();
    }
}

/// One member, without TLS.
pub struct EtcdServer {
    _process: Process,
    member: Member,
    _folder: TempDir,
}

impl EtcdServer {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("mainstay-test-etcd-").tempdir().unwrap();
        let member = alone(folder.path());
        let server = Self { _process: Process::start(&member), member, _folder: folder };
        let client = client_at(server.endpoint());
        eventually("etcd's start", || async { client.list("").await.is_ok() }).await;
        server
    }
}

fn alone(folder: &Path) -> Member {
    let mut member = Member {
        name: "alone".to_owned(),
        data_folder: folder.join("data"),
        client_address: loopback(1),
        peer_address: loopback(1),
        tls: None,
        cluster: Vec::new(),
        beginning: Beginning::Founding { token: "test".to_owned() },
    };
    member.cluster = vec![Peer { name: "alone".to_owned(), peer_url: member.peer_url() }];
    member
}

impl Server for EtcdServer {
    fn endpoint(&self) -> Endpoint {
        self.member.client_url().parse().unwrap()
    }

    fn compact(&self, revision: i64) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        Box::pin(async move { Upkeep::new(client_at(self.endpoint())).compact(revision).await.unwrap() })
    }
}
