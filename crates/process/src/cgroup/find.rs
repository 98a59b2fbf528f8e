//! Where the kernel shows the groups of this process.

use std::path::{Path, PathBuf};

use super::tree::{Controller, Tree};

/// The version 1 controllers that we use where they are mounted.
const CONTROLLERS: [&str; 4] = ["pids", "memory", "cpuacct", "freezer"];

/// Where the groups of this process lie, by `/proc/self/cgroup` and `/proc/self/mountinfo`. Controllers of version 1 win,
/// for where they are mounted the version 2 tree has none.
pub(super) fn own_groups(cgroup: &str, mountinfo: &str) -> Vec<Tree> {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
    let groups: Vec<(&str, &str)> = cgroup
        .lines()
        .filter_map(|line| line.split_once(':').and_then(|(_, rest)| rest.split_once(':')))
        .collect();
    let find = |controller: Controller| {
        let (listed, kind, option) = match controller {
            Controller::V1(name) => (name, "cgroup", name),
            Controller::V2 => ("", "cgroup2", ""),
        };
        let group = groups.iter().find(|(names, _)| names.split(',').any(|name| name == listed))?.1;
        let shows = |m: &&Mount<'_>| m.kind == kind && (option.is_empty() || m.has_option(option));
        // A later mount may hide an earlier one: in the lab, the server's own part hides the machine's.
        let folder = mounts.iter().rev().filter(shows).find_map(|mount| mount.place(group))?;
        Some(Tree { controller, folder })
    };
    let old: Vec<Tree> = CONTROLLERS.into_iter().filter_map(|name| find(Controller::V1(name))).collect();
    if old.is_empty() { find(Controller::V2).into_iter().collect() } else { old }
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let front: Vec<&str> = front.split(' ').collect();
        let back: Vec<&str> = back.split(' ').collect();
        Some(Self {
            root: front.get(3)?,
            point: front.get(4)?,
            kind: back.first()?,
            options: back.get(2).copied().unwrap_or_default(),
        })
    }

    fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }

    /// The folder of a group; none where the mount shows another part of the tree. In a cgroup namespace a mount from
    /// outside has a root such as `/../..`, and where this process's own group lies below it cannot be told.
    fn place(&self, group: &str) -> Option<PathBuf> {
        let below = group.strip_prefix(self.root.trim_end_matches('/'))?;
        Some(Path::new(self.point).join(below.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 20 0:20 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
25 20 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
26 20 0:22 /box /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
27 20 0:23 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn own_groups_are_found_in_each_version_one_tree() {
        let groups = "3:pids:/a\n2:cpu,cpuacct:/\n1:memory:/box/b\n0::/c\n";
        let folders: Vec<PathBuf> = own_groups(groups, HYBRID).into_iter().map(|tree| tree.folder).collect();
        assert_eq!(
            folders,
            ["/sys/fs/cgroup/pids/a", "/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/cpu,cpuacct/"]
                .map(PathBuf::from)
        );
    }

    #[test]
    fn of_two_trees_the_one_mounted_within_the_cgroup_namespace_counts() {
        let outer = "24 20 0:20 /../.. /outer/pids rw,relatime - cgroup cgroup rw,pids\n";
        assert_eq!(own_groups("3:pids:/\n", outer), []);
        let inner = "30 20 0:20 / /inner/pids rw,relatime - cgroup cgroup rw,pids\n";
        for mounts in [format!("{outer}{inner}"), format!("{inner}{outer}")] {
            let folder = PathBuf::from("/inner/pids/");
            assert_eq!(
                own_groups("3:pids:/\n", &mounts),
                [Tree { controller: Controller::V1("pids"), folder }]
            );
        }
    }

    #[test]
    fn a_machine_with_version_two_alone_has_one_tree() {
        let mounts = "30 20 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let trees = own_groups("0::/system.slice/mainstay-agent.service\n", mounts);
        let folder = PathBuf::from("/sys/fs/cgroup/system.slice/mainstay-agent.service");
        assert_eq!(trees, [Tree { controller: Controller::V2, folder }]);
    }
}
