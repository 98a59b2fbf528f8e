//! What the machine remembers, by subject.

use std::time::Duration;

use super::keys::{Mode, Step};
use super::position::{Epoch, Gtid, Name};
use super::view::LeaseId;
use super::words::Job;

/// mariadbd as the machine knows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Server {
    /// There is no data.
    NoData,
    /// It does not run.
    Down,
    /// It runs; when it was last seen is in `heard`.
    Up,
    /// It is to die.
    Killing {
        /// When it is killed again.
        again_at: Duration,
    },
}

/// A job under way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) job: Job,
}

/// Why a transaction was sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Purpose {
    Claim { epoch: Epoch },
    Resume,
    Reassert,
    Release,
    Open { epoch: Epoch },
    Sync,
    Other,
    Publish,
}

/// A lease, and when its last good renewal was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) proven: Duration,
}

/// A probe of the primary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Probing {
    pub(super) id: u64,
    pub(super) at: Duration,
}

/// A failover as this server leads it.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    pub(super) epoch: Epoch,
    pub(super) since: Duration,
    pub(super) noticed: Duration,
    pub(super) why: String,
    pub(super) steps: Vec<Step>,
    pub(super) promoted: Option<Plan>,
    pub(super) failed: u32,
    pub(super) first_write_told: bool,
}

/// What a promotion opens with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) gtid: Gtid,
    pub(super) members: Vec<Name>,
    pub(super) mode: Mode,
    pub(super) loss_accepted: bool,
}

/// Why writes are being closed although this server leads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaving {
    pub(super) why: String,
    pub(super) to: Name,
    pub(super) since: Duration,
    /// The position at which writes were closed.
    pub(super) closed: Option<Gtid>,
    pub(super) planned: bool,
}

/// Members on their way out of the synchronous set.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Removing {
    pub(super) members: Vec<Name>,
    /// Since when they cannot acknowledge.
    pub(super) excluded: Option<Duration>,
}
