//! What a host reads about itself: /proc/meminfo, cpuinfo, stat, loadavg and uptime tell the host's memory, processors,
//! time and load, where the kernel would tell the whole machine's.
//!
//! The host's first process writes such files once a second on a tmpfs and has bound them over the kernel's. Between
//! two writes they are up to a second old. A host without a `memory` of its own shares the machine's, and reads so.

mod load;
mod memory;
mod processors;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use load::{Load, SAMPLED_EVERY, Tasks};
use memory::{Machine, Memory};
use processors::{Clock, Counts, Taken};

use super::mounts::{bind_file, eprint_line};
use crate::error::{Error, file};

/// How often the files are written.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Where they are written.
const FOLDER: &str = "/run/mainstay-lab/proc";
/// Clock ticks in a second (`USER_HZ`), the same on every Linux that people meet.
const TICKS: u64 = 100;

/// The files, and what they are written from.
pub(super) struct Readings {
    groups: Groups,
    machine: Machine,
    processors: usize,
    /// What the kernel's uptime was at the host's start: nothing where the host has a time namespace.
    before: Duration,
    booted_at: u64,
    clock: Clock,
    load: Load,
    tasks: Tasks,
    sampled: Option<Instant>,
    /// The kernel's own, below the one that covers it: it knows the newest process of this namespace.
    loadavg: File,
    /// Likewise.
    uptime: File,
    /// Whether a trouble was told already.
    told: bool,
}

impl Readings {
    /// Covers the kernel's files with the host's own. `processors` are as many as the host has of the machine's.
    pub(super) fn begin(processors: Option<usize>) -> Result<Self, Error> {
        let read = |path: &str| fs::read_to_string(path).map_err(file("read", Path::new(path)));
        let cpuinfo = read("/proc/cpuinfo")?;
        let of_machine = online(&read("/sys/devices/system/cpu/online")?);
        let open = |path: &str| File::open(path).map_err(file("open", Path::new(path)));
        let mut readings = Self {
            groups: Groups::find(Path::new("/sys/fs/cgroup")),
            machine: Machine::of(&read("/proc/meminfo")?),
            processors: processors.map_or(of_machine, |own| own.min(of_machine)),
            before: if has_own_clock(&text(Path::new("/proc/self/timens_offsets"))) {
                Duration::ZERO
            } else {
                up(&read("/proc/uptime")?)
            },
            booted_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
            clock: Clock::default(),
            load: Load::default(),
            tasks: Tasks::default(),
            sampled: None,
            loadavg: open("/proc/loadavg")?,
            uptime: open("/proc/uptime")?,
            told: false,
        };
        fs::create_dir_all(FOLDER).map_err(file("make", Path::new(FOLDER)))?;
        for (name, text) in readings.files() {
            let at = Path::new(FOLDER).join(name);
            fs::write(&at, text).map_err(file("write", &at))?;
            bind_file(&at, &Path::new("/proc").join(name))?;
        }
        if readings.processors < of_machine {
            let cover = |name: &str, text: String, over: &Path| {
                let at = Path::new(FOLDER).join(name);
                fs::write(&at, text).map_err(file("write", &at))?;
                bind_file(&at, over)
            };
            let own = readings.processors;
            cover("cpuinfo", processors::cpuinfo(&cpuinfo, own), Path::new("/proc/cpuinfo"))?;
            for name in ["online", "present", "possible"] {
                let over = Path::new("/sys/devices/system/cpu").join(name);
                cover(name, processors::list(own), &over)?;
            }
        }
        Ok(readings)
    }

    /// Writes the files again.
    pub(super) fn refresh(&mut self) {
        for (name, text) in self.files() {
            let at = Path::new(FOLDER).join(name);
            if let Err(error) = rewrite(&at, &text)
                && !std::mem::replace(&mut self.told, true)
            {
                eprint_line(&format!("what the host reads of itself grows old: {}: {error}", at.display()));
            }
        }
    }

    fn files(&mut self) -> Vec<(&'static str, String)> {
        if self.sampled.is_none_or(|at| at.elapsed() + EVERY / 2 >= SAMPLED_EVERY) {
            self.tasks = tasks();
            if self.sampled.is_some() {
                self.load.sample(self.tasks);
            }
            self.sampled = Some(Instant::now());
        }
        let up = up(&text_of(&self.uptime)).saturating_sub(self.before);
        let ticks = up.as_secs() * TICKS + u64::from(up.subsec_millis()) * TICKS / 1000;
        self.clock.advance(self.groups.taken(), ticks, self.processors);
        let forks = self.newest();
        let Tasks { running, blocked, .. } = self.tasks;
        let counts = Counts { booted_at: self.booted_at, forks, running, blocked };
        let mut files = vec![
            ("stat", self.clock.render(self.processors, counts)),
            ("loadavg", self.load.render(self.tasks, forks)),
            // As it will be when it is written next: ps takes a process that is younger than this for one of ages ago.
            ("uptime", load::uptime(up + EVERY, self.clock.idle_ticks())),
        ];
        files.extend(self.groups.memory(self.machine).map(|memory| ("meminfo", memory.render())));
        files
    }

    /// The newest process's number, the last word of /proc/loadavg.
    fn newest(&self) -> u64 {
        text_of(&self.loadavg).split_ascii_whitespace().last().and_then(|last| last.parse().ok()).unwrap_or(0)
    }
}

