//! The launcher: enters the control groups, makes the namespaces, starts the first process in them and leaves.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

use super::HostSpec;
use super::mounts::eprint_line;
use crate::error::{Error, file, host};

/// A time namespace (`time_namespaces(7)`), since Linux 5.6; the bindings that we use have no name for it.
const CLONE_NEWTIME: i32 = 0x80;

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
    if let Err(error) = start_clock() {
        eprint_line(&format!("the host counts its time since the machine's start: {error}"));
    }
    if let Some(processors) = &spec.processors {
        let set = processor_set(processors).map_err(|error| host(&spec.name, error))?;
        sched_setaffinity(Pid::from_raw(0), &set)
            .map_err(|error| host(&spec.name, format!("it cannot have its processors: {error}")))?;
    }
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
        // Root it is already; saying so makes this a fork, for a vfork does not enter the time namespace.
        .uid(0)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .spawn()
        .map_err(|error| host(&spec.name, format!("its first process cannot be started: {error}")))?;
    let mut stdout = io::stdout().lock();
    io::Write::write_all(&mut stdout, format!("{}\n", child.id()).as_bytes())
        .map_err(file("write to", Path::new("/dev/stdout")))
}

/// The host's time since its start begins now, for the children of this process: what `uptime` and `ps` go by.
fn start_clock() -> io::Result<()> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let now: f64 = uptime.split(' ').next().and_then(|now| now.parse().ok()).unwrap_or(0.0);
    unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))?;
    // Seconds, which may be negative, and nanoseconds, which may not. Clocks other than this one go on as the machine's.
    let (seconds, nanoseconds) = (now.ceil(), (now.ceil() - now) * 1e9);
    fs::write("/proc/self/timens_offsets", format!("boottime -{seconds} {nanoseconds:.0}"))
}

/// For `sched_setaffinity(2)`.
fn processor_set(processors: &[usize]) -> nix::Result<CpuSet> {
    let mut set = CpuSet::new();
    processors.iter().try_for_each(|processor| set.set(*processor))?;
    Ok(set)
}

pub(super) fn read_spec(path: &Path) -> Result<HostSpec, Error> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    serde_json::from_str(&text).map_err(io::Error::other).map_err(file("understand", path))
}
