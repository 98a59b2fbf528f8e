//! A whole site on one machine: each server of the file is a host in namespaces of its own, plus `internet` and `client`.
//!
//! [`up`](up::up) reconciles: what is alive and as the file says is left alone, what is missing or dead is made, what
//! changed is applied. [`proof`] then looks at the site from outside, as a visitor would. [`down`](down::down) ends it all.
//! The agents inside know nothing of the lab: they run the same plans as on real servers.

pub mod down;
mod enter;
mod error;
pub mod gateway;
mod host;
mod internet;
pub mod logs;
mod network;
pub mod preflight;
pub mod proof;
pub mod state;
pub mod status;
pub mod up;

pub use enter::exec;
pub use error::Error;
pub use network::Outside;
pub use state::{SiteState, State};

/// The hidden commands of the lab's own processes.
pub mod processes {
    pub use crate::gateway::run as gateway;
    pub use crate::host::init::init;
    pub use crate::host::launch::launch;
}

/// The visitor's host.
pub const CLIENT: &str = "client";
/// The host between visitor and site.
pub const INTERNET: &str = "internet";
