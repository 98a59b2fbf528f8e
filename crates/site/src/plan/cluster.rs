//! What several servers do together: agreeing (`coordinator`), keeping the database on several servers, and reaching it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ServerName;

/// The `coordinator` role of one server. It answers etcd's v3 API either way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CoordinatorPlan {
    /// A durable file: the only coordinator of the site.
    Embedded {
        /// Where it answers.
        listen: SocketAddr,
    },
    /// One member of an etcd of several.
    Etcd {
        /// Where it answers clients.
        listen: SocketAddr,
        /// All members, this one among them, in the order of the file.
        members: Vec<EtcdMember>,
    },
}

/// A member of the site's etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMember {
    /// Its server, and its name in etcd.
    pub server: ServerName,
    /// Where it speaks to the other members.
    pub peers: SocketAddr,
    /// Where it answers clients.
    pub clients: SocketAddr,
}

/// How the coordinator is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorAccess {
    /// Its members, as `https://ADDRESS:PORT`, this server's own first. Any of them will do.
    pub endpoints: Vec<String>,
    /// What the site's keys begin with, such as `/mainstay/foobar/`.
    pub prefix: String,
}

/// What a commit is worth when servers die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Acknowledged only when another server has it. With no replica that answers, writes wait.
    NoLoss,
    /// Likewise, but with no replica that answers the primary goes on alone.
    Available,
}

/// Whether a server may become the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promotion {
    /// Rather than others that have as much.
    Prefer,
    /// As any other.
    Usual,
    /// Never.
    Never,
}

/// The database on several servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPlan {
    /// All servers with the database, this one among them, in the order of the file.
    pub members: Vec<ClusterMember>,
    /// What a commit is worth.
    pub durability: Durability,
    /// How long a primary may be silent before another may take its place, in milliseconds. It stops itself after two thirds of it.
    pub lease_ms: u32,
    /// Where the members agree.
    pub coordinator: CoordinatorAccess,
    /// The account that replicas copy with; its password is under this name among the secrets.
    pub replication_secret: String,
}

/// One server with the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// The server.
    pub server: ServerName,
    /// Where its database listens.
    pub address: SocketAddr,
    /// Where it hands out copies of its data.
    pub copies: SocketAddr,
    /// Whether it may become the primary.
    pub promotion: Promotion,
}

/// The `sqlrouter` beside the apps of one server: what they take for the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlRouterPlan {
    /// Where it listens on this machine.
    pub listen: SocketAddr,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The accounts that it lets in, and passes on.
    pub accounts: Vec<SqlAccount>,
    /// The servers with the database.
    pub members: Vec<ClusterMember>,
    /// Where it hears which of them is the primary.
    pub coordinator: CoordinatorAccess,
}

/// An account of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlAccount {
    /// Its name.
    pub user: String,
    /// Its database.
    pub database: String,
    /// The secret with its password.
    pub password_secret: String,
}
