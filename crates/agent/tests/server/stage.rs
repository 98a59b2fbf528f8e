//! A server to play on: its own folders, users, network and service manager.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mainstay_agent::ServerStatus;
use mainstay_process::fdstore::FdStore;
use mainstay_process::supervise::State;
use mainstay_process::{ChildStatus, Probe};
use mainstay_site::{Plan, paths};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const WEB: &str = "127.0.0.1:80";
const STORED: usize = 200;

/// Makes the machine look like a server of its own. Only within the namespaces of this process.
pub(crate) fn set() {
    for folder in ["/run", "/var/lib", "/var/log"] {
        sh(&format!("mount -t tmpfs tmpfs {folder}"));
    }
    sh("ip link set lo up");
    for file in ["passwd", "group"] {
        sh(&format!("cp /etc/{file} /run/{file} && mount --bind /run/{file} /etc/{file}"));
    }
    add_user("mainstay-web", 991);
}

pub(crate) fn add_user(name: &str, number: u32) {
    sh(&format!("echo '{name}:x:{number}:{number}::/:/usr/sbin/nologin' >> /etc/passwd"));
    sh(&format!("echo '{name}:x:{number}:' >> /etc/group"));
}

pub(crate) fn sh(command: &str) {
    assert!(Command::new("/bin/sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

pub(crate) fn write_plan(change: impl FnOnce(&mut Plan)) {
    let plan = serde_json::json!({
        "site": "foobar", "domain": "foobar.com", "server": "server1", "addresses": ["127.0.0.1"],
        "revision": "1", "resources": {"memory": null, "cpus": null, "disk": null}, "dns": null,
        "web": {
            "listen": [WEB], "server": "server1", "hosts": [], "routes": [],
            "limits": mainstay_site::plan::WebLimits::default(), "compress": true,
        },
        "apps": [], "database": null, "flows": [],
    });
    let mut plan: Plan = serde_json::from_value(plan).unwrap();
    change(&mut plan);
    let file = paths::plan_file();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, serde_json::to_string(&plan).unwrap()).unwrap();
}

/// What a service manager does for an agent: starts it, and keeps its descriptors.
pub(crate) struct Manager {
    store: FdStore,
    agent: Option<Child>,
}

impl Manager {
    pub(crate) fn new() -> Self {
        Self { store: FdStore::listen(Path::new("/run/notify"), STORED).unwrap(), agent: None }
    }

    pub(crate) fn start(&mut self, binary: &Path) {
        let mut command = Command::new(binary);
        command.arg("agent").stdin(Stdio::null());
        self.store.hand_over(&mut command).unwrap();
        self.agent = Some(command.spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub(crate) fn wait_for_end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.store.receive().unwrap();
            if let Some(status) = self.agent.as_mut().unwrap().try_wait().unwrap() {
                self.agent = None;
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "the agent does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the server is as it should be.
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&ServerStatus) -> bool) -> ServerStatus {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            while self.store.receive().unwrap().is_some() {}
            if let Some(status) = status() {
                if is_so(&status) {
                    return status;
                }
                last = Some(status);
            }
            if Instant::now() > deadline {
                sh("cat /var/log/mainstay/*.log >&2 || true");
                panic!("not {what}: {last:#?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(crate) fn ask_agent(method: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = std::os::unix::net::UnixStream::connect(paths::agent_socket()).ok()?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: agent\r\nContent-Length: 0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) fn status() -> Option<ServerStatus> {
    let (_, body) = ask_agent("GET", "/v1/status")?;
    serde_json::from_str(&body).ok()
}

pub(crate) fn role<'a>(status: &'a ServerStatus, name: &str) -> Option<&'a ChildStatus> {
    status.roles.iter().find(|role| role.name == name)
}

pub(crate) fn serves(status: &ServerStatus) -> bool {
    status.settled && status.roles.iter().all(|role| role.state == State::Ready)
}

/// A visitor who never stops asking.
pub(crate) struct Visitor {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Visitor {
    pub(crate) fn arrives() -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (stop.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !until.load(Ordering::SeqCst) {
                match request() {
                    Ok(_) => drop(count.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            failures
        });
        Self { stop, answered, thread }
    }

    /// Waits for that many more answers.
    pub(crate) fn sees(&self, more: u64) {
        let deadline = Instant::now() + PATIENCE;
        let target = self.answered.load(Ordering::SeqCst) + more;
        while self.answered.load(Ordering::SeqCst) < target {
            assert!(Instant::now() < deadline, "the site does not answer");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn leaves_content(self) {
        self.stop.store(true, Ordering::SeqCst);
        let failures = self.thread.join().unwrap();
        assert!(failures.is_empty(), "{} requests failed: {:?}", failures.len(), failures.first());
    }
}

/// Someone who never stops asking php-fpm.
pub(crate) struct PhpVisitor {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Vec<String>)>,
}

impl PhpVisitor {
    pub(crate) fn arrives() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let socket = paths::app_socket(&"shop".parse().unwrap());
        let probe = Probe::FastCgiPing { socket, path: mainstay_app::php::PING_PATH.to_owned() };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (mut answered, mut failures) = (0, Vec::new());
            while answered == 0 || !until.load(Ordering::SeqCst) {
                match runtime.block_on(mainstay_process::probe::ask(&probe, 0)) {
                    Ok(()) => answered += 1,
                    Err(error) => failures.push(error.to_string()),
                }
                assert!(failures.len() < 10_000, "{:?}", failures.last());
            }
            (answered, failures)
        });
        Self { stop, thread }
    }

    pub(crate) fn leaves_content(self) {
        self.stop.store(true, Ordering::SeqCst);
        let (answered, failures) = self.thread.join().unwrap();
        assert!(failures.is_empty(), "{} of {answered} failed: {:?}", failures.len(), failures.first());
    }
}

pub(crate) fn request() -> std::io::Result<String> {
    let address: SocketAddr = WEB.parse().unwrap();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    body.ok_or_else(|| std::io::Error::other(format!("no answer: {answer:?}")))
}
