//! The real php-fpm, with a pool in a temporary folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::server::until;

/// A running php-fpm.
pub(crate) struct PhpFpm {
    folder: PathBuf,
    workers: u32,
    child: Option<Child>,
}

impl PhpFpm {
    pub(crate) fn start(folder: &Path, workers: u32) -> Self {
        let mut fpm = Self { folder: folder.to_owned(), workers, child: None };
        fpm.start_again();
        fpm
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("fpm.sock")
    }

    pub(crate) fn start_again(&mut self) {
        let mut text = format!(
            "[global]\nerror_log = /dev/null\ndaemonize = no\n[www]\nlisten = {}\nlisten.mode = 0666\npm = static\n\
             pm.max_children = {}\ncatch_workers_output = yes\n",
            self.socket().display(),
            self.workers
        );
        if nix::unistd::geteuid().is_root() {
            // Writing to a String cannot fail.
            let _ = write!(text, "user = nobody\ngroup = nogroup\n");
        }
        let configuration = self.folder.join("fpm.conf");
        std::fs::write(&configuration, text).unwrap();
        let child = Command::new(program())
            .arg("--nodaemonize")
            .arg("--fpm-config")
            .arg(&configuration)
            .args(["-d", "cgi.fix_pathinfo=0", "-d", "upload_max_filesize=8M", "-d", "post_max_size=8M"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("php-fpm runs");
        self.child = Some(child);
        until("php-fpm listens", || std::os::unix::net::UnixStream::connect(self.socket()).is_ok());
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The main process ends its workers with itself.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            let _ = child.wait();
            let _ = std::fs::remove_file(self.socket());
        }
    }
}

impl Drop for PhpFpm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Debian's php-fpm, whose name carries the version.
fn program() -> PathBuf {
    std::fs::read_dir("/usr/sbin")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("php-fpm8"))
        .max()
        .expect("php-fpm is installed")
}
