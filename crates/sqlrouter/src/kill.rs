//! Which client's statement runs where, so that one client can end what another of the same account does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::backend::Role;
use crate::topology::Server;

/// The router's numbers begin here, above those that a server gives in its life: a number of a client that has left must not
/// end what another client does on a server.
const FIRST: u32 = 1 << 30;

/// All clients of the process, by the number that they were told.
#[derive(Default)]
pub(crate) struct Kills {
    /// Held for one look or change, when clients come and go and at KILL.
    targets: Mutex<HashMap<u32, Arc<Target>>>,
    next: AtomicU32,
}

/// One client.
pub(crate) struct Target {
    pub(crate) account: String,
    /// Tells it to end.
    pub(crate) end: Notify,
    /// Its connections to servers.
    at: Mutex<[Option<(Server, u32)>; 2]>,
    active: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kills {
    /// A number for a new client.
    pub(crate) fn number(&self) -> u32 {
        loop {
            let number = FIRST | self.next.fetch_add(1, Ordering::Relaxed);
            if !lock(&self.targets).contains_key(&number) {
                return number;
            }
        }
    }

    /// Makes a client known until what this returns is dropped.
    pub(crate) fn enter(self: &Arc<Self>, number: u32, account: &str) -> Entry {
        let target = Arc::new(Target {
            account: account.to_owned(),
            end: Notify::new(),
            at: Mutex::default(),
            active: AtomicUsize::new(0),
        });
        lock(&self.targets).insert(number, Arc::clone(&target));
        Entry { kills: Arc::clone(self), number, target }
    }

    /// Whether a number is one that the router gives, not a server's.
    pub(crate) fn is_own(number: u64) -> bool {
        number >= u64::from(FIRST)
    }

    pub(crate) fn find(&self, number: u64) -> Option<Arc<Target>> {
        let number = u32::try_from(number).ok()?;
        lock(&self.targets).get(&number).cloned()
    }
}

impl Target {
    /// Where its statement runs: the server, and its number there.
    pub(crate) fn running(&self) -> Option<(Server, u32)> {
        lock(&self.at)[self.active.load(Ordering::Relaxed) % 2].clone()
    }

    pub(crate) fn connected(&self, role: Role, at: Option<(Server, u32)>) {
        lock(&self.at)[usize::from(role == Role::Replica)] = at;
    }

    pub(crate) fn runs_on(&self, role: Role) {
        self.active.store(usize::from(role == Role::Replica), Ordering::Relaxed);
    }
}

/// A client that is known.
pub(crate) struct Entry {
    kills: Arc<Kills>,
    pub(crate) number: u32,
    pub(crate) target: Arc<Target>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.kills.targets).remove(&self.number);
    }
}
