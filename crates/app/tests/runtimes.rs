//! Real php-fpm, gunicorn, uvicorn and commands in temporary folders, as nobody: asked without pause while they are killed
//! and followed by another.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use mainstay_app::{Context, Secrets, child, venv};
use mainstay_process::{ChildSpec, Signal, SocketSpec};
use mainstay_site::paths;
use mainstay_site::plan::{AppPlan, WebApp};

/// `nobody`: the programs run as an app does, without any privilege.
const NOBODY: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// A server's folders, below a temporary one.
struct Stage {
    folder: tempfile::TempDir,
    spec: ChildSpec,
    socket: Option<UnixListener>,
}

impl Stage {
    /// `code` is the release: names and contents.
    fn new(runtime: &serde_json::Value, code: &[(&str, &str)]) -> Self {
        Self::with_readiness(runtime, code, None)
    }

    /// With a path that tells whether the app is ready, behind a front controller `/index.php`.
    fn with_readiness(runtime: &serde_json::Value, code: &[(&str, &str)], path: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let root = folder.path();
        let release = root.join("lib/releases/shop/r1");
        for (name, content) in code {
            let path = release.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
        }
        let secrets = root.join("secrets");
        fs::create_dir_all(&secrets).unwrap();
        fs::write(secrets.join("session-key"), "sesame\n").unwrap();
        fs::write(secrets.join("database-shop"), "p@ss\n").unwrap();
        let plan: AppPlan = serde_json::from_value(serde_json::json!({
            "name": "shop", "release": "r1", "runtime": runtime, "environment": {"GREETING": "hello"},
            "secret_environment": {"SESSION_KEY": "session-key"}, "writable": ["uploads"],
            "database": {
                "host": "127.0.0.1", "port": 3306, "socket": "/run/mainstay/database/mysqld.sock",
                "name": "shop", "user": "shop", "password_secret": "database-shop",
            },
            "readiness_path": path, "memory": null, "processes": 64,
        }))
        .unwrap();
        let secrets = Secrets::in_folder(secrets);
        let (site, server) = ("foobar".parse().unwrap(), "server1".parse().unwrap());
        let web: WebApp = serde_json::from_value(serde_json::json!({
            "name": "shop", "release": "r1", "public": paths::releases(&plan.name).join("r1/public"), "mounts": [],
            "backend": {
                "kind": "fast_cgi", "socket": paths::app_socket(&plan.name), "front_controller": "/index.php",
                "max_requests": 2,
            },
        }))
        .unwrap();
        let context = Context { site: &site, server: &server, secrets: &secrets, web: Some(&web) };
        let spec = child(&plan, &context).unwrap();
        let mut stage = Self { spec: moved(&spec, root), folder, socket: None };
        stage.set();
        stage
    }

    fn set(&mut self) {
        for spec in &self.spec.folders {
            fs::create_dir_all(&spec.path).unwrap();
            chown(&spec.path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        for spec in &self.spec.files {
            fs::write(&spec.path, &spec.content).unwrap();
            open_to_all(&spec.path);
        }
        if let Some(SocketSpec::Unix { path, .. }) = self.spec.sockets.first() {
            self.socket = Some(UnixListener::bind(path).unwrap());
        }
    }

    /// Starts a generation, as the supervisor's shim does; it sees its number.
    fn start(&self, generation: u32) -> Running {
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        // Some programs open their own output anew, so it is theirs.
        chown(self.log(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(&self.spec.program)
            .args(&self.spec.args)
            .env_clear()
            .envs(&self.spec.env)
            .env("GENERATION", generation.to_string())
            .current_dir(&self.spec.directory)
            .stdin(Stdio::null())
            .stderr(log)
            .uid(NOBODY)
            .gid(NOBODY)
            .process_group(0);
        if let Some(socket) = &self.socket {
            let parent_fd = OwnedFd::from(socket.try_clone().unwrap());
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "unix");
            command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
        }
        Running { child: command.spawn().unwrap() }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn app_socket(&self) -> PathBuf {
        inside(self.folder.path(), &paths::app_socket(&"shop".parse().unwrap()))
    }

    fn until<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(done) = attempt() {
                return done;
            }
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "not {what}; the program said:\n{}", log());
            std::thread::sleep(PAUSE);
        }
    }
}

/// A generation; killed with everything it started when dropped.
struct Running {
    child: Child,
}

impl Running {
    fn ask_to_stop(&self, signal: Signal) {
        let name = match signal {
            Signal::Terminate => "-TERM",
            Signal::Quit => "-QUIT",
            Signal::Interrupt => "-INT",
        };
        assert!(Command::new("kill").arg(name).arg(self.child.id().to_string()).status().unwrap().success());
    }

