//! What the role is to do, as a JSON file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::Plugin;
use crate::follow::CoordinatorConfig;

/// The configuration of the role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlRouterConfig {
    /// Addresses that clients connect to.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// The Unix socket that clients connect to.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// The role's run folder; the admin socket is made in it.
    pub run: PathBuf,
    /// The role's log folder, for `slow.log`; none: slow queries are only counted.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// The file that says which server is the primary; read again whenever it changes.
    #[serde(default)]
    pub topology: Option<PathBuf>,
    /// Where the servers agree on the primary; takes the place of `topology`.
    #[serde(default)]
    pub coordinator: Option<CoordinatorConfig>,
    /// Who may log in.
    pub accounts: Vec<AccountConfig>,
    /// TLS for clients.
    #[serde(default)]
    pub tls: Option<CertificateFiles>,
    /// TLS to servers: the file with the authorities that issued their certificates. None: without TLS.
    #[serde(default)]
    pub authorities: Option<PathBuf>,
    /// Limits and times.
    #[serde(default)]
    pub limits: Limits,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain, as PEM.
    pub chain: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// One account, the same on all servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// Its name.
    pub name: String,
    /// The file that holds its password; a line end after it is no part of it.
    pub secret: PathBuf,
    /// How clients prove that they know it.
    #[serde(default)]
    pub plugin: Plugin,
    /// What reads see.
    #[serde(default)]
    pub consistency: Consistency,
    /// How long a client keeps a connection to a server.
    #[serde(default)]
    pub pooling: Pooling,
    /// Clients at a time.
    #[serde(default = "connections")]
    pub connections: u32,
    /// Connections to servers at a time, idle ones too.
    #[serde(default = "backends")]
    pub backends: u32,
}

fn connections() -> u32 {
    1000
}

fn backends() -> u32 {
    100
}

/// What reads see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Something that was true a moment ago.
    Eventual,
    /// At least what the same client wrote.
    #[default]
    Session,
    /// All that was written before.
    Strong,
}

/// How long a client keeps a connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// As long as it is connected.
    #[default]
    Session,
    /// Until the end of the transaction, if nothing binds it.
    Transaction,
}

/// Limits and times of the role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Clients at a time, of all accounts.
    pub connections: u32,
    /// The longest statement, bytes.
    pub statement_bytes: usize,
    /// How long a statement waits for a primary, ms.
    pub hold_ms: u64,
    /// Statements that wait for a primary at a time, per worker.
    pub held: usize,
    /// How long a read waits for a replica to have what the session wrote, ms.
    pub wait_ms: u64,
    /// How long an answer of an old primary is waited for after another took over, ms.
    pub grace_ms: u64,
    /// Time for a connection to a server, with its login, ms.
    pub connect_ms: u64,
    /// Time for a client's login, ms.
    pub login_ms: u64,
    /// How long an idle connection to a server is kept, ms.
    pub idle_ms: u64,
    /// Statements that take longer go to `slow.log`, ms.
    pub slow_ms: u64,
    /// Worker threads; none: one for each core.
    pub workers: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            statement_bytes: 64 << 20,
            hold_ms: 10_000,
            held: 1000,
            wait_ms: 200,
            grace_ms: 300,
            connect_ms: 2000,
            login_ms: 10_000,
            idle_ms: 60_000,
            slow_ms: 1000,
            workers: None,
        }
    }
}

impl Limits {
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }
}
