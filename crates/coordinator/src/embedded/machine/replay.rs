//! The machine from its records, and its records from the machine.

use std::time::Duration;

use super::history::History;
use super::{Entry, Machine};
use crate::embedded::record::{Change, Past, Record};
use crate::wire::Base64;

/// No store gets here in a thousand years; a file that says so is none, and the next revision must not overflow.
const REVISION_MOST: i64 = i64::MAX / 2;

/// A record that cannot follow upon those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Contradiction(String);

fn contradiction<T>(why: impl Into<String>) -> Result<T, Contradiction> {
    Err(Contradiction(why.into()))
}

impl Machine {
    /// Applies a record of a file that is being read. The clock stands at zero meanwhile, so that each lease has its full time
    /// when it begins to run.
    pub(crate) fn replay(&mut self, record: Record) -> Result<(), Contradiction> {
        match record {
            Record::Base { revision, compacted, .. } => self.replay_base(revision, compacted),
            Record::Key { key, value, created, modified, version, lease } => {
                let sound = 0 < created
                    && created <= modified
                    && modified <= self.revision
                    && 0 < version
                    && version <= self.revision;
                if !sound || key.0.is_empty() || self.keys.contains_key(&key.0) {
                    return contradiction("a key that cannot have been");
                }
                self.check_lease(lease)?;
                self.insert(key.0, Entry { value: value.0, created, modified, version, lease });
                Ok(())
            }
            Record::Past(past) => {
                let last = self.history.events().last().map_or(0, |event| event.revision);
                if past.revision <= self.history.compacted()
                    || past.revision < last
                    || past.revision > self.revision
                {
                    return contradiction("a change at a revision that cannot have been");
                }
                self.history.push(past);
                Ok(())
            }
            Record::Grant { lease, ttl_ms } => {
                if lease <= 0 || self.leases.contains_key(&lease) {
                    return contradiction(format!("the lease {lease} is granted twice"));
                }
                self.add_lease(lease, Duration::from_millis(ttl_ms), Duration::ZERO);
                Ok(())
            }
            Record::Write { revision, changes } => self.replay_write(revision, &changes),
            Record::Revoke { lease, revision } => {
                let before = self.revision;
                match self.end(lease) {
                    None => contradiction(format!("the lease {lease} ends, which is not there")),
                    Some(Record::Revoke { revision: now, .. }) if now == revision => Ok(()),
                    Some(_) => contradiction(format!(
                        "the lease {lease} ends after {before} otherwise than at {revision}"
                    )),
                }
            }
            Record::Compact { revision } => {
                if revision > self.revision {
                    return contradiction("what is still to come is forgotten");
                }
                self.history.compact(revision);
                Ok(())
            }
        }
    }

    fn replay_base(&mut self, revision: i64, compacted: i64) -> Result<(), Contradiction> {
        let fresh = self.revision == 1 && self.keys.is_empty() && self.leases.is_empty();
        if !fresh || !(1..=REVISION_MOST).contains(&revision) || compacted < 0 || compacted > revision {
            return contradiction("a beginning that is none");
        }
        self.revision = revision;
        self.history = History::new(compacted);
        Ok(())
    }

    fn replay_write(&mut self, revision: i64, changes: &[Change]) -> Result<(), Contradiction> {
        if changes.is_empty() || self.revision.checked_add(1) != Some(revision) {
            return contradiction(format!("revision {revision} follows upon {}", self.revision));
        }
        for change in changes {
            match change {
                Change::Put { key, value, lease } => {
                    self.check_lease(*lease)?;
                    if key.0.is_empty() {
                        return contradiction("a key without a name");
                    }
                    self.put(revision, &key.0, &value.0, *lease);
                }
                Change::Delete { key } => {
                    if !self.delete(revision, &key.0) {
                        return contradiction("a key is deleted that is not there");
                    }
                }
            }
        }
        self.reached(revision);
        Ok(())
    }

    fn check_lease(&self, lease: i64) -> Result<(), Contradiction> {
        if lease == 0 || self.leases.contains_key(&lease) {
            return Ok(());
        }
        contradiction(format!("a key is bound to the lease {lease}, which is not there"))
    }

    /// All that the machine holds, as the records that a new file begins with. [`Record::Base`] is not among them, for it
    /// counts their lines.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let leases = self
            .leases
            .iter()
            .map(|(id, lease)| Record::Grant { lease: *id, ttl_ms: lease.ttl.as_millis() as u64 });
        let keys = self.keys.iter().map(|(key, entry)| Record::Key {
            key: Base64(key.clone()),
            value: Base64(entry.value.clone()),
            created: entry.created,
            modified: entry.modified,
            version: entry.version,
            lease: entry.lease,
        });
        let past = self.history.events().map(|event: &Past| Record::Past(event.clone()));
        leases.chain(keys).chain(past)
    }

    /// The base of those records.
    pub(crate) fn base(&self, lines: u64) -> Record {
        Record::Base { revision: self.revision, compacted: self.history.compacted(), lines }
    }

    /// Lets the leases begin to run at `now`, with their full time.
    #[cfg(test)]
    pub(crate) fn restart_leases(&mut self, now: Duration) {
        for lease in self.leases.values_mut() {
            lease.ends = now + lease.ttl;
        }
    }
}
