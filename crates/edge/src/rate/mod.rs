//! How often requests may come.
//!
//! A [`RateTable`] keeps, for each key, how much of each window's allowance is used, by the generic cell rate algorithm:
//! one number per window, the moment at which the allowance will be whole again. A request passes only if all windows let
//! it, and is charged to none if one refuses. In any time `t` at most `burst + requests x t / per` requests of a key pass.
//!
//! The table has a fixed number of places. A key whose allowance is whole again needs no place, so those go first; when
//! a flood of new keys fills the table, the ones that used the least of their allowance go, which are the flood's own.
//! A key that loses its place begins with a whole allowance: the limit then errs in the client's favour.
//!
//! All workers share a table, so that a limit is the edge's and not each worker's. It is cut into shards with a lock
//! each, which only requests of routes with limits meet.

mod field;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::HeaderName;

pub use self::field::{RateFields, policy_field};
pub use self::table::RateTable;

/// Tells what is allowed.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Tells what is left of it.
pub const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// Whether a request may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed {
        /// The window that is nearest to its end, as an index into the limit's windows.
        window: usize,
        /// Requests that may still come at once.
        remaining: u32,
        /// Until that window's allowance is whole again.
        reset: Duration,
    },
    /// It may not.
    Refused {
        /// The window that has to be waited for longest.
        window: usize,
        /// Until a request may pass.
        retry_after: Duration,
    },
}

impl Verdict {
    /// Whether the request may come in.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }

    /// `Retry-After` in whole seconds, rounded up, at least 1; `None` if the request may come in.
    pub fn retry_after_secs(&self) -> Option<u64> {
        match self {
            Self::Allowed { .. } => None,
            Self::Refused { retry_after, .. } => Some(field::whole_seconds(*retry_after).max(1)),
        }
    }
}
