//! Services that are no HTTP: bytes are passed on as they are.
//!
//! A [`Server`] runs one thread per share of the listening sockets. A connection is accepted, gives its PROXY header and
//! its TLS hello as far as the [`Service`] asks for them, and is given to an upstream that [`Upstreams`] chooses, perhaps
//! after it waited for one to have room; if that one takes no connection, to the next. Then bytes flow both ways until both sides have said that they are done, or
//! both are silent for too long. While nothing flows, a connection holds no buffer.

mod choose;
mod connection;
mod copy;
mod metrics;
mod server;
mod service;
mod side;

pub use choose::{LeastConnections, NoRoom, Target, Upstreams};
pub use metrics::TcpMetrics;
pub use server::{Listening, Server};
pub use service::{Live, Service, Tls};
