//! The two servers and their php-fpm, in a temporary folder.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_benches::running::{Running, free_port, name, until, until_answered};
use mainstay_http::Listener;
use mainstay_site::plan::{Backend, HostPattern, Route, Target, WebApp, WebLimits, WebPlan};
use mainstay_web::Config;
use tempfile::TempDir;

/// The host that is asked for.
pub(crate) const HOST: &str = "bench.test";
/// Processes of php-fpm.
const PHP_PROCESSES: u32 = 8;

/// The folder that both serve, and php-fpm.
pub(crate) struct Ground {
    folder: TempDir,
    php: Running,
}

/// A server that listens.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Where it speaks h2.
    pub(crate) h2_port: u16,
    running: Running,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }
}

impl Ground {
    pub(crate) fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let public = folder.path().join("public");
        for name in ["public", "run", "log"] {
            fs::create_dir(folder.path().join(name))?;
        }
        for (name, bytes) in [("1k.bin", 1 << 10), ("100k.bin", 100 << 10), ("10m.bin", 10 << 20)] {
            fs::write(public.join(name), vec![b'x'; bytes])?;
        }
        fs::write(public.join("hello.php"), "<?php echo \"Hello, world!\\n\";\n")?;
        let php = php_fpm(folder.path())?;
        Ok(Self { folder, php })
    }

    pub(crate) fn php_pid(&self) -> u32 {
        self.php.pid()
    }

    pub(crate) fn nginx(&self, workers: u16, open_file_cache: bool) -> io::Result<Server> {
        // nginx 1.22 is told at the start which protocol a port speaks.
        let (port, h2_port) = (free_port()?, free_port()?);
        let root = self.folder.path().display();
        let cache = if open_file_cache {
            "open_file_cache max=1000 inactive=20s; open_file_cache_valid 1s;"
        } else {
            ""
        };
        let configuration = format!(
            "daemon off; worker_processes {workers}; pid {root}/nginx.pid; error_log {root}/nginx-error.log;\n\
             {user}\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
               include /etc/nginx/mime.types; default_type application/octet-stream;\n\
               sendfile on; tcp_nopush on; keepalive_requests 100000000; {cache}\n\
               http2_max_concurrent_streams 128;\n\
               client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;\n\
               uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
               log_format lines escape=json '{{\"time\":\"$time_iso8601\",\"request_id\":\"$request_id\",\"client\":\"$remote_addr\",'\n\
                 '\"method\":\"$request_method\",\"host\":\"$host\",\"path\":\"$request_uri\",\"protocol\":\"$server_protocol\",'\n\
                 '\"status\":$status,\"bytes\":$body_bytes_sent,\"duration\":$request_time,\"user_agent\":\"$http_user_agent\"}}';\n\
               access_log {root}/log/nginx.log lines buffer=32k flush=250ms;\n\
               add_header X-Request-Id $request_id; add_header X-Served-By server1;\n\
               upstream php {{ server unix:{root}/fpm.sock; keepalive {PHP_PROCESSES}; keepalive_requests 100000000; }}\n\
               server {{\n\
                 listen 127.0.0.1:{port} backlog=1024; listen 127.0.0.1:{h2_port} backlog=1024 http2; server_name _; root {root}/public; index index.html;\n\
                 location / {{ try_files $uri $uri/ =404; }}\n\
                 location ~ \\.php$ {{ try_files $uri =404; include /etc/nginx/fastcgi_params;\n\
                   fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;\n\
                   fastcgi_keep_conn on; fastcgi_pass php; }}\n\
               }}\n\
             }}\n",
            user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" },
        );
        let path = self.folder.path().join("nginx.conf");
        fs::write(&path, configuration)?;
        let running =
            Running::start(Command::new("nginx").arg("-p").arg(self.folder.path()).arg("-c").arg(&path))?;
        let server = Server { port, h2_port, running };
        answers(port)?;
        Ok(server)
    }

    pub(crate) fn mainstay(&self, workers: u16) -> io::Result<Server> {
        let port = free_port()?;
        let folder = self.folder.path();
        let app = WebApp {
            name: name("bench")?,
            release: "r1".to_owned(),
            public: folder.join("public"),
            mounts: Vec::new(),
            backend: Backend::FastCgi {
                socket: folder.join("fpm.sock"),
                front_controller: None,
                max_requests: PHP_PROCESSES,
            },
        };
        let plan = WebPlan {
            listen: vec![([127, 0, 0, 1], port).into()],
            server: name("server1")?,
            hosts: vec![HostPattern { name: name(HOST)?, wildcard: false }],
            routes: vec![Route { host: None, path: "/".to_owned(), target: Target::App(app) }],
            limits: WebLimits::default(),
            compress: true,
            drain_ms: 1000,
            trusted_proxies: Vec::new(),
        };
        let config = Config { plan, run: folder.join("run"), log: folder.join("log") };
        let path = folder.join("web.json");
        fs::write(&path, serde_json::to_vec(&config)?)?;
        let running = Running::start(
            Command::new(std::env::current_exe()?)
                .arg("--serve")
                .arg(&path)
                .args(["--workers", &workers.to_string()]),
        )?;
        let server = Server { port, h2_port: port, running };
        answers(port)?;
        Ok(server)
    }
}

/// Such as `nginx/1.22.1`.
pub(crate) fn nginx_version() -> io::Result<String> {
    let output = Command::new("nginx").arg("-v").output()?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().replace("nginx version: ", ""))
}

/// Runs as the web role until a signal ends the process.
pub(crate) fn serve(config: &Path, workers: u16) -> io::Result<()> {
    let config: Config = serde_json::from_slice(&fs::read(config)?)?;
    let listener = TcpListener::bind(&config.plan.listen[..])?;
    let listeners = (0..workers)
        .map(|_| Ok(vec![Listener::Tcp(listener.try_clone()?)]))
        .collect::<io::Result<Vec<_>>>()?;
    let server = mainstay_web::Server::start(&config, listeners).map_err(io::Error::other)?;
    server.join().map_err(io::Error::other)
}

fn php_fpm(folder: &Path) -> io::Result<Running> {
    let user = if nix::unistd::geteuid().is_root() { "user = nobody\ngroup = nogroup\n" } else { "" };
    let socket = folder.join("fpm.sock");
    let configuration = format!(
        "[global]\nerror_log = {folder}/fpm.log\ndaemonize = no\n[bench]\nlisten = {socket}\nlisten.mode = 0666\n\
         listen.backlog = 1024\npm = static\npm.max_children = {processes}\n{user}",
        folder = folder.display(),
        socket = socket.display(),
        // Both servers keep connections open, and each process serves one.
        processes = 2 * PHP_PROCESSES,
    );
    let path = folder.join("fpm.conf");
    fs::write(&path, configuration)?;
    let running =
        Running::start(Command::new(php_program()?).arg("--nodaemonize").arg("--fpm-config").arg(&path))?;
    until("php-fpm listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
    Ok(running)
}

fn php_program() -> io::Result<PathBuf> {
    let programs = fs::read_dir("/usr/sbin")?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_fpm =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    programs
        .filter(is_fpm)
        .max()
        .ok_or_else(|| io::Error::other("php-fpm is not installed: apt-get install php-fpm"))
}

/// Waits until a server gives a file and a page.
fn answers(port: u16) -> io::Result<()> {
    until_answered(port, HOST, "/1k.bin")?;
    until_answered(port, HOST, "/hello.php")
}
