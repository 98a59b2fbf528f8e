//! Leases: granted, renewed, ended, with the keys bound to them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Machine;
use crate::embedded::api::{Response, failure};
use crate::embedded::limits::{TTL_LEAST, TTL_MOST};
use crate::embedded::record::Record;
use crate::wire::{
    Base64, Failure, GrantRequest, GrantResponse, Int64, KeepAliveResponse, LeaseEntry, LeasesResponse,
    RevokeResponse, TimeToLiveRequest, TimeToLiveResponse,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) ttl: Duration,
    /// When it ends, on the clock that is passed in. Not recorded: who reads the file again gives it its full time.
    pub(super) ends: Duration,
    pub(super) keys: BTreeSet<Vec<u8>>,
}

impl Machine {
    /// When the first lease ends.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.ends).min()
    }

    /// Ends the leases whose time is over.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<Record> {
        let over: Vec<i64> =
            self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        over.into_iter().filter_map(|id| self.end(id)).collect()
    }

    pub(super) fn grant(
        &mut self,
        grant: &GrantRequest,
        now: Duration,
    ) -> Result<(Response, Option<Record>), Failure> {
        let lease = grant.id.0;
        if lease <= 0 {
            return Err(failure(
                3,
                "the embedded coordinator wants leases to be named: give a random ID above 0",
            ));
        }
        if self.leases.contains_key(&lease) {
            return Err(failure(9, "etcdserver: lease already exists"));
        }
        if self.leases.len() >= self.limits.leases {
            return Err(failure(8, format!("there are {} leases, and no more may be", self.leases.len())));
        }
        let asked = match (grant.ttl_ms.0, grant.ttl.0) {
            (millis @ 1.., _) => Duration::from_millis(millis.unsigned_abs()),
            (_, seconds @ 1..) => Duration::from_secs(seconds.unsigned_abs()),
            _ => return Err(failure(3, "a lease needs a TTL above 0")),
        };
        if asked > TTL_MOST {
            return Err(failure(11, "etcdserver: too large lease TTL"));
        }
        let ttl = asked.max(TTL_LEAST);
        self.add_lease(lease, ttl, now);
        let answer = GrantResponse {
            header: self.header(),
            id: Int64(lease),
            ttl: seconds_up(ttl),
            ttl_ms: millis(ttl),
        };
        Ok((Response::Grant(answer), Some(Record::Grant { lease, ttl_ms: ttl.as_millis() as u64 })))
    }

    pub(super) fn add_lease(&mut self, lease: i64, ttl: Duration, now: Duration) {
        self.leases.insert(lease, Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
    }

    pub(super) fn keep_alive(&mut self, id: i64, now: Duration) -> Response {
        let mut answer =
            KeepAliveResponse { header: self.header(), id: Int64(id), ..KeepAliveResponse::default() };
        // One whose time is over is gone, even if nobody has swept it up yet.
        if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.ends > now) {
            lease.ends = now + lease.ttl;
            answer.ttl = seconds_up(lease.ttl);
            answer.ttl_ms = millis(lease.ttl);
        }
        Response::KeepAlive(answer)
    }

    pub(super) fn revoke(&mut self, id: i64) -> Result<(Response, Option<Record>), Failure> {
        let record = self.end(id).ok_or_else(|| failure(5, "etcdserver: requested lease not found"))?;
        Ok((Response::Revoke(RevokeResponse { header: self.header() }), Some(record)))
    }

    /// Ends a lease: its keys are deleted together, at one revision.
    pub(super) fn end(&mut self, id: i64) -> Option<Record> {
        let lease = self.leases.remove(&id)?;
        if lease.keys.is_empty() {
            return Some(Record::Revoke { lease: id, revision: 0 });
        }
        let revision = self.revision + 1;
        for key in &lease.keys {
            self.delete(revision, key);
        }
        self.reached(revision);
        Some(Record::Revoke { lease: id, revision })
    }

    pub(super) fn time_to_live(&self, ask: &TimeToLiveRequest, now: Duration) -> Response {
        let mut answer =
            TimeToLiveResponse { header: self.header(), id: ask.id, ..TimeToLiveResponse::default() };
        match self.leases.get(&ask.id.0).filter(|lease| lease.ends > now) {
            None => answer.ttl = Int64(-1),
            Some(lease) => {
                let left = lease.ends.saturating_sub(now);
                answer.ttl = Int64::from(left.as_secs());
                answer.ttl_ms = millis(left);
                answer.granted_ttl = seconds_up(lease.ttl);
                answer.granted_ttl_ms = millis(lease.ttl);
                if ask.keys {
                    answer.keys = lease.keys.iter().map(|key| Base64(key.clone())).collect();
                }
            }
        }
        Response::TimeToLive(answer)
    }

    pub(super) fn list_leases(&self) -> Response {
        let leases = self.leases.keys().map(|id| LeaseEntry { id: Int64(*id) }).collect();
        Response::Leases(LeasesResponse { header: self.header(), leases })
    }
}

fn millis(duration: Duration) -> Int64 {
    Int64::from(duration.as_millis() as u64)
}

fn seconds_up(duration: Duration) -> Int64 {
    Int64::from((duration.as_millis() as u64).div_ceil(1000))
}
