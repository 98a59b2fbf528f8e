use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::embedded::limits::TTL_LEAST;
use crate::wire::{
    CompactionRequest, DeleteRangeRequest, GrantRequest, KeepAliveRequest, PutRequest, RevokeRequest,
    WireCompare, WireRelation, WireTarget,
};

fn bytes(text: &str) -> Base64 {
    Base64(text.as_bytes().to_vec())
}

fn put(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), lease: Int64(lease) }
}

fn grant(id: i64, ttl_ms: i64) -> Request {
    Request::Grant(GrantRequest { id: Int64(id), ttl: Int64(1), ttl_ms: Int64(ttl_ms) })
}

fn machine(limits: Limits) -> Machine {
    Machine::new(7, limits)
}

/// Asks, and keeps what was recorded.
fn ask(
    machine: &mut Machine,
    request: Request,
    now: Duration,
    records: &mut Vec<Record>,
) -> Result<Response, Failure> {
    let (answer, record) = machine.handle(request, now);
    records.extend(record);
    answer
}

fn small() -> Limits {
    Limits { store_bytes: 4096, keys: 16, leases: 4, history_events: 20, history_bytes: 4096 }
}

#[derive(Debug, Clone)]
enum Step {
    Request(Request),
    Pass(u64),
}

fn key() -> impl Strategy<Value = String> {
    "[a-d]{1,2}"
}

fn operation() -> impl Strategy<Value = RequestOp> {
    prop_oneof![
        (key(), "[x-z]{0,40}", 0i64..4).prop_map(|(key, value, lease)| RequestOp {
            request_put: Some(put(&key, &value, lease)),
            ..RequestOp::default()
        }),
        (key(), proptest::option::of(key())).prop_map(|(key, end)| RequestOp {
            request_delete_range: Some(DeleteRangeRequest {
                key: bytes(&key),
                range_end: end.map_or_else(Base64::default, |end| bytes(&end)),
            }),
            ..RequestOp::default()
        }),
        key().prop_map(|key| RequestOp {
            request_range: Some(RangeRequest { key: bytes(&key), ..RangeRequest::default() }),
            ..RequestOp::default()
        }),
    ]
}

