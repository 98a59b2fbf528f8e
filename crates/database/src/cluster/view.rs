//! The coordinator's keys as one keeper sees them: a snapshot at a revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::{Given, History, Identity, Intent, Key, Leader, Member, Sync, Value};
use super::position::{Epoch, Gtid, Name};

/// The number of a lease.
pub type LeaseId = u64;

/// A value, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The revision at which the key was last written (etcd's `mod_revision`).
    pub revision: u64,
    /// The lease that it is bound to.
    pub lease: Option<LeaseId>,
}

/// All keys at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The store's revision.
    pub revision: u64,
    /// Who leads.
    pub leader: Option<Versioned<Leader>>,
    /// The last epoch given.
    pub epoch: Option<Versioned<Given>>,
    /// The synchronous set.
    pub sync: Option<Versioned<Sync>>,
    /// The servers' reports.
    pub members: BTreeMap<Name, Versioned<Member>>,
    /// The epochs that were opened.
    pub history: BTreeMap<Epoch, Versioned<Arc<History>>>,
    /// What an operator wants.
    pub intent: Option<Versioned<Intent>>,
    /// Which cluster this is.
    pub identity: Option<Versioned<Identity>>,
}

impl View {
    /// Takes over that a key was written.
    pub fn put(&mut self, value: Value, revision: u64, lease: Option<LeaseId>) {
        match value {
            Value::Leader(value) => self.leader = Some(Versioned { value, revision, lease }),
            Value::Epoch(value) => self.epoch = Some(Versioned { value, revision, lease }),
            Value::Sync(value) => self.sync = Some(Versioned { value, revision, lease }),
            Value::Member(name, value) => {
                self.members.insert(name, Versioned { value, revision, lease });
            }
            Value::History(epoch, value) => {
                self.history.insert(epoch, Versioned { value: Arc::new(value), revision, lease });
            }
            Value::Intent(value) => self.intent = Some(Versioned { value, revision, lease }),
            Value::Identity(value) => self.identity = Some(Versioned { value, revision, lease }),
        }
    }

    /// Takes over that a key was deleted.
    pub fn delete(&mut self, key: &Key) {
        match key {
            Key::Leader => self.leader = None,
            Key::Epoch => self.epoch = None,
            Key::Sync => self.sync = None,
            Key::Member(name) => {
                self.members.remove(name);
            }
            Key::History(epoch) => {
                self.history.remove(epoch);
            }
            Key::Intent => self.intent = None,
            Key::Identity => self.identity = None,
        }
    }

    /// The revision at which a key was last written; 0 where there is none.
    pub fn revision_of(&self, key: &Key) -> u64 {
        fn of<T>(entry: Option<&Versioned<T>>) -> u64 {
            entry.map_or(0, |versioned| versioned.revision)
        }
        match key {
            Key::Leader => of(self.leader.as_ref()),
            Key::Epoch => of(self.epoch.as_ref()),
            Key::Sync => of(self.sync.as_ref()),
            Key::Member(name) => of(self.members.get(name)),
            Key::History(epoch) => of(self.history.get(epoch)),
            Key::Intent => of(self.intent.as_ref()),
            Key::Identity => of(self.identity.as_ref()),
        }
    }

    /// Whether data that belongs to the history of `lineage` and reaches to `position` is a part of the history of today.
    ///
    /// Whoever followed or led in `lineage` shares all with the next epoch up to the position at which that one began. Numbers of transactions
    /// say less: a server that led twice may have given the same number twice.
    pub fn is_history(&self, lineage: Epoch, position: Gtid) -> bool {
        // Which epoch comes next, going back; what was pruned is not known.
        let mut previous = self.history.keys().next_back().copied().unwrap_or_default();
        while previous > lineage {
            let Some(entry) = self.history.get(&previous) else { return false };
            if !entry.value.promotion_gtid.reaches(position) {
                return false;
            }
            previous = entry.value.previous.min(Epoch(previous.0 - 1));
        }
        true
    }
}
