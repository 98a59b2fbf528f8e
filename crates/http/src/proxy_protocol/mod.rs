//! The PROXY protocol, versions 1 and 2: who the client of a connection is, told by the proxy in front of it
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! The header comes before everything else, also before TLS. Whoever may connect to a listener that believes it can
//! pretend to be any client: it is read only where a listener asks for it, and only from trusted networks.

mod parse;
mod read;
mod write;

use std::net::SocketAddr;

pub use parse::{MOST_BYTES, ProxyError, parse};
pub use read::{ReadError, read};
pub use write::header;

/// Which of the two forms is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Both ends of the client's connection to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The connection carries a client's bytes.
    Client(Addresses),
    /// The client reached the proxy over a Unix socket: it has no address.
    Unix,
    /// The connection is the proxy's own (`LOCAL`, such as a health check), or the proxy does not know (`UNKNOWN`): the
    /// addresses are those of the connection itself.
    Own,
}
