//! Connections to servers: how they are made, what is known of their state, and how they are kept for others.

mod connect;
mod connection;
mod pool;

pub(crate) use connect::{ConnectError, Dialer, Learned};
pub(crate) use connection::{Connection, LiveConnection, PreparedThere, State, is_of_names};
pub(crate) use pool::{Acquire, Key, Pool, is_current};

/// Which of a session's two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Primary,
    Replica,
}
