//! What the kernel tells of processes: who they are, when they started, which session they belong to.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did (`starttime` in `proc_pid_stat(5)`).
    pub start_time: u64,
}

impl Identity {
    /// The process that has this number now.
    pub fn of(pid: i32) -> io::Result<Self> {
        stat(pid).map(|stat| Self { pid, start_time: stat.start_time })
    }

    /// This process.
    pub fn of_this() -> io::Result<Self> {
        Self::of(std::process::id().cast_signed())
    }

    /// A handle to a child of this process that was not reaped yet, whether it has ended or not.
    pub(crate) fn pin(self) -> io::Result<OwnedFd> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// A handle to the process; none if it has ended.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The number may have passed on before the handle was opened, but not after.
        match stat(self.pid) {
            Ok(stat) if stat.start_time == self.start_time && !stat.is_dead() => Ok(Some(handle)),
            _ => Ok(None),
        }
    }
}

/// The fields of `/proc/PID/stat` that we use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    state: char,
    session: i32,
    start_time: u64,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// The program's name may hold spaces and parentheses; the last `)` ends it.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            session: fields.get(3)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Stat::parse(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as expected")))
}

/// The living processes of a session. Every child leads a session of its own, so these are the child and its
/// descendants, except those that made a session for themselves.
pub fn session_members(session: i32) -> io::Result<Vec<i32>> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if stat(pid).is_ok_and(|stat| stat.session == session && !stat.is_dead()) {
            members.push(pid);
        }
    }
    Ok(members)
}

/// Sends a signal to each of `pids` for which `still_meant` holds once a handle pins its number.
pub fn signal_each(pids: &[i32], signal: Signal, still_meant: impl Fn(i32) -> bool) {
    for pid in pids {
        let handle = Pid::from_raw(*pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(handle) = handle
            && still_meant(*pid)
        {
            // It may end just now; that is what the signal is for.
            let _ = pidfd_send_signal(&handle, signal);
        }
    }
}

/// Whether a process is alive and of this session.
pub fn is_in_session(pid: i32, session: i32) -> bool {
    stat(pid).is_ok_and(|stat| stat.session == session && !stat.is_dead())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b) c) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 98765 1 2";
        assert_eq!(Stat::parse(text), Some(Stat { state: 'S', session: 42, start_time: 98765 }));
        assert_eq!(Stat::parse("7 (x"), None);
    }

    #[test]
    fn a_number_with_another_start_time_is_another_process() {
        let this = Identity::of_this().unwrap();
        assert!(this.open().unwrap().is_some());
        let other = Identity { start_time: this.start_time + 1, ..this };
        assert!(other.open().unwrap().is_none());
    }
}
