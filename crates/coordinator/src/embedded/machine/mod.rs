//! The store as a machine: a request and the time in; an answer, and a record of what it changed, out. No I/O, no clock, no
//! randomness, so that it can be simulated, and so that reading its file again is the same as having lived through it.
//!
//! Whoever drives it makes the records durable before anyone sees an answer that follows from them.

mod history;
mod lease;
mod range;
mod replay;
mod txn;

use std::collections::BTreeMap;
use std::time::Duration;

use history::History;
use lease::Lease;
use range::Range;

use super::api::{Request, Response, failure};
use super::limits::{ENTRY_BYTES, KEY_MOST_BYTES, Limits};
use super::record::{Change, Past, PastPut, Record};
use crate::wire::{
    Base64, CompactionResponse, DeleteRangeRequest, EventType, Failure, Header, Int64, KeyValue, PutRequest,
    RangeRequest, RangeResponse, RequestOp, ResponseOp, StatusResponse, TxnRequest, Uint64, WireEvent,
};

/// The store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    limits: Limits,
    /// What the store is called in answers; made once, when its first file was.
    id: u64,
    revision: i64,
    keys: BTreeMap<Vec<u8>, Entry>,
    leases: BTreeMap<i64, Lease>,
    history: History,
    /// Bytes of keys and values, with what each entry costs.
    bytes: usize,
}

/// A key that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    created: i64,
    modified: i64,
    version: i64,
    /// 0 for none.
    lease: i64,
}

