//! Where things lie on a server. The same on a real server and on one of the lab.

use std::path::PathBuf;

use crate::AppName;

/// Sockets and records of running processes; gone after a reboot.
pub const RUN: &str = "/run/mainstay";
/// What must survive a reboot: plan, releases, secrets, databases.
pub const LIB: &str = "/var/lib/mainstay";
/// Logs of all roles.
pub const LOG: &str = "/var/log/mainstay";

/// The agent's control socket (HTTP over a Unix socket, root only).
pub fn agent_socket() -> PathBuf {
    PathBuf::from(RUN).join("agent.sock")
}

/// The plan that the agent carries out, as JSON.
pub fn plan_file() -> PathBuf {
    PathBuf::from(LIB).join("plan.json")
}

/// Secrets, each a file of mode 0600 owned by root: `LIB/secrets/NAME`.
pub fn secrets() -> PathBuf {
    PathBuf::from(LIB).join("secrets")
}

/// A role's own folder for sockets, owned by the role's user: `RUN/NAME`. The admin socket in it is `admin.sock`.
pub fn role_run(name: &str) -> PathBuf {
    PathBuf::from(RUN).join(name)
}

/// A role's admin socket: `/health` and `/metrics` over HTTP on a Unix socket.
pub fn admin_socket(name: &str) -> PathBuf {
    role_run(name).join("admin.sock")
}

/// All releases of an app, one folder each.
pub fn releases(app: &AppName) -> PathBuf {
    PathBuf::from(LIB).join("releases").join(app.as_str())
}

/// What an app may write and keeps across releases.
pub fn app_data(app: &AppName) -> PathBuf {
    PathBuf::from(LIB).join("data").join(app.as_str())
}

/// The Unix socket on which an app answers (FastCGI or HTTP).
pub fn app_socket(app: &AppName) -> PathBuf {
    PathBuf::from(RUN).join(format!("app-{app}")).join("app.sock")
}

/// The database's data folder.
pub fn database_data() -> PathBuf {
    PathBuf::from(LIB).join("database")
}

/// The Unix socket of what apps take for the database, where it is on several servers.
pub fn router_socket() -> PathBuf {
    PathBuf::from(RUN).join("sqlrouter").join("mysqld.sock")
}

/// The database's Unix socket.
pub fn database_socket() -> PathBuf {
    PathBuf::from(RUN).join("database").join("mysqld.sock")
}
