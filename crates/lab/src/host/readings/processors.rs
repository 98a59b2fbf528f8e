//! /proc/cpuinfo and /proc/stat of a host: as many processors as the file gives it, and only its own time on them.

use std::fmt::Write as _;

/// The machine's /proc/cpuinfo cut to so many processors, counted from 0.
pub(super) fn cpuinfo(machine: &str, processors: usize) -> String {
    let blocks = machine.split("\n\n").filter(|block| block.trim_start().starts_with("processor"));
    let mut text = String::new();
    for (number, block) in blocks.take(processors).enumerate() {
        for line in block.trim_start_matches('\n').lines() {
            let name = line.split(':').next().unwrap_or_default();
            let value = match name.trim_end() {
                "processor" | "core id" | "apicid" | "initial apicid" => Some(number),
                "siblings" | "cpu cores" => Some(processors),
                _ => None,
            };
            // Writing to a String cannot fail.
            let _ = match value {
                Some(value) => writeln!(text, "{name}: {value}"),
                None => writeln!(text, "{line}"),
            };
        }
        text.push('\n');
    }
    text
}

/// Processors as /sys/devices/system/cpu lists them: `0-3`, or `0`.
pub(super) fn list(processors: usize) -> String {
    match processors {
        0 | 1 => "0\n".to_owned(),
        more => format!("0-{}\n", more - 1),
    }
}

/// Time that a control group's processes took since it was made, in clock ticks (sysconf(3): 100 a second).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
}

impl Taken {
    /// Out of a version 1 group's `cpuacct.stat`.
    pub(super) fn of_version_1(stat: &str) -> Self {
        Self { user_ticks: field(stat, "user"), system_ticks: field(stat, "system") }
    }

    /// Out of a version 2 group's `cpu.stat`, in microseconds there.
    pub(super) fn of_version_2(stat: &str) -> Self {
        let ticks = |name| field(stat, name) / 10_000;
        Self { user_ticks: ticks("user_usec"), system_ticks: ticks("system_usec") }
    }
}

fn field(stat: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    stat.lines().find_map(value).unwrap_or(0)
}

/// What the processors did: all counters only ever grow, as programs that take differences expect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Clock {
    taken: Taken,
    idle_ticks: u64,
}

impl Clock {
    /// So much time has passed since the host's start, and so much of it was taken.
    pub(super) fn advance(&mut self, taken: Taken, elapsed_ticks: u64, processors: usize) {
        let busy = taken.user_ticks + taken.system_ticks;
        self.taken = taken;
        // A group may take a little more than its share for a moment; idle time does not run backwards for that.
        self.idle_ticks = self.idle_ticks.max((elapsed_ticks * processors as u64).saturating_sub(busy));
    }

    /// Time in which processors had nothing to do, all together.
    pub(super) fn idle_ticks(&self) -> u64 {
        self.idle_ticks
    }

    /// /proc/stat (proc(5)), without what only the machine counts: interrupts and context switches. Which processor a
    /// process ran on is nobody's business here, so each shows an equal share.
    pub(super) fn render(&self, processors: usize, counts: Counts) -> String {
        let mut text = String::new();
        let mut line = |name: &str, share: &dyn Fn(u64) -> u64| {
            let [user, system, idle] =
                [self.taken.user_ticks, self.taken.system_ticks, self.idle_ticks].map(share);
            let _ = writeln!(text, "{name} {user} 0 {system} {idle} 0 0 0 0 0 0");
        };
        line("cpu ", &|ticks| ticks);
        let count = processors.max(1) as u64;
        for number in 0..count {
            // The parts add up to the whole.
            line(&format!("cpu{number}"), &|ticks| (ticks + number) / count);
        }
        let Counts { booted_at, forks, running, blocked } = counts;
        let _ = writeln!(
            text,
            "btime {booted_at}\nprocesses {forks}\nprocs_running {running}\nprocs_blocked {blocked}"
        );
        text
    }
}

/// What /proc/stat tells besides time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Seconds since 1970.
    pub(super) booted_at: u64,
    /// Processes and threads made since the start.
    pub(super) forks: u64,
    /// Tasks that run or could.
    pub(super) running: usize,
    /// Tasks that wait for a disk.
    pub(super) blocked: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "processor\t: 0\nmodel name\t: AMD EPYC\nsiblings\t: 4\ncore id\t\t: 0\ncpu cores\t: 4\n\n\
        processor\t: 1\nmodel name\t: AMD EPYC\nsiblings\t: 4\ncore id\t\t: 1\ncpu cores\t: 4\n\n\
        Hardware\t: a board\n";

    #[test]
    fn a_host_of_one_processor_lists_one() {
        let one = "processor\t: 0\nmodel name\t: AMD EPYC\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\n\n";
        assert_eq!(cpuinfo(MACHINE, 1), one);
        assert_eq!(cpuinfo(MACHINE, 2).matches("processor").count(), 2);
        assert_eq!(cpuinfo(MACHINE, 9).matches("processor").count(), 2);
        assert_eq!((list(1), list(4)), ("0\n".to_owned(), "0-3\n".to_owned()));
    }

    #[test]
    fn time_is_the_groups_own_in_either_version() {
        let taken = Taken { user_ticks: 250, system_ticks: 50 };
        assert_eq!(Taken::of_version_1("user 250\nsystem 50\n"), taken);
        assert_eq!(Taken::of_version_2("usage_usec 3000000\nuser_usec 2500000\nsystem_usec 500000\n"), taken);
        assert_eq!(Taken::of_version_1(""), Taken::default());
    }

    #[test]
    fn the_statistics_hold_the_hosts_own_time_and_nothing_of_the_machines() {
        let mut clock = Clock::default();
        clock.advance(Taken { user_ticks: 251, system_ticks: 50 }, 1000, 2);
        let counts = Counts { booted_at: 1_795_544_831, forks: 321, running: 2, blocked: 0 };
        insta::assert_snapshot!(clock.render(2, counts), @r"
        cpu  251 0 50 1699 0 0 0 0 0 0
        cpu0 125 0 25 849 0 0 0 0 0 0
        cpu1 126 0 25 850 0 0 0 0 0 0
        btime 1795544831
        processes 321
        procs_running 2
        procs_blocked 0
        ");
    }

    #[test]
    fn idle_time_never_runs_backwards() {
        let mut clock = Clock::default();
        clock.advance(Taken::default(), 100, 1);
        clock.advance(Taken { user_ticks: 90, system_ticks: 0 }, 110, 1);
        assert_eq!(clock.idle_ticks(), 100);
        clock.advance(Taken { user_ticks: 90, system_ticks: 0 }, 300, 1);
        assert_eq!(clock.idle_ticks(), 210);
    }
}
