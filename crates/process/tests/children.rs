//! Real children under a real supervisor, which is itself killed and followed by another.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_process::cgroup::Cgroups;
use mainstay_process::fdstore::{FdStore, Notifier};
use mainstay_process::launch::Launcher;
use mainstay_process::logs::Rotation;
use mainstay_process::supervise::State;
use mainstay_process::{
    Change, ChildSpec, ChildStatus, FileSpec, Probe, Replace, Setup, Signal, SocketSpec, Stop, Supervisor,
    exec_child, inherited_descriptors,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The supervisors of these tests start this binary with this test as their shim.
#[test]
fn without_a_description_the_shim_starts_nothing() {
    assert_eq!(exec_child(), mainstay_process::EXIT_NOT_STARTED);
}

fn launcher() -> Launcher {
    let args = ["--exact", "without_a_description_the_shim_starts_nothing", "--nocapture"];
    Launcher { program: std::env::current_exe().unwrap(), args: args.map(str::to_owned).into() }
}

fn setup(folder: &Path, cgroups: Option<Cgroups>, kept: Vec<(String, OwnedFd)>) -> Setup {
    Setup {
        launcher: launcher(),
        records: folder.join("records"),
        logs: folder.to_owned(),
        rotation: Rotation::default(),
        server: "server1".to_owned(),
        cgroups,
        kept,
        notifier: Notifier::from_environment().unwrap(),
    }
}

fn own_user() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name
}

fn spec(name: &str, script: &str) -> ChildSpec {
    ChildSpec {
        name: name.to_owned(),
        program: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        user: own_user(),
        directory: "/".into(),
        sockets: Vec::new(),
        folders: Vec::new(),
        files: Vec::new(),
        ready: Probe::Started,
        ready_within: Duration::from_secs(10),
        stop: Stop { signal: Signal::Terminate, grace: Duration::from_secs(5) },
        replace: Replace::Overlap,
        memory: None,
        processes: None,
        capabilities: Vec::new(),
    }
}

/// A web server in a few lines that answers with its process number, on the listening socket that it inherits.
fn server(address: SocketAddr) -> ChildSpec {
    let script = "
import os, socket, sys
print('serving', os.environ['LISTEN_FDNAMES'], flush=True)
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.sendall(b'%d\\n' % os.getpid())
    connection.close()
    print('served', flush=True)
";
    let mut spec = spec("web", "");
    spec.program = "/usr/bin/python3".into();
    spec.args = vec!["-c".to_owned(), script.to_owned()];
    spec.sockets = vec![SocketSpec::Tcp { address, shares: 1 }];
    spec.ready = Probe::TcpConnect { port: address.port() };
    spec
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn ask(address: SocketAddr) -> String {
    let mut answer = String::new();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    answer.trim().to_owned()
}

async fn status(supervisor: &Supervisor, name: &str) -> ChildStatus {
    supervisor.status().await.unwrap().into_iter().find(|child| child.name == name).unwrap()
}

async fn until(
    supervisor: &Supervisor,
    name: &str,
    what: &str,
    is_so: impl Fn(&ChildStatus) -> bool,
) -> ChildStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(supervisor, name).await;
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "not {what}: {status:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_ready(status: &ChildStatus) -> bool {
    status.state == State::Ready
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A group of this test alone, where the machine has control groups that we may write.
struct Groups(Option<Cgroups>);

impl Groups {
    fn new(test: &str) -> Self {
        Self(Cgroups::discover(&format!("mainstay-test-{test}-{}", std::process::id())).ok())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if let Some(groups) = &self.0 {
            groups.remove().unwrap();
        }
    }
}

async fn local<F: Future>(story: F) -> F::Output {
    tokio::task::LocalSet::new().run_until(story).await
}

#[tokio::test]
async fn a_killed_child_is_started_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    local(async {
        let supervisor = Supervisor::begin(setup(folder.path(), None, Vec::new())).unwrap();
        supervisor.run(spec("app", "exec sleep 1000")).await.unwrap();
        let first = until(&supervisor, "app", "ready", is_ready).await;
        kill(first.pid.unwrap());
        let second =
            until(&supervisor, "app", "restarted", |now| now.pid != first.pid && is_ready(now)).await;
        let exit = second.last_exit.unwrap();
        assert_eq!((second.generation, exit.signal, exit.asked), (Some(2), Some(9), false));
        assert_eq!(second.restarts, 1);
        supervisor.stop("app").await.unwrap();
        assert_eq!(status(&supervisor, "app").await.state, State::Stopped);
    })
    .await;
}

