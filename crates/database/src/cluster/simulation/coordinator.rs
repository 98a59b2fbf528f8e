//! The coordinator: linearizable, with leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{LeaseId, Outcome, Transaction, View};

#[derive(Debug, Default)]
pub(super) struct Coordinator {
    pub(super) view: Arc<View>,
    /// Each lease's end.
    pub(super) leases: BTreeMap<LeaseId, Duration>,
    next_lease: LeaseId,
    pub(super) is_down: bool,
}

impl Coordinator {
    pub(super) fn grant(&mut self, now: Duration, ttl: Duration) -> LeaseId {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, now + ttl);
        self.next_lease
    }

    pub(super) fn renew(&mut self, lease: LeaseId, now: Duration, ttl: Duration) -> bool {
        match self.leases.get_mut(&lease) {
            Some(ends) => {
                *ends = now + ttl;
                true
            }
            None => false,
        }
    }

    /// Ends leases, and deletes what hung on them. Says whether anything changed.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        if self.leases.values().all(|ends| *ends > now) {
            return false;
        }
        self.leases.retain(|_, ends| *ends > now);
        let leases = &self.leases;
        let is_gone = |lease: Option<LeaseId>| lease.is_some_and(|lease| !leases.contains_key(&lease));
        let view = Arc::make_mut(&mut self.view);
        view.members.retain(|_, member| !is_gone(member.lease));
        if view.leader.as_ref().is_some_and(|leader| is_gone(leader.lease)) {
            view.leader = None;
        }
        view.revision += 1;
        true
    }

    pub(super) fn transact(&mut self, transaction: Transaction) -> Outcome {
        let bound = transaction.put.iter().filter_map(|(_, lease)| *lease);
        let alive = bound.into_iter().all(|lease| self.leases.contains_key(&lease));
        let equal = transaction.compare.iter().all(|(key, revision)| self.view.revision_of(key) == *revision);
        if !alive || !equal {
            return Outcome::Lost { revision: self.view.revision };
        }
        let view = Arc::make_mut(&mut self.view);
        view.revision += 1;
        for (value, lease) in transaction.put {
            let revision = view.revision;
            view.put(value, revision, lease);
        }
        for key in &transaction.delete {
            view.delete(key);
        }
        Outcome::Won { revision: view.revision }
    }
}
