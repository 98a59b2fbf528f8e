//! Running a command inside a host, as if one had signed in there.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::Error;
use crate::state::{HostRecord, SiteState};

/// A command that runs inside a host: in its namespaces, with its files, processes and network.
fn command(host: &HostRecord, program: &[String]) -> Command {
    let mut command = Command::new("nsenter");
    if Path::new("/proc/self/ns/time").exists() {
        command.arg("--time");
    }
    command
        .args(["-t", &host.pid.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"])
        .args(program)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root");
    if let Ok(terminal) = std::env::var("TERM") {
        command.env("TERM", terminal);
    }
    if let Ok(language) = std::env::var("LANG") {
        command.env("LANG", language);
    }
    command
}

/// A host of a site that is up.
///
/// # Errors
/// [`Error::NoSite`] if there is no such host, or it is down.
pub(crate) fn living(site: &SiteState, name: &str) -> Result<HostRecord, Error> {
    let record = site.record();
    let Some(host) = record.hosts.get(name) else {
        let names: Vec<&str> = record.hosts.keys().map(String::as_str).collect();
        let known = if names.is_empty() { "it has none that is up".to_owned() } else { names.join(", ") };
        return Err(Error::NoSite(format!(
            "the site {} has no host `{name}`; its hosts: {known}",
            site.name
        )));
    };
    if !host.is_alive() {
        return Err(Error::NoSite(format!(
            "host `{name}` of the site {} is down; `mainstay up` revives it",
            site.name
        )));
    }
    Ok(host.clone())
}

/// Becomes the command: enters the host's control groups and namespaces, and is gone into it.
///
/// # Errors
/// Only returns if that cannot be done.
pub fn exec(site: &SiteState, name: &str, program: &[String]) -> Error {
    let host = match living(site, name) {
        Ok(host) => host,
        Err(error) => return error,
    };
    for group in control_groups(site, name) {
        // Without it the command's memory and time would count as the machine's; that is no reason not to run it.
        let _ = fs::write(group.join("cgroup.procs"), "0");
    }
    // What it starts is to see as many processors as the host has.
    let processors = sched_getaffinity(Pid::from_raw(host.pid));
    let _ = processors.and_then(|set| sched_setaffinity(Pid::from_raw(0), &set));
    let error = command(&host, program).exec();
    Error::Command { command: "nsenter".to_owned(), reason: error.to_string() }
}

/// Runs a command inside a host and waits for it.
pub(crate) fn output(host: &HostRecord, program: &[&str]) -> Result<Output, Error> {
    let program: Vec<String> = program.iter().map(|part| (*part).to_owned()).collect();
    let failed =
        |error: std::io::Error| Error::Command { command: program.join(" "), reason: error.to_string() };
    command(host, &program).output().map_err(failed)
}

/// A host's control groups, one in each hierarchy that this machine has.
pub(crate) fn control_groups(site: &SiteState, host: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let below = |tree: PathBuf| tree.join(site.group()).join(host);
    if root.join("cgroup.controllers").exists() {
        return vec![below(root)];
    }
    ["cpu", "cpuacct", "memory", "pids", "freezer", "blkio"]
        .iter()
        .map(|controller| root.join(controller))
        .filter(|tree| tree.join("cgroup.procs").exists())
        .map(below)
        .collect()
}