/// The host's own groups, as it sees them.
enum Groups {
    Version1 { memory: PathBuf, cpuacct: PathBuf },
    Version2(PathBuf),
}

impl Groups {
    fn find(root: &Path) -> Self {
        if root.join("cgroup.controllers").exists() {
            return Self::Version2(root.to_owned());
        }
        Self::Version1 { memory: root.join("memory"), cpuacct: root.join("cpuacct") }
    }

    fn memory(&self, machine: Machine) -> Option<Memory> {
        match self {
            Self::Version1 { memory, .. } => {
                let read = |name| text(&memory.join(name));
                let [limit, usage, stat] =
                    ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"].map(read);
                Memory::of_version_1(&limit, &usage, &stat, machine)
            }
            Self::Version2(group) => {
                let texts = ["max", "current", "stat", "swap.max", "swap.current"]
                    .map(|name| text(&group.join(format!("memory.{name}"))));
                Memory::of_version_2(texts.each_ref().map(String::as_str), machine)
            }
        }
    }

    fn taken(&self) -> Taken {
        match self {
            Self::Version1 { cpuacct, .. } => Taken::of_version_1(&text(&cpuacct.join("cpuacct.stat"))),
            Self::Version2(group) => Taken::of_version_2(&text(&group.join("cpu.stat"))),
        }
    }
}

/// A file of the kernel's; empty where there is none, as without that controller.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// One of the kernel's short files, read anew.
fn text_of(file: &File) -> String {
    let mut buffer = [0; 128];
    let length = file.read_at(&mut buffer, 0).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// In place, for the file is bound elsewhere; in one write, so that whoever reads meanwhile sees the old or the new.
fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// Every task of the host but this very one, which only runs to look.
fn tasks() -> Tasks {
    let mut tasks = Tasks::default();
    let numbers = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
        paths.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let read = |task: &Path| load::state_and_threads(&text(&task.join("stat")));
    for process in numbers(Path::new("/proc")).iter().filter(|path| !path.ends_with("1")) {
        // One that ended meanwhile is no task any more.
        let Some((state, threads)) = read(process) else { continue };
        if threads == 1 {
            tasks.count(state);
            continue;
        }
        let states = numbers(&process.join("task")).into_iter().filter_map(|task| read(&task));
        states.for_each(|(state, _)| tasks.count(state));
    }
    tasks
}

/// The first word of /proc/uptime.
fn up(uptime: &str) -> Duration {
    let seconds = uptime.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
}

/// Whether the clock that uptime goes by was set for this host, by `timens_offsets`.
fn has_own_clock(offsets: &str) -> bool {
    let boottime = offsets.lines().find_map(|line| line.strip_prefix("boottime"));
    boottime.is_some_and(|offsets| offsets.split_ascii_whitespace().any(|offset| offset != "0"))
}

/// How many processors a list such as `0-3,6` has.
fn online(list: &str) -> usize {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((last.parse::<usize>().ok()? + 1).saturating_sub(first.parse().ok()?))
    };
    list.trim().split(',').filter_map(count).sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_ranges() {
        assert_eq!((online("0\n"), online("0-1\n"), online("0-3,6,8-9\n"), online("")), (1, 2, 7, 1));
    }

    #[test]
    fn a_host_has_its_own_clock_where_its_start_is_one() {
        assert!(has_own_clock("monotonic           0         0\nboottime        -1043  50000000\n"));
        assert!(!has_own_clock("monotonic           0         0\nboottime            0         0\n"));
        assert!(!has_own_clock(""));
        assert_eq!((up("1042.95 996.20\n"), up("")), (Duration::from_millis(1_042_950), Duration::ZERO));
    }

    #[test]
    fn a_shorter_text_leaves_nothing_of_the_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("uptime");
        fs::write(&at, "10.00 20.00\n").unwrap();
        rewrite(&at, "1.00 2.00\n").unwrap();
        assert_eq!(fs::read_to_string(&at).unwrap(), "1.00 2.00\n");
    }

    #[test]
    fn groups_of_either_version_are_found_by_their_files() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let at = root.path().join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        };
        put("memory/memory.limit_in_bytes", "1048576\n");
        put("memory/memory.usage_in_bytes", "4096\n");
        put("memory/memory.stat", "total_rss 4096\n");
        put("cpuacct/cpuacct.stat", "user 3\nsystem 4\n");
        let machine = Machine { memory_bytes: 1 << 30, swap_bytes: 0 };
        let groups = Groups::find(root.path());
        assert!(groups.memory(machine).unwrap().render().starts_with("MemTotal:           1024 kB\n"));
        assert_eq!(groups.taken(), Taken { user_ticks: 3, system_ticks: 4 });
        put("cgroup.controllers", "cpu memory\n");
        put("memory.max", "2097152\n");
        put("memory.current", "4096\n");
        put("cpu.stat", "user_usec 10000\nsystem_usec 0\n");
        let groups = Groups::find(root.path());
        assert!(groups.memory(machine).unwrap().render().starts_with("MemTotal:           2048 kB\n"));
        assert_eq!(groups.taken(), Taken { user_ticks: 1, system_ticks: 0 });
    }
}
