//! What a listener with TLS serves, and how its certificates are replaced while it does.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::TlsError;
use super::certificate::{Certificate, CertificatePair, Pem, certificates};
use super::choose::Chooser;
use super::tickets::{PERIOD_SECONDS, TicketKeys};
use crate::date::wall_seconds;

/// What a client that asks for a name without a certificate gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownName {
    /// The first certificate.
    #[default]
    Default,
    /// The alert `unrecognized_name`.
    Refuse,
}

/// Whether clients show certificates. What they show is in [`TlsInfo`](super::TlsInfo).
#[derive(Debug, Clone, Default)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; one that these authorities did not issue ends the handshake, none does not.
    Optional(Pem),
    /// They must show one that these authorities issued.
    Required(Pem),
}

/// How TLS is served.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What unknown names get.
    pub unknown_name: UnknownName,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// Protocols offered, the preferred first; empty: none is agreed on.
    pub protocols: Vec<super::Alpn>,
    /// What tickets' keys follow from, at least 16 random bytes: all servers with the same secret accept each other's
    /// tickets. Without it, a random one of this process.
    pub ticket_secret: Option<Vec<u8>>,
    /// Whether the keys of all connections are appended to the file that the environment's `SSLKEYLOGFILE` names. Whoever
    /// reads it can read the connections: for debugging only.
    pub key_log: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            unknown_name: UnknownName::Default,
            client_certificates: ClientCertificates::None,
            protocols: vec![super::Alpn::H2, super::Alpn::Http1],
            ticket_secret: None,
            key_log: false,
        }
    }
}

type Verifier = Arc<dyn ClientCertVerifier>;

/// TLS as a listener serves it. Clones are the same, across threads too.
#[derive(Clone)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    provider: Arc<CryptoProvider>,
    options: ServerOptions,
    verifier: Option<Verifier>,
    tickets: Arc<TicketKeys>,
    /// What new connections get; held for one clone per handshake.
    current: Mutex<Current>,
}

#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) chooser: Arc<Chooser>,
}

impl ServerTls {
    /// Serves these certificates, the first for clients that name no server. One that has expired is served all the
    /// same, with a warning: some clients can still be answered.
    pub fn new(certificates: &[CertificatePair], options: ServerOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (verifier, context) = verifier(&options.client_certificates, &provider)?;
        let secret = if let Some(secret) = &options.ticket_secret {
            secret.clone()
        } else {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).map_err(|error| TlsError::Library(error.to_string()))?;
            secret.to_vec()
        };
        let tickets = Arc::new(TicketKeys::new(&secret, &context, PERIOD_SECONDS));
        let loaded = load(certificates, &provider)?;
        for certificate in &loaded {
            if let Err(error) = certificate.check_time(wall_seconds()) {
                tracing::warn!("{error}");
            }
        }
        let current = configure(loaded, &options, &provider, verifier.as_ref(), &tickets)?;
        Ok(Self(Arc::new(Inner { provider, options, verifier, tickets, current: Mutex::new(current) })))
    }

    /// Serves these certificates to new connections. If one cannot be used, or has expired, nothing changes.
    pub fn replace(&self, certificates: &[CertificatePair]) -> Result<(), TlsError> {
        let loaded = load(certificates, &self.0.provider)?;
        loaded.iter().try_for_each(|certificate| certificate.check_time(wall_seconds()))?;
        let Inner { provider, options, verifier, tickets, .. } = &*self.0;
        let new = configure(loaded, options, provider, verifier.as_ref(), tickets)?;
        *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(crate) fn current(&self) -> Current {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ServerTls").field("options", &self.0.options).finish_non_exhaustive()
    }
}

fn load(pairs: &[CertificatePair], provider: &CryptoProvider) -> Result<Vec<Certificate>, TlsError> {
    if pairs.is_empty() {
        return Err(TlsError::NoPair);
    }
    pairs.iter().map(|pair| Certificate::load(pair, provider)).collect()
}

fn configure(
    certificates: Vec<Certificate>,
    options: &ServerOptions,
    provider: &Arc<CryptoProvider>,
    verifier: Option<&Verifier>,
    tickets: &Arc<TicketKeys>,
) -> Result<Current, TlsError> {
    let chooser = Arc::new(Chooser::new(certificates, options.unknown_name == UnknownName::Refuse));
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Library(error.to_string()))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(&chooser) as _);
    config.alpn_protocols = options.protocols.iter().map(|protocol| protocol.name().to_vec()).collect();
    config.ticketer = Arc::clone(tickets) as _;
    // All that a resumption needs is in the ticket.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if options.key_log {
        tracing::warn!("the keys of TLS connections are written to the file that SSLKEYLOGFILE names");
        config.key_log = Arc::new(rustls::KeyLogFile::new());
    }
    Ok(Current { config: Arc::new(config), chooser })
}

/// The verifier, and what tickets must not cross: a ticket carries the client's certificate without a new check.
fn verifier(
    wanted: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<(Option<Verifier>, Vec<u8>), TlsError> {
    let (pem, optional) = match wanted {
        ClientCertificates::None => return Ok((None, Vec::new())),
        ClientCertificates::Optional(pem) => (pem, true),
        ClientCertificates::Required(pem) => (pem, false),
    };
    let wrong = |error: &dyn std::fmt::Display| TlsError::Authorities {
        source_name: pem.source.clone(),
        reason: error.to_string(),
    };
    let (mut roots, mut context) = (rustls::RootCertStore::empty(), vec![u8::from(optional) + 1]);
    for authority in certificates(pem)? {
        context.extend_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &authority).as_ref());
        roots.add(authority).map_err(|error| wrong(&error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    Ok((Some(builder.build().map_err(|error| wrong(&error))?), context))
}
