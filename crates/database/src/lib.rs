//! The database's life on one server.
//!
//! [`prepare`] makes the data folder once, [`child`] says how the server program is started, and [`provision`] gives each app
//! its database, account and schema once the server answers; [`status`] asks it how it is. The settings are those of a future primary or replica from
//! the first start on: row-based binary logs with strict GTIDs, and every commit on disk before it is acknowledged.
//! [`mariadb`] is what the keeper of a cluster's member does to it.

mod client;
pub mod cluster;
mod configuration;
mod error;
pub mod keeper;
pub mod mariadb;
mod prepare;
mod provision;
mod schema;
mod status;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_process::{ChildSpec, FileSpec, FolderSpec, Probe, Replace, Signal, Stop};
use mainstay_site::paths;
use mainstay_site::plan::{DatabasePlan, Engine};

pub use client::Client;
pub use error::Error;
pub use prepare::prepare;
pub use provision::provision;
pub use status::{Status, status};

/// The role's name, and that of its run folder.
pub const ROLE: &str = "database";
/// The user that the server program runs as.
pub const USER: &str = "mainstay-database";

/// Where an instance lives. On a server always [`Place::default`]; elsewhere for tests.
#[derive(Debug, Clone)]
pub struct Place {
    /// The data folder.
    pub data: PathBuf,
    /// The folder of the socket and the configuration.
    pub run: PathBuf,
    /// The user that the server program runs as.
    pub user: String,
}

impl Default for Place {
    fn default() -> Self {
        Self { data: paths::database_data(), run: paths::role_run(ROLE), user: USER.to_owned() }
    }
}

impl Place {
    /// Temporary files. Never /tmp: at its start a server removes there what it takes for its own leftovers, and another's are named alike.
    pub fn temporary(&self) -> PathBuf {
        self.data.with_extension("tmp")
    }

    /// The server's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("mysqld.sock")
    }
}

/// The process that runs a database. `server` is the server's address, which numbers it among its replicas.
///
/// # Errors
/// [`Error::NotInstalled`] without the server program.
pub fn child(plan: &DatabasePlan, server: Ipv4Addr, place: &Place) -> Result<ChildSpec, Error> {
    let program = server_program(plan.engine)?;
    let file = place.run.join("my.cnf");
    let folder = |path: &Path, mode| FolderSpec {
        path: path.to_owned(),
        user: place.user.clone(),
        group: place.user.clone(),
        mode,
    };
    Ok(ChildSpec {
        name: ROLE.to_owned(),
        program,
        args: vec![format!("--defaults-file={}", file.display())],
        env: [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        user: place.user.clone(),
        directory: place.data.clone(),
        sockets: Vec::new(),
        // Apps reach the socket in it, so everyone may pass through.
        folders: vec![
            folder(&place.run, 0o755),
            folder(&place.data, 0o750),
            folder(&place.temporary(), 0o700),
        ],
        files: vec![FileSpec {
            path: file,
            content: configuration::of(plan, server, place),
            user: "root".to_owned(),
            group: place.user.clone(),
            mode: 0o640,
        }],
        ready: Probe::MysqlGreeting { socket: place.socket() },
        // Crash recovery of a large redo log takes its time, and killing it would only begin it again.
        ready_within: Duration::from_mins(10),
        stop: Stop { signal: Signal::Terminate, grace: Duration::from_mins(5) },
        replace: Replace::StopFirst,
        memory: None,
        processes: None,
        capabilities: Vec::new(),
    })
}

fn server_program(engine: Engine) -> Result<PathBuf, Error> {
    let (program, package) = match engine {
        Engine::Mariadb => ("mariadbd", "mariadb-server-core"),
        Engine::Mysql => ("mysqld", "mysql-server-core"),
    };
    find(program).ok_or(Error::NotInstalled { program, package })
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
}
