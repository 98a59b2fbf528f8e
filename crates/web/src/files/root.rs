//! A folder that nothing leads out of: neither `..` nor a symbolic link, at no moment.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often the folder itself is looked up anew: it may have been replaced by another of its name.
const REOPEN: Duration = Duration::from_secs(1);
/// Attempts while someone renames folders under the look-up.
const RACES: usize = 16;

/// What lies at a path.
pub(crate) enum Opened {
    /// A regular file.
    File(File, rustix::fs::Stat),
    /// A folder.
    Folder,
    /// Nothing that is served: not there, not allowed, outside, or neither file nor folder.
    Nothing,
}

/// A folder whose files are served.
pub(crate) struct Root {
    path: PathBuf,
    folder: RefCell<Option<(Rc<OwnedFd>, Instant)>>,
    /// Whether the kernel lacks openat2(2).
    walks: Cell<bool>,
}

impl Root {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, folder: RefCell::default(), walks: Cell::new(false) }
    }

    /// The folder's path, as it is told to others.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what lies at `path`, which begins with a slash and is in its one form. A symbolic link that stays inside
    /// is followed. A FIFO or device is neither waited for nor read.
    pub(crate) fn open(&self, path: &[u8], now: Instant) -> io::Result<Opened> {
        let Some(folder) = self.folder(now)? else { return Ok(Opened::Nothing) };
        let relative = match path.strip_prefix(b"/").unwrap_or(path) {
            b"" => &b"."[..],
            relative => relative.strip_suffix(b"/").unwrap_or(relative),
        };
        let relative = Path::new(OsStr::from_bytes(relative));
        let opened = if self.walks.get() {
            walk(folder.as_fd(), relative)
        } else {
            match beneath(&folder, relative) {
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.walks.set(true);
                    walk(folder.as_fd(), relative)
                }
                opened => opened,
            }
        };
        let descriptor = match opened {
            Ok(descriptor) => descriptor,
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::XDEV
                | Errno::LOOP
                | Errno::ACCESS
                | Errno::PERM
                | Errno::NAMETOOLONG
                | Errno::NXIO
                | Errno::NODEV
                | Errno::INVAL,
            ) => return Ok(Opened::Nothing),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&descriptor)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Opened::File(File::from(descriptor), stat),
            FileType::Directory => Opened::Folder,
            _ => Opened::Nothing,
        })
    }

    fn folder(&self, now: Instant) -> io::Result<Option<Rc<OwnedFd>>> {
        let mut slot = self.folder.borrow_mut();
        if let Some((folder, since)) = &*slot
            && now.saturating_duration_since(*since) < REOPEN
        {
            return Ok(Some(Rc::clone(folder)));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(folder) => {
                let folder = Rc::new(folder);
                *slot = Some((Rc::clone(&folder), now));
                Ok(Some(folder))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {
                *slot = None;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// `O_NONBLOCK`: opening a FIFO must not wait for a writer.
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

fn beneath(folder: &OwnedFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..RACES {
        match rustix::fs::openat2(folder, relative, FLAGS, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    rustix::fs::openat2(folder, relative, FLAGS, Mode::empty(), resolve)
}

/// Segment by segment, for kernels without openat2(2). No symbolic link is followed at all.
fn walk(folder: impl AsFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let mut segments = relative.components().peekable();
    let mut here: Option<OwnedFd> = None;
    while let Some(segment) = segments.next() {
        let flags = match segments.peek() {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            None => FLAGS | OFlags::NOFOLLOW,
        };
        let from = here.as_ref().map_or_else(|| folder.as_fd(), AsFd::as_fd);
        here = Some(rustix::fs::openat(from, segment.as_os_str(), flags, Mode::empty())?);
    }
    here.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::{Opened, Root};
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    fn kind(root: &Root, path: &str) -> &'static str {
        match root.open(path.as_bytes(), Instant::now()).unwrap() {
            Opened::File(..) => "file",
            Opened::Folder => "folder",
            Opened::Nothing => "nothing",
        }
    }

    #[test]
    fn nothing_outside_the_folder_can_be_reached() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "s").unwrap();
        std::fs::write(root.join("sub/file"), "f").unwrap();
        symlink("../outside/secret", root.join("out")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("../outside", root.join("folder-out")).unwrap();
        symlink("sub/file", root.join("in")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let open = Root::new(root.clone());
        for path in [
            "/out",
            "/absolute",
            "/folder-out/secret",
            "/magic/etc/passwd",
            "/../outside/secret",
            "/fifo",
            "/none",
            "/sub/file/x",
        ] {
            assert_eq!(kind(&open, path), "nothing", "{path}");
        }
        assert_eq!(kind(&open, "/in"), "file");
        assert_eq!(kind(&open, "/sub/file"), "file");
        assert_eq!(kind(&open, "/sub"), "folder");
        assert_eq!(kind(&open, "/"), "folder");
        let walking = Root::new(root);
        walking.walks.set(true);
        for path in ["/out", "/absolute", "/folder-out/secret", "/magic/etc/passwd", "/fifo", "/in"] {
            assert_eq!(kind(&walking, path), "nothing", "{path}");
        }
        assert_eq!(kind(&walking, "/sub/file"), "file");
        assert_eq!(kind(&walking, "/"), "folder");
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_files() {
        assert_eq!(kind(&Root::new("/nonexistent/folder".into()), "/x"), "nothing");
    }
}
