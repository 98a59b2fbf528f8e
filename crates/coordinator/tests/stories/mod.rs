//! What holds with any coordinator.

pub mod failures;
pub mod keys;
pub mod leases;
pub mod transactions;
pub mod watches;
