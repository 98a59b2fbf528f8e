//! TLS to upstreams: who they must be, and what we show them.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::certificate::{CertificatePair, Pem, certificates, private_key};
use super::{Alpn, TlsError};

/// Where systems keep the authorities that they trust, in one file: Debian's place first, then Red Hat's and `SUSE`'s.
const SYSTEM_AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// Sessions that are kept to be continued, for each server name two or so.
const SESSIONS: usize = 256;

/// Which protocols are asked for by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocols {
    /// None: for services that are no HTTP.
    None,
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, and nothing else.
    H2,
    /// HTTP/2 where the upstream has it, otherwise HTTP/1.1.
    H2OrHttp1,
}

/// How upstreams are verified.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// The name that is sent and verified; without it, the address that is connected to.
    pub server_name: Option<String>,
    /// Authorities that are trusted; without them, the system's.
    pub authorities: Option<Pem>,
    /// What is shown to upstreams that ask.
    pub certificate: Option<CertificatePair>,
    /// Protocols that are asked for.
    pub protocols: Protocols,
}

/// TLS to the upstreams of one group. Clones share sessions.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

/// A stream to an upstream over TLS.
pub type UpstreamTlsStream<T> = tokio_rustls::client::TlsStream<T>;

impl ClientTls {
    /// Reads authorities and certificates once; the system's are read once in a process.
    pub fn new(options: &ClientOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let name = options
            .server_name
            .as_ref()
            .map(|name| ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName(name.clone())));
        let roots = match &options.authorities {
            Some(pem) => Arc::new(store(pem)?),
            None => system_authorities()?,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Library(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &options.certificate {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                builder.with_client_auth_cert(certificates(&pair.chain)?, private_key(&pair.key)?).map_err(
                    |error| TlsError::Key { source_name: pair.key.source.clone(), reason: error.to_string() },
                )?
            }
        };
        let protocols: &[Alpn] = match options.protocols {
            Protocols::None => &[],
            Protocols::Http1 => &[Alpn::Http1],
            Protocols::H2 => &[Alpn::H2],
            Protocols::H2OrHttp1 => &[Alpn::H2, Alpn::Http1],
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.name().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config: Arc::new(config), name: name.transpose()? })
    }

    /// Makes a connection into one over TLS; `address` is verified if no name is given. The caller bounds the time.
    pub async fn connect<T>(&self, io: T, address: Option<IpAddr>) -> io::Result<UpstreamTlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let address = address.map(|address| ServerName::IpAddress(address.to_canonical().into()));
        let name = self.name.clone().or(address).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "TLS over a Unix socket needs a server name to verify",
            )
        })?;
        let asked = name.to_str().into_owned();
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, io).await.map_err(|error| explain(&error, &asked))
    }
}

/// The protocol that a stream agreed on.
pub(crate) fn negotiated<T>(stream: &UpstreamTlsStream<T>) -> Option<Alpn> {
    stream.get_ref().1.alpn_protocol().and_then(Alpn::of)
}

fn store(pem: &Pem) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem)? {
        roots.add(authority).map_err(|error| TlsError::Authorities {
            source_name: pem.source.clone(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<Arc<RootCertStore>, TlsError> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = SYSTEM.get() {
        return Ok(Arc::clone(roots));
    }
    let wrong = |reason: String| TlsError::Authorities { source_name: SYSTEM_AUTHORITIES.join(", "), reason };
    let text = SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok());
    let text = text.ok_or_else(|| {
        wrong("none of the files is there; install ca-certificates, or give authorities".into())
    })?;
    let mut roots = RootCertStore::empty();
    // A system's list may hold what no one can use any more; what can be read is enough.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
    }
    Ok(Arc::clone(SYSTEM.get_or_init(|| Arc::new(roots))))
}

/// Says why an upstream is not believed, in words that lead to what has to change.
fn explain(error: &io::Error, asked: &str) -> io::Error {
    let kind = error.kind();
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        let text = format!("TLS with {asked} broke off: {error}");
        return io::Error::new(kind, text);
    };
    let why = match tls {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => {
                "none of the trusted authorities issued its certificate: give the authority that did"
                    .to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for other names: give the name that it is for".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: renew it there".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: compare the clocks".to_owned()
            }
            other => format!("its certificate is refused: {other}"),
        },
        rustls::Error::AlertReceived(alert) => format!("it broke off the handshake: {alert:?}"),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS there".to_owned(),
        other => other.to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot verify {asked}: {why}"))
}
