//! How a program is started: a description of everything it runs with, handed to a small shim that brings it about.
//!
//! The shim ([`crate::exec_child`]) is this same binary started anew. Between `fork` and the program's first instruction thus
//! runs ordinary code in an ordinary process, not code in the narrow space that `pre_exec` leaves.

use std::collections::BTreeMap;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::descriptors::FIRST;

/// Everything that a program runs with, besides its descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment. `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID` are added where it inherits sockets.
    pub env: BTreeMap<String, String>,
    /// Its working folder.
    pub directory: PathBuf,
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// All groups of the user.
    pub groups: Vec<u32>,
    /// Capabilities that it keeps, such as `CAP_NET_BIND_SERVICE`.
    pub capabilities: Vec<String>,
    /// The `cgroup.procs` files of the groups that it joins.
    pub cgroups: Vec<PathBuf>,
    /// The names of the descriptors from 3 on.
    pub descriptor_names: Vec<String>,
    /// Where the shim writes down who it is before it becomes the program, so that no program ever runs unrecorded.
    pub identity_file: Option<PathBuf>,
}

impl Launch {
    /// Sets whom it runs as.
    pub fn run_as(&mut self, account: &Account) {
        self.uid = account.uid;
        self.gid = account.gid;
        self.groups.clone_from(&account.groups);
    }
}

/// How the shim is started: usually this binary with `exec-child`.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// The arguments that make it call [`crate::exec_child`].
    pub args: Vec<String>,
}

impl Launcher {
    /// This very binary with the argument `exec-child`. `/proc/self/exe` leads to it even when its file was replaced.
    pub fn this_binary() -> Self {
        Self { program: "/proc/self/exe".into(), args: vec!["exec-child".to_owned()] }
    }

    /// Starts a program with `sockets` as descriptors 3, 4, ... and `log` as its output.
    pub fn start(
        &self,
        launch: &Launch,
        sockets: &[BorrowedFd<'_>],
        log: BorrowedFd<'_>,
    ) -> io::Result<Child> {
        let description = rustix::fs::memfd_create("launch", MemfdFlags::CLOEXEC)?;
        let mut description = std::fs::File::from(description);
        description.write_all(&serde_json::to_vec(launch)?)?;
        description.rewind()?;
        let mut mappings = Vec::with_capacity(sockets.len());
        for (child_fd, socket) in (FIRST..).zip(sockets) {
            mappings.push(FdMapping { parent_fd: socket.try_clone_to_owned()?, child_fd });
        }
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::from(description))
            .stdout(Stdio::from(log.try_clone_to_owned()?))
            .stderr(Stdio::from(log.as_fd().try_clone_to_owned()?))
            .fd_mappings(mappings)
            .map_err(io::Error::other)?;
        command.spawn()
    }
}
