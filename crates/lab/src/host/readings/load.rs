//! /proc/loadavg and /proc/uptime of a host.

use std::time::Duration;

/// How often the load is sampled, as the kernel does (`LOAD_FREQ`).
pub(super) const SAMPLED_EVERY: Duration = Duration::from_secs(5);

/// The tasks of a host at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tasks {
    /// On a processor, or waiting for one.
    pub(super) running: usize,
    /// Waiting for a disk; they count as load.
    pub(super) blocked: usize,
    /// All.
    pub(super) total: usize,
}

impl Tasks {
    /// Counts one in by its state (`proc_pid_stat(5)`).
    pub(super) fn count(&mut self, state: char) {
        self.total += 1;
        match state {
            'R' => self.running += 1,
            'D' => self.blocked += 1,
            _ => {}
        }
    }
}

/// A task's state and its process's number of threads, out of /proc/PID/stat.
pub(super) fn state_and_threads(stat: &str) -> Option<(char, usize)> {
    // The second field is the name in parentheses, which may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    Some((state, threads))
}

/// The averages over one, five and fifteen minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Load([f64; 3]);

impl Load {
    /// Takes a sample in, [`SAMPLED_EVERY`] after the one before.
    pub(super) fn sample(&mut self, tasks: Tasks) {
        let active = (tasks.running + tasks.blocked) as f64;
        for (average, minutes) in self.0.iter_mut().zip([1.0, 5.0, 15.0]) {
            let kept = (-SAMPLED_EVERY.as_secs_f64() / (minutes * 60.0)).exp();
            *average = *average * kept + active * (1.0 - kept);
        }
    }

    /// /proc/loadavg: the averages, how many of all tasks run, and the newest process.
    pub(super) fn render(&self, tasks: Tasks, newest: u64) -> String {
        let [one, five, fifteen] = self.0;
        format!("{one:.2} {five:.2} {fifteen:.2} {}/{} {newest}\n", tasks.running, tasks.total)
    }
}

/// /proc/uptime: seconds since the host's start, and seconds that its processors were idle, all together.
pub(super) fn uptime(up: Duration, idle_ticks: u64) -> String {
    format!("{:.2} {}.{:02}\n", up.as_secs_f64(), idle_ticks / 100, idle_ticks % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_read_whatever_its_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 12 0 99 1 2\n";
        assert_eq!(state_and_threads(stat), Some(('S', 12)));
        assert_eq!(state_and_threads("7 (cut"), None);
    }

    #[test]
    fn tasks_that_run_or_wait_for_a_disk_are_load_and_sleepers_are_not() {
        let mut tasks = Tasks::default();
        "RRDSSZIt".chars().for_each(|state| tasks.count(state));
        assert_eq!(tasks, Tasks { running: 2, blocked: 1, total: 8 });
    }

    #[test]
    fn averages_come_near_a_steady_load_the_shorter_the_sooner() {
        let mut load = Load::default();
        let tasks = Tasks { running: 2, blocked: 0, total: 40 };
        for _ in 0..12 {
            load.sample(tasks);
        }
        // After a minute: 1 - 1/e of it, and less for the longer ones.
        assert_eq!(load.render(tasks, 4711), "1.26 0.36 0.13 2/40 4711\n");
        for _ in 0..12 * 120 {
            load.sample(Tasks::default());
        }
        assert_eq!(load.render(Tasks::default(), 1), "0.00 0.00 0.00 0/0 1\n");
    }

    #[test]
    fn uptime_counts_from_the_hosts_start() {
        assert_eq!(uptime(Duration::from_millis(61_230), 6007), "61.23 60.07\n");
    }
}
