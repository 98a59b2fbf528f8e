//! What holds with any coordinator.

pub(crate) mod failures;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod transactions;
pub(crate) mod watches;
