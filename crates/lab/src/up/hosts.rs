//! The hosts: those that live stay, the others are started, and then all are wired.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mainstay_site::{ByteSize, Plan};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::Up;
use crate::enter::control_groups;
use crate::error::{Error, file, host};
use crate::host::{Etc, FIRST_APP_USER, HostSpec, users};
use crate::network::{self, Outside};
use crate::state::{HostRecord, write_atomically};
use crate::{CLIENT, INTERNET};

/// The disk of a server whose file gives no size; it takes only what is written to it.
const DEFAULT_DISK: ByteSize = ByteSize::from_mebibytes(8 * 1024);
/// How long a host may take to arrange its inside.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest path of a Unix socket, in bytes (unix(7)), that all hosts' sockets must fit.
const SOCKET_PATH_BYTES: usize = 107;

impl Up<'_> {
    /// Lets every host live and be wired.
    pub(super) fn hosts(&self, plans: &[Plan]) -> Result<BTreeMap<String, HostRecord>, Error> {
        let longest =
            self.state.folder.join("hosts").join("a-server-name-of-32-bytes-at-most/run/notify-resolver");
        if longest.as_os_str().len() > SOCKET_PATH_BYTES {
            let folder = self.state.folder.display();
            return Err(Error::NoSite(format!(
                "the path {folder} is too long for sockets; choose a shorter --state"
            )));
        }
        let mut record = self.state.record();
        let mut wanted: Vec<(String, Option<&Plan>)> =
            vec![(INTERNET.to_owned(), None), (CLIENT.to_owned(), None)];
        wanted.extend(plans.iter().map(|plan| (plan.server.to_string(), Some(plan))));
        let gone: Vec<String> = record
            .hosts
            .keys()
            .filter(|name| !wanted.iter().any(|(host, _)| host == *name))
            .cloned()
            .collect();
        for name in gone {
            (self.said)(&name, "not in the file any more; ended");
            if let Some(host) = record.hosts.remove(&name) {
                crate::down::signal(&host, nix::sys::signal::Signal::SIGTERM);
            }
        }
        for app in &self.options.site.apps {
            let next = record.app_users.values().max().map_or(FIRST_APP_USER, |last| last + 1);
            record.app_users.entry(app.name.to_string()).or_insert(next);
        }
        // What was killed a moment ago holds its disk until its last process has ended.
        for (name, host) in record.hosts.iter().filter(|(_, host)| !host.is_alive()) {
            if !crate::down::gone(host, crate::down::KILLED) {
                return Err(crate::error::host(name, "its processes were killed and do not end"));
            }
        }
        let users = record.app_users.clone();
        for (name, _) in
            wanted.iter().filter(|(name, _)| record.hosts.get(name).is_some_and(HostRecord::is_alive))
        {
            self.write_etc(name, &users)?;
        }
        let processors = processors_of(plans.iter().map(|plan| plan.resources.cpus), &machine_processors());
        let started = std::thread::scope(|scope| {
            let threads: Vec<_> = wanted
                .iter()
                .filter(|(name, _)| !record.hosts.get(name).is_some_and(HostRecord::is_alive))
                .map(|(name, plan)| {
                    let place = plans.iter().position(|known| known.server.as_str() == name);
                    let own = place.and_then(|place| processors[place].clone());
                    let users = &users;
                    (name.clone(), scope.spawn(move || self.start(name, *plan, own, users)))
                })
                .collect();
            threads
                .into_iter()
                .map(|(name, thread)| {
                    (name, thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                })
                .collect::<Vec<_>>()
        });
        let mut failed = None;
        for (name, result) in started {
            match result {
                Ok(host) => drop(record.hosts.insert(name, host)),
                Err(error) => failed = Some(error),
            }
        }
        // Also after a failure: what was started is known, so that `down` ends it.
        self.state.write_record(&record)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let servers: Vec<_> = self
            .options
            .site
            .servers
            .iter()
            .map(|server| (server, record.hosts[server.name.as_str()].clone()))
            .collect();
        network::plug(self.options.site, &record.hosts[INTERNET], &record.hosts[CLIENT], &servers)?;
        Ok(record.hosts)
    }

    fn start(
        &self,
        name: &str,
        plan: Option<&Plan>,
        processors: Option<Vec<usize>>,
        users: &BTreeMap<String, u32>,
    ) -> Result<HostRecord, Error> {
        (self.said)(name, "starting");
        let folder = self.state.host(name);
        // What a dead one left: sockets that nobody listens on, and groups that count nobody's time.
        let _ = fs::remove_dir_all(folder.run());
        crate::down::remove_groups(self.state, name);
        for path in [folder.run(), folder.log(), folder.etc()] {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(file("make", &path))?;
        }
        self.write_etc(name, users)?;
        let cgroups = control_groups(self.state, name);
        for group in &cgroups {
            pass_controllers_on(group);
            fs::create_dir_all(group).map_err(file("make", group))?;
            if let Some(plan) = plan {
                limit(group, plan)?;
            }
        }
        let spec = HostSpec {
            site: self.state.name.to_string(),
            name: name.to_owned(),
            folder: folder.folder.clone(),
            binaries: self.state.folder.join("bin"),
            cgroups,
            disk: plan.map(|plan| plan.resources.disk.unwrap_or(DEFAULT_DISK)),
            processors,
            forwards: name == INTERNET,
        };
        let text = serde_json::to_vec_pretty(&spec).map_err(|error| host(name, error))?;
        write_atomically(&folder.spec(), &text, 0o644)?;
        let binary = self.state.folder.join("bin/current/mainstay");
        let output = Command::new(&binary)
            .args(["lab-host", "launch", "--spec"])
            .arg(folder.spec())
            .output()
            .map_err(file("run", &binary))?;
        let pid =
            String::from_utf8_lossy(&output.stdout).trim().parse().ok().filter(|_| output.status.success());
        let failed = |what: &str| {
            let log = fs::read_to_string(folder.log().join("host.log")).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            host(name, format!("{what} {}{last}", String::from_utf8_lossy(&output.stderr).trim()))
        };
        let record = pid.and_then(HostRecord::of).ok_or_else(|| failed("it ended at once:"))?;
        let deadline = Instant::now() + READY_WITHIN;
        while !folder.ready().exists() {
            if !record.is_alive() {
                return Err(failed("it ended while it arranged its inside:"));
            }
            if Instant::now() >= deadline {
                return Err(failed("it does not get ready:"));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(record)
    }

    /// The host's own files of /etc. A living host sees these very files, so they are written in place.
    fn write_etc(&self, name: &str, users: &BTreeMap<String, u32>) -> Result<(), Error> {
        let folder = self.state.host(name).etc();
        for (file_name, content) in
            self.etc(name, users).files(name, &read("/etc/passwd")?, &read("/etc/group")?)
        {
            let path = folder.join(file_name);
            if !fs::read_to_string(&path).is_ok_and(|known| known == content) {
                fs::write(&path, content).map_err(file("write", &path))?;
            }
        }
        Ok(())
    }

    fn etc(&self, name: &str, app_users: &BTreeMap<String, u32>) -> Etc {
        let site = self.options.site;
        let outside = Outside::of(site);
        let mut hosts: Vec<(IpAddr, String)> = Vec::new();
        if let Some(server) = site.servers.iter().find(|server| server.name.as_str() == name) {
            hosts.push((server.address.into(), name.to_owned()));
        }
        let resolver: IpAddr = match name {
            INTERNET => [127, 0, 0, 1].into(),
            CLIENT => outside.internet.into(),
            _ => site.network.servers.router().into(),
        };
        Etc {
            users: users(app_users.iter()),
            hosts,
            resolver: Some(resolver),
            search: site.domain.to_string(),
        }
    }
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(file("read", Path::new(path)))
}

/// The processors that `up` itself may use.
fn machine_processors() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap_or(false)).collect()
}

