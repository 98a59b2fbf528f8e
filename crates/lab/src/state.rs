//! What lies on the real machine's disk for each site, and which processes belong to it.
//!
//! ```text
//! STATE/SITE/
//!   site.toml      the file as it was last brought up
//!   lab.json       the hosts' first processes and the ports on 127.0.0.1
//!   lock           held by whoever changes the site
//!   bin/DIGEST/    the binary that the hosts run; `current` points at one
//!   secrets/       made once, mode 0600
//!   identity/      the certificate authority of the site, and the certificates of its servers
//!   releases/      built releases, before they go to the servers
//!   hosts/NAME/    run/ (sockets), log/, etc/, disk.img or disk/, host.json, services.json
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mainstay_site::SiteName;
use serde::{Deserialize, Serialize};

use crate::error::{Error, file};

/// The folder of all sites' state.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
}

impl State {
    /// State in this folder, as an absolute path.
    ///
    /// # Errors
    /// If the working folder is gone, so that a relative path leads nowhere.
    pub fn at(root: &Path) -> Result<Self, Error> {
        let root = std::path::absolute(root).map_err(file("find", root))?;
        Ok(Self { root })
    }

    /// The folder of one site.
    pub fn site(&self, name: &SiteName) -> SiteState {
        SiteState { name: name.clone(), folder: self.root.join(name.as_str()) }
    }

    /// All sites that have state here, by name.
    pub fn sites(&self) -> Vec<SiteState> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let mut sites: Vec<SiteState> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .map(|name| self.site(&name))
            .filter(|site| site.record_file().exists() || site.folder.join("lock").exists())
            .collect();
        sites.sort_by(|one, other| one.name.cmp(&other.name));
        sites
    }

    /// The site that is meant: the named one, or the only one.
    ///
    /// # Errors
    /// [`Error::NoSite`] if there is none, or more than one to choose from.
    pub fn choose(&self, name: Option<&SiteName>) -> Result<SiteState, Error> {
        let mut sites = self.sites();
        if let Some(name) = name {
            sites.retain(|site| site.name == *name);
        }
        match sites.len() {
            1 => Ok(sites.remove(0)),
            0 => {
                let what = name.map_or_else(|| "no site".to_owned(), |name| format!("no site `{name}`"));
                let root = self.root.display();
                Err(Error::NoSite(format!(
                    "{what} is up here (state: {root}); bring one up with `mainstay up SITE`"
                )))
            }
            _ => {
                let names: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
                Err(Error::NoSite(format!(
                    "several sites are here: {}; choose with --site NAME",
                    names.join(", ")
                )))
            }
        }
    }

    /// Removes the folder itself if no site is left in it.
    pub(crate) fn remove_if_empty(&self) {
        // Not empty, or never made: both are fine.
        let _ = fs::remove_dir(&self.root);
    }
}

/// One site's state on disk.
#[derive(Debug, Clone)]
pub struct SiteState {
    /// The site.
    pub name: SiteName,
    /// Its folder.
    pub folder: PathBuf,
}

/// Held while a site is changed; released when dropped, and by the kernel if the process dies.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl SiteState {
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        for folder in ["", "hosts", "secrets", "releases", "bin"] {
            let path = self.folder.join(folder);
            let mode = if folder == "secrets" { 0o700 } else { 0o755 };
            fs::DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(file("make", &path))?;
        }
        Ok(())
    }

    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        let path = self.folder.join("lock");
        let lock = File::create(&path).map_err(file("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Lock(lock)),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { site: self.name.to_string(), path }),
            Err(TryLockError::Error(source)) => Err(Error::File { doing: "lock", path, source }),
        }
    }

    /// The name of the site's control groups. Sites of one name with different state folders are different sites.
    pub(crate) fn group(&self) -> String {
        let path = self.folder.as_os_str().as_encoded_bytes();
        let hash = path
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        format!("mainstay-{}-{hash:08x}", self.name)
    }

    fn record_file(&self) -> PathBuf {
        self.folder.join("lab.json")
    }

    /// What runs, as it was last written down.
    pub fn record(&self) -> Record {
        let text = fs::read_to_string(self.record_file()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(record).unwrap_or_default();
        write_atomically(&self.record_file(), text.as_bytes(), 0o644)
    }

    /// The folder of one host.
    pub fn host(&self, name: &str) -> HostState {
        HostState { folder: self.folder.join("hosts").join(name) }
    }
}

