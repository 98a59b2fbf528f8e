//! The shim between the supervisor and a program: `mainstay exec-child`.
//!
//! It reads a [`Launch`] from its standard input, becomes what that describes and then turns into the program. The order
//! matters: what needs root comes first, giving root up comes last. An error goes to standard error, which is the
//! role's log, and ends the shim with [`EXIT_NOT_STARTED`].

use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};
use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::descriptors::{FIRST, close_on_exec_from};
use crate::launch::Launch;
use crate::procfs::Identity;

/// The shim's exit code when it could not become the program; shells use it for the same.
pub const EXIT_NOT_STARTED: i32 = 126;
/// A description is configuration, never bulk.
const DESCRIPTION_BYTES: u64 = 4 << 20;
/// Open files per process, where the machine's hard limit allows it.
const OPEN_FILES: u64 = 65_536;
/// The highest number that the kernel's 64-bit sets have room for.
const CAPABILITY_NUMBERS: u32 = 64;

/// Reads the description from standard input and becomes the program. Answers only if that fails, with the exit code.
pub fn exec_child() -> i32 {
    let Err(error) = become_program();
    // Standard error is the role's log. If even that is gone, the exit code has to do.
    let _ = writeln!(io::stderr(), "the program could not be started: {error}");
    EXIT_NOT_STARTED
}

fn become_program() -> Result<Infallible, String> {
    let mut text = String::new();
    io::stdin()
        .take(DESCRIPTION_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| format!("its description cannot be read: {error}"))?;
    let launch: Launch =
        serde_json::from_str(&text).map_err(|error| format!("its description is wrong: {error}"))?;
    let program = c_string(launch.program.as_os_str().as_bytes())?;
    let args = arguments(&launch)?;
    let env = environment(&launch)?;

    // A session of its own: its processes can be told from all others, and no terminal sends them signals.
    setsid().map_err(|error| format!("it cannot have a session of its own: {error}"))?;
    if let Some(path) = &launch.identity_file {
        write_identity(path).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        if !path.with_extension("child").exists() {
            return Err("its supervisor ended and the next one does not know it".to_owned());
        }
    }
    for procs in &launch.cgroups {
        std::fs::write(procs, "0")
            .map_err(|error| format!("{} cannot be joined: {error}", procs.display()))?;
    }
    // The agent may be shielded from the kernel's out-of-memory killer; its children are not.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    limit_resources().map_err(|error| format!("its limits cannot be set: {error}"))?;
    rustix::process::umask(Mode::from_raw_mode(0o027));
    become_user(&launch)?;
    std::env::set_current_dir(&launch.directory)
        .map_err(|error| format!("the folder {} cannot be entered: {error}", launch.directory.display()))?;
    let first_stray = FIRST + i32::try_from(launch.descriptor_names.len()).unwrap_or(i32::MAX - FIRST);
    close_on_exec_from(first_stray)
        .map_err(|error| format!("stray descriptors cannot be closed: {error}"))?;
    silence_input().map_err(|error| format!("its input cannot be closed: {error}"))?;
    let Err(error) = nix::unistd::execve(&program, &args, &env);
    Err(format!("{} cannot be executed: {error}", launch.program.display()))
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| format!("{:?} holds a zero byte", String::from_utf8_lossy(bytes)))
}

fn arguments(launch: &Launch) -> Result<Vec<CString>, String> {
    let program = launch.program.as_os_str().as_bytes();
    std::iter::once(program).chain(launch.args.iter().map(String::as_bytes)).map(c_string).collect()
}

fn environment(launch: &Launch) -> Result<Vec<CString>, String> {
    let mut env = launch.env.clone();
    if !launch.descriptor_names.is_empty() {
        env.insert("LISTEN_FDS".to_owned(), launch.descriptor_names.len().to_string());
        env.insert("LISTEN_FDNAMES".to_owned(), launch.descriptor_names.join(":"));
        // `execve` keeps the number.
        env.insert("LISTEN_PID".to_owned(), std::process::id().to_string());
    }
    env.iter().map(|(key, value)| c_string(format!("{key}={value}").as_bytes())).collect()
}

fn write_identity(path: &Path) -> io::Result<()> {
    let identity = serde_json::to_vec(&Identity::of_this()?)?;
    let fresh = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&identity)?;
    std::fs::rename(&fresh, path)
}

fn limit_resources() -> nix::Result<()> {
    // A core file would hold passwords and visitors' data.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES.max(hard)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)?;
    }
    Ok(())
}

fn become_user(launch: &Launch) -> Result<(), String> {
    let already = Uid::effective();
    if !already.is_root() {
        // Started without root, everything runs as whoever started it.
        return if already.as_raw() == launch.uid {
            no_new_privileges()
        } else {
            Err(format!("only root can start it as user {}", launch.uid))
        };
    }
    let kept = kept_capabilities(&launch.capabilities)?;
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    shrink_bounding_set(kept).map_err(failed("its capabilities cannot be bounded"))?;
    rustix::thread::set_keep_capabilities(!kept.is_empty())
        .map_err(|error| failed("its capabilities cannot be kept")(error.into()))?;
    let groups: Vec<Gid> = launch.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(launch.uid), Gid::from_raw(launch.gid));
    setgroups(&groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|error| format!("it cannot become user {}: {error}", launch.uid))?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    rustix::thread::set_capabilities(None, sets)
        .map_err(|error| failed("its capabilities cannot be set")(error.into()))?;
    for one in kept.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .map_err(|error| failed("its capabilities cannot be passed on")(error.into()))?;
    }
    no_new_privileges()
}

fn no_new_privileges() -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs cannot be set: {error}"))
}

fn kept_capabilities(names: &[String]) -> Result<CapabilitySet, String> {
    names.iter().try_fold(CapabilitySet::empty(), |kept, name| {
        name.strip_prefix("CAP_")
            .and_then(CapabilitySet::from_name)
            .map(|one| kept | one)
            .ok_or_else(|| format!("{name} is no capability"))
    })
}

fn shrink_bounding_set(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..CAPABILITY_NUMBERS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(one)?,
            Ok(false) => {}
            // The kernel knows no capability of this number, nor of a higher one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn silence_input() -> io::Result<()> {
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    Ok(())
}
