//! Servers as namespaces on one machine.
