//! Taking a site down: in order, and leaving nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::enter::control_groups;
use crate::error::{Error, file};
use crate::state::{HostRecord, Record, SiteState, State};
use crate::{CLIENT, INTERNET};

/// Servers stop their roles in order; a database writes out what it holds.
const GRACE: Duration = Duration::from_secs(150);
/// After SIGKILL the kernel only has to clear away.
pub(crate) const KILLED: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes a site down. `said` hears of each host. With `purge` its state goes as well: databases, secrets, logs.
///
/// # Errors
/// [`Error`] if something cannot be ended or removed.
pub fn down(state: &State, site: &SiteState, purge: bool, said: &dyn Fn(&str, &str)) -> Result<(), Error> {
    let lock = site.lock()?;
    let record = site.record();
    // Servers first, while the network between them and their visitors still stands; `internet` last.
    let servers: Vec<(&String, &HostRecord)> =
        record.hosts.iter().filter(|(name, _)| *name != CLIENT && *name != INTERNET).collect();
    let rest: Vec<(&String, &HostRecord)> =
        [CLIENT, INTERNET].iter().filter_map(|name| record.hosts.get_key_value(*name)).collect();
    for hosts in [servers, rest] {
        for (name, host) in &hosts {
            if host.is_alive() {
                said(name, "stopping");
                signal(host, Signal::SIGTERM);
            }
        }
        for (name, host) in &hosts {
            if !gone(host, GRACE) {
                said(name, "does not end in time; killed");
                signal(host, Signal::SIGKILL);
                gone(host, KILLED);
            }
            remove_groups(site, name);
            said(name, "stopped");
        }
    }
    remove_leftover_groups(site);
    // The site's next life keeps its port and its users' numbers.
    site.write_record(&Record { hosts: BTreeMap::new(), ..record.clone() })?;
    if purge {
        drop(lock);
        fs::remove_dir_all(&site.folder).map_err(file("remove", &site.folder))?;
        state.remove_if_empty();
    } else {
        for host in record.hosts.keys() {
            // Sockets of processes that are gone.
            let _ = fs::remove_dir_all(site.host(host).run());
        }
    }
    Ok(())
}

pub(crate) fn signal(host: &HostRecord, signal: Signal) {
    if host.is_alive() {
        // It may end in this very moment; then there is nobody to tell.
        let _ = kill(Pid::from_raw(host.pid), signal);
    }
}

/// Waits until nothing is left of a host, and tells whether that is so.
pub(crate) fn gone(host: &HostRecord, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !host.is_gone() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// Removes a host's groups. The site's own, above them, stay: another host may be entering it in this moment.
pub(crate) fn remove_groups(site: &SiteState, host: &str) {
    for group in control_groups(site, host) {
        let deadline = Instant::now() + Duration::from_secs(3);
        // The kernel lets go of a group a moment after its last process is reaped.
        while !remove_group(&group) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Groups of hosts that no record knows any more: of an `up` that was cut off.
fn remove_leftover_groups(site: &SiteState) {
    for group in control_groups(site, CLIENT) {
        let Some(parent) = group.parent() else { continue };
        let hosts =
            fs::read_dir(parent).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        for host in hosts {
            remove_group(&host.path());
        }
        let _ = fs::remove_dir(parent);
    }
}

/// Removes a group and those below it; tells whether it is gone.
fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
    !group.exists()
}
