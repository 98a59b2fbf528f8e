//! Unix sockets whose path is longer than the 107 bytes that an address holds (unix(7)).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Bytes that `sun_path` holds, without the final zero.
const LONGEST: usize = 107;

/// A path that fits into an address and leads to the same socket. It is valid as long as this lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// The socket's folder, through which a short path leads.
    _folder: Option<OwnedFd>,
}

impl SocketPath {
    /// Finds a path to the socket that is short enough.
    pub fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= LONGEST {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "a socket's path has a folder and a name");
        let (folder, name) = (path.parent().ok_or_else(wrong)?, path.file_name().ok_or_else(wrong)?);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }

    /// The short path.
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

/// Listens on a Unix socket at `path`, which it takes over from whoever had it: the socket is made under another
/// name and renamed, so that there is no moment without one. Members of the file's group may connect if `mode` says so.
pub fn listen(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a socket's path has a name"))?
        .to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let short = SocketPath::new(&temporary)?;
    let listener = std::os::unix::net::UnixListener::bind(short.as_path())?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Which file a path leads to now: device and number.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()))
}
