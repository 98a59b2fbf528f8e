//! The SQL router: speaks the MySQL protocol to applications, and sends each statement to the server that should run it.
//!
//! [`wire`] is the protocol and does no I/O. A [`Server`] runs a thread per core; each accepts clients, and a session
//! (`session`) takes a client from its login to its last command. [`statement`] finds out what a statement does,
//! `route` decides from that whether the primary or a replica runs it, and `backend` keeps connections to servers
//! and carries a session's state from one to another. [`topology`] says which server is the primary; when it changes,
//! statements wait for the next one instead of failing.
//!
//! Three rules hold everywhere. A statement is never sent twice once a byte of it has reached a server, except a plain read
//! outside of a transaction of which the client has nothing yet. A server is the primary because the topology's epoch
//! says so, not because it answers. What is not surely a plain read goes to the primary.

pub mod auth;
mod backend;
mod channel;
pub mod config;
pub mod follow;
pub mod gtid;
mod kill;
mod metrics;
mod role;
mod route;
mod server;
mod session;
mod slow_log;
pub mod statement;
pub mod topology;
pub mod wire;
mod worker;

pub use config::SqlRouterConfig;
pub use role::run;
pub use server::{Error, Server, Sockets};
pub use topology::Topology;
