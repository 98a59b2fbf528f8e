//! Follows the coordinator: which server takes writes, and which replicas may answer reads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_coordinator::{Change, Client, ClientSettings, Endpoint, KeyValue, Tls, Watched};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::gtid::Position;
use crate::server::Error;
use crate::topology::{Address, Server, Teller, Topology};

/// Between two attempts to read all keys.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the servers agree, and who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorConfig {
    /// Its members: `https://ADDRESS:PORT`.
    pub endpoints: Vec<String>,
    /// What the keys of the database begin with.
    pub prefix: String,
    /// The file of the site's authority, as PEM.
    pub authority: PathBuf,
    /// The file of this server's certificate, as PEM.
    pub certificate: PathBuf,
    /// The file of its key, as PEM.
    pub key: PathBuf,
    /// The servers with the database.
    pub members: BTreeMap<String, SocketAddr>,
}

impl CoordinatorConfig {
    /// A client of it.
    ///
    /// # Errors
    /// If an address is none, or the certificates cannot be used.
    pub fn client(&self) -> Result<Client, Error> {
        let text = |error: &dyn std::fmt::Display| Error::Config(format!("the coordinator: {error}"));
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
        };
        let tls = Tls::from_pem(&read(&self.authority)?, &read(&self.certificate)?, &read(&self.key)?)
            .map_err(|error| text(&error))?;
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.parse::<Endpoint>());
        let endpoints = endpoints.collect::<Result<_, _>>().map_err(|error| text(&error))?;
        Client::new(&ClientSettings::new(endpoints, Some(tls))).map_err(|error| text(&error))
    }
}

/// What is read of the leader's key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Leader {
    epoch: u64,
    server: String,
    phase: String,
}

/// What is read of a server's own key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Member {
    applied: Gtid,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    streaming: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Gtid {
    domain: u32,
    server: u32,
    seq: u64,
}

/// The keys that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    leader: Option<Leader>,
    members: BTreeMap<String, Member>,
}

impl Seen {
    fn put(&mut self, key: &str, value: &[u8]) {
        if key == "leader" {
            self.leader = serde_json::from_slice(value).ok();
        } else if let Some(name) = key.strip_prefix("members/") {
            match serde_json::from_slice(value) {
                Ok(member) => self.members.insert(name.to_owned(), member),
                Err(_) => self.members.remove(name),
            };
        }
    }

    fn delete(&mut self, key: &str) {
        if key == "leader" {
            self.leader = None;
        } else if let Some(name) = key.strip_prefix("members/") {
            self.members.remove(name);
        }
    }

    /// What follows for statements. `last` is the epoch that was told last: while nobody leads, it is still that.
    fn topology(&self, addresses: &BTreeMap<String, SocketAddr>, last: u64) -> Topology {
        let server = |name: &String, applied: Position, fresh: bool| {
            let address = Address::Tcp(*addresses.get(name)?);
            Some(Server { name: name.clone(), address, tls_name: None, applied, fresh })
        };
        let open = self.leader.as_ref().filter(|leader| leader.phase == "open");
        let replica = |(name, member): (&String, &Member)| {
            if open.is_some_and(|leader| leader.server == *name) {
                return None;
            }
            let follows = open.is_some_and(|leader| member.source.as_ref() == Some(&leader.server));
            let Gtid { domain, server: by, seq } = member.applied;
            let applied =
                if seq == 0 { Position::default() } else { format!("{domain}-{by}-{seq}").parse().ok()? };
            server(name, applied, member.streaming && follows)
        };
        Topology {
            epoch: self.leader.as_ref().map_or(last, |leader| leader.epoch.max(last)),
            primary: open.and_then(|leader| server(&leader.server, Position::default(), true)),
            paused: false,
            replicas: self.members.iter().filter_map(replica).collect(),
        }
    }
}

