//! Transactions: everything is checked before anything is done, so that nothing needs to be undone.

use std::collections::BTreeSet;

use super::range::Range;
use super::{Machine, Operation, change_put, check_key};
use crate::embedded::api::{Response, failure};
use crate::embedded::limits::{ANSWER_MOST_BYTES, ENTRY_BYTES, OPERATIONS_MOST};
use crate::embedded::record::{Change, Record};
use crate::wire::{
    Base64, DeleteRangeResponse, Failure, Int64, PutResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
    WireCompare, WireRelation, WireTarget,
};

impl Machine {
    pub(super) fn txn(&mut self, txn: &TxnRequest) -> Result<(Response, Option<Record>), Failure> {
        if [txn.compare.len(), txn.success.len(), txn.failure.len()]
            .iter()
            .any(|count| *count > OPERATIONS_MOST)
        {
            return Err(failure(3, "etcdserver: too many operations in txn request"));
        }
        for compare in &txn.compare {
            check_key(&compare.key)?;
        }
        let success = branch(&txn.success)?;
        let otherwise = branch(&txn.failure)?;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let operations = if succeeded { success } else { otherwise };
        self.check_leases(&operations)?;
        self.check_room(&operations)?;
        self.check_answer(&operations)?;

        let revision = self.revision + 1;
        let mut changes = Vec::new();
        let mut responses = Vec::with_capacity(operations.len());
        for operation in operations {
            responses.push(self.operate(&operation, revision, &mut changes)?);
        }
        let record = if changes.is_empty() {
            None
        } else {
            self.reached(revision);
            Some(Record::Write { revision, changes })
        };
        let answer = TxnResponse { header: self.header(), succeeded, responses };
        Ok((Response::Txn(answer), record))
    }

    fn operate(
        &mut self,
        operation: &Operation<'_>,
        revision: i64,
        changes: &mut Vec<Change>,
    ) -> Result<ResponseOp, Failure> {
        let mut response = ResponseOp::default();
        match operation {
            // Sees what the operations before it did.
            Operation::Range(range) => response.response_range = Some(self.range(range)?),
            Operation::Put(put) => {
                self.put(revision, &put.key.0, &put.value.0, put.lease.0);
                changes.push(change_put(put));
                response.response_put = Some(PutResponse::default());
            }
            Operation::Delete(delete) => {
                let range = Range::new(&delete.key, &delete.range_end);
                let found: Vec<Vec<u8>> = match range.bounds() {
                    Some(bounds) => self.keys.range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect(),
                    None => Vec::new(),
                };
                for key in &found {
                    self.delete(revision, key);
                    changes.push(Change::Delete { key: Base64(key.clone()) });
                }
                response.response_delete_range = Some(DeleteRangeResponse {
                    deleted: Int64::from(found.len()),
                    ..DeleteRangeResponse::default()
                });
            }
        }
        Ok(response)
    }

    fn holds(&self, compare: &WireCompare) -> bool {
        let entry = self.keys.get(&compare.key.0);
        let number = |is: i64, operand: Option<Int64>| is.cmp(&operand.unwrap_or_default().0);
        let order = match compare.target {
            WireTarget::Version => number(entry.map_or(0, |entry| entry.version), compare.version),
            WireTarget::Create => number(entry.map_or(0, |entry| entry.created), compare.create_revision),
            WireTarget::Mod => number(entry.map_or(0, |entry| entry.modified), compare.mod_revision),
            WireTarget::Lease => number(entry.map_or(0, |entry| entry.lease), compare.lease),
            WireTarget::Value => match entry {
                Some(entry) => {
                    entry.value.as_slice().cmp(compare.value.as_ref().map_or(&[], |value| value.0.as_slice()))
                }
                // As in etcd: what is not there has no value that could be compared.
                None => return false,
            },
        };
        match compare.result {
            WireRelation::Equal => order.is_eq(),
            WireRelation::NotEqual => order.is_ne(),
            WireRelation::Greater => order.is_gt(),
            WireRelation::Less => order.is_lt(),
        }
    }

    fn check_leases(&self, operations: &[Operation<'_>]) -> Result<(), Failure> {
        for operation in operations {
            if let Operation::Put(put) = operation
                && put.lease.0 != 0
                && !self.leases.contains_key(&put.lease.0)
            {
                return Err(failure(5, "etcdserver: requested lease not found"));
            }
        }
        Ok(())
    }

    /// Deletions of the same transaction are not counted in its favour: a transaction that only just fits is refused.
    fn check_room(&self, operations: &[Operation<'_>]) -> Result<(), Failure> {
        let (mut bytes, mut keys) = (self.bytes, self.keys.len());
        for operation in operations {
            let Operation::Put(put) = operation else { continue };
            if let Some(entry) = self.keys.get(&put.key.0) {
                bytes = (bytes + put.value.0.len()).saturating_sub(entry.value.len());
            } else {
                bytes += ENTRY_BYTES + put.key.0.len() + put.value.0.len();
                keys += 1;
            }
        }
        let grows = bytes > self.bytes || keys > self.keys.len();
        if grows && (bytes > self.limits.store_bytes || keys > self.limits.keys) {
            return Err(failure(8, "etcdserver: mvcc: database space exceeded"));
        }
        Ok(())
    }

    /// A hundred reads of the whole store in one transaction would be a hundred stores in memory.
    fn check_answer(&self, operations: &[Operation<'_>]) -> Result<(), Failure> {
        let mut bytes = 0;
        for operation in operations {
            let Operation::Range(range) = operation else { continue };
            let range = Range::new(&range.key, &range.range_end);
            let Some(bounds) = range.bounds() else { continue };
            for (key, entry) in self.keys.range::<[u8], _>(bounds) {
                bytes += ENTRY_BYTES + key.len() + entry.value.len();
                if bytes > ANSWER_MOST_BYTES {
                    return Err(failure(
                        8,
                        format!("the transaction reads more than {ANSWER_MOST_BYTES} bytes"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The operations of a branch, if they make sense together: a key is put once, and not put and deleted.
fn branch(operations: &[RequestOp]) -> Result<Vec<Operation<'_>>, Failure> {
    let operations: Vec<Operation<'_>> = operations.iter().map(Operation::new).collect::<Result<_, _>>()?;
    let mut puts = BTreeSet::new();
    for operation in &operations {
        match operation {
            Operation::Range(range) => check_key(&range.key)?,
            Operation::Delete(delete) => check_key(&delete.key)?,
            Operation::Put(put) => {
                check_key(&put.key)?;
                if !puts.insert(put.key.0.as_slice()) {
                    return Err(duplicate());
                }
            }
        }
    }
    for operation in &operations {
        if let Operation::Delete(delete) = operation {
            let range = Range::new(&delete.key, &delete.range_end);
            if puts.iter().any(|key| range.contains(key)) {
                return Err(duplicate());
            }
        }
    }
    Ok(operations)
}

fn duplicate() -> Failure {
    failure(3, "etcdserver: duplicate key given in txn request")
}
