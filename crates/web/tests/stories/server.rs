//! A web role that runs inside the test.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mainstay_http::Listener;
use mainstay_site::ByteSize;
use mainstay_site::plan::{Backend, HostPattern, Mount, Route, Target, WebApp, WebLimits, WebPlan};
use mainstay_web::{Config, Server};
use tempfile::TempDir;

/// How long a server that drains keeps what left HTTP.
pub(crate) const DRAIN_MS: u64 = 1000;

/// A folder, and a server over it.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    pub(crate) server: Option<Server>,
}

impl Web {
    /// Serves `FOLDER/public` as files.
    pub(crate) fn of_files(files: &[(&str, &str)]) -> Self {
        let folder = folder(files);
        let target = Target::Static { root: folder.path().join("public") };
        Self::start(folder, vec![Route { host: None, path: "/".to_owned(), target }])
    }

    /// Serves an app with its public files.
    pub(crate) fn of_app(folder: TempDir, backend: Backend) -> Self {
        let target = Target::App(app(folder.path(), backend));
        Self::start(folder, vec![Route { host: None, path: "/".to_owned(), target }])
    }

    pub(crate) fn start(folder: TempDir, routes: Vec<Route>) -> Self {
        Self::behind(folder, routes, Vec::new())
    }

    /// Behind proxies that are believed.
    pub(crate) fn behind(folder: TempDir, routes: Vec<Route>, trusted_proxies: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let plan = WebPlan {
            listen: vec![address],
            server: "server1".to_owned().try_into().unwrap(),
            hosts: vec![host("a.test", false), host("b.test", true)],
            routes,
            limits: WebLimits {
                body: ByteSize::from_mebibytes(8),
                backend_timeout_secs: 5,
                ..WebLimits::default()
            },
            compress: true,
            trusted_proxies,
            drain_ms: DRAIN_MS,
        };
        std::fs::create_dir_all(folder.path().join("run")).unwrap();
        let config = Config { plan, run: folder.path().join("run"), log: folder.path().join("log") };
        let server = Server::start(&config, vec![vec![Listener::Tcp(listener)]]).unwrap();
        Self { address, folder, server: Some(server) }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Stops, and returns the access log.
    pub(crate) fn stop(&mut self) -> String {
        if let Some(server) = self.server.take() {
            server.shutdown().drain();
            server.join().unwrap();
        }
        std::fs::read_to_string(self.path("log/web/access.log")).unwrap_or_default()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().end();
            let _ = server.join();
        }
    }
}

pub(crate) fn host(name: &str, wildcard: bool) -> HostPattern {
    HostPattern { name: name.to_owned().try_into().unwrap(), wildcard }
}

pub(crate) fn app(folder: &Path, backend: Backend) -> WebApp {
    WebApp {
        name: "shop".to_owned().try_into().unwrap(),
        release: "r1".to_owned(),
        public: folder.join("public"),
        mounts: vec![Mount { path: "/uploads".to_owned(), root: folder.join("uploads") }],
        backend,
    }
}

/// A folder with these files, and with `public` and `uploads`, which anyone may read.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["public", "uploads"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    for (path, content) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

/// Waits until a condition holds; fails after ten seconds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
