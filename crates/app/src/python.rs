//! Python: gunicorn for WSGI, uvicorn for ASGI, out of the release's virtual environment.

use std::path::Path;
use std::time::Duration;

use mainstay_process::{ChildSpec, Probe, Replace, Signal, SocketSpec, Stop};
use mainstay_site::paths;
use mainstay_site::plan::{AppPlan, PythonInterface};

use crate::{WEB_USER, release_folder, role_name, user};

pub(crate) fn child(
    plan: &AppPlan,
    interface: PythonInterface,
    entry: &str,
    workers: u32,
    environment: &Path,
) -> ChildSpec {
    let socket = paths::app_socket(&plan.name);
    let user = user(&plan.name);
    let workers = workers.to_string();
    // The listening socket is descriptor 3, the first that a child is given. gunicorn learns that from LISTEN_FDS, and then
    // does not remove the socket's file at its end; named by `--bind` too, it would be taken twice and closed once too often.
    let args: Vec<&str> = match interface {
        PythonInterface::Wsgi => vec![
            "-m",
            "gunicorn",
            "--workers",
            &workers,
            "--threads",
            "4",
            "--graceful-timeout",
            "20",
            "--timeout",
            "120",
            "--worker-tmp-dir",
            "/dev/shm",
            "--log-level",
            "warning",
            entry,
        ],
        PythonInterface::Asgi => vec![
            "-m",
            "uvicorn",
            "--fd",
            "3",
            "--workers",
            &workers,
            "--no-access-log",
            // Only the web server's group can connect, and it says who the visitor is.
            "--forwarded-allow-ips",
            "*",
            "--log-level",
            "warning",
            "--timeout-graceful-shutdown",
            "20",
            entry,
        ],
    };
    let env = [("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1")];
    ChildSpec {
        name: role_name(&plan.name),
        program: environment.join("bin/python"),
        args: args.into_iter().map(str::to_owned).collect(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        user: user.clone(),
        directory: release_folder(plan),
        sockets: vec![SocketSpec::Unix { path: socket.clone(), user, group: WEB_USER.to_owned() }],
        folders: Vec::new(),
        files: Vec::new(),
        // The socket takes connections before the app does, so only an answer counts.
        ready: match &plan.readiness_path {
            Some(path) => Probe::UnixHttp { socket, path: path.clone() },
            None => Probe::UnixAnswer { socket },
        },
        ready_within: Duration::from_mins(1),
        stop: Stop { signal: Signal::Terminate, grace: Duration::from_secs(30) },
        replace: Replace::Overlap,
        memory: plan.memory,
        processes: Some(plan.processes),
        capabilities: Vec::new(),
    }
}