    /// How many children the process has.
    fn workers(&self) -> usize {
        let mine = self.child.id().to_string();
        // PID (NAME) STATE PARENT, and a name may hold anything.
        let parent = |stat: &str| stat.rsplit_once(") ")?.1.split(' ').nth(1).map(str::to_owned);
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        stats.filter(|stat| parent(stat).as_deref() == Some(&mine)).count()
    }

    /// The whole group, workers that lost their master included. It may be gone already.
    fn signal_group(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal_group("-KILL");
        let _ = self.child.wait();
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    let text = path.display().to_string();
    let root = root.display();
    text.replace(paths::RUN, &format!("{root}/run")).replace(paths::LIB, &format!("{root}/lib")).into()
}

/// The same child with all its paths below another root.
fn moved(spec: &ChildSpec, root: &Path) -> ChildSpec {
    let text = serde_json::to_string(spec).unwrap();
    serde_json::from_str(&inside(root, Path::new(&text)).display().to_string()).unwrap()
}

/// A listening socket that nobody accepts from takes connections all the same, so nothing is waited for without end.
fn connected(socket: &Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    Some(stream)
}

/// One request over HTTP; the response's body.
/// One GET, as the web server sends it: once more if the app hung up without a word. A server that is asked to stop
/// closes connections that it has accepted and not read.
fn get(socket: &Path, path: &str) -> Option<String> {
    let ask = || answer(connected(socket)?, path);
    ask().or_else(ask)
}

fn answer(mut stream: impl std::io::Read + std::io::Write, path: &str) -> Option<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

/// One request over FastCGI, as the web server sends it; the response's body.
fn fast_cgi(socket: &Path, script: &Path, query: &str) -> Option<String> {
    let mut params = Vec::new();
    let script = script.display().to_string();
    for (name, value) in [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", "/index.php"),
        ("SCRIPT_FILENAME", script.as_str()),
        ("QUERY_STRING", query),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
    ] {
        for text in [name, value] {
            params.extend_from_slice(&(0x8000_0000_u32 | u32::try_from(text.len()).unwrap()).to_be_bytes());
        }
        params.extend_from_slice(name.as_bytes());
        params.extend_from_slice(value.as_bytes());
    }
    let record = |kind: u8, content: &[u8]| {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
    };
    let mut stream = connected(socket)?;
    let begin = [0, 1, 0, 0, 0, 0, 0, 0];
    stream
        .write_all(&[record(1, &begin), record(4, &params), record(4, &[]), record(5, &[])].concat())
        .ok()?;
    let mut output = Vec::new();
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head).ok()?;
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let mut content = vec![0; length + usize::from(head[6])];
        stream.read_exact(&mut content).ok()?;
        match head[1] {
            6 => output.extend_from_slice(&content[..length]),
            3 => break,
            _ => {}
        }
    }
    let text = String::from_utf8(output).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.to_owned())
}

/// Asks without pause, one after the other, while `meanwhile` happens; tells how many were answered and how many not.
fn under_visitors<T>(ask: impl Fn() -> bool + Sync, meanwhile: impl FnOnce() -> T) -> (u32, u32) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let (mut answered, mut failed) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                if ask() { answered += 1 } else { failed += 1 }
            }
            (answered, failed)
        });
        let still_there = meanwhile();
        done.store(true, Ordering::SeqCst);
        let counts = visitor.join().unwrap();
        drop(still_there);
        counts
    })
}

/// The new one starts beside the old one, which then stops: nobody may notice. `ask` tells which generation answered.
fn takes_over_unnoticed(stage: &Stage, ask: impl Fn() -> Option<String> + Sync) {
    let mut first = stage.start(1);
    stage.until("answered", &ask);
    let from_second = || ask().filter(|generation| generation == "2");
    let (answered, failed) = under_visitors(
        || ask().is_some(),
        || {
            let second = stage.start(2);
            stage.until("answered by the second", from_second);
            first.ask_to_stop(stage.spec.stop.signal);
            stage.until("ended", || first.child.try_wait().unwrap());
            assert!((0..20).all(|_| from_second().is_some()), "the second does not answer alone");
            // The visitor leaves before the second does.
            second
        },
    );
    assert_eq!(failed, 0, "{failed} of {answered} requests failed");
    assert!(answered > 20, "{answered}");
}

