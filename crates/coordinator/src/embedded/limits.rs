//! What the embedded coordinator holds at most. Where etcd has a bound, it is etcd's, so that a site may move there.

use std::time::Duration;

/// Bounds of a store. The defaults are far above what a site of Mainstay needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all keys and values.
    pub store_bytes: usize,
    /// Keys.
    pub keys: usize,
    /// Leases.
    pub leases: usize,
    /// Changes that are kept for watches; older ones are compacted away.
    pub history_events: usize,
    /// Bytes of those changes.
    pub history_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            store_bytes: 16 << 20,
            keys: 65_536,
            leases: 4_096,
            history_events: 10_000,
            history_bytes: 16 << 20,
        }
    }
}

/// The longest key.
pub(crate) const KEY_MOST_BYTES: usize = 4 << 10;

/// Comparisons, and operations of one branch, of a transaction (etcd's `--max-txn-ops`).
pub(crate) const OPERATIONS_MOST: usize = 128;

/// What a transaction may read: little more than the whole store once.
pub(crate) const ANSWER_MOST_BYTES: usize = 20 << 20;

/// The shortest and longest time to live of a lease.
pub(crate) const TTL_LEAST: Duration = Duration::from_millis(100);
pub(crate) const TTL_MOST: Duration = Duration::from_hours(365 * 24);

/// What one batch of events for a watch may hold, beyond its first revision.
pub(crate) const EVENTS_BATCH_BYTES: usize = 1 << 20;

/// Each key and each event cost this much besides their bytes.
pub(crate) const ENTRY_BYTES: usize = 64;
