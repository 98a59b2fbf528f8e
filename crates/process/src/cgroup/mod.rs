//! Control groups: limits, accounting, and a list of processes that nobody escapes from by forking.
//!
//! Below the group that this process is in lies one group per role, with the role's limits, and in it one per generation:
//! `GROUP/roles/web/7`. Version 1 has such a tree per controller, version 2 one tree for all. Where neither can be
//! written, [`Cgroups::discover`] says why and roles run without limits.

mod find;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_site::ByteSize;
use rustix::process::Signal;
use thiserror::Error;

use crate::procfs::signal_each;

use find::own_groups;
use tree::{
    Controller, LEAF, Tree, count_processes, delegate, enable_controllers, make_folder, processes,
    remove_tree, write_if_there,
};

/// Rounds of listing and killing; each takes what was forked during the one before.
const KILL_ROUNDS: usize = 50;

/// Why there are no control groups to use.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// None of the controllers that we use is mounted.
    #[error("no cgroup controller (pids, memory, cpuacct) is mounted")]
    NoController,
    /// They are mounted, but not for us.
    #[error("{path} cannot be used: {source}")]
    NotWritable {
        /// The group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The group under which all roles have theirs.
#[derive(Debug, Clone)]
pub struct Cgroups {
    trees: Vec<Tree>,
}

/// What a role uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the group was made.
    pub cpu: Duration,
    /// Memory without the file cache that could be dropped at once.
    pub memory_bytes: u64,
    /// Processes.
    pub processes: u64,
}

impl Cgroups {
    /// Makes `name` below the group of this process.
    pub fn discover(name: &str) -> Result<Self, CgroupError> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut trees = own_groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        // What is hidden below another mount is listed too.
        trees.retain(|tree| tree.folder.is_dir());
        if trees.is_empty() {
            return Err(CgroupError::NoController);
        }
        Self::make(trees, name)
    }

    /// Makes `name` in a version 2 tree at `folder`.
    pub fn in_v2_tree(folder: &Path, name: &str) -> Result<Self, CgroupError> {
        Self::make(vec![Tree { controller: Controller::V2, folder: folder.to_owned() }], name)
    }

    fn make(trees: Vec<Tree>, name: &str) -> Result<Self, CgroupError> {
        let mut made = Vec::new();
        for mut tree in trees {
            let failed = |path: &Path| {
                let path = path.to_owned();
                move |source| CgroupError::NotWritable { path, source }
            };
            if tree.controller == Controller::V2 {
                if tree.folder.file_name().is_some_and(|leaf| leaf == LEAF) {
                    tree.folder.pop();
                }
                delegate(&tree.folder).map_err(failed(&tree.folder))?;
            }
            tree.folder.push(name);
            make_folder(&tree.folder).map_err(failed(&tree.folder))?;
            if tree.controller == Controller::V2 {
                enable_controllers(&tree.folder).map_err(failed(&tree.folder))?;
            }
            made.push(tree);
        }
        Ok(Self { trees: made })
    }

    /// Makes a role's group and sets its limits.
    pub fn role(
        &self,
        name: &str,
        memory: Option<ByteSize>,
        processes: Option<u32>,
    ) -> io::Result<RoleGroup> {
        let group = self.role_without_limits(name);
        for tree in &group.trees {
            make_folder(&tree.folder)?;
            let limit = |value: Option<String>, none: &str| value.unwrap_or_else(|| none.to_owned());
            let memory = memory.map(|size| size.bytes().to_string());
            let processes = limit(processes.map(|count| count.to_string()), "max");
            match tree.controller {
                Controller::V1("memory") => {
                    write_if_there(&tree.folder.join("memory.limit_in_bytes"), &limit(memory, "-1"))?;
                }
                Controller::V1("pids") => write_if_there(&tree.folder.join("pids.max"), &processes)?,
                Controller::V1(_) => {}
                Controller::V2 => {
                    enable_controllers(&tree.folder)?;
                    write_if_there(&tree.folder.join("memory.max"), &limit(memory, "max"))?;
                    write_if_there(&tree.folder.join("pids.max"), &processes)?;
                }
            }
        }
        Ok(group)
    }

    /// A role's group as it is.
    pub fn role_without_limits(&self, name: &str) -> RoleGroup {
        RoleGroup { trees: self.trees.iter().map(|tree| tree.below(name)).collect() }
    }

    /// What all roles use together.
    pub fn usage(&self) -> Usage {
        RoleGroup { trees: self.trees.clone() }.usage()
    }

    /// Removes everything below and the group itself; nothing may run in it any more.
    pub fn remove(&self) -> io::Result<()> {
        self.trees.iter().try_for_each(|tree| remove_tree(&tree.folder))
    }
}

/// The group of one role.
#[derive(Debug, Clone)]
pub struct RoleGroup {
    trees: Vec<Tree>,
}

impl RoleGroup {
    /// Makes the group of one generation.
    pub fn make_generation(&self, number: u64) -> io::Result<GenerationGroup> {
        let group = self.generation(number);
        group.trees.iter().try_for_each(|tree| make_folder(&tree.folder))?;
        Ok(group)
    }

    /// The group of one generation as it is.
    pub fn generation(&self, number: u64) -> GenerationGroup {
        GenerationGroup { trees: self.trees.iter().map(|tree| tree.below(&number.to_string())).collect() }
    }

