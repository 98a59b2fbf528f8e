//! Mainstay's tests.
