//! Between what callers say and what the wire carries.

use crate::wire::{
    Base64, DeleteRangeRequest, Int64, KeyValue as WireKeyValue, PutRequest, RangeRequest, RequestOp,
    ResponseOp, TxnRequest, WireCompare, WireRelation, WireTarget,
};
use crate::{Compare, Error, KeyValue, LeaseId, Operand, Operation, OperationResult, Relation, Txn};

pub(super) fn txn_request(txn: &Txn) -> TxnRequest {
    TxnRequest {
        compare: txn.compares.iter().map(compare).collect(),
        success: txn.operations.iter().map(operation).collect(),
        failure: txn.otherwise.iter().map(operation).collect(),
    }
}

fn compare(compare: &Compare) -> WireCompare {
    let mut wire = WireCompare {
        key: Base64(compare.key.as_bytes().to_vec()),
        result: match compare.relation {
            Relation::Equal => WireRelation::Equal,
            Relation::NotEqual => WireRelation::NotEqual,
            Relation::Greater => WireRelation::Greater,
            Relation::Less => WireRelation::Less,
        },
        ..WireCompare::default()
    };
    match &compare.operand {
        Operand::Version(version) => {
            (wire.target, wire.version) = (WireTarget::Version, Some(Int64(*version)));
        }
        Operand::CreateRevision(at) => {
            (wire.target, wire.create_revision) = (WireTarget::Create, Some(Int64(*at)));
        }
        Operand::ModRevision(at) => (wire.target, wire.mod_revision) = (WireTarget::Mod, Some(Int64(*at))),
        Operand::Value(value) => (wire.target, wire.value) = (WireTarget::Value, Some(Base64(value.clone()))),
        Operand::Lease(lease) => (wire.target, wire.lease) = (WireTarget::Lease, Some(Int64(lease.0))),
    }
    wire
}

fn operation(operation: &Operation) -> RequestOp {
    let bytes = |key: &String| Base64(key.as_bytes().to_vec());
    match operation {
        Operation::Put { key, value, lease } => RequestOp {
            request_put: Some(PutRequest {
                key: bytes(key),
                value: Base64(value.clone()),
                lease: Int64(lease.map_or(0, |lease| lease.0)),
            }),
            ..RequestOp::default()
        },
        Operation::Delete { key } => RequestOp {
            request_delete_range: Some(DeleteRangeRequest {
                key: bytes(key),
                ..DeleteRangeRequest::default()
            }),
            ..RequestOp::default()
        },
        Operation::Get { key } => RequestOp {
            request_range: Some(RangeRequest { key: bytes(key), ..RangeRequest::default() }),
            ..RequestOp::default()
        },
    }
}

/// What each operation answered. The wire leaves out what is empty, so what an answer is for follows from the request.
pub(super) fn operation_results(
    operations: &[Operation],
    responses: Vec<ResponseOp>,
) -> Result<Vec<OperationResult>, Error> {
    if operations.len() != responses.len() {
        let why = format!("{} answers to {} operations", responses.len(), operations.len());
        return Err(Error::Uncertain { why });
    }
    let results = operations.iter().zip(responses).map(|(operation, response)| {
        Ok(match operation {
            Operation::Put { .. } => OperationResult::Put,
            Operation::Delete { .. } => OperationResult::Deleted(
                response.response_delete_range.is_some_and(|answer| answer.deleted.0 > 0),
            ),
            Operation::Get { .. } => {
                let found = response.response_range.and_then(|answer| answer.kvs.into_iter().next());
                OperationResult::Got(found.map(key_value).transpose()?)
            }
        })
    });
    results.collect()
}

pub(super) fn key_values(wire: Vec<WireKeyValue>) -> Result<Vec<KeyValue>, Error> {
    wire.into_iter().map(key_value).collect()
}

pub(super) fn key_value(wire: WireKeyValue) -> Result<KeyValue, Error> {
    Ok(KeyValue {
        key: text(wire.key)?,
        value: wire.value.0,
        create_revision: wire.create_revision.0,
        mod_revision: wire.mod_revision.0,
        version: wire.version.0,
        lease: (wire.lease.0 != 0).then_some(LeaseId(wire.lease.0)),
    })
}

/// A key as text. Mainstay's own keys are; one that is not was put by somebody else.
pub(super) fn text(key: Base64) -> Result<String, Error> {
    String::from_utf8(key.0).map_err(|error| Error::Rejected { why: format!("a key is not UTF-8: {error}") })
}
