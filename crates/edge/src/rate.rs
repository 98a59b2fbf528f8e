//! How often requests may come.
