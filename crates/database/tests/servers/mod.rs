//! Real servers in temporary folders: a primary and replicas that are up in about a second, each killable.
//!
//! One data folder is made and provisioned once per version of the server program, kept in the build folder, and copied for each
//! server: so all of them begin with one history, as clones do.

// Each test binary uses its own share of this.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mainstay_database::mariadb::replica::{self, Upstream, Was};
use mainstay_database::mariadb::server::{Server, Start, StartError};
use mainstay_database::mariadb::view::{self, View};
use mainstay_database::mariadb::{Acknowledged, Position, Role, Rows, Session, Settings, SqlError, TlsFiles};
use mainstay_database::mariadb::{accounts, primary};
use mainstay_database::{Place, prepare};
use mainstay_site::ByteSize;
use mainstay_site::plan::{DatabasePlan, Engine};

/// For what is done at once on a machine that is not busy.
pub const SOON: Duration = Duration::from_secs(20);
pub const PASSWORD: &str = "it's a \\ secret";

pub struct Servers {
    pub members: Vec<Member>,
    // Removed when the servers in it are gone.
    folder: tempfile::TempDir,
}

pub struct Member {
    pub address: Ipv4Addr,
    pub plan: DatabasePlan,
    pub place: Place,
    pub tls: TlsFiles,
    pub start: Start,
    pub acknowledged: Acknowledged,
    pub server: Option<Server>,
}

impl Servers {
    /// `count` servers with one history, none of them started.
    pub async fn stopped(count: u8) -> Self {
        Self::stopped_with(count, folder()).await
    }

    pub async fn stopped_in(count: u8, path: &Path) -> Self {
        Self::stopped_with(count, tempfile::Builder::new().prefix("mainstay-test-").tempdir_in(path).unwrap())
            .await
    }

    async fn stopped_with(count: u8, folder: tempfile::TempDir) -> Self {
        let template = template().await;
        let mut servers = Self { members: Vec::new(), folder };
        let authority = Authority::new();
        for index in 0..count {
            let member = Member::new(servers.folder.path(), index, &authority);
            copy(&template, &member.place.data);
            servers.members.push(member);
        }
        servers
    }

    /// One server as it was made.
    pub fn of(folder: tempfile::TempDir, member: Member) -> Self {
        Self { members: vec![member], folder }
    }

    /// A primary (the first) and replicas that acknowledge. The primary is open, and its commits wait.
    pub async fn running(count: u8) -> Self {
        let mut servers = Self::stopped(count).await;
        servers.start_all().await;
        servers
    }