fn php_stage() -> (Stage, PathBuf) {
    let runtime = serde_json::json!({
        "kind": "php", "workers": 2, "settings": {"memory_limit": "77M"},
    });
    let code = "<?php
        if (isset($_GET['slow'])) {
            touch(getenv('APP_DATA') . '/uploads/began');
            while (!file_exists(getenv('APP_DATA') . '/uploads/go')) { usleep(1000); clearstatcache(); }
            exit('slow');
        }
        echo json_encode(['env' => getenv(), 'memory' => ini_get('memory_limit'), 'pid' => getmypid(),
            'socket' => ini_get('mysqli.default_socket'), 'mysqli' => extension_loaded('mysqli'),
            'writes' => file_put_contents(getenv('APP_DATA') . '/uploads/x', 'y'),
            'code' => @file_put_contents(__DIR__ . '/new.php', 'y')]);";
    let stage = Stage::new(&runtime, &[("public/index.php", code)]);
    let script = stage.folder.path().join("lib/releases/shop/r1/public/index.php");
    (stage, script)
}

fn generation_of(answer: &str) -> Option<String> {
    let told: serde_json::Value = serde_json::from_str(answer).ok()?;
    Some(told["env"]["GENERATION"].as_str()?.to_owned())
}

#[test]
fn a_php_app_sees_its_environment_and_writes_its_own_folders_only() {
    let (stage, script) = php_stage();
    let _running = stage.start(1);
    let text = stage.until("answered", || fast_cgi(&stage.app_socket(), &script, ""));
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let env = &told["env"];
    assert_eq!(env["GREETING"], "hello");
    assert_eq!(env["SESSION_KEY"], "sesame");
    assert_eq!(env["DATABASE_PASSWORD"], "p@ss");
    assert!(env["DATABASE_URL"].as_str().unwrap().starts_with("mysql://shop:p%40ss@127.0.0.1:3306/shop?"));
    assert_eq!((&env["MAINSTAY_SERVER"], &env["MAINSTAY_RELEASE"]), (&"server1".into(), &"r1".into()));
    assert_eq!(told["memory"], "77M");
    assert_eq!(told["mysqli"], true);
    assert!(told["socket"].as_str().unwrap().ends_with("mysqld.sock"));
    assert_eq!(told["writes"], 1);
    assert_eq!(told["code"], false);
    assert!(!stage.spec.args.iter().any(|arg| arg.contains("p@ss") || arg.contains("sesame")));
}

#[test]
fn a_php_app_is_ready_when_its_own_path_says_so_and_not_before() {
    let code = "<?php
        if ($_SERVER['REQUEST_URI'] !== '/health?deep=1' || $_SERVER['SCRIPT_NAME'] !== '/index.php') { http_response_code(404); exit; }
        http_response_code(file_exists(getenv('APP_DATA') . '/uploads/open') ? 204 : 503);";
    let runtime = serde_json::json!({"kind": "php", "workers": 2, "settings": {}});
    let stage = Stage::with_readiness(&runtime, &[("public/index.php", code)], Some("/health?deep=1"));
    let _running = stage.start(1);
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(mainstay_process::probe::ask(&stage.spec.ready, 0))
            .map_err(|error| error.to_string())
    };
    let closed = "it answers /health?deep=1 with status 503";
    stage.until("answered as closed", || ask().err().filter(|error| error == closed));
    fs::write(stage.folder.path().join("lib/data/shop/uploads/open"), "").unwrap();
    stage.until("ready", || ask().ok());
}

#[test]
fn a_php_app_is_replaced_without_a_failed_request() {
    let (stage, script) = php_stage();
    let socket = stage.app_socket();
    takes_over_unnoticed(&stage, || generation_of(&fast_cgi(&socket, &script, "")?));
    assert!(socket.exists(), "the socket outlives both");
}

#[test]
fn php_fpm_that_is_asked_to_stop_finishes_what_it_began() {
    let (stage, script) = php_stage();
    let mut running = stage.start(1);
    let socket = stage.app_socket();
    stage.until("answered", || fast_cgi(&socket, &script, ""));
    let slow = std::thread::spawn({
        let (socket, script) = (socket.clone(), script.clone());
        move || fast_cgi(&socket, &script, "slow=1")
    });
    let uploads = stage.folder.path().join("lib/data/shop/uploads");
    stage.until("working", || uploads.join("began").exists().then_some(()));
    running.ask_to_stop(stage.spec.stop.signal);
    // The worker that has nothing to do ends at once: the other one was asked too.
    stage.until("stopping", || (running.workers() == 1).then_some(()));
    fs::write(uploads.join("go"), "").unwrap();
    assert_eq!(slow.join().unwrap().as_deref(), Some("slow"));
    let exit = stage.until("ended", || running.child.try_wait().unwrap());
    assert!(exit.success(), "{exit}");
}

