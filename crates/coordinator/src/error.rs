//! What can go wrong with a request, told apart by what the caller may conclude.

use crate::operation::OperationResult;
use crate::{LeaseId, Revision};

/// Why a request has no success to show.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nobody took the request on. Certainly not done.
    #[error(
        "no coordinator took the request on within its deadline: {why}. Check that the coordinator servers run and can be reached"
    )]
    Unavailable {
        /// What the last attempt met.
        why: String,
    },
    /// The request was sent and no answer came that can be read. It may have been done; what the store holds tells.
    #[error("the coordinator did not say what became of the request: {why}. It may have been done")]
    Uncertain {
        /// What the last attempt met.
        why: String,
    },
    /// The transaction's comparison failed: its operations were certainly not done, those of the other branch were.
    #[error("the comparison failed: the store had changed by revision {}", .0.revision)]
    Refused(Refusal),
    /// The lease has ended, and the keys bound to it are gone or about to go. Certainly not done.
    #[error("the lease {lease} has ended")]
    LeaseGone {
        /// Which lease; 0 if it is one of several that a transaction named.
        lease: LeaseId,
    },
    /// The store is full. Certainly not done.
    #[error("the coordinator's store is full: {why}. Compact and defragment it, then disarm the alarm")]
    Full {
        /// What the server said.
        why: String,
    },
    /// No coordinator would ever do this: a request that is too large, malformed or not permitted. Certainly not done.
    #[error("the coordinator rejected the request: {why}")]
    Rejected {
        /// What the server said.
        why: String,
    },
}

impl Error {
    /// Whether the request may have been done in spite of the error.
    pub fn may_have_been_done(&self) -> bool {
        matches!(self, Self::Uncertain { .. })
    }
}

/// A transaction whose comparison failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The store's revision when it was decided.
    pub revision: Revision,
    /// What the operations of [`crate::Txn::otherwise`] answered, in their order.
    pub results: Vec<OperationResult>,
}
