//! A real cluster: three members of etcd with mutual TLS, founded from nothing, on three addresses of the loopback network.
//! What holds when members die, freeze, are replaced, and when too few are left.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a story that cannot go on fails, and says what it measured"
)]

#[path = "../servers/mod.rs"]
mod servers;

mod certificates;
mod failures;
mod founding;
mod upkeep;

use std::time::Duration;

use mainstay_coordinator::etcd::{Beginning, Member, Peer};
use mainstay_coordinator::{Client, ClientSettings, Endpoint, Tls};
use servers::{Authority, Process, Usage, eventually, loopback};
use tempfile::TempDir;

/// Members of which some may have been killed.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) processes: Vec<Option<Process>>,
    pub(crate) authority: Authority,
    pub(crate) folder: TempDir,
}

impl Cluster {
    /// Founds a cluster and waits until it serves.
    pub(crate) async fn found() -> Self {
        let mut cluster = Self::described(3, Usage::Both);
        for place in 0..3 {
            cluster.start(place);
        }
        let client = cluster.client();
        eventually("the cluster's founding", || async { client.list("").await.is_ok() }).await;
        // Every member, not only the quorum.
        for place in 0..3 {
            eventually("a member's start", || async {
                client.status(place).await.is_ok_and(|status| status.leader != 0)
            })
            .await;
        }
        cluster
    }

    /// Members that are not started yet.
    pub(crate) fn described(count: u8, usage: Usage) -> Self {
        Self::described_from(count, usage, &["127.0.0.1"])
    }

    /// The same, with certificates that name these addresses beside the member's own.
    pub(crate) fn described_from(count: u8, usage: Usage, sources: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("mainstay-test-cluster-").tempdir().unwrap();
        let mut cluster =
            Self { members: Vec::new(), processes: Vec::new(), authority: Authority::new(), folder };
        for number in 1..=count {
            let member = cluster.describe(number, usage, sources);
            cluster.members.push(member);
            cluster.processes.push(None);
        }
        let peers: Vec<Peer> = cluster
            .members
            .iter()
            .map(|member| Peer { name: member.name.clone(), peer_url: member.peer_url() })
            .collect();
        for member in &mut cluster.members {
            member.cluster.clone_from(&peers);
        }
        cluster
    }

    fn describe(&self, number: u8, usage: Usage, sources: &[&str]) -> Member {
        let name = format!("server{number}");
        let address = loopback(number);
        // The loopback network's connections come from 127.0.0.1, wherever they go.
        let own = address.ip().to_string();
        let addresses: Vec<&str> = sources.iter().copied().chain([own.as_str()]).collect();
        let pair = self.authority.pair(&name, &addresses, usage);
        Member {
            tls: Some(self.authority.files(self.folder.path(), &name, &pair)),
            data_folder: self.folder.path().join(&name),
            name,
            client_address: address,
            peer_address: loopback(number),
            cluster: Vec::new(),
            beginning: Beginning::Founding { token: "test".to_owned() },
        }
    }

    pub(crate) fn start(&mut self, place: usize) {
        self.processes[place] = Some(Process::start(&self.members[place]));
    }

    pub(crate) fn kill(&mut self, place: usize) {
        self.processes[place].take().expect("it runs").kill();
    }

    pub(crate) fn signal(&self, place: usize, signal: &str) {
        self.processes[place].as_ref().expect("it runs").signal(signal);
    }

    pub(crate) fn endpoint(&self, place: usize) -> Endpoint {
        self.members[place].client_url().parse().unwrap()
    }

    /// A client of all members.
    pub(crate) fn client(&self) -> Client {
        self.client_showing(self.authority.client())
    }

    pub(crate) fn client_showing(&self, tls: Tls) -> Client {
        let endpoints = (0..self.members.len()).map(|place| self.endpoint(place)).collect();
        let settings = ClientSettings {
            connect_timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(6),
            ..ClientSettings::new(endpoints, Some(tls))
        };
        Client::new(&settings).unwrap()
    }

    /// The place of the member that leads.
    pub(crate) async fn leader(&self) -> usize {
        let client = self.client().with_deadline(Duration::from_secs(2));
        let mut leader = None;
        let end = std::time::Instant::now() + servers::PATIENCE;
        while leader.is_none() {
            assert!(std::time::Instant::now() < end, "nobody leads");
            for place in 0..self.members.len() {
                if let Ok(status) = client.status(place).await
                    && status.leader == status.member
                {
                    leader = Some(place);
                }
            }
        }
        leader.unwrap()
    }
}
