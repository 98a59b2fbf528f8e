//! One hierarchy of control groups, and what is read and written in it.

use std::io;
use std::path::{Path, PathBuf};

/// In version 2 a group with children may hold no processes; this child takes those that were there.
pub(super) const LEAF: &str = "mainstay-agent";

/// One hierarchy, at our group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) controller: Controller,
    pub(super) folder: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    V1(&'static str),
    V2,
}

impl Tree {
    pub(super) fn below(&self, name: &str) -> Self {
        Self { controller: self.controller, folder: self.folder.join(name) }
    }
}

/// Makes a version 2 group fit for children: its processes move to a leaf, its controllers pass on.
pub(super) fn delegate(folder: &Path) -> io::Result<()> {
    if enable_controllers(folder).is_ok() {
        return Ok(());
    }
    let leaf = folder.join(LEAF);
    make_folder(&leaf)?;
    for pid in processes(folder) {
        match std::fs::write(leaf.join("cgroup.procs"), pid.to_string()) {
            // It has just ended.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            other => other?,
        }
    }
    enable_controllers(folder)
}

pub(super) fn enable_controllers(folder: &Path) -> io::Result<()> {
    let available = std::fs::read_to_string(folder.join("cgroup.controllers"))?;
    let wanted: Vec<String> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| available.split_ascii_whitespace().any(|one| one == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    std::fs::write(folder.join("cgroup.subtree_control"), wanted.join(" "))
}

pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Sets a limit; a kernel without that controller has no such file.
pub(super) fn write_if_there(file: &Path, value: &str) -> io::Result<()> {
    match std::fs::OpenOptions::new().write(true).truncate(true).open(file) {
        Ok(mut file) => io::Write::write_all(&mut file, value.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn processes(folder: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

pub(super) fn count_processes(folder: &Path) -> u64 {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    processes(folder).len() as u64 + below.map(|entry| count_processes(&entry.path())).sum::<u64>()
}

/// The kernel's files in a group go with the group; only folders are removed.
pub(super) fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(folder)
}
