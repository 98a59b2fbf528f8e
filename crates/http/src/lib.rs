//! The HTTP engine that edge and web share: listeners, HTTP/1.1 and h2 servers, client pools, metrics, admin sockets.
//!
//! One worker thread per core, each with its own single-threaded runtime, listening socket, pools and caches.
//! Nothing on the path of a request is shared between workers.

mod error;
mod message;

pub use error::BodyError;
pub use message::{
    Body, BodyStream, FileRange, Io, Local, Request, Response, Service, UpgradeRequest, UpgradeTask,
};
