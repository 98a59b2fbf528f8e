//! etcd, run by us: how a member is started, and what is done to a cluster as it runs.
//!
//! [`Member`] describes a member of Debian's `etcd-server` (3.4), [`Member::command`] is the command for it. A cluster is
//! founded by starting the same list of founders on all of their servers, in any order. What is done to it later is
//! [`Upkeep`]: members are listed, removed, added; files are defragmented one at a time; alarms are read.
//!
//! # What a certificate must say
//!
//! One certificate per server serves for clients, peers and the gateway. Found out with etcd 3.4.23:
//!
//! - The gateway, which turns our JSON into gRPC, is a client of its own server and shows the *server's* certificate there. So
//!   that certificate needs the extended key usage `clientAuth` beside `serverAuth`. Without it each request of the gateway
//!   fails with code 14 or a broken pipe, though etcd is well.
//! - A certificate that a *peer* shows must name the address that the connection comes *from*, if it names any. A server
//!   that leaves through another address than it listens on needs both in its certificate. Clients are not asked for that.
//! - The files are read for each connection: a certificate that was renewed needs no restart.
//! - The common name is not looked at, as long as etcd's own accounts are off, which they are here.

mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use upkeep::{Alarm, AlarmKind, MemberId, MemberInfo, Upkeep, joined_by};

/// The most members that a cluster should have: each write waits for more than half of them.
pub const MEMBERS_MOST: usize = 7;

/// Bytes of a member's file, after which it takes nothing more and raises an alarm. A site's state is far below a hundredth.
const QUOTA_BYTES: u64 = 256 << 20;

/// Revisions that are kept for watches; older ones are compacted every five minutes.
const RETENTION_REVISIONS: u64 = 10_000;

/// A heartbeat's interval and an election's timeout. Leases of 1 s are then possible (1.5 election timeouts, in whole seconds,
/// are the least), and a leader that died is followed by another within about a second.
const HEARTBEAT_MS: u64 = 50;
const ELECTION_MS: u64 = 500;

/// A member of a cluster, as it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name: the server's.
    pub name: String,
    /// Where its data is. Empty at the first start; etcd's user must be able to write it, and nobody else to read it.
    pub data_folder: PathBuf,
    /// Where clients reach it.
    pub client_address: SocketAddr,
    /// Where the other members reach it.
    pub peer_address: SocketAddr,
    /// The files for TLS with clients and peers; without them both are plain, which is for tests.
    pub tls: Option<TlsFiles>,
    /// Every member, this one included. Counts at the first start only; later the data says it.
    pub cluster: Vec<Peer>,
    /// Whether the cluster is there already.
    pub beginning: Beginning,
}

/// A member, as the others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its URL for peers.
    pub peer_url: String,
}

/// The files for TLS, in PEM. See the [module](self) for what the certificate must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How a member without data begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// With the others of the list it founds a cluster.
    Founding {
        /// Tells this cluster from any other, so that members of two never mix: the site's name.
        token: String,
    },
    /// It joins a cluster that has added it ([`Upkeep::add`]).
    Joining,
}

/// A command, as a supervisor starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment: etcd takes settings from `ETCD_*`, so nothing is inherited.
    pub environment: Vec<(String, String)>,
}

impl Member {
    /// The member's URL for clients.
    pub fn client_url(&self) -> String {
        format!("{}://{}", self.scheme(), self.client_address)
    }

    /// The member's URL for peers.
    pub fn peer_url(&self) -> String {
        format!("{}://{}", self.scheme(), self.peer_address)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The command that starts the member, the first time and each later one. Signal 15 ends it well; signal 9 loses nothing.
    pub fn command(&self) -> MemberCommand {
        let (client, peer) = (self.client_url(), self.peer_url());
        let cluster: Vec<String> =
            self.cluster.iter().map(|peer| format!("{}={}", peer.name, peer.peer_url)).collect();
        let (state, token) = match &self.beginning {
            Beginning::Founding { token } => ("new", token.as_str()),
            Beginning::Joining => ("existing", ""),
        };
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
        add("name", self.name.clone());
        add("data-dir", self.data_folder.display().to_string());
        add("listen-client-urls", client.clone());
        add("advertise-client-urls", client);
        add("listen-peer-urls", peer.clone());
        add("initial-advertise-peer-urls", peer);
        add("initial-cluster", cluster.join(","));
        add("initial-cluster-state", state.to_owned());
        if !token.is_empty() {
            add("initial-cluster-token", token.to_owned());
        }
        add("heartbeat-interval", HEARTBEAT_MS.to_string());
        add("election-timeout", ELECTION_MS.to_string());
        // A member that was cut off and comes back does not depose the leader.
        add("pre-vote", "true".to_owned());
        // Refuses a change of the members that would cost the quorum.
        add("strict-reconfig-check", "true".to_owned());
        add("enable-v2", "false".to_owned());
        add("enable-grpc-gateway", "true".to_owned());
        add("auto-compaction-mode", "revision".to_owned());
        add("auto-compaction-retention", RETENTION_REVISIONS.to_string());
        add("quota-backend-bytes", QUOTA_BYTES.to_string());
        add("logger", "zap".to_owned());
        add("log-outputs", "stderr".to_owned());
        if let Some(tls) = &self.tls {
            for prefix in ["", "peer-"] {
                add(&format!("{prefix}client-cert-auth"), "true".to_owned());
                add(&format!("{prefix}trusted-ca-file"), tls.authority.display().to_string());
                add(&format!("{prefix}cert-file"), tls.certificate.display().to_string());
                add(&format!("{prefix}key-file"), tls.key.display().to_string());
            }
        }
        // Debian's etcd runs on these two without asking; others it wants to be told that it may.
        let arch = std::env::consts::ARCH;
        let unsupported = (!matches!(arch, "x86_64" | "powerpc64")).then(|| {
            ("ETCD_UNSUPPORTED_ARCH".to_owned(), if arch == "aarch64" { "arm64" } else { arch }.to_owned())
        });
        MemberCommand {
            program: PathBuf::from("/usr/bin/etcd"),
            arguments,
            environment: unsupported.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_listens_where_it_says_and_takes_only_certificates_of_the_authority() {
        let member = Member {
            name: "server1".to_owned(),
            data_folder: "/var/lib/mainstay/coordinator".into(),
            client_address: "10.10.0.11:2379".parse().unwrap(),
            peer_address: "[fd10::11]:2380".parse().unwrap(),
            tls: Some(TlsFiles {
                authority: "/a.pem".into(),
                certificate: "/c.pem".into(),
                key: "/k.pem".into(),
            }),
            cluster: vec![
                Peer { name: "server1".to_owned(), peer_url: "https://[fd10::11]:2380".to_owned() },
                Peer { name: "server2".to_owned(), peer_url: "https://[fd10::12]:2380".to_owned() },
            ],
            beginning: Beginning::Founding { token: "foobar.com".to_owned() },
        };
        let command = member.command();
        for wanted in [
            "--listen-client-urls=https://10.10.0.11:2379",
            "--listen-peer-urls=https://[fd10::11]:2380",
            "--initial-cluster=server1=https://[fd10::11]:2380,server2=https://[fd10::12]:2380",
            "--client-cert-auth=true",
            "--peer-client-cert-auth=true",
            "--initial-cluster-state=new",
        ] {
            assert!(command.arguments.iter().any(|argument| argument == wanted), "{wanted}");
        }
        let joining = Member { beginning: Beginning::Joining, ..member }.command();
        assert!(joining.arguments.iter().any(|argument| argument == "--initial-cluster-state=existing"));
    }
}
