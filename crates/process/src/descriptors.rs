//! The one place with `unsafe`: a number in the environment becomes an owned descriptor, and an owned descriptor is
//! watched by the runtime.
#![allow(unsafe_code)]

use std::io;

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The first inherited descriptor, by the convention of `sd_listen_fds(3)`.
pub(crate) const FIRST: RawFd = 3;
/// More than this many are refused: something else set the variable.
const MOST: usize = 4096;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Why the inherited descriptors cannot be taken.
#[derive(Debug, Error)]
pub enum InheritedError {
    /// They can be owned once only.
    #[error("the inherited descriptors were taken before")]
    TakenBefore,
    /// The environment does not make sense.
    #[error("{variable}={value} is wrong; it is set by whoever starts this program, not by hand")]
    Variable {
        /// `LISTEN_FDS` or `LISTEN_FDNAMES`.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// A descriptor that was promised is not there.
    #[error("descriptor {0} was promised in LISTEN_FDS but is not open")]
    NotOpen(RawFd),
    /// A descriptor is not what its name says.
    #[error("the inherited descriptor {name} is not usable: {source}")]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Takes all inherited descriptors with their names. None if nobody passed any to this process.
pub fn inherited_descriptors() -> Result<Vec<(String, OwnedFd)>, InheritedError> {
    let variable = |name| std::env::var(name).ok();
    let for_us = variable("LISTEN_PID")
        .is_none_or(|pid| pid.parse::<u32>().is_ok_and(|pid| pid == std::process::id()));
    let Some(count) = variable("LISTEN_FDS").filter(|_| for_us) else { return Ok(Vec::new()) };
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names_of(&count, &names)?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(InheritedError::TakenBefore);
    }
    (FIRST..).zip(names).map(|(number, name)| take(number).map(|descriptor| (name, descriptor))).collect()
}

fn names_of(count: &str, names: &str) -> Result<Vec<String>, InheritedError> {
    let wrong = |variable, value: &str| InheritedError::Variable { variable, value: value.to_owned() };
    let count: usize =
        count.parse().ok().filter(|count| *count <= MOST).ok_or_else(|| wrong("LISTEN_FDS", count))?;
    if names.is_empty() {
        return Ok(vec!["unknown".to_owned(); count]);
    }
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    if names.len() != count {
        return Err(wrong("LISTEN_FDNAMES", &names.join(":")));
    }
    Ok(names)
}

fn take(number: RawFd) -> Result<OwnedFd, InheritedError> {
    if !Path::new("/proc/self/fd").join(number.to_string()).exists() {
        return Err(InheritedError::NotOpen(number));
    }
    // SAFETY: the descriptor is open (checked above). It was open before this program's first instruction, for whoever
    // started it says so in LISTEN_FDS, addressed to this very process; so every descriptor that this program
    // opened itself got another number, and nothing else in it owns this one. `TAKEN` lets each become owned once only.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(|_| InheritedError::NotOpen(number))?;
    Ok(descriptor)
}

/// Lets the runtime of this task tell when a descriptor is readable.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, so it stays open, and the same, for as long as it is watched.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}

/// Lets no descriptor from `first` on reach the program that this process becomes.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if number >= first {
            // SAFETY: the number was listed as open a moment ago, and the shim closes nothing meanwhile: the one
            // descriptor that it opened since is this listing, which lives until the loop ends.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_names_as_descriptors_are_asked_for() {
        assert_eq!(names_of("2", "a:b").unwrap(), ["a", "b"]);
        assert_eq!(names_of("1", "").unwrap(), ["unknown"]);
        assert!(names_of("2", "a").is_err());
        assert!(names_of("-1", "").is_err());
        assert!(names_of("100000", "").is_err());
    }
}