impl Machine {
    /// An empty store.
    pub(crate) fn new(id: u64, limits: Limits) -> Self {
        Self {
            limits,
            id,
            revision: 1,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            history: History::new(0),
            bytes: 0,
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// What it answers, and what is to be recorded before anyone sees that.
    pub(crate) fn handle(
        &mut self,
        request: Request,
        now: Duration,
    ) -> (Result<Response, Failure>, Option<Record>) {
        let answered = match request {
            Request::Put(put) => self.alone(RequestOp { request_put: Some(put), ..RequestOp::default() }),
            Request::DeleteRange(delete) => {
                self.alone(RequestOp { request_delete_range: Some(delete), ..RequestOp::default() })
            }
            Request::Txn(txn) => self.txn(&txn),
            Request::Compact(compact) => self.compact(compact.revision.0),
            Request::Grant(grant) => self.grant(&grant, now),
            Request::Revoke(revoke) => self.revoke(revoke.id.0),
            Request::Range(range) => self.range(&range).map(|answer| (Response::Range(answer), None)),
            Request::KeepAlive(keep) => Ok((self.keep_alive(keep.id.0, now), None)),
            Request::TimeToLive(ask) => Ok((self.time_to_live(&ask, now), None)),
            Request::Leases => Ok((self.list_leases(), None)),
            Request::Status => Ok((self.status(), None)),
            Request::Events { key, range_end, from } => {
                Ok((self.events(&Range::new(&key, &range_end), from), None))
            }
        };
        match answered {
            Ok((response, record)) => (Ok(response), record),
            Err(failure) => (Err(failure), None),
        }
    }

    /// What every answer says of the store.
    pub(crate) fn header(&self) -> Header {
        Header {
            cluster_id: Uint64(self.id),
            member_id: Uint64(self.id),
            revision: Int64(self.revision),
            raft_term: Uint64(1),
        }
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        check_key(&request.key)?;
        let range = Range::new(&request.key, &request.range_end);
        let limit = usize::try_from(request.limit.0).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut answer = RangeResponse { header: self.header(), ..RangeResponse::default() };
        let Some(bounds) = range.bounds() else { return Ok(answer) };
        let mut count = 0_usize;
        for (key, entry) in self.keys.range::<[u8], _>(bounds) {
            count += 1;
            if !request.count_only && answer.kvs.len() < limit {
                let mut kv = entry.wire(key);
                if request.keys_only {
                    kv.value = Base64::default();
                }
                answer.kvs.push(kv);
            }
        }
        answer.more = !request.count_only && count > answer.kvs.len();
        answer.count = Int64::from(count);
        Ok(answer)
    }

    /// A put or a deletion that is no part of a transaction is a transaction of one.
    fn alone(&mut self, operation: RequestOp) -> Result<(Response, Option<Record>), Failure> {
        let (answer, record) = self.txn(&TxnRequest { success: vec![operation], ..TxnRequest::default() })?;
        let Response::Txn(txn) = answer else { return Ok((answer, record)) };
        let header = txn.header;
        let answer = match txn.responses.into_iter().next() {
            Some(ResponseOp { response_put: Some(mut put), .. }) => {
                put.header = header;
                Response::Put(put)
            }
            Some(ResponseOp { response_delete_range: Some(mut delete), .. }) => {
                delete.header = header;
                Response::DeleteRange(delete)
            }
            _ => return Err(failure(3, "an operation that is none")),
        };
        Ok((answer, record))
    }

    fn compact(&mut self, revision: i64) -> Result<(Response, Option<Record>), Failure> {
        if revision <= self.history.compacted() {
            return Err(failure(11, "etcdserver: mvcc: required revision has been compacted"));
        }
        if revision > self.revision {
            return Err(failure(11, "etcdserver: mvcc: required revision is a future revision"));
        }
        self.history.compact(revision);
        let answer = Response::Compact(CompactionResponse { header: self.header() });
        Ok((answer, Some(Record::Compact { revision })))
    }

    fn events(&self, range: &Range, from: i64) -> Response {
        match self.history.since(range, from, self.revision) {
            Some((events, next)) => {
                let events = events.into_iter().map(wire_event).collect();
                Response::Events { header: self.header(), events, next }
            }
            None => Response::Compacted { header: self.header(), compacted: self.history.compacted() },
        }
    }

    fn status(&self) -> Response {
        Response::Status(StatusResponse {
            header: self.header(),
            version: concat!("mainstay-", env!("CARGO_PKG_VERSION")).to_owned(),
            db_size_in_use: Int64::from(self.bytes),
            leader: Uint64(self.id),
            raft_index: Uint64(self.revision.unsigned_abs()),
            raft_applied_index: Uint64(self.revision.unsigned_abs()),
            ..StatusResponse::default()
        })
    }

    /// Sets a key at a revision. The lease, if there is one, exists: the caller has looked.
    fn put(&mut self, revision: i64, key: &[u8], value: &[u8], lease: i64) {
        let before = self.remove(key);
        let entry = Entry {
            value: value.to_vec(),
            created: before.as_ref().map_or(revision, |entry| entry.created),
            modified: revision,
            version: before.as_ref().map_or(1, |entry| entry.version + 1),
            lease,
        };
        self.history.push(Past {
            revision,
            key: Base64(key.to_vec()),
            put: Some(PastPut {
                value: Base64(value.to_vec()),
                created: entry.created,
                version: entry.version,
                lease,
            }),
        });
        self.insert(key.to_vec(), entry);
    }

    /// Deletes a key at a revision; whether it was there.
    fn delete(&mut self, revision: i64, key: &[u8]) -> bool {
        if self.remove(key).is_none() {
            return false;
        }
        self.history.push(Past { revision, key: Base64(key.to_vec()), put: None });
        true
    }

    fn insert(&mut self, key: Vec<u8>, entry: Entry) {
        self.bytes += ENTRY_BYTES + key.len() + entry.value.len();
        if let Some(lease) = self.leases.get_mut(&entry.lease) {
            lease.keys.insert(key.clone());
        }
        self.keys.insert(key, entry);
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.keys.remove(key)?;
        self.bytes -= ENTRY_BYTES + key.len() + entry.value.len();
        if let Some(lease) = self.leases.get_mut(&entry.lease) {
            lease.keys.remove(key);
        }
        Some(entry)
    }

    /// A revision is complete.
    fn reached(&mut self, revision: i64) {
        self.revision = revision;
        self.history.trim(self.limits.history_events, self.limits.history_bytes);
    }
}

impl Entry {
    fn wire(&self, key: &[u8]) -> KeyValue {
        KeyValue {
            key: Base64(key.to_vec()),
            create_revision: Int64(self.created),
            mod_revision: Int64(self.modified),
            version: Int64(self.version),
            value: Base64(self.value.clone()),
            lease: Int64(self.lease),
        }
    }
}

fn wire_event(past: &Past) -> WireEvent {
    let mut kv =
        KeyValue { key: past.key.clone(), mod_revision: Int64(past.revision), ..KeyValue::default() };
    let kind = match &past.put {
        None => EventType::Delete,
        Some(put) => {
            kv.create_revision = Int64(put.created);
            kv.version = Int64(put.version);
            kv.value = put.value.clone();
            kv.lease = Int64(put.lease);
            EventType::Put
        }
    };
    WireEvent { kind, kv }
}

fn check_key(key: &Base64) -> Result<(), Failure> {
    match key.0.len() {
        0 => Err(failure(3, "etcdserver: key is not provided")),
        length if length > KEY_MOST_BYTES => {
            Err(failure(3, format!("a key of {length} bytes: {KEY_MOST_BYTES} at most")))
        }
        _ => Ok(()),
    }
}

/// The one field of an operation that is there.
enum Operation<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
}

impl<'a> Operation<'a> {
    fn new(operation: &'a RequestOp) -> Result<Self, Failure> {
        match (&operation.request_range, &operation.request_put, &operation.request_delete_range) {
            (Some(range), None, None) => Ok(Self::Range(range)),
            (None, Some(put), None) => Ok(Self::Put(put)),
            (None, None, Some(delete)) => Ok(Self::Delete(delete)),
            _ => {
                Err(failure(3, "an operation is one of request_range, request_put and request_delete_range"))
            }
        }
    }
}

fn change_put(put: &PutRequest) -> Change {
    Change::Put { key: put.key.clone(), value: put.value.clone(), lease: put.lease.0 }
}

#[cfg(test)]
pub(super) mod tests;