    /// The numbers of the generations that have a group.
    pub fn generations(&self) -> Vec<u64> {
        let entries = self.trees.first().and_then(|tree| std::fs::read_dir(&tree.folder).ok());
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).collect()
    }

    /// What the role uses, all generations together.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for tree in &self.trees {
            let read = |file: &str| std::fs::read_to_string(tree.folder.join(file)).unwrap_or_default();
            let number = |file: &str| read(file).trim().parse::<u64>().unwrap_or(0);
            match tree.controller {
                Controller::V1("cpuacct") => usage.cpu = Duration::from_nanos(number("cpuacct.usage")),
                Controller::V1("memory") => {
                    let cache = field(&read("memory.stat"), "total_inactive_file");
                    usage.memory_bytes = number("memory.usage_in_bytes").saturating_sub(cache);
                }
                Controller::V1(_) => {}
                Controller::V2 => {
                    usage.cpu = Duration::from_micros(field(&read("cpu.stat"), "usage_usec"));
                    let cache = field(&read("memory.stat"), "inactive_file");
                    usage.memory_bytes = number("memory.current").saturating_sub(cache);
                }
            }
        }
        if let Some(tree) = self.trees.first() {
            usage.processes = count_processes(&tree.folder);
        }
        usage
    }

    /// Removes the group; nothing may run in it any more.
    pub fn remove(&self) -> io::Result<()> {
        self.trees.iter().try_for_each(|tree| remove_tree(&tree.folder))
    }
}

/// The group of one generation: all its processes, whatever they did to hide.
#[derive(Debug, Clone)]
pub struct GenerationGroup {
    trees: Vec<Tree>,
}

impl GenerationGroup {
    /// The files that a process writes `0` to in order to join.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.trees.iter().map(|tree| tree.folder.join("cgroup.procs")).collect()
    }

    /// All processes of the generation.
    pub fn members(&self) -> Vec<i32> {
        self.trees.first().map(|tree| processes(&tree.folder)).unwrap_or_default()
    }

    /// Sends a signal to all processes.
    pub fn signal(&self, signal: Signal) {
        signal_each(&self.members(), signal, |pid| self.members().contains(&pid));
    }

    /// Kills all processes, also those that are forked meanwhile.
    pub fn kill(&self) {
        for tree in &self.trees {
            // Since Linux 5.14 one write kills all; older kernels have no such file.
            if tree.controller == Controller::V2
                && std::fs::write(tree.folder.join("cgroup.kill"), "1").is_ok()
            {
                return;
            }
        }
        let freezer = self.trees.iter().find(|tree| tree.controller == Controller::V1("freezer"));
        let freeze = |state: &str| {
            if let Some(tree) = freezer {
                // Without it a process may fork while it is being killed; the rounds below take those too.
                let _ = std::fs::write(tree.folder.join("freezer.state"), state);
            }
        };
        for _ in 0..KILL_ROUNDS {
            let members = self.members();
            if members.is_empty() {
                break;
            }
            freeze("FROZEN");
            signal_each(&members, Signal::KILL, |pid| self.members().contains(&pid));
            freeze("THAWED");
        }
    }

    /// Removes the group; nothing may run in it any more.
    pub fn remove(&self) -> io::Result<()> {
        self.trees.iter().try_for_each(|tree| remove_tree(&tree.folder))
    }
}

fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn in_a_version_two_tree_limits_and_usage_are_in_its_files() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
        let folder = root.path().join("roles/web");
        std::fs::create_dir_all(&folder).unwrap();
        for group in [root.path(), &root.path().join("roles"), &folder] {
            put(group.join("cgroup.controllers"), "cpu memory pids\n");
        }
        for file in ["memory.max", "pids.max"] {
            put(folder.join(file), "max\n");
        }
        put(folder.join("cpu.stat"), "usage_usec 2500000\nuser_usec 1\n");
        put(folder.join("memory.current"), "1000\n");
        put(folder.join("memory.stat"), "anon 7\ninactive_file 400\n");
        let groups = Cgroups::in_v2_tree(root.path(), "roles").unwrap();
        let role = groups.role("web", Some(ByteSize::from_mebibytes(1)), Some(9)).unwrap();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!((read("memory.max").as_str(), read("pids.max").as_str()), ("1048576", "9"));
        assert_eq!(read("cgroup.subtree_control"), "+cpu +memory +pids");
        let seven = role.make_generation(7).unwrap();
        put(folder.join("7/cgroup.procs"), "11\n12\n");
        assert_eq!(seven.members(), [11, 12]);
        let usage = Usage { cpu: Duration::from_millis(2500), memory_bytes: 600, processes: 2 };
        assert_eq!(role.usage(), usage);
    }

    #[test]
    fn killing_a_group_ends_every_process_in_it_and_leaves_no_folder() {
        let groups = match Cgroups::discover(&format!("mainstay-test-{}", std::process::id())) {
            Ok(groups) => groups,
            // Not root, or no controllers: the test of the files above has to do.
            Err(CgroupError::NotWritable { .. } | CgroupError::NoController) => return,
        };
        let role = groups.role("web", Some(ByteSize::from_mebibytes(64)), Some(50)).unwrap();
        let generation = role.make_generation(1).unwrap();
        let join = generation
            .procs_files()
            .iter()
            .fold(String::new(), |join, file| format!("{join}echo 0 > {}; ", file.display()));
        let script = format!("{join} setsid sleep 1000 & sleep 1000 & sleep 1000");
        let mut child = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let wait_for = |count: usize| {
            while generation.members().len() < count || (count == 0 && !generation.members().is_empty()) {
                assert!(Instant::now() < deadline, "members: {:?}", generation.members());
                std::thread::yield_now();
            }
        };
        wait_for(4);
        assert_eq!(role.usage().processes, 4);
        assert!(role.usage().memory_bytes > 0);
        generation.kill();
        child.wait().unwrap();
        wait_for(0);
        generation.remove().unwrap();
        groups.remove().unwrap();
    }
}
