//! Runs one server.
