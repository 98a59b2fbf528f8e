//! The HTTP engine that edge and web share: servers for HTTP/1.1 and h2, client pools, metrics, admin sockets.
//!
//! A [`Server`] runs one worker thread per core. Each has its own single-threaded runtime, listening sockets and
//! [`Service`]; nothing on the path of a request is shared between workers.
//!
//! A connection is accepted by [`worker`], read by [`h1`] (or `h2`, when it begins with that preface), and becomes a
//! [`Request`]. The service answers with a [`Response`] whose [`Body`] may be bytes, a file or a stream. Bodies flow
//! when they are polled, so that a slow side slows the other one down instead of filling memory.
//!
//! What strangers send is parsed without I/O, in one strict reading; whatever two servers could read in two ways is
//! refused. Deadlines and limits are all in [`settings`].
//!
//! What every role's process does around its workers, DNS servers' too, is in [`role`] and [`admin`].

mod body;
mod error;
mod field_block;
mod h2;
mod interim;
mod known_keys;
mod message;
mod opening;
mod rewound;
mod shutdown;
mod transport;
mod watch;
mod websocket;

pub mod access_log;
pub mod admin;
pub mod client;
pub mod compress;
pub mod conditional;
pub mod date;
pub mod encoding;
pub mod h1;
pub mod metrics;
pub mod mime;
pub mod networks;
pub mod pages;
pub mod path;
pub mod per_client;
pub mod pool;
pub mod proxy_protocol;
pub mod range;
pub mod request_id;
pub mod role;
pub mod settings;
pub mod tls;
pub mod unix_path;
pub mod worker;

pub use body::read_all;
pub use error::BodyError;
pub use field_block::{Field, FieldBlock, Fields, Keep};
pub use interim::Interim;
pub use known_keys::KnownKeys;
pub use message::{
    Answer, Body, BodyStream, FileRange, Io, Local, Request, Response, Service, UpgradeRequest, UpgradeTask,
};
pub use settings::Settings;
pub use shutdown::{Phase, Shutdown};
pub use transport::Transport;
pub use worker::{Listener, ListenerOptions, Server, WorkerId};