#[test]
fn when_php_fpm_is_killed_requests_wait_for_its_successor() {
    let (stage, script) = php_stage();
    let socket = stage.app_socket();
    let first = stage.start(1);
    stage.until("answered", || fast_cgi(&socket, &script, ""));
    let ask = || generation_of(&fast_cgi(&socket, &script, "")?);
    let (answered, failed) = under_visitors(
        || ask().is_some(),
        || {
            // A signal to a group reaches one process after the other. Held still first, no worker takes a request
            // between another's death and its own.
            first.signal_group("-STOP");
            drop(first);
            let second = stage.start(2);
            stage.until("answered again", || ask().filter(|generation| generation == "2"));
            second
        },
    );
    assert!(failed <= 1, "only the one in flight may fail: {failed} of {answered} requests");
}

/// Made once for both Python stories, which may run at the same time; they need a package index.
fn environment() -> &'static Path {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("venvs");
        fs::create_dir_all(&cache).unwrap();
        open_to_all(&cache);
        let requirements = cache.join(format!("requirements-{}.txt", std::process::id()));
        fs::write(&requirements, "# nothing but the servers\n").unwrap();
        let id = venv::build(&requirements, &cache).unwrap();
        fs::remove_file(&requirements).unwrap();
        cache.join(id)
    });
    &MADE
}

fn python(interface: &str, code: &str) -> Stage {
    let runtime = serde_json::json!({
        "kind": "python", "interface": interface, "entry": "app:application", "workers": 2,
        "environment": environment(),
    });
    Stage::new(&runtime, &[("app.py", code)])
}

const WSGI: &str = "
import os
def application(environ, start_response):
    body = ' '.join(os.environ[name] for name in ['GREETING', 'SESSION_KEY', 'GENERATION']).encode()
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])
    return [body]
";

const ASGI: &str = "
import os
async def application(scope, receive, send):
    if scope['type'] != 'http':
        raise NotImplementedError
    body = ' '.join(os.environ[name] for name in ['GREETING', 'SESSION_KEY', 'GENERATION']).encode()
    length = (b'content-length', str(len(body)).encode())
    await send({'type': 'http.response.start', 'status': 200, 'headers': [length]})
    await send({'type': 'http.response.body', 'body': body})
";

#[test]
fn a_wsgi_app_is_replaced_without_a_failed_request() {
    let stage = python("wsgi", WSGI);
    let socket = stage.app_socket();
    takes_over_unnoticed(&stage, || Some(get(&socket, "/")?.strip_prefix("hello sesame ")?.to_owned()));
    assert!(socket.exists(), "the socket outlives both");
}

#[test]
fn an_asgi_app_is_replaced_without_a_failed_request() {
    let stage = python("asgi", ASGI);
    let socket = stage.app_socket();
    takes_over_unnoticed(&stage, || Some(get(&socket, "/")?.strip_prefix("hello sesame ")?.to_owned()));
    assert!(socket.exists(), "the socket outlives both");
}

const COMMAND: &str = "
import http.server, os, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ['GREETING'].encode())
    def address_string(self):
        return 'visitor'
if 'SOCKET' in os.environ:
    socketserver.UnixStreamServer(os.environ['SOCKET'], Handler).serve_forever()
else:
    http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

fn command(listen: &str) -> Stage {
    let runtime = serde_json::json!({
        "kind": "command", "command": ["/usr/bin/python3", "server.py"], "listen": listen,
    });
    Stage::new(&runtime, &[("server.py", COMMAND)])
}

#[test]
fn a_command_that_was_killed_makes_its_socket_anew_where_the_web_server_may_connect() {
    let stage = command("socket");
    let socket = stage.app_socket();
    for generation in 0..2 {
        let _running = stage.start(generation);
        let body = stage.until("answered", || get(&socket, "/"));
        assert_eq!(body, "hello");
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o770);
    }
}

#[test]
fn a_command_is_told_the_port_that_its_file_tells_the_web_server() {
    let stage = command("port");
    let _running = stage.start(1);
    let port: u16 = stage.spec.files[0].content.trim().parse().unwrap();
    let ask = || answer(std::net::TcpStream::connect(("127.0.0.1", port)).ok()?, "/");
    assert_eq!(stage.until("answered", ask), "hello");
}