/// Tells every change, for ever.
pub async fn follow(config: CoordinatorConfig, client: Client, teller: Teller) {
    loop {
        let listing = match client.list(&config.prefix).await {
            Ok(listing) => listing,
            Err(error) => {
                // Who took writes a moment ago most likely still does, and says so itself if not.
                tracing::warn!(%error, "the coordinator cannot be read");
                sleep(PAUSE).await;
                continue;
            }
        };
        let mut seen = Seen::default();
        let put = |seen: &mut Seen, key_value: &KeyValue| {
            if let Some(key) = key_value.key.strip_prefix(&config.prefix) {
                seen.put(key, &key_value.value);
            }
        };
        listing.keys.iter().for_each(|key_value| put(&mut seen, key_value));
        teller.tell(seen.topology(&config.members, teller.now().epoch));
        let mut watch = client.watch(&config.prefix, listing.revision + 1);
        loop {
            let events = match watch.next().await {
                Watched::Changed(events) => events,
                Watched::StartOver { why } => {
                    tracing::info!(why, "the coordinator is read anew");
                    break;
                }
            };
            for event in &events {
                match &event.change {
                    Change::Put(key_value) => put(&mut seen, key_value),
                    Change::Deleted { key } => {
                        if let Some(key) = key.strip_prefix(&config.prefix) {
                            seen.delete(key);
                        }
                    }
                }
            }
            teller.tell(seen.topology(&config.members, teller.now().epoch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> BTreeMap<String, SocketAddr> {
        let one =
            |number: u8| (format!("server{number}"), SocketAddr::from(([10, 10, 0, 10 + number], 3306)));
        (1..=3).map(one).collect()
    }

    fn seen() -> Seen {
        let mut seen = Seen::default();
        seen.put("leader", br#"{"epoch": 7, "server": "server1", "phase": "open", "since_ms": 1}"#);
        for (name, source, streaming) in
            [("server1", "null", false), ("server2", "\"server1\"", true), ("server3", "\"server2\"", true)]
        {
            let text = format!(
                r#"{{"state": "replica", "applied": {{"domain": 0, "server": 9, "seq": 42}}, "source": {source}, "streaming": {streaming}}}"#
            );
            seen.put(&format!("members/{name}"), text.as_bytes());
        }
        seen
    }

    #[test]
    fn the_open_leader_takes_writes_and_who_streams_from_it_reads() {
        let topology = seen().topology(&addresses(), 3);
        assert_eq!(
            (topology.epoch, topology.primary.map(|server| server.name)),
            (7, Some("server1".to_owned()))
        );
        let fresh: Vec<_> =
            topology.replicas.iter().map(|server| (server.name.as_str(), server.fresh)).collect();
        assert_eq!(fresh, [("server2", true), ("server3", false)], "one follows another than the primary");
        assert_eq!(topology.replicas[0].applied, "0-9-42".parse().unwrap());
    }

    #[test]
    fn while_nobody_leads_nobody_takes_writes_and_the_epoch_stays() {
        let mut seen = seen();
        seen.delete("leader");
        let topology = seen.topology(&addresses(), 7);
        assert_eq!((topology.epoch, topology.primary), (7, None));
        assert!(topology.replicas.iter().all(|server| !server.fresh), "nobody knows whom they should follow");
    }

    #[test]
    fn a_leader_that_recovers_takes_no_writes_yet() {
        let mut seen = seen();
        seen.put("leader", br#"{"epoch": 8, "server": "server2", "phase": "recovering", "since_ms": 1}"#);
        assert_eq!(seen.topology(&addresses(), 7).primary, None);
    }

    #[test]
    fn what_cannot_be_read_counts_as_not_there() {
        let mut seen = seen();
        seen.put("leader", b"{");
        seen.put("members/server2", b"[]");
        let topology = seen.topology(&addresses(), 7);
        assert_eq!(topology.primary, None);
        assert!(topology.replicas.iter().all(|server| server.name != "server2"));
    }
}
