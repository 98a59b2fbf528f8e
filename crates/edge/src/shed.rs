//! How much is taken on at once.
