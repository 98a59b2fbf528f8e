//! What a child process is: the words between those who know a program (`app`, `database`, `agent`) and the
//! supervisor that keeps it running.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use mainstay_site::ByteSize;

/// A child process as it is to run. Two specs that are equal are the same child: nothing is restarted between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// The role's name, such as `web`, `database`, `app-guestbook`. Names the run folder, the cgroup and the log.
    pub name: String,
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments, without the program itself.
    pub args: Vec<String>,
    /// Its whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// The user and group it runs as, by name, such as `mainstay-web`. `root` only where nothing else works.
    pub user: String,
    /// Its working folder.
    pub directory: PathBuf,
    /// Listening sockets handed over, as file descriptors 3, 4, ... in this order. The supervisor's owner opens and keeps them.
    pub sockets: Vec<SocketSpec>,
    /// Folders made before the start, with their owner and mode.
    pub folders: Vec<FolderSpec>,
    /// Files written before the start (configuration; secrets with mode 0600 or 0640).
    pub files: Vec<FileSpec>,
    /// When it counts as ready.
    pub ready: Probe,
    /// How long until then at most, before it is killed and counted as failed.
    pub ready_within: Duration,
    /// How it is asked to stop.
    pub stop: Stop,
    /// How a changed spec takes over from a running child.
    pub replace: Replace,
    /// Memory for the child and all its descendants.
    pub memory: Option<ByteSize>,
    /// The most processes and threads.
    pub processes: Option<u32>,
    /// Capabilities that the child keeps, by name (`CAP_NET_BIND_SERVICE`); usually none.
    pub capabilities: Vec<String>,
}

/// A listening socket that is handed to a child.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketSpec {
    /// TCP with `SO_REUSEPORT`: `shares` sockets on one address, one per worker of the child.
    Tcp {
        /// The address.
        address: std::net::SocketAddr,
        /// How many.
        shares: u16,
    },
    /// UDP with `SO_REUSEPORT`, likewise.
    Udp {
        /// The address.
        address: std::net::SocketAddr,
        /// How many.
        shares: u16,
    },
    /// A Unix stream socket.
    Unix {
        /// The path.
        path: PathBuf,
        /// Owner.
        user: String,
        /// Group; members may connect (mode 0660).
        group: String,
    },
}

/// A folder that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderSpec {
    /// Absolute path.
    pub path: PathBuf,
    /// Owner.
    pub user: String,
    /// Group.
    pub group: String,
    /// Mode, such as 0o750.
    pub mode: u32,
}

/// A file that must be there with this content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Absolute path.
    pub path: PathBuf,
    /// Content.
    pub content: String,
    /// Owner.
    pub user: String,
    /// Group.
    pub group: String,
    /// Mode, such as 0o600.
    pub mode: u32,
}

/// When a child counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// As soon as it runs.
    Started,
    /// When a Unix socket accepts a connection.
    UnixConnect {
        /// The socket.
        path: PathBuf,
    },
    /// When 127.0.0.1 accepts a connection on the port.
    TcpConnect {
        /// The port.
        port: u16,
    },
    /// When GET of the path over a Unix socket is answered with 200-399.
    UnixHttp {
        /// The socket.
        socket: PathBuf,
        /// The path asked for.
        path: String,
    },
    /// When GET of `/` over a Unix socket is answered with any status at all: for programs that are handed a listening socket,
    /// which accepts connections before they do, and of which nothing else is known.
    UnixAnswer {
        /// The socket.
        socket: PathBuf,
    },
    /// Likewise to `UnixHttp`, but only the child's own main process counts: of two generations that serve one path in turn, the
    /// older one's answer says nothing about the newer. For our own roles.
    OwnHttp {
        /// The socket, which the child binds itself.
        socket: PathBuf,
        /// The path asked for.
        path: String,
    },
    /// When GET of the path on 127.0.0.1 is answered with 200-399.
    TcpHttp {
        /// The port.
        port: u16,
        /// The path asked for.
        path: String,
    },
    /// When php-fpm answers its ping path.
    FastCgiPing {
        /// The socket.
        socket: PathBuf,
        /// `ping.path` of the pool.
        path: String,
    },
    /// When GET of a path, through a script behind FastCGI, is answered with 200-399.
    FastCgiGet {
        /// The socket.
        socket: PathBuf,
        /// The folder that the script lies in, `DOCUMENT_ROOT`.
        public: PathBuf,
        /// The script that answers, seen from there, such as `/index.php`.
        script: String,
        /// The path asked for, with its query.
        path: String,
    },
    /// When a MySQL-protocol server sends its greeting.
    MysqlGreeting {
        /// The Unix socket.
        socket: PathBuf,
    },
}

/// How a child is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The signal that asks politely.
    pub signal: Signal,
    /// After this long it and all its descendants are killed.
    pub grace: Duration,
}

/// The signals that programs take as "finish your work and leave".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// SIGTERM: our own roles (drain), gunicorn, uvicorn, mariadbd.
    Terminate,
    /// SIGQUIT: php-fpm.
    Quit,
    /// SIGINT.
    Interrupt,
}

/// How a changed spec takes over from a running child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replace {
    /// The new one starts beside the old one, and the old one drains when the new one is ready.
    ///
    /// Such children may hold connections for long: `stop.grace` is what a replaced one gets. One that is stopped
    /// altogether gets [`STOP_WITHIN`](crate::supervise::STOP_WITHIN) at most.
    Overlap,
    /// Like [`Self::Overlap`], but where nothing but `files` changed, the one that runs takes them over: they are written, it
    /// gets SIGHUP, and `GET /config` on the admin socket of its [`Probe::OwnHttp`] tells by the SHA-256 of the first file
    /// that it has it. If it refuses, or does not tell within `ready_within`, the two overlap.
    Reload,
    /// The old one stops first; for programs that own their data alone.
    StopFirst,
}
