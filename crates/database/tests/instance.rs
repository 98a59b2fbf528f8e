//! A real server in a temporary folder: made once, provisioned once, and killed in the middle of writes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_database::{Client, Error, Place, child, prepare, provision, status};
use mainstay_site::ByteSize;
use mainstay_site::plan::{DatabaseOfApp, DatabasePlan, Engine};

/// An instance that is killed when the test ends, however it ends.
struct Instance {
    folder: tempfile::TempDir,
    place: Place,
    plan: DatabasePlan,
    server: Option<Child>,
}

impl Instance {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let schema = folder.path().join("schema");
        fs::create_dir(&schema).unwrap();
        fs::write(schema.join("001_entries.sql"), "CREATE TABLE entries (id INT PRIMARY KEY, text TEXT);")
            .unwrap();
        let place = Place {
            data: folder.path().join("data"),
            run: folder.path().join("run"),
            user: "root".to_owned(),
        };
        let plan = DatabasePlan {
            engine: Engine::Mariadb,
            listen: ([127, 0, 0, 1], free_port()).into(),
            allowed_hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            memory: ByteSize::from_mebibytes(128),
            connections: 20,
            cluster: None,
            databases: vec![DatabaseOfApp {
                app: "guestbook".parse().unwrap(),
                name: "guest_book".to_owned(),
                user: "guestbook".to_owned(),
                password_secret: "database-guestbook".to_owned(),
                schema: Some(schema),
            }],
        };
        prepare(&plan, &place).unwrap();
        let mut instance = Self { folder, place, plan, server: None };
        instance.start();
        instance
    }

    fn start(&mut self) {
        let spec = child(&self.plan, [10, 10, 0, 11].into(), &self.place).unwrap();
        fs::create_dir_all(&self.place.run).unwrap();
        for file in &spec.files {
            fs::write(&file.path, &file.content).unwrap();
        }
        let server = Command::new(spec.program)
            .args(spec.args)
            .arg("--user=root")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.server = Some(server);
    }

    fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    fn provision(&self) -> Result<(), Error> {
        self.provision_with("it's a \\ secret")
    }

    fn provision_with(&self, password: &str) -> Result<(), Error> {
        let client = Client::new(&self.place).unwrap();
        provision(&self.plan, &client, |_| Ok::<_, Error>(password.to_owned()))
    }

    fn rows(&self, query: &str) -> Vec<String> {
        Client::new(&self.place).unwrap().run("a test's query", query).unwrap()
    }

    /// Signs in as the app and runs a statement; tells whether that worked.
    fn as_app(&self, password: &str, statement: &str) -> bool {
        self.app_client(password).args(["-e", statement]).output().unwrap().status.success()
    }

    fn app_client(&self, password: &str) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "--user=guestbook", "--batch", "--skip-column-names", "--host=127.0.0.1"])
            .arg(format!("--port={}", self.plan.listen.port()))
            .arg(format!("--password={password}"));
        command
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn an_app_gets_its_own_database_and_nothing_else() {
    let instance = Instance::new();
    instance.provision().unwrap();
    let password = "it's a \\ secret";
    assert!(instance.as_app(password, "INSERT INTO guest_book.entries VALUES (1, 'hello')"));
    assert!(!instance.as_app("wrong", "SELECT 1"));
    assert!(!instance.as_app(password, "SELECT * FROM mysql.user"));
    assert!(!instance.as_app(password, "CREATE DATABASE other"));
    assert!(!instance.as_app(password, "CREATE DATABASE guestXbook"), "`_` is no wildcard");
    instance.provision().unwrap();
    assert_eq!(instance.rows("SELECT text FROM guest_book.entries"), ["hello"]);
    assert_eq!(instance.rows("SELECT COUNT(*) FROM mysql.global_priv WHERE user=''"), ["0"]);
}

#[test]
fn a_schema_file_is_applied_once_and_a_changed_or_broken_one_is_told() {
    let instance = Instance::new();
    instance.provision().unwrap();
    let schema = instance.folder.path().join("schema");
    fs::write(schema.join("002_more.sql"), "ALTER TABLE entries ADD picture TEXT;").unwrap();
    instance.provision().unwrap();
    instance.provision().unwrap();
    fs::write(schema.join("002_more.sql"), "ALTER TABLE entries ADD photo TEXT;").unwrap();
    assert!(matches!(instance.provision(), Err(Error::SchemaChanged { file, .. }) if file == "002_more.sql"));
    fs::write(schema.join("002_more.sql"), "ALTER TABLE entries ADD picture TEXT;").unwrap();
    fs::write(schema.join("003_broken.sql"), "CREATE TABLE half (id INT); CREATE TABL oops;").unwrap();
    assert!(matches!(instance.provision(), Err(Error::Statement { reason, .. }) if reason.contains("1064")));
    assert!(
        matches!(instance.provision(), Err(Error::SchemaInterrupted { file, .. }) if file == "003_broken.sql")
    );
}

