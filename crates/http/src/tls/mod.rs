//! TLS, over rustls and aws-lc-rs: 1.2 and 1.3, hybrid post-quantum key exchange first, no renegotiation, no early data.
//!
//! [`ServerTls`] is what a listener serves: certificates chosen by name, tickets that other workers and edges accept,
//! client certificates if wanted. Its certificates can be replaced while it is in use. [`accept`] makes a connection
//! into a [`TlsStream`], and [`TlsInfo`] says what was agreed. [`ClientTls`] is the other direction: to upstreams.
//! [`client_hello`] reads a hello for services that pass TLS on.

mod accept;
mod certificate;
mod choose;
mod client;
pub mod client_hello;
mod error;
mod info;
mod metrics;
mod server;
mod stream;
pub mod tickets;
mod x509;

pub use accept::{HandshakeError, accept};
pub use certificate::{CertificatePair, Pem};
pub(crate) use client::negotiated;
pub use client::{ClientOptions, ClientTls, Protocols, UpstreamTlsStream};
pub use error::TlsError;
pub use info::{Alpn, ClientCertificate, TlsInfo};
pub use metrics::TlsMetrics;
pub use server::{ClientCertificates, ServerOptions, ServerTls, UnknownName};
pub use stream::TlsStream;
