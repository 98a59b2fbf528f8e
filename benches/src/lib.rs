//! Mainstay's benches.