    pub async fn start_all(&mut self) {
        for (index, member) in self.members.iter_mut().enumerate() {
            member.start(if index == 0 { Role::Primary } else { Role::Replica }).await;
        }
        let position = self.members[0].view().await.binlog_pos;
        for member in &self.members[1..] {
            replica::begin_at(&mut member.session().await, &position, SOON).await.unwrap();
            member.follow(&self.members[0], Was::Replica, true).await;
        }
        let mut session = self.members[0].session().await;
        if self.members.len() > 1 {
            let replicas = self.members.len() as u32 - 1;
            self.members[0]
                .when("all replicas acknowledge", |view| view.acknowledging_replicas == replicas)
                .await;
            primary::open(&mut session, primary::Commits::Wait, SOON).await.unwrap();
        } else {
            primary::open(&mut session, primary::Commits::DoNotWait, SOON).await.unwrap();
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                eprintln!("--- {}\n{}", member.address, member.error_log());
            }
        }
        for member in &self.members {
            member.signal("KILL");
        }
        // Until each is gone, it may write into the folder that is about to be removed.
        for member in &self.members {
            let Some(server) = &member.server else { continue };
            let deadline = Instant::now() + SOON;
            while Path::new(&format!("/proc/{}/fd/0", server.identity().pid)).exists()
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Member {
    pub fn new(folder: &Path, index: u8, authority: &Authority) -> Self {
        let address = Ipv4Addr::new(127, 0, 0, 11 + index);
        let folder = folder.join(format!("server-{}", index + 1));
        let place = Place { data: folder.join("data"), run: folder.join("run"), user: user() };
        for path in [&place.run, &place.temporary()] {
            fs::create_dir_all(path).unwrap();
        }
        Self {
            address,
            plan: DatabasePlan {
                engine: Engine::Mariadb,
                listen: (address, free_port(address)).into(),
                allowed_hosts: Vec::new(),
                memory: ByteSize::from_mebibytes(64),
                connections: 40,
                databases: Vec::new(),
                cluster: None,
            },
            tls: authority.certificate(&place.run, address),
            start: Start {
                program: program(),
                file: place.run.join("my.cnf"),
                error_log: folder.join("error.log"),
                socket: place.socket(),
                user: place.user.clone(),
                become_user: Some(place.user.clone()),
                dies_with_keeper: false,
            },
            place,
            acknowledged: Acknowledged::Received,
            server: None,
        }
    }

    pub fn write_settings(&self) {
        let settings = Settings {
            plan: &self.plan,
            server: self.address,
            place: &self.place,
            tls: &self.tls,
            acknowledged: self.acknowledged,
            applier_threads: 4,
            extra_port: None,
        };
        fs::write(&self.start.file, settings.text()).unwrap();
    }

    pub async fn try_start(&mut self, role: Role) -> Result<(), StartError> {
        self.write_settings();
        let (server, _) = self.start.start(role, SOON).await?;
        self.server = Some(server);
        Ok(())
    }

    pub async fn start(&mut self, role: Role) {
        if let Err(error) = self.try_start(role).await {
            panic!("{error}\n{}", fs::read_to_string(&self.start.error_log).unwrap_or_default());
        }
    }

    pub async fn kill(&mut self) {
        self.server.take().unwrap().kill().await.unwrap();
    }

    /// An orderly stop, as a service manager would do.
    pub async fn stop(&mut self) {
        self.server.take().unwrap().stop(SOON).await.unwrap();
    }

    pub fn signal(&self, name: &str) {
        if let Some(server) = &self.server {
            Command::new("kill")
                .arg(format!("-{name}"))
                .arg(server.identity().pid.to_string())
                .status()
                .unwrap();
        }
    }

    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    pub async fn session(&self) -> Session {
        Session::connect(&self.start.socket, &self.start.user, SOON).await.unwrap()
    }

    pub async fn query(&self, statement: &str) -> Rows {
        self.session()
            .await
            .query(statement, SOON)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    pub async fn run(&self, statements: &str) {
        let answer = self.session().await.query_all(statements, SOON).await;
        answer.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    pub async fn value(&self, statement: &str) -> String {
        self.query(statement).await.single().unwrap_or_default().to_owned()
    }

    pub async fn view(&self) -> View {
        view::look(&self.start.socket, &self.start.user, SOON).await.unwrap()
    }

    pub async fn follow(&self, primary: &Self, was: Was, acknowledging: bool) {
        let mut session = self.session().await;
        replica::follow(
            &mut session,
            &self.upstream(primary, &accounts::replica_of(self.address)),
            was,
            acknowledging,
            &self.relay_index(),
            SOON,
        )
        .await
        .unwrap();
    }

    pub fn upstream<'a>(&'a self, primary: &Self, user: &'a str) -> Upstream<'a> {
        Upstream {
            host: primary.address.into(),
            port: primary.plan.listen.port(),
            user,
            password: PASSWORD,
            tls: &self.tls,
            verify_name: true,
        }
    }

    pub fn relay_index(&self) -> PathBuf {
        self.place.data.join("relay.index")
    }

    pub fn binlog_index(&self) -> PathBuf {
        self.place.data.join("binlog.index")
    }

    /// Waits until the server's view is as it should be.
    pub async fn when(&self, what: &str, holds: impl Fn(&View) -> bool) -> View {
        let deadline = Instant::now() + SOON;
        loop {
            let view = self.view().await;
            if holds(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "in vain: {what}: {view:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until everything that `other` wrote is applied here.
    pub async fn caught_up(&self, other: &Self) {
        let position = other.view().await.binlog_pos;
        self.when("it catches up", |view| view.applied().has(&position)).await;
    }

    pub async fn insert(&self, id: u64) {
        self.query(&insert(id)).await;
    }

    /// Begins a commit in a session of its own, and returns once it is in the binary log and waits for an acknowledgement.
    pub async fn waiting_commit(&self, statement: String) -> Waiter {
        let before = self.position().await;
        let mut session = self.session().await;
        let connection_id = session.connection_id();
        let task = tokio::spawn(async move { session.query(&statement, SOON).await });
        // The server counts those that wait in the first group alone: more than none is all that its number says.
        self.when("a commit waits", |view| view.waiters > 0 && view.binlog_pos != before).await;
        Waiter { connection_id, task }
    }

    /// The rows, as a client of this server sees them.
    pub async fn ids(&self) -> Vec<u64> {
        self.query("SELECT id FROM facts.entries ORDER BY id")
            .await
            .first_column()
            .map(|id| id.parse().unwrap())
            .collect()
    }

    /// Waits until exactly these rows are visible.
    pub async fn shows(&self, expected: &[u64]) {
        let deadline = Instant::now() + SOON;
        loop {
            let ids = self.ids().await;
            if ids == expected {
                return;
            }
            assert!(Instant::now() < deadline, "in vain: {expected:?}, but {ids:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn error_log(&self) -> String {
        fs::read_to_string(&self.start.error_log).unwrap_or_default()
    }

    pub async fn position(&self) -> Position {
        self.view().await.binlog_pos
    }
}

pub struct Waiter {
    pub connection_id: u32,
    pub task: tokio::task::JoinHandle<Result<Rows, SqlError>>,
}

pub fn insert(id: u64) -> String {
    format!("INSERT INTO facts.entries VALUES ({id})")
}

/// The replication status' columns, by name.
pub async fn slave_status(member: &Member, column: &str) -> String {
    member.query("SHOW SLAVE STATUS").await.value(0, column).unwrap_or_default().to_owned()
}

/// The installed server, or another version that is to be tried before it is installed.
pub fn program() -> PathBuf {
    std::env::var_os("MAINSTAY_MARIADBD").map_or_else(|| "/usr/sbin/mariadbd".into(), PathBuf::from)
}

pub fn user() -> String {
    let id = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

pub fn free_port(address: Ipv4Addr) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

/// Memory where there is some: tests are about order, not about a disk's speed.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("mainstay-test-");
    if memory.is_dir() { builder.tempdir_in(memory).unwrap() } else { builder.tempdir().unwrap() }
}

pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// A certificate authority of the test's own.
pub struct Authority {
    certificate: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "the site");
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: rcgen::Issuer::new(parameters, key) }
    }

    pub fn certificate(&self, folder: &Path, address: Ipv4Addr) -> TlsFiles {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![address.to_string()]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, address.to_string());
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        let files = TlsFiles {
            authority: folder.join("ca.pem"),
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        };
        fs::write(&files.authority, &self.certificate).unwrap();
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

/// The data folder that all begin with, made once: accounts of five members, and a table to write into.
async fn template() -> PathBuf {
    let version = Command::new(program()).arg("--version").output().unwrap();
    let digest =
        version.stdout.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mariadb-template-2-{digest:016x}"));
    if template.is_dir() {
        return template;
    }
    let folder = folder();
    let mut member = Member::new(folder.path(), 0, &Authority::new());
    prepare(&member.plan, &member.place).unwrap();
    member.start(Role::Primary).await;
    let mut session = member.session().await;
    primary::open(&mut session, primary::Commits::DoNotWait, SOON).await.unwrap();
    let members: Vec<Ipv4Addr> = (11..16).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    accounts::provide(
        &mut session,
        &members,
        &["127.0.0.%".to_owned()],
        PASSWORD,
        accounts::Doors::Open,
        SOON,
    )
    .await
    .unwrap();
    member
        .run("CREATE DATABASE facts; CREATE TABLE facts.entries (id BIGINT PRIMARY KEY) ENGINE=InnoDB")
        .await;
    member.stop().await;
    // Several tests may make it at once: the first to finish wins, and all are alike.
    let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    copy(&member.place.data, &new.path().join("data"));
    let _ = fs::rename(new.path().join("data"), &template);
    assert!(template.is_dir());
    template
}
