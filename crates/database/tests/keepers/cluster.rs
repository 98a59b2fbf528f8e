//! A cluster in a temporary folder: keepers as processes, on 127.0.0.11 and on, and an embedded coordinator in this process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use mainstay_coordinator::embedded::{Embedded, Listener};
use mainstay_coordinator::{Client, ClientSettings, Tls};
use mainstay_database::cluster::{Key, Leader, Mode, Phase, Sync, Value};
use mainstay_database::keeper::{Config, KeeperPlan, keep};
use mainstay_database::mariadb::{Session, SqlError};
use mainstay_identity::{Issued, Store, Subject};
use mainstay_site::ByteSize;
use mainstay_site::plan::cluster::{ClusterMember, ClusterPlan, CoordinatorAccess, Durability, Promotion};
use mainstay_site::plan::{DatabasePlan, Engine};
use tokio::runtime::Runtime;

/// Tells a test process that it is a keeper, and by which configuration.
pub(crate) const CONFIG: &str = "MAINSTAY_TEST_KEEPER";
const PREFIX: &str = "/mainstay/test/";
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    servers: Vec<String>,
    keepers: RefCell<BTreeMap<String, Child>>,
    runtime: Runtime,
    client: Client,
}

impl Cluster {
    /// So many servers without data.
    pub(crate) fn begin(count: u8) -> Self {
        let folder = tempfile::Builder::new().prefix("mainstay-test-").tempdir().unwrap();
        let identity =
            Store::open(&folder.path().join("identity"), &"test".parse().unwrap(), SystemTime::now())
                .unwrap();
        let runtime = new_runtime();
        let own = issue(&identity, "coordinator1", Ipv4Addr::LOCALHOST);
        let tls =
            Tls::from_pem(identity.trusted().as_bytes(), own.certificate.as_bytes(), own.key.as_bytes())
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let store = Embedded::open(&folder.path().join("coordinator")).unwrap();
        let server_tls = tls.clone();
        std::thread::spawn(move || {
            new_runtime().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                store.serve(Listener::Tls(listener, server_tls)).await.map(drop).unwrap();
            });
        });
        let client = Client::new(&ClientSettings::new(vec![endpoint.parse().unwrap()], Some(tls))).unwrap();
        let servers: Vec<String> = (1..=count).map(|number| format!("server{number}")).collect();
        let members: Vec<ClusterMember> = (1..=count).map(member).collect();
        let cluster = Self { folder, servers, keepers: RefCell::default(), runtime, client };
        for (name, member) in cluster.servers.iter().zip(&members) {
            cluster.write_config(name, member, &members, &endpoint, &identity);
            cluster.start_keeper(name);
        }
        cluster
    }

    fn home(&self, server: &str) -> PathBuf {
        self.folder.path().join(server)
    }

    fn write_config(
        &self,
        name: &str,
        own: &ClusterMember,
        members: &[ClusterMember],
        endpoint: &str,
        identity: &Store,
    ) {
        let home = self.home(name);
        for folder in ["run", "log", "secrets", "lib"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        let std::net::IpAddr::V4(address) = own.address.ip() else {
            unreachable!("members are on 127.0.0.x")
        };
        let issued = issue(identity, name, address);
        for (file, text) in [
            ("site-authority", identity.trusted()),
            ("server-certificate", &issued.certificate),
            ("server-key", &issued.key),
            ("database-replication", "a password"),
        ] {
            fs::write(home.join("secrets").join(file), text).unwrap();
        }
        let config = Config {
            plan: KeeperPlan {
                server: name.parse().unwrap(),
                database: DatabasePlan {
                    engine: Engine::Mariadb,
                    listen: own.address,
                    allowed_hosts: Vec::new(),
                    memory: ByteSize::from_mebibytes(96),
                    connections: 30,
                    databases: Vec::new(),
                    cluster: Some(ClusterPlan {
                        members: members.to_vec(),
                        durability: Durability::NoLoss,
                        lease_ms: 2000,
                        coordinator: CoordinatorAccess {
                            endpoints: vec![endpoint.to_owned()],
                            prefix: PREFIX.to_owned(),
                        },
                        replication_secret: "database-replication".to_owned(),
                    }),
                },
                data: home.join("lib"),
                user: "root".to_owned(),
                replicas_from: vec!["127.0.0.%".to_owned()],
            },
            run: home.join("run"),
            log: home.join("log"),
            secrets: home.join("secrets"),
        };
        fs::write(home.join("config.json"), serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    }

    pub(crate) fn start_keeper(&self, server: &str) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home(server).join("keeper.log"))
            .unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "keeper_process", "--nocapture"])
            .env(CONFIG, self.home(server).join("config.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.keepers.borrow_mut().insert(server.to_owned(), child);
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(String::as_str)
    }

    /// Waits until one server takes writes and all others acknowledge them; tells which.
    pub(crate) fn until_whole(&self, within: Duration) -> String {
        self.until("the cluster is whole", within, || {
            let primary = self.primary()?;
            let sync = self.get(&Key::Sync)?;
            let Value::Sync(Sync { mode: Mode::Strict, members, .. }) = sync else { return None };
            (members.len() + 1 == self.servers.len()).then_some(primary)
        })
    }

    /// The server that takes writes, as the coordinator has it.
    pub(crate) fn primary(&self) -> Option<String> {
        let Value::Leader(Leader { server, phase: Phase::Open, .. }) = self.get(&Key::Leader)? else {
            return None;
        };
        Some(server.to_string())
    }

    fn get(&self, key: &Key) -> Option<Value> {
        let path = format!("{PREFIX}db/{}", key.path());
        let found = self.runtime.block_on(self.client.get(&path)).ok()??;
        Value::from_json(key, &found.value).ok()
    }

    pub(crate) fn until<T>(&self, what: &str, within: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = attempt() {
                return found;
            }
            if Instant::now() >= deadline {
                self.show_logs();
                panic!("{what}: not within {} s", within.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn show_logs(&self) {
        for server in &self.servers {
            for log in ["keeper.log", "log/database/mariadbd.log"] {
                let text = fs::read_to_string(self.home(server).join(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {server}, {log}\n{}", lines[lines.len().saturating_sub(250)..].join("\n"));
            }
        }
        let keys = self.runtime.block_on(self.client.list(PREFIX));
        for key in keys.into_iter().flat_map(|listing| listing.keys) {
            eprintln!("{} = {}", key.key, String::from_utf8_lossy(&key.value));
        }
    }

    pub(crate) fn write(&self, server: &str, row: u64) {
        self.until("a write", Duration::from_secs(20), || self.try_write(server, row).ok());
    }

    /// Appends a row. An error tells nothing about whether it is there.
    pub(crate) fn try_write(&self, server: &str, row: u64) -> Result<(), SqlError> {
        self.runtime.block_on(async {
            let mut session = Session::connect(&self.socket(server), "root", ANSWER).await?;
            // As an app would be: the keeper's own rights would let it write where nobody may.
            let statement = format!("INSERT INTO mainstay_test.rows (number) VALUES ({row})");
            if session.query("SELECT @@global.read_only", ANSWER).await?.single() != Some("0") {
                return Err(SqlError::Unreadable("the server is closed"));
            }
            match session.query(&statement, ANSWER).await {
                Err(error) if error.is(1049) || error.is(1146) => {
                    let make = "CREATE DATABASE IF NOT EXISTS mainstay_test; CREATE TABLE IF NOT EXISTS mainstay_test.rows \
                        (id BIGINT AUTO_INCREMENT PRIMARY KEY, number BIGINT NOT NULL) ENGINE=InnoDB";
                    session.query_all(make, ANSWER).await?;
                    session.query(&statement, ANSWER).await.map(drop)
                }
                other => other.map(drop),
            }
        })
    }

    /// All rows of a server, in order.
    pub(crate) fn rows(&self, server: &str) -> Result<Vec<u64>, SqlError> {
        self.runtime.block_on(async {
            let mut session = Session::connect(&self.socket(server), "root", ANSWER).await?;
            let rows = session.query("SELECT number FROM mainstay_test.rows ORDER BY number", ANSWER).await?;
            Ok(rows.first_column().filter_map(|row| row.parse().ok()).collect())
        })
    }

    fn socket(&self, server: &str) -> PathBuf {
        self.home(server).join("run/mysqld.sock")
    }

    /// SIGKILL for a server's mariadbd alone.
    pub(crate) fn kill_mariadbd(&self, server: &str) {
        let text = fs::read_to_string(self.home(server).join("run/mysqld.pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.keepers.get_mut().values_mut() {
            // Its mariadbd goes with it.
            let _ = child.kill();
            let _ = child.wait();
        }
        // The kernel's kill takes a moment; the folder goes when nobody writes into it any more.
        let deadline = Instant::now() + Duration::from_secs(10);
        let pids: Vec<i32> = self
            .servers
            .iter()
            .filter_map(|server| {
                fs::read_to_string(self.home(server).join("run/mysqld.pid")).ok()?.trim().parse().ok()
            })
            .collect();
        while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn issue(identity: &Store, name: &str, address: Ipv4Addr) -> Issued {
    let subject = Subject { server: name.parse().unwrap(), addresses: vec![address.into()] };
    identity.server(&subject, SystemTime::now()).unwrap()
}

fn member(number: u8) -> ClusterMember {
    let address = Ipv4Addr::new(127, 0, 0, 10 + number);
    let free = || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        SocketAddr::from((address, listener.local_addr().unwrap().port()))
    };
    ClusterMember {
        server: format!("server{number}").parse().unwrap(),
        address: free(),
        copies: free(),
        promotion: Promotion::Usual,
    }
}

/// Runs as a keeper until the process is killed.
pub(crate) fn run_keeper(config: &Path) {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let config: Config = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    let runtime = new_runtime();
    let local = tokio::task::LocalSet::new();
    let told = |told: &mainstay_database::keeper::Told| tracing::info!(?told, "is");
    local.block_on(&runtime, keep(config, std::future::pending(), told)).unwrap();
}