/// One host's folder.
#[derive(Debug, Clone)]
pub struct HostState {
    /// The folder.
    pub folder: PathBuf,
}

impl HostState {
    /// Sockets; `/run/mainstay` of the host.
    pub fn run(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Logs; `/var/log/mainstay` of the host.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.folder.join("etc")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.folder.join("host.json")
    }

    /// The services that the host's first process keeps running; it reads them again on SIGHUP.
    pub(crate) fn services(&self) -> PathBuf {
        self.run().join("services.json")
    }

    /// Made by the host's first process when its inside is ready.
    pub(crate) fn ready(&self) -> PathBuf {
        self.run().join("host-ready")
    }

    /// The agent's control socket, seen from the real machine.
    pub fn agent_socket(&self) -> PathBuf {
        self.run().join("agent.sock")
    }
}

/// The processes of a site, as numbered on the real machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// The hosts by name: servers, `client`, `internet`.
    pub hosts: BTreeMap<String, HostRecord>,
    /// Port on 127.0.0.1 of the real machine that leads to the website.
    pub http_port: Option<u16>,
    /// Port on 127.0.0.1 of the real machine that leads to it by HTTPS, where the site has that.
    #[serde(default)]
    pub https_port: Option<u16>,
    /// The numbers of the apps' users. An app keeps its own for ever: files on the servers' disks carry it.
    #[serde(default)]
    pub(crate) app_users: BTreeMap<String, u32>,
}

/// A host's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its number on the real machine.
    pub pid: i32,
    /// When it was started, in clock ticks since boot: with the boot's id it tells it from a later process of the same number.
    pub start_ticks: u64,
    /// The boot in which it was started.
    pub boot_id: String,
}

impl HostRecord {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let start_ticks = Life::of(pid)?.start_ticks;
        Some(Self { pid, start_ticks, boot_id: boot_id() })
    }

    /// Whether that very process still runs. One that was killed does not, though it may be there until the host's other
    /// processes have ended.
    pub fn is_alive(&self) -> bool {
        self.life().is_some_and(|life| !life.is_ending)
    }

    /// Whether nothing is left of it, so that its disk is free.
    pub(crate) fn is_gone(&self) -> bool {
        self.life().is_none()
    }

    fn life(&self) -> Option<Life> {
        Life::of(self.pid).filter(|life| life.start_ticks == self.start_ticks && self.boot_id == boot_id())
    }

    /// A path inside the host, seen from the real machine.
    pub fn inside(&self, path: &Path) -> PathBuf {
        let relative = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(relative)
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A process as /proc/PID/stat tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    start_ticks: u64,
    is_ending: bool,
}

/// `PF_EXITING`, among the flags of field 9.
const EXITING: u32 = 4;

impl Life {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Nothing for a process that only waits to be reaped.
    fn parse(stat: &str) -> Option<Self> {
        // The second field is the name in parentheses, which may itself hold spaces and parentheses.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        let flags: u32 = fields.nth(5)?.parse().ok()?;
        // Field 22.
        let start_ticks = fields.nth(12)?.parse().ok()?;
        Some(Self { start_ticks, is_ending: flags & EXITING != 0 })
    }
}

/// Writes a whole file or nothing, so that a crash in the middle leaves the old one.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    // A leftover of an interrupted write would keep its own mode.
    let _ = fs::remove_file(&temporary);
    let write = || -> std::io::Result<()> {
        let mut new = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        new.write_all(content)?;
        new.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().map_err(file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_process_is_dead_before_it_is_gone() {
        let stat = |state: &str, flags: u32| {
            format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2\n")
        };
        let life = |is_ending| Some(Life { start_ticks: 4711, is_ending });
        assert_eq!(Life::parse(&stat("S", 0x0040_0100)), life(false));
        assert_eq!(Life::parse(&stat("S", 0x0040_0104)), life(true));
        assert_eq!(Life::parse(&stat("Z", 0x0040_0104)), None);
        let this = HostRecord::of(std::process::id().cast_signed()).unwrap();
        assert!(this.is_alive() && !this.is_gone());
    }
}
