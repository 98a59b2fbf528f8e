//! What a TLS connection agreed on, for services and logs.

use std::sync::Arc;

use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use super::choose::Chooser;
use super::x509;

/// A protocol agreed on by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `http/1.1`
    Http1,
    /// `h2`
    H2,
}

impl Alpn {
    /// As it is written in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }

    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        [Self::Http1, Self::H2].into_iter().find(|protocol| protocol.name() == name)
    }
}

/// A certificate that a client showed and that one of the authorities issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject, as RFC 4514 writes it: `CN=alice,O=Example`.
    pub subject: String,
    /// The DNS names that it is for.
    pub names: Vec<String>,
    /// SHA-256 of the whole certificate, in hexadecimal.
    pub fingerprint: String,
}

/// What a connection agreed on.
#[derive(Debug)]
pub struct TlsInfo {
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<String>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite's registered name.
    pub cipher: &'static str,
    /// The group of the key exchange, such as `X25519MLKEM768`.
    pub group: Option<String>,
    /// The protocol agreed on.
    pub alpn: Option<Alpn>,
    /// Whether it continued an earlier session.
    pub resumed: bool,
    /// The client's certificate.
    pub client: Option<ClientCertificate>,
    pub(crate) chooser: Arc<Chooser>,
}

impl TlsInfo {
    pub(crate) fn new(connection: &CommonState, server_name: Option<&str>, chooser: Arc<Chooser>) -> Self {
        let group = connection.negotiated_key_exchange_group();
        Self {
            server_name: server_name.map(str::to_ascii_lowercase),
            version: version(connection),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
            group: group.map(|group| format!("{:?}", group.name())),
            alpn: connection.alpn_protocol().and_then(Alpn::of),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client: connection
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(|certificate| client_certificate(certificate)),
            chooser,
        }
    }

    /// Whether a request for this host may be answered on this connection: the client was shown a certificate that is
    /// also shown to those who ask for the host. Otherwise the answer is 421 (RFC 9110, 15.5.20).
    pub fn is_for(&self, host: &str) -> bool {
        let named = self.server_name.as_deref();
        named.is_some_and(|name| name.eq_ignore_ascii_case(host)) || self.chooser.agrees(named, host)
    }
}

pub(crate) fn version(connection: &CommonState) -> &'static str {
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    }
}

fn client_certificate(der: &[u8]) -> ClientCertificate {
    let parsed = x509::parse(der);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    ClientCertificate {
        subject: parsed.as_ref().map(|certificate| x509::name_text(certificate.subject)).unwrap_or_default(),
        names: parsed.map(|certificate| certificate.names).unwrap_or_default(),
        fingerprint: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
