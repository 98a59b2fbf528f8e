//! One host of the lab: a process tree in namespaces of its own, with its own network, disk, processes and limits.
//!
//! `up` writes a [`HostSpec`] and starts the launcher, which enters the host's control groups, makes the namespaces and leaves; its
//! child is the host's first process ([`init`]): it mounts what the host sees, keeps the host's services running, and
//! with it the host ends, as a machine does without power.

pub(crate) mod init;
pub(crate) mod launch;
mod mounts;
mod readings;
mod service;

use std::net::IpAddr;
use std::path::PathBuf;

use mainstay_site::ByteSize;
use serde::{Deserialize, Serialize};

pub(crate) use service::Service;

/// What a host is, as long as it lives. A change of anything here takes a new start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HostSpec {
    pub(crate) site: String,
    pub(crate) name: String,
    /// The host's folder on the real machine.
    pub(crate) folder: PathBuf,
    /// The folder with the binaries on the real machine.
    pub(crate) binaries: PathBuf,
    /// The control groups of the host on the real machine, one per hierarchy.
    pub(crate) cgroups: Vec<PathBuf>,
    /// The size of its disk; hosts that are no servers have none.
    pub(crate) disk: Option<ByteSize>,
    /// The machine's processors that are its own; without it, all are.
    pub(crate) processors: Option<Vec<usize>>,
    /// Whether it forwards packets between its networks.
    pub(crate) forwards: bool,
}

/// Where the lab's binary lies inside a host.
pub(crate) const BINARY: &str = "/run/mainstay-lab/bin/current/mainstay";

/// A user that exists inside the hosts only.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) id: u32,
}

/// The first number of the roles' users. Debian's own system users are below 1000, people below 60000, and systemd's dynamic ones below 65520.
const FIRST_USER: u32 = 62_000;

/// The first number of the apps' users; those of Mainstay's own roles come before.
pub(crate) const FIRST_APP_USER: u32 = FIRST_USER + 10;

/// The users of a server's roles: those of Mainstay's own, and those of the apps with their numbers.
pub(crate) fn users<'a>(apps: impl Iterator<Item = (&'a String, &'a u32)>) -> Vec<User> {
    let roles = ["web", "dns", "database", "edge"].into_iter().zip(FIRST_USER..);
    let roles = roles.map(|(role, id)| User { name: format!("mainstay-{role}"), id });
    roles.chain(apps.map(|(app, id)| User { name: format!("mainstay-app-{app}"), id: *id })).collect()
}

/// The files of /etc that a host has of its own.
pub(crate) struct Etc {
    pub(crate) users: Vec<User>,
    pub(crate) hosts: Vec<(IpAddr, String)>,
    pub(crate) resolver: Option<IpAddr>,
    pub(crate) search: String,
}

impl Etc {
    /// The files' names and contents; users and groups are added to those of the real machine.
    pub(crate) fn files(&self, name: &str, passwd: &str, group: &str) -> Vec<(&'static str, String)> {
        let mut passwd = passwd.to_owned();
        let mut group = group.to_owned();
        for user in &self.users {
            let User { name, id } = user;
            passwd.push_str(&format!("{name}:x:{id}:{id}:Mainstay role:/nonexistent:/usr/sbin/nologin\n"));
            group.push_str(&format!("{name}:x:{id}:\n"));
        }
        let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (address, name) in &self.hosts {
            hosts.push_str(&format!("{address} {name}\n"));
        }
        let resolver = self.resolver.map_or(String::new(), |resolver| {
            format!("nameserver {resolver}\nsearch {}\noptions timeout:1 attempts:2\n", self.search)
        });
        vec![
            ("passwd", passwd),
            ("group", group),
            ("hosts", hosts),
            ("hostname", format!("{name}\n")),
            ("resolv.conf", resolver),
        ]
    }
}
