//! What a host sees of the file system: the real machine's programs, and everything else of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_site::{ByteSize, paths};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::HostSpec;
use crate::error::{Error, file};

/// Where the host finds the lab's binaries.
const STAGE: &str = "/run/mainstay-lab";

pub(super) fn arrange(spec: &HostSpec) -> Result<(), Error> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed("make private", "/"))?;
    // The sources lie on the real machine, which the next mounts cover; so they are reached through this descriptor.
    let disk = spec.disk.map(|size| disk(&spec.folder, size).and_then(|at| open_folder(&at))).transpose()?;
    let folder = open_folder(&spec.folder)?;
    let binaries = open_folder(&spec.binaries)?;
    let groups: Vec<(String, Source)> = spec
        .cgroups
        .iter()
        .map(|group| Ok((hierarchy(group), open_folder(group)?)))
        .collect::<Result<_, Error>>()?;
    temporary("/run", "mode=755")?;
    temporary("/tmp", "mode=1777")?;
    temporary("/var/tmp", "mode=1777")?;
    make(Path::new(STAGE))?;
    bind(&folder.join("run"), Path::new(paths::RUN))?;
    bind(&binaries.path(), &Path::new(STAGE).join("bin"))?;
    for name in ["passwd", "group", "hosts", "hostname", "resolv.conf"] {
        bind_file(&folder.join("etc").join(name), &Path::new("/etc").join(name))?;
    }
    temporary("/var/log", "mode=755")?;
    bind(&folder.join("log"), Path::new(paths::LOG))?;
    temporary("/var/lib", "mode=755")?;
    if let Some(disk) = disk {
        bind(&disk.path(), Path::new(paths::LIB))?;
    }
    plain("proc", "/proc")?;
    control_groups(&groups)
}

/// A folder that stays reachable whatever is mounted over the way to it.
struct Source(rustix::fd::OwnedFd);

impl Source {
    fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

fn open_folder(path: &Path) -> Result<Source, Error> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map(Source)
        .map_err(io::Error::from)
        .map_err(file("open", path))
}

/// The controllers' name of a version 1 hierarchy; empty for the version 2 tree.
fn hierarchy(group: &Path) -> String {
    let mut parts = group.strip_prefix("/sys/fs/cgroup").unwrap_or(group).components();
    let first = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    if first.starts_with("mainstay-") { String::new() } else { first }
}

/// The host sees its own part of each hierarchy, and nobody else's: not even hidden below another mount, where programs that
/// read the list of mounts would look for it.
fn control_groups(groups: &[(String, Source)]) -> Result<(), Error> {
    let stage = Path::new(STAGE).join("cgroup");
    for (name, group) in groups {
        bind(&group.path(), &stage.join(place(name)))?;
    }
    umount2("/sys", MntFlags::MNT_DETACH).map_err(failed("unmount", "/sys"))?;
    plain("sysfs", "/sys")?;
    let root = Path::new("/sys/fs/cgroup");
    let version_2 = groups.iter().any(|(name, _)| name.is_empty());
    if !version_2 {
        temporary("/sys/fs/cgroup", "mode=755")?;
    }
    for (name, _) in groups {
        let at = if version_2 { root.to_owned() } else { root.join(name) };
        make(&at)?;
        let from = stage.join(place(name));
        mount(Some(&from), &at, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(failed("move to", &at.display().to_string()))?;
    }
    Ok(())
}

/// A hierarchy's folder on the way from the real machine to the host.
fn place(hierarchy: &str) -> &str {
    if hierarchy.is_empty() { "unified" } else { hierarchy }
}

/// The server's disk: an image of its size, mounted; or, where the machine has no loop devices, a plain folder.
fn disk(folder: &Path, size: ByteSize) -> Result<PathBuf, Error> {
    let at = folder.join("lib");
    make(&at)?;
    let image = folder.join("disk.img");
    let plain = folder.join("disk");
    if !plain.is_dir() {
        let made = make_image(&image, size)
            .and_then(|()| run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&at)));
        match made {
            Ok(()) => return Ok(at),
            Err(error) => {
                eprint_line(&format!(
                    "no disk of its own ({error}); a folder takes its place, without a size"
                ));
                let _ = fs::remove_file(&image);
            }
        }
    }
    make(&plain)?;
    bind(&plain, &at)?;
    Ok(at)
}

fn make_image(image: &Path, size: ByteSize) -> Result<(), Error> {
    if image.exists() {
        return Ok(());
    }
    let new = image.with_extension("new");
    let file_new = fs::File::create(&new).map_err(file("make", &new))?;
    file_new.set_len(size.bytes()).map_err(file("size", &new))?;
    // Inode tables are filled in when they are used: a sparse image of any size is made in a moment.
    let lazy =
        ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=16"];
    run(Command::new("mkfs.ext4").args(lazy).arg(&new))?;
    fs::rename(&new, image).map_err(file("name", image))
}

fn run(command: &mut Command) -> Result<(), Error> {
    let line = format!("{command:?}");
    let failed = |reason: String| Error::Command { command: line.clone(), reason };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn make(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(file("make", path))
}

fn temporary(at: &str, options: &str) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options)).map_err(failed("mount a tmpfs on", at))
}

fn plain(kind: &str, at: &str) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(kind), at, Some(kind), flags, None::<&str>).map_err(failed("mount", at))
}

fn bind(source: &Path, at: &Path) -> Result<(), Error> {
    make(at)?;
    bind_file(source, at)
}

pub(super) fn bind_file(source: &Path, at: &Path) -> Result<(), Error> {
    let shown = at.display().to_string();
    mount(Some(source), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(failed("bind", &shown))
}

fn failed(doing: &'static str, path: &str) -> impl FnOnce(nix::Error) -> Error + use<> {
    let path = PathBuf::from(path);
    move |error| Error::File { doing, path, source: error.into() }
}

/// The host's own log takes what its first process says.
#[expect(clippy::print_stderr, reason = "the first process's standard error is the host's log")]
pub(super) fn eprint_line(line: &str) {
    eprintln!("{line}");
}