#[tokio::test]
async fn a_child_that_cannot_live_backs_off_and_shows_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    local(async {
        let supervisor = Supervisor::begin(setup(folder.path(), None, Vec::new())).unwrap();
        let mut broken = spec("app", "echo the key is missing; exit 3");
        broken.ready = Probe::UnixConnect { path: folder.path().join("never.sock") };
        supervisor.run(broken).await.unwrap();
        let now = until(&supervisor, "app", "backing off", |now| {
            now.state == State::BackingOff && now.falls >= 3 && !now.last_words.is_empty()
        })
        .await;
        assert_eq!(now.last_exit.unwrap().code, Some(3));
        assert_eq!(now.last_words.last().unwrap(), "the key is missing");
        supervisor.stop("app").await.unwrap();

        let mut absent = spec("ghost", "");
        absent.program = "/no/such/program".into();
        absent.ready = Probe::UnixConnect { path: folder.path().join("never.sock") };
        supervisor.run(absent).await.unwrap();
        let said = |now: &ChildStatus| {
            now.last_words.iter().any(|line| line.contains("/no/such/program cannot be executed"))
        };
        until(&supervisor, "ghost", "explained", said).await;
        supervisor.remove("ghost").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_changed_child_takes_over_the_same_socket_and_no_connection_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    local(async {
        let supervisor = Supervisor::begin(setup(folder.path(), None, Vec::new())).unwrap();
        supervisor.run(server(address)).await.unwrap();
        let first = until(&supervisor, "web", "ready", is_ready).await;
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_done = done.clone();
        let client = std::thread::spawn(move || {
            let mut answers = 0;
            while !is_done.load(std::sync::atomic::Ordering::SeqCst) {
                TcpStream::connect(address).unwrap();
                answers += 1;
            }
            answers
        });
        let mut changed = server(address);
        changed.env.insert("GREETING".into(), "hello".into());
        supervisor.run(changed.clone()).await.unwrap();
        let second = until(&supervisor, "web", "replaced", |now| {
            now.generation == Some(2) && is_ready(now) && now.draining == 0
        })
        .await;
        assert_ne!(first.pid, second.pid);
        assert!(!is_alive(first.pid.unwrap()));
        let unchanged = supervisor.run(changed).await.unwrap();
        assert_eq!(unchanged, mainstay_process::Change::Unchanged);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(client.join().unwrap() > 0);
        supervisor.stop("web").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_changed_child_that_never_gets_ready_is_dropped_and_the_old_one_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    local(async {
        let supervisor = Supervisor::begin(setup(folder.path(), None, Vec::new())).unwrap();
        supervisor.run(spec("app", "exec sleep 1000")).await.unwrap();
        let first = until(&supervisor, "app", "ready", is_ready).await;
        let mut broken = spec("app", "exit 4");
        broken.ready = Probe::UnixConnect { path: folder.path().join("never.sock") };
        supervisor.run(broken).await.unwrap();
        let why = |now: &ChildStatus| now.not_ready.as_ref().is_some_and(|why| why.contains("no answer"));
        until(&supervisor, "app", "explained", |now| why(now) || now.rejected.is_some()).await;
        let now = until(&supervisor, "app", "rejected", |now| now.rejected.is_some()).await;
        assert_eq!((now.pid, now.state), (first.pid, State::Ready));
        assert_eq!(now.rejected.as_deref(), Some("it exited with code 4"));
        supervisor.stop("app").await.unwrap();
    })
    .await;
}

/// A role that reads its configuration again at SIGHUP, refuses one that says `bad`, and tells which one it runs.
fn reloading(folder: &Path, config: &str) -> ChildSpec {
    let script = "
import hashlib, http.server, json, os, signal, socketserver, sys
path, admin = sys.argv[1:]
state = {'sha256': '', 'refused': None}
def read(*_):
    text = open(path, 'rb').read()
    digest = hashlib.sha256(text).hexdigest()
    if text == b'bad':
        state['refused'] = {'sha256': digest, 'why': 'it is bad'}
    else:
        state['sha256'] = digest
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(state).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self): return 'unix'
    def log_message(self, *_): pass
signal.signal(signal.SIGHUP, read)
read()
try: os.unlink(admin)
except FileNotFoundError: pass
with socketserver.UnixStreamServer(admin, Answer) as server:
    server.serve_forever(poll_interval=0.01)
";
    let (path, socket) = (folder.join("config"), folder.join("admin.sock"));
    let mut spec = spec("edge", "");
    spec.program = "/usr/bin/python3".into();
    spec.args = ["-c", script, path.to_str().unwrap(), socket.to_str().unwrap()].map(str::to_owned).into();
    let group = nix::unistd::Group::from_gid(nix::unistd::getgid()).unwrap().unwrap().name;
    spec.files = vec![FileSpec { path, content: config.to_owned(), user: own_user(), group, mode: 0o600 }];
    spec.ready = Probe::OwnHttp { socket, path: "/health".to_owned() };
    spec.replace = Replace::Reload;
    spec
}

#[tokio::test]
async fn a_change_of_files_alone_is_taken_over_live_and_a_refused_one_by_a_new_process() {
    let folder = tempfile::tempdir().unwrap();
    local(async {
        let supervisor = Supervisor::begin(setup(folder.path(), None, Vec::new())).unwrap();
        supervisor.run(reloading(folder.path(), "one")).await.unwrap();
        let first = until(&supervisor, "edge", "ready", is_ready).await;
        let settled = |now: &ChildStatus| is_ready(now) && !now.changing;
        supervisor.run(reloading(folder.path(), "two")).await.unwrap();
        let second = until(&supervisor, "edge", "reloaded", settled).await;
        assert_eq!((second.pid, second.generation), (first.pid, first.generation));

        supervisor.run(reloading(folder.path(), "bad")).await.unwrap();
        let third = until(&supervisor, "edge", "replaced", settled).await;
        assert_ne!(third.pid, first.pid);

        // A restart is a new process, though nothing changed; and so is another program.
        supervisor.restart("edge").await.unwrap();
        let fourth = until(&supervisor, "edge", "restarted", settled).await;
        assert_ne!(fourth.pid, third.pid);
        let mut newer = reloading(folder.path(), "two");
        newer.env.insert("VERSION".to_owned(), "2".to_owned());
        supervisor.run(newer.clone()).await.unwrap();
        let fifth = until(&supervisor, "edge", "replaced", settled).await;
        assert_ne!(fifth.pid, fourth.pid);

        // The next supervisor knows what was taken over last.
        newer.files[0].content = "three".to_owned();
        supervisor.run(newer.clone()).await.unwrap();
        until(&supervisor, "edge", "reloaded", settled).await;
        supervisor.leave().await;
        let next = Supervisor::begin(setup(folder.path(), None, Vec::new())).unwrap();
        assert_eq!(next.run(newer.clone()).await.unwrap(), Change::Unchanged);
        assert_eq!(status(&next, "edge").await.pid, fifth.pid);
        newer.files[0].content = "four".to_owned();
        next.run(newer).await.unwrap();
        let sixth = until(&next, "edge", "reloaded", settled).await;
        assert_eq!(sixth.pid, fifth.pid, "an adopted process takes changes over too");
        next.stop("edge").await.unwrap();
    })
    .await;
}

async fn orphans_are_ended(groups: &Groups, folder: &Path) {
    let supervisor = Supervisor::begin(setup(folder, groups.0.clone(), Vec::new())).unwrap();
    let pids = folder.join("orphan");
    let script = format!("sleep 1000 & echo $! > {}; exec sleep 1001", pids.display());
    supervisor.run(spec("app", &script)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let orphan: i32 = loop {
        if let Some(pid) = std::fs::read_to_string(&pids).ok().and_then(|text| text.trim().parse().ok()) {
            break pid;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let first = until(&supervisor, "app", "ready", is_ready).await;
    std::fs::remove_file(&pids).unwrap();
    kill(first.pid.unwrap());
    until(&supervisor, "app", "restarted", |now| {
        now.generation == Some(2) && is_ready(now) && now.draining == 0
    })
    .await;
    assert!(!is_alive(orphan), "a process of the killed generation lives on");
    supervisor.remove("app").await.unwrap();
    supervisor.leave().await;
}

#[tokio::test]
async fn what_a_killed_child_leaves_behind_is_ended_by_its_control_group() {
    let folder = tempfile::tempdir().unwrap();
    let groups = Groups::new("orphans");
    local(orphans_are_ended(&groups, folder.path())).await;
}

#[tokio::test]
async fn what_a_killed_child_leaves_behind_is_ended_without_control_groups_too() {
    let folder = tempfile::tempdir().unwrap();
    local(orphans_are_ended(&Groups(None), folder.path())).await;
}

#[tokio::test]
async fn a_child_that_ignores_the_polite_signal_is_killed_with_all_its_processes() {
    let folder = tempfile::tempdir().unwrap();
    let groups = Groups::new("deaf");
    local(async {
        let supervisor = Supervisor::begin(setup(folder.path(), groups.0.clone(), Vec::new())).unwrap();
        let mut deaf = spec("app", "trap '' TERM; setsid sleep 1000 & while :; do sleep 0.05; done");
        deaf.stop.grace = Duration::from_millis(200);
        deaf.memory = Some("64MiB".parse().unwrap());
        supervisor.run(deaf).await.unwrap();
        let many = |now: &ChildStatus| now.processes.is_none_or(|count| count >= 3);
        let now = until(&supervisor, "app", "ready", |now| is_ready(now) && many(now)).await;
        supervisor.stop("app").await.unwrap();
        assert!(!is_alive(now.pid.unwrap()));
        let exit = status(&supervisor, "app").await.last_exit.unwrap();
        assert!(exit.asked);
        supervisor.remove("app").await.unwrap();
        supervisor.leave().await;
    })
    .await;
}

#[tokio::test]
async fn a_program_runs_as_its_user_without_privileges_core_files_or_stray_descriptors() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    local(async {
        let supervisor = Supervisor::begin(setup(folder.path(), None, Vec::new())).unwrap();
        let script = "id -un; ulimit -c; umask; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; \
                      ls /proc/self/fd | tr '\\n' ' '; echo; env | sort | tr '\\n' ' '; echo; exec sleep 1000";
        let mut plain = spec("plain", script);
        plain.user = "nobody".into();
        supervisor.run(plain).await.unwrap();
        let mut bound = spec("bound", "grep -E '^Cap(Eff|Bnd|Amb)' /proc/self/status; exec sleep 1000");
        bound.user = "nobody".into();
        bound.capabilities = vec!["CAP_NET_BIND_SERVICE".into()];
        supervisor.run(bound).await.unwrap();
        let log = |name: &str| {
            let text = std::fs::read_to_string(folder.path().join(format!("{name}.log"))).unwrap_or_default();
            let message = |line: &str| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                entry["message"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
            };
            text.lines().map(message).collect::<Vec<_>>()
        };
        let deadline = Instant::now() + PATIENCE;
        while log("plain").last().is_none_or(|line| !line.contains("PATH=")) || log("bound").len() < 3 {
            assert!(Instant::now() < deadline, "{:?}", log("plain"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let plain = log("plain");
        let from = plain.iter().position(|line| line == "nobody").unwrap();
        assert_eq!(
            plain[from..from + 6],
            [
                "nobody",
                "0",
                "0027",
                "CapEff: 0000000000000000",
                "CapBnd: 0000000000000000",
                "NoNewPrivs: 1",
            ]
        );
        // 3 is the folder that `ls` reads.
        assert_eq!(plain[from + 6], "0 1 2 3");
        assert!(plain[from + 7].starts_with("PATH=/usr/bin:/bin PWD=/"), "{}", plain[from + 7]);
        let bound = log("bound");
        let net_bind = ["CapEff: 0000000000000400", "CapBnd: 0000000000000400", "CapAmb: 0000000000000400"];
        assert_eq!(bound[bound.len() - 3..], net_bind);
        supervisor.stop("plain").await.unwrap();
        supervisor.stop("bound").await.unwrap();
    })
    .await;
}

/// Runs as a process of its own in the tests below, which kill it.
#[test]
fn a_supervisor_with_nothing_to_do_ends() {
    let Ok(folder) = std::env::var("MAINSTAY_TEST_FOLDER") else { return };
    let folder = Path::new(&folder);
    let kept = inherited_descriptors().unwrap();
    let address: SocketAddr = std::fs::read_to_string(folder.join("address")).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let supervisor = Supervisor::begin(setup(folder, None, kept)).unwrap();
        supervisor.run(server(address)).await.unwrap();
        loop {
            let status = serde_json::to_string(&status(&supervisor, "web").await).unwrap();
            std::fs::write(folder.join("status.new"), status).unwrap();
            std::fs::rename(folder.join("status.new"), folder.join("status")).unwrap();
            if folder.join("stop").exists() {
                supervisor.stop("web").await.unwrap();
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

struct Agent(Child);

impl Agent {
    fn start(folder: &Path, store: Option<&FdStore>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_supervisor_with_nothing_to_do_ends", "--nocapture"])
            .env("MAINSTAY_TEST_FOLDER", folder)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(store) = store {
            store.hand_over(&mut command).unwrap();
        }
        let _ = std::fs::remove_file(folder.join("status"));
        Self(command.spawn().unwrap())
    }

    fn until_ready(folder: &Path, store: Option<&mut FdStore>) -> ChildStatus {
        let deadline = Instant::now() + PATIENCE;
        let mut store = store;
        loop {
            while let Some(store) = &mut store
                && store.receive().unwrap().is_some()
            {}
            let status = std::fs::read(folder.join("status")).ok();
            if let Some(status) = status.and_then(|text| serde_json::from_slice::<ChildStatus>(&text).ok())
                && status.state == State::Ready
            {
                return status;
            }
            assert!(Instant::now() < deadline, "the child did not get ready");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn stop(mut self, folder: &Path) {
        std::fs::write(folder.join("stop"), "").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

fn survives(mut store: Option<FdStore>, folder: &Path) {
    let address = free_address();
    std::fs::write(folder.join("address"), address.to_string()).unwrap();
    let agent = Agent::start(folder, store.as_ref());
    let first = Agent::until_ready(folder, store.as_mut());
    agent.kill();

    // Nobody supervises, and visitors notice nothing.
    for _ in 0..20 {
        assert_eq!(ask(address), first.pid.unwrap().to_string());
    }
    let agent = Agent::start(folder, store.as_ref());
    let second = Agent::until_ready(folder, store.as_mut());
    assert_eq!((second.pid, second.generation, second.restarts), (first.pid, first.generation, 0));

    // The listening socket is the second supervisor's too: it outlives the child, and the next child serves on it.
    kill(first.pid.unwrap());
    let waiting = TcpStream::connect(address).unwrap();
    assert_ne!(ask(address), first.pid.unwrap().to_string());
    drop(waiting);
    agent.stop(folder);
    drop(store);
    assert!(TcpStream::connect(address).is_err());
    let log = std::fs::read_to_string(folder.join("web.log")).unwrap();
    let served = log.lines().filter(|line| line.contains(r#""message":"served""#)).count();
    assert!(served >= 21, "what was written while nobody supervised is lost: {served} lines");
}

#[test]
fn children_outlive_a_killed_supervisor_and_the_next_one_adopts_them_with_their_sockets_and_logs() {
    let folder = tempfile::tempdir().unwrap();
    let store = FdStore::listen(&folder.path().join("notify"), 100).unwrap();
    survives(Some(store), folder.path());
}

#[test]
fn without_a_descriptor_store_sockets_and_logs_are_taken_back_from_the_running_children() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    survives(None, folder.path());
}

#[test]
fn a_write_to_a_log_whose_reader_is_gone_does_not_end_the_child() {
    let pipe =
        mainstay_process::logs::LogPipe::new(nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())
            .unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read go; echo a; echo b; exit 7"])
        .stdin(Stdio::piped())
        .stdout(pipe.as_fd().try_clone_to_owned().unwrap())
        .spawn()
        .unwrap();
    drop(pipe);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}