#[test]
fn a_killed_server_comes_back_with_every_acknowledged_write() {
    let mut instance = Instance::new();
    instance.provision().unwrap();
    let acknowledged = write_until_killed(&mut instance);
    instance.start();
    let there: u32 = instance.rows("SELECT COUNT(*) FROM guest_book.entries")[0].parse().unwrap();
    assert!(acknowledged > 0 && there >= acknowledged, "{acknowledged} acknowledged, {there} there");
    assert!(
        there <= acknowledged + 1,
        "only the statement in flight may be there without having been acknowledged"
    );
}

/// Writes rows one by one over one connection, kills the server in the middle, and counts the acknowledgements.
fn write_until_killed(instance: &mut Instance) -> u32 {
    let statements = instance.folder.path().join("statements.sql");
    let mut file = std::io::BufWriter::new(fs::File::create(&statements).unwrap());
    for id in 0..100_000 {
        writeln!(file, "INSERT INTO guest_book.entries VALUES ({id}, 'x'); SELECT {id};").unwrap();
    }
    drop(file);
    let output = instance.folder.path().join("acknowledged");
    let mut writer = instance
        .app_client("it's a \\ secret")
        .arg("--unbuffered")
        .stdin(fs::File::open(&statements).unwrap())
        .stdout(fs::File::create(&output).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while lines(&output) < 50 {
        assert!(Instant::now() < deadline, "no write was acknowledged in time");
        std::thread::yield_now();
    }
    instance.kill();
    writer.wait().unwrap();
    lines(&output)
}

fn lines(path: &Path) -> u32 {
    fs::read_to_string(path).map_or(0, |text| u32::try_from(text.lines().count()).unwrap())
}

#[test]
fn an_interrupted_preparation_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let place =
        Place { data: folder.path().join("data"), run: folder.path().join("run"), user: "root".to_owned() };
    fs::create_dir_all(folder.path().join("data.new/mysql")).unwrap();
    let plan = DatabasePlan {
        engine: Engine::Mariadb,
        listen: ([127, 0, 0, 1], 1).into(),
        allowed_hosts: Vec::new(),
        memory: ByteSize::from_mebibytes(128),
        connections: 20,
        databases: Vec::new(),
        cluster: None,
    };
    prepare(&plan, &place).unwrap();
    assert!(place.data.join("mysql").is_dir() && place.data.join("ibdata1").is_file());
    assert!(!folder.path().join("data.new").exists());
}

#[test]
fn a_changed_secret_is_the_new_password_and_a_lost_account_is_made_again() {
    let instance = Instance::new();
    instance.provision_with("first").unwrap();
    assert!(instance.as_app("first", "SELECT 1"));
    instance.provision_with("second").unwrap();
    assert!(!instance.as_app("first", "SELECT 1"));
    assert!(instance.as_app("second", "SELECT 1"));
    instance.rows("DROP USER guestbook@`127.0.0.1`");
    assert!(!instance.as_app("second", "SELECT 1"));
    instance.provision_with("second").unwrap();
    assert!(instance.as_app("second", "SELECT 1"));
}

#[test]
fn a_running_instance_tells_how_it_is_and_a_killed_one_is_not_waited_for() {
    let mut instance = Instance::new();
    instance.provision().unwrap();
    let client = Client::new(&instance.place).unwrap();
    let told = status(&client).unwrap();
    assert!(told.version.contains("MariaDB"), "{}", told.version);
    assert!(told.connections >= 1 && told.most_connections == 20 && !told.read_only, "{told:?}");
    instance.kill();
    let asked = Instant::now();
    assert!(matches!(status(&client), Err(Error::Statement { .. })));
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_a_future_replica_needs_is_set_from_the_first_start() {
    let instance = Instance::new();
    instance.provision().unwrap();
    let variables = "'gtid_strict_mode', 'binlog_format', 'sync_binlog', 'server_id', \
        'innodb_flush_log_at_trx_commit', 'log_slave_updates', 'local_infile', 'have_symlink'";
    let rows = instance.rows(&format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({variables})"));
    assert_eq!(
        rows,
        [
            "binlog_format\tROW",
            "gtid_strict_mode\tON",
            "have_symlink\tDISABLED",
            "innodb_flush_log_at_trx_commit\t1",
            "local_infile\tOFF",
            "log_slave_updates\tON",
            "server_id\t168427531",
            "sync_binlog\t1",
        ]
    );
}
