//! The database's life cycle.
