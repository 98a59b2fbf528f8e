//! Mutual TLS from three PEM texts: both ends show a certificate of the same authority.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// An authority, and a certificate of it with its key. What is shown to the other side, and what is asked of it.
///
/// Where etcd is run with the same files, see [`crate::etcd`] for what the certificate must say.
#[derive(Clone)]
pub struct Tls {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tls").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Certificates or a key that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// One of the three texts is not what it should be.
    #[error("the {what} cannot be read as PEM: {why}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The key does not fit the certificate, or uses what rustls does not support.
    #[error("the certificate and its key cannot be used for TLS: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// Reads the authority's certificate, our chain and our key.
    pub fn from_pem(authority: &[u8], chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("authority's certificate", authority)? {
            roots.add(certificate)?;
        }
        let chain = certificates("certificate", chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::Pem { what: "private key", why: error.to_string() })?;
        let tls = Self { roots: Arc::new(roots), chain, key: Arc::new(key) };
        // Both uses are tried here, so that later neither can fail.
        tls.client()?;
        tls.server()?;
        Ok(tls)
    }

    /// What a client shows and asks for. Its protocol is HTTP/1.1 if that is asked.
    ///
    /// # Errors
    /// None, for [`Self::from_pem`] tried it.
    pub fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        // etcd would choose h2, which is gRPC's.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// What a server shows and asks for.
    ///
    /// # Errors
    /// None, for [`Self::from_pem`] tried it.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&provider))
                .build()
                .map_err(|error| TlsError::Pem { what: "authority's certificate", why: error.to_string() })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(list) if list.is_empty() => {
            Err(TlsError::Pem { what, why: "there is no certificate in it".to_owned() })
        }
        Ok(list) => Ok(list),
        Err(error) => Err(TlsError::Pem { what, why: error.to_string() }),
    }
}