/// Which of the machine's processors each server runs on: as many as its `cpus`, rounded up, dealt out in turn so that
/// servers share as few as they can. Nothing for one that has as many as the machine, or more.
fn processors_of(wanted: impl Iterator<Item = Option<f64>>, machine: &[usize]) -> Vec<Option<Vec<usize>>> {
    let mut turn = machine.iter().copied().cycle();
    let deal = |cpus: Option<f64>| {
        let count = cpus.map(|cpus| cpus.ceil().max(1.0) as usize)?;
        (count < machine.len()).then(|| turn.by_ref().take(count).collect())
    };
    wanted.map(deal).collect()
}

/// In version 2 a group has the controllers that those above it pass on. Where that is not allowed, hosts have no limits.
fn pass_controllers_on(group: &Path) {
    let Some((site, root)) = group.parent().and_then(|site| Some((site, site.parent()?))) else { return };
    if root.join("cgroup.subtree_control").exists() && fs::create_dir_all(site).is_ok() {
        for above in [root, site] {
            let _ = fs::write(above.join("cgroup.subtree_control"), "+cpu +memory +pids");
        }
    }
}

/// The server's memory and processors, in whatever of the two control group versions this machine has.
fn limit(group: &Path, plan: &Plan) -> Result<(), Error> {
    let mut settings = Vec::new();
    if let Some(memory) = plan.resources.memory {
        settings.extend([
            ("memory.limit_in_bytes", memory.bytes().to_string()),
            ("memory.max", memory.bytes().to_string()),
        ]);
    }
    if let Some(cpus) = plan.resources.cpus {
        let quota = (cpus * 100_000.0) as u64;
        settings.extend([("cpu.cfs_quota_us", quota.to_string()), ("cpu.max", format!("{quota} 100000"))]);
    }
    for (name, value) in settings {
        let path = group.join(name);
        if path.exists() {
            fs::write(&path, value).map_err(file("set", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_dealt_out_in_turn() {
        let wanted = [Some(1.0), Some(0.5), None, Some(1.5), Some(4.0)];
        assert_eq!(
            processors_of(wanted.into_iter(), &[0, 1, 2]),
            [Some(vec![0]), Some(vec![1]), None, Some(vec![2, 0]), None]
        );
        assert_eq!(processors_of([Some(1.0)].into_iter(), &[0]), [None]);
        assert_eq!(processors_of([Some(1.0)].into_iter(), &[]), [None]);
    }
}