fn compare() -> impl Strategy<Value = WireCompare> {
    (key(), any::<bool>(), any::<bool>(), 0i64..3).prop_map(|(key, equal, version, number)| WireCompare {
        key: bytes(&key),
        result: if equal { WireRelation::Equal } else { WireRelation::NotEqual },
        target: if version { WireTarget::Version } else { WireTarget::Lease },
        version: Some(Int64(number)),
        lease: Some(Int64(number)),
        ..WireCompare::default()
    })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let ops = || proptest::collection::vec(operation(), 0..4);
    prop_oneof![
        4 => (proptest::collection::vec(compare(), 0..2), ops(), ops())
            .prop_map(|(compare, success, failure)| Request::Txn(TxnRequest { compare, success, failure })),
        2 => (key(), "[x-z]{0,40}", 0i64..4).prop_map(|(key, value, lease)| Request::Put(put(&key, &value, lease))),
        2 => (1i64..4, 100i64..2000).prop_map(|(id, ttl)| grant(id, ttl)),
        1 => (1i64..4).prop_map(|id| Request::Revoke(RevokeRequest { id: Int64(id) })),
        1 => (1i64..4).prop_map(|id| Request::KeepAlive(KeepAliveRequest { id: Int64(id) })),
        1 => (0i64..40).prop_map(|at| Request::Compact(CompactionRequest { revision: Int64(at), physical: false })),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![6 => request().prop_map(Step::Request), 1 => (0u64..1500).prop_map(Step::Pass)]
}

/// The keys as the events say they must be.
fn follow(keys: &mut BTreeMap<Vec<u8>, Vec<u8>>, events: &[WireEvent]) {
    for event in events {
        match event.kind {
            EventType::Put => keys.insert(event.kv.key.0.clone(), event.kv.value.0.clone()),
            EventType::Delete => keys.remove(&event.kv.key.0),
        };
    }
}

proptest! {
    /// Whatever is asked: revisions grow by one for each change, what is recorded makes the same machine again, a beginning
    /// written from the machine too, a follower of all events knows the keys, and what the machine counts is what it holds.
    #[test]
    fn what_is_recorded_and_what_is_told_is_what_happened(steps in proptest::collection::vec(step(), 1..60)) {
        let limits = small();
        let mut machine = machine(limits);
        let mut again = machine.clone();
        let (mut now, mut next) = (Duration::ZERO, 1);
        let mut followed = BTreeMap::new();
        for step in steps {
            let before = machine.revision();
            let mut records = Vec::new();
            match step {
                Step::Pass(millis) => {
                    now += Duration::from_millis(millis);
                    records = machine.expire(now);
                }
                Step::Request(request) => {
                    let unchanged = machine.clone();
                    let answer = ask(&mut machine, request, now, &mut records);
                    if answer.is_err() {
                        prop_assert_eq!(&machine, &unchanged, "a failure changes nothing");
                        prop_assert!(records.is_empty());
                    }
                    prop_assert!(machine.revision() <= before + 1);
                }
            }
            for record in records {
                again.replay(record).unwrap();
            }
            let mut same = machine.clone();
            same.restart_leases(Duration::ZERO);
            again.restart_leases(Duration::ZERO);
            prop_assert_eq!(&again, &same);

            if let Response::Events { events, next: further, .. } = machine.events(&Range::Between(vec![0], None), next) {
                prop_assert!(events.iter().all(|event| event.kv.mod_revision.0 >= next));
                follow(&mut followed, &events);
                next = further;
            } else {
                // Started over, as a follower does.
                followed = machine.keys.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
                next = machine.revision() + 1;
            }
            let held: BTreeMap<_, _> = machine.keys.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
            prop_assert_eq!(&followed, &held);
            let sum: usize = held.iter().map(|(key, value)| ENTRY_BYTES + key.len() + value.len()).sum();
            prop_assert_eq!(machine.bytes, sum);
            prop_assert!(sum <= limits.store_bytes && held.len() <= limits.keys);
            for (key, entry) in &machine.keys {
                prop_assert!(entry.lease == 0 || machine.leases[&entry.lease].keys.contains(key));
            }
            let bound: usize = machine.leases.values().map(|lease| lease.keys.len()).sum();
            prop_assert_eq!(bound, machine.keys.values().filter(|entry| entry.lease != 0).count());
            let newest = machine.history.events().last().map(|event| event.revision);
            let old = machine.history.events().filter(|event| Some(event.revision) != newest).count();
            prop_assert!(old <= limits.history_events);
        }
    }
}

#[test]
fn a_lease_ends_when_its_time_is_over_and_not_before() {
    let mut machine = machine(small());
    let mut records = Vec::new();
    ask(&mut machine, grant(1, 1000), Duration::ZERO, &mut records).unwrap();
    ask(&mut machine, Request::Put(put("a", "", 1)), Duration::ZERO, &mut records).unwrap();
    assert_eq!(machine.next_end(), Some(Duration::from_secs(1)));
    assert!(machine.expire(Duration::from_millis(999)).is_empty());
    ask(
        &mut machine,
        Request::KeepAlive(KeepAliveRequest { id: Int64(1) }),
        Duration::from_millis(999),
        &mut records,
    )
    .unwrap();
    assert!(machine.expire(Duration::from_millis(1998)).is_empty());
    // Its time is over, though nobody has swept it up: it is not renewed any more.
    let late = ask(
        &mut machine,
        Request::KeepAlive(KeepAliveRequest { id: Int64(1) }),
        Duration::from_millis(1999),
        &mut records,
    );
    assert!(matches!(late, Ok(Response::KeepAlive(answer)) if answer.ttl.0 == 0));
    assert_eq!(machine.expire(Duration::from_millis(1999)), [Record::Revoke { lease: 1, revision: 3 }]);
    assert!(machine.keys.is_empty());
}

#[test]
fn a_store_that_is_full_takes_nothing_more_but_deletions() {
    let mut machine = machine(small());
    let mut records = Vec::new();
    let large = "x".repeat(1500);
    for key in ["a", "b"] {
        ask(&mut machine, Request::Put(put(key, &large, 0)), Duration::ZERO, &mut records).unwrap();
    }
    let full =
        ask(&mut machine, Request::Put(put("c", &large, 0)), Duration::ZERO, &mut records).unwrap_err();
    assert_eq!(full.code, 8);
    let delete = DeleteRangeRequest { key: bytes("a"), range_end: Base64::default() };
    ask(&mut machine, Request::DeleteRange(delete), Duration::ZERO, &mut records).unwrap();
    ask(&mut machine, Request::Put(put("c", &large, 0)), Duration::ZERO, &mut records).unwrap();
    for number in 0..14 {
        ask(&mut machine, Request::Put(put(&format!("k{number}"), "", 0)), Duration::ZERO, &mut records)
            .unwrap();
    }
    let many = ask(&mut machine, Request::Put(put("more", "", 0)), Duration::ZERO, &mut records).unwrap_err();
    assert_eq!(many.code, 8);
    // What is there can still be replaced by no more.
    ask(&mut machine, Request::Put(put("b", &large, 0)), Duration::ZERO, &mut records).unwrap();
}

#[test]
fn a_transaction_does_not_read_the_store_again_and_again() {
    let mut machine = machine(Limits::default());
    let mut records = Vec::new();
    let large = "x".repeat(1 << 20);
    for key in ["a", "b", "c"] {
        ask(&mut machine, Request::Put(put(key, &large, 0)), Duration::ZERO, &mut records).unwrap();
    }
    let all = |count| {
        let range =
            RangeRequest { key: Base64(vec![0]), range_end: Base64(vec![0]), ..RangeRequest::default() };
        let read = RequestOp { request_range: Some(range), ..RequestOp::default() };
        Request::Txn(TxnRequest { success: vec![read; count], ..TxnRequest::default() })
    };
    ask(&mut machine, all(5), Duration::ZERO, &mut records).unwrap();
    assert_eq!(ask(&mut machine, all(10), Duration::ZERO, &mut records).unwrap_err().code, 8);
}

#[test]
fn leases_are_bounded_in_number_and_time() {
    let mut machine = machine(small());
    let mut records = Vec::new();
    for id in 1..=4 {
        ask(&mut machine, grant(id, 1), Duration::ZERO, &mut records).unwrap();
    }
    assert_eq!(machine.next_end(), Some(TTL_LEAST));
    for (request, code) in
        [(grant(5, 1000), 8), (grant(1, 1000), 9), (grant(0, 1000), 3), (grant(-1, 1000), 3)]
    {
        assert_eq!(ask(&mut machine, request, Duration::ZERO, &mut records).unwrap_err().code, code);
    }
    machine.expire(TTL_LEAST);
    assert_eq!(ask(&mut machine, grant(6, i64::MAX), Duration::ZERO, &mut records).unwrap_err().code, 11);
}

#[test]
fn a_batch_of_events_ends_with_a_whole_revision_and_the_next_goes_on_there() {
    let mut machine = machine(Limits::default());
    let mut records = Vec::new();
    let value = "x".repeat(400 << 10);
    for _ in 0..4 {
        let ops = |key: &str| RequestOp { request_put: Some(put(key, &value, 0)), ..RequestOp::default() };
        let txn = TxnRequest { success: vec![ops("a"), ops("b")], ..TxnRequest::default() };
        ask(&mut machine, Request::Txn(txn), Duration::ZERO, &mut records).unwrap();
    }
    let (mut next, mut batches, mut seen) = (1, 0, Vec::new());
    while next <= machine.revision() {
        let Response::Events { events, next: further, .. } =
            machine.events(&Range::Between(vec![0], None), next)
        else {
            panic!("compacted");
        };
        seen.extend(events.iter().map(|event| event.kv.mod_revision.0));
        assert_eq!(events.len() % 2, 0);
        next = further;
        batches += 1;
    }
    assert_eq!(seen, [2, 2, 3, 3, 4, 4, 5, 5]);
    assert!(batches > 1);
}
