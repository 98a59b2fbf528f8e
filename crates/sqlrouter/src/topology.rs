//! Which server is the primary, and which are replicas.
//!
//! Workers follow a channel of [`Topology`]. Whoever knows the truth writes to it: the coordinator's driver, a test, or
//! [`follow_file`], which reads a JSON file whenever it changes.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::gtid::Position;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The servers as of one epoch. Epochs only grow; what was connected to the primary of an older one is let go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    /// Grows with every change of the primary.
    pub epoch: u64,
    /// Who takes writes; none while that is being found out.
    pub primary: Option<Server>,
    /// No transaction begins on the primary for now: those that are open may end, others wait. For planned switchovers.
    #[serde(default)]
    pub paused: bool,
    /// Who may answer reads.
    #[serde(default)]
    pub replicas: Vec<Server>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// The name in its certificate; without it, the address.
    #[serde(default)]
    pub tls_name: Option<String>,
    /// What it surely has applied.
    #[serde(default)]
    pub applied: Position,
    /// Whether it may answer reads at all: it replicates and is not too far behind.
    #[serde(default = "yes")]
    pub fresh: bool,
}

fn yes() -> bool {
    true
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => path.display().fmt(out),
        }
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') { Ok(Self::Unix(text.into())) } else { text.parse().map(Self::Tcp) }
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The receiving end of a source of topologies.
pub type Source = watch::Receiver<Arc<Topology>>;

/// A channel whose sender is told every change. A topology of an older epoch than the last is not taken.
pub fn channel(first: Topology) -> (Teller, Source) {
    let (sender, receiver) = watch::channel(Arc::new(first));
    (Teller(sender), receiver)
}

/// Tells the workers what has changed.
#[derive(Debug)]
pub struct Teller(watch::Sender<Arc<Topology>>);

impl Teller {
    /// Tells a topology; whether it was taken, which one of an older epoch is not.
    pub fn tell(&self, topology: Topology) -> bool {
        self.0.send_if_modified(|now| {
            let taken = topology.epoch >= now.epoch && **now != topology;
            if taken {
                *now = Arc::new(topology);
            }
            taken
        })
    }

    /// The topology that was told last.
    pub fn now(&self) -> Arc<Topology> {
        Arc::clone(&self.0.borrow())
    }
}

/// Reads a topology of a file.
pub fn read(path: &Path) -> Result<Topology, String> {
    let text = std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{} is no topology: {error}", path.display()))
}

/// Follows a file on a thread of its own, as long as somebody listens. It is best replaced by renaming another onto it.
pub fn follow_file(path: PathBuf, teller: Teller) -> std::io::Result<()> {
    let look = move || {
        let mut last: Option<SystemTime> = None;
        while !teller.0.is_closed() {
            let changed = std::fs::metadata(&path).and_then(|data| data.modified()).ok();
            if changed != last {
                last = changed;
                match read(&path) {
                    Ok(topology) => {
                        let epoch = topology.epoch;
                        if teller.tell(topology) {
                            tracing::info!(epoch, "the topology changed");
                        }
                    }
                    Err(why) => tracing::warn!("the topology is kept as it was: {why}"),
                }
            }
            std::thread::sleep(LOOK);
        }
    };
    std::thread::Builder::new().name("topology".to_owned()).spawn(look).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_epoch_is_not_taken() {
        let (teller, source) = channel(Topology { epoch: 3, ..Topology::default() });
        assert!(!teller.tell(Topology { epoch: 2, ..Topology::default() }));
        assert!(teller.tell(Topology { epoch: 4, ..Topology::default() }));
        assert_eq!(source.borrow().epoch, 4);
    }

    #[test]
    fn a_file_says_who_is_who() {
        let text = r#"{"epoch": 7, "primary": {"name": "db1", "address": "10.10.0.11:3306"},
            "replicas": [{"name": "db2", "address": "/run/db2.sock", "applied": "0-1-9", "fresh": false}]}"#;
        let topology: Topology = serde_json::from_str(text).unwrap();
        assert!(topology.primary.unwrap().fresh && !topology.replicas[0].fresh);
        assert_eq!(topology.replicas[0].applied.to_string(), "0-1-9");
    }
}
