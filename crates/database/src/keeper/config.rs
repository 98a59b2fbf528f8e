//! What a keeper is told at its start, and what follows from it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_coordinator::{Client, ClientSettings, Endpoint, Tls};
use mainstay_site::ServerName;
use mainstay_site::plan::cluster::{ClusterMember, ClusterPlan};
use mainstay_site::plan::{DatabasePlan, cluster};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::Place;
use crate::cluster::{Durability, Name, Promotion, Settings, Timing};
use crate::mariadb::{self, Acknowledged, TlsFiles};

/// The site's authority among a server's secrets.
const AUTHORITY: &str = "site-authority";
/// The server's own certificate among them.
const CERTIFICATE: &str = "server-certificate";
/// Its key.
const KEY: &str = "server-key";
/// Threads that apply what a replica received.
const APPLIERS: u16 = 4;

/// What a keeper reads at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Its server's share of the plan.
    pub plan: KeeperPlan,
    /// The folder of its sockets, and of mariadbd's.
    pub run: PathBuf,
    /// The folder of logs; mariadbd's is in `database` in it.
    pub log: PathBuf,
    /// Its secrets, one file each.
    pub secrets: PathBuf,
}

/// A server's share of the plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeeperPlan {
    /// The server.
    pub server: ServerName,
    /// The database. It has a cluster.
    pub database: DatabasePlan,
    /// The folder that holds the data, and what is beside them.
    pub data: PathBuf,
    /// The user that keeper and mariadbd run as.
    pub user: String,
    /// Where replicas come from, as accounts' hosts; empty for the members' addresses.
    #[serde(default)]
    pub replicas_from: Vec<String>,
}

/// All of it, checked.
pub(super) struct Setup {
    pub(super) me: Name,
    pub(super) plan: DatabasePlan,
    pub(super) cluster: ClusterPlan,
    pub(super) place: Place,
    pub(super) log: PathBuf,
    pub(super) secrets: PathBuf,
    pub(super) tls_files: TlsFiles,
    pub(super) tls: Tls,
    pub(super) address: Ipv4Addr,
    pub(super) replicas_from: Vec<String>,
}

impl Setup {
    pub(super) fn new(config: Config) -> Result<Self, Error> {
        let Config { plan: keeper, run, log, secrets } = config;
        let cluster = keeper.database.cluster.clone().ok_or(Error::NoCluster)?;
        let own = cluster.members.iter().find(|member| member.server == keeper.server);
        let own = own.ok_or_else(|| Error::NoMember(keeper.server.clone()))?;
        let address = ipv4(own)?;
        let file = |name: &str| secrets.join(name);
        let tls_files =
            TlsFiles { authority: file(AUTHORITY), certificate: file(CERTIFICATE), key: file(KEY) };
        let tls = Tls::from_pem(
            &read(&tls_files.authority)?,
            &read(&tls_files.certificate)?,
            &read(&tls_files.key)?,
        )?;
        let replicas_from = if keeper.replicas_from.is_empty() {
            cluster.members.iter().map(|member| member.address.ip().to_string()).collect()
        } else {
            keeper.replicas_from
        };
        Ok(Self {
            me: keeper.server.as_str().into(),
            place: Place { data: keeper.data.join("data"), run, user: keeper.user },
            plan: keeper.database,
            cluster,
            log: log.join("database"),
            secrets,
            tls_files,
            tls,
            address,
            replicas_from,
        })
    }

    /// What the machine is told.
    pub(super) fn settings(&self) -> Settings {
        let promotion = |member: &ClusterMember| match member.promotion {
            cluster::Promotion::Prefer => Promotion::Prefer,
            cluster::Promotion::Usual => Promotion::Allow,
            cluster::Promotion::Never => Promotion::Never,
        };
        let servers = self.cluster.members.iter();
        Settings {
            me: self.me.clone(),
            servers: servers.map(|member| (member.server.as_str().into(), promotion(member))).collect(),
            durability: match self.cluster.durability {
                cluster::Durability::NoLoss => Durability::NoLoss,
                cluster::Durability::Available => Durability::Available,
            },
            timing: Timing::with_ttl(self.lease()),
        }
    }

    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.cluster.lease_ms.into())
    }

    /// What the keys of the database begin with.
    pub(super) fn prefix(&self) -> String {
        format!("{}db/", self.cluster.coordinator.prefix)
    }

    pub(super) fn coordinator(&self) -> Result<Client, Error> {
        let endpoints = &self.cluster.coordinator.endpoints;
        let endpoints = endpoints.iter().map(|text| text.parse::<Endpoint>()).collect::<Result<_, _>>()?;
        Ok(Client::new(&ClientSettings::new(endpoints, Some(self.tls.clone())))?)
    }

    pub(super) fn configuration(&self) -> String {
        let settings = mariadb::Settings {
            plan: &self.plan,
            server: self.address,
            place: &self.place,
            tls: &self.tls_files,
            acknowledged: Acknowledged::Received,
            applier_threads: APPLIERS,
            extra_port: None,
        };
        settings.text()
    }

    pub(super) fn configuration_file(&self) -> PathBuf {
        self.place.run.join("my.cnf")
    }

    pub(super) fn secret(&self, name: &str) -> Result<String, Error> {
        let path = self.secrets.join(name);
        let text = read(&path)?;
        Ok(String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned())
    }

    pub(super) fn member(&self, name: &Name) -> Option<&ClusterMember> {
        self.cluster.members.iter().find(|member| member.server.as_str() == name.as_str())
    }

    pub(super) fn addresses(&self) -> Vec<Ipv4Addr> {
        self.cluster.members.iter().filter_map(|member| ipv4(member).ok()).collect()
    }

    /// The member at an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<Name> {
        self.find(|member| member.address.ip() == address)
    }

    /// The member that listens there.
    pub(super) fn listening(&self, address: SocketAddr) -> Option<Name> {
        self.find(|member| member.address == address)
    }

    fn find(&self, is: impl Fn(&ClusterMember) -> bool) -> Option<Name> {
        self.cluster.members.iter().find(|member| is(member)).map(|member| member.server.as_str().into())
    }
}

pub(super) fn ipv4(member: &ClusterMember) -> Result<Ipv4Addr, Error> {
    match member.address.ip() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(Error::NoIpv4(member.server.clone())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File { doing: "read", path: path.to_owned(), source })
}
