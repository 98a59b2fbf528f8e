//! The launcher: enters the control groups, makes the namespaces, starts the first process in them and leaves.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::HostSpec;
use crate::error::{Error, file, host};

/// Runs the launcher: `mainstay lab-host launch --spec FILE`. Prints the first process's number.
///
/// # Errors
/// If the kernel refuses a namespace or a control group.
pub fn launch(spec_file: &Path) -> Result<(), Error> {
    let spec = read_spec(spec_file)?;
    for group in &spec.cgroups {
        let procs = group.join("cgroup.procs");
        fs::write(&procs, "0").map_err(file("enter the control group", &procs))?;
    }
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces)
        .map_err(|error| host(&spec.name, format!("the kernel refuses its namespaces: {error}")))?;
    let log = spec.folder.join("log/host.log");
    let output = fs::File::options().create(true).append(true).open(&log).map_err(file("open", &log))?;
    let errors = output.try_clone().map_err(file("open", &log))?;
    let binary = std::env::current_exe().map_err(file("find", Path::new("/proc/self/exe")))?;
    let child = Command::new(binary)
        .args(["lab-host", "init", "--spec"])
        .arg(spec_file)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .spawn()
        .map_err(|error| host(&spec.name, format!("its first process cannot be started: {error}")))?;
    let mut stdout = io::stdout().lock();
    io::Write::write_all(&mut stdout, format!("{}\n", child.id()).as_bytes())
        .map_err(file("write to", Path::new("/dev/stdout")))
}

pub(super) fn read_spec(path: &Path) -> Result<HostSpec, Error> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    serde_json::from_str(&text).map_err(io::Error::other).map_err(file("understand", path))
}
