//! A server's certificate with its key, checked before it is used.

use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{TlsError, x509};

/// A text in PEM, and where it came from, for messages.
#[derive(Clone)]
pub struct Pem {
    /// Where it came from: a file, or a secret's name.
    pub source: String,
    /// The text.
    pub text: Vec<u8>,
}

impl Pem {
    /// A text that came from somewhere.
    pub fn new(source: impl Into<String>, text: impl Into<Vec<u8>>) -> Self {
        Self { source: source.into(), text: text.into() }
    }
}

/// It may hold a private key: only its source is shown.
impl std::fmt::Debug for Pem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Pem({:?})", self.source)
    }
}

/// A certificate chain, the server's own certificate first, and its private key.
#[derive(Debug, Clone)]
pub struct CertificatePair {
    /// The chain.
    pub chain: Pem,
    /// The key.
    pub key: Pem,
}

/// A pair that fits.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    /// Names that it is for, in lower case; `*.` may begin one.
    pub(crate) names: Vec<String>,
    pub(crate) source: String,
    /// The last second in which the whole chain is valid.
    pub(crate) not_after: u64,
}

impl Certificate {
    /// Reads a pair and checks that it can be served.
    pub(crate) fn load(pair: &CertificatePair, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let source = &pair.chain.source;
        let chain = certificates(&pair.chain)?;
        let parsed: Vec<_> = chain
            .iter()
            .enumerate()
            .map(|(at, der)| {
                x509::parse(der)
                    .ok_or_else(|| TlsError::NoCertificate { source_name: source.clone(), place: at + 1 })
            })
            .collect::<Result<_, _>>()?;
        let key = private_key(&pair.key)?;
        let key = provider.key_provider.load_private_key(key).map_err(|error| TlsError::Key {
            source_name: pair.key.source.clone(),
            reason: error.to_string(),
        })?;
        if let Some(public) = key.public_key() {
            let of_key = |certificate: &x509::Certificate<'_>| certificate.public_key == public.as_ref();
            if !of_key(&parsed[0]) {
                let elsewhere = parsed.iter().position(of_key).map(|at| at + 1);
                let (source_name, key) = (source.clone(), pair.key.source.clone());
                return Err(match elsewhere {
                    Some(place) => TlsError::OwnNotFirst { source_name, place },
                    None => TlsError::Mismatch { source_name, key },
                });
            }
        }
        for (at, both) in parsed.windows(2).enumerate() {
            if both[0].issuer != both[1].subject {
                return Err(TlsError::Order {
                    source_name: source.clone(),
                    place: at + 2,
                    issuer: x509::name_text(both[0].issuer),
                    subject: x509::name_text(both[1].subject),
                });
            }
        }
        let names = parsed[0].names.clone();
        let not_after = parsed.iter().map(|certificate| certificate.not_after).min().unwrap_or(0);
        let key = Arc::new(CertifiedKey::new(chain, key));
        Ok(Self { key, names, source: source.clone(), not_after })
    }

    /// Fails if it is over.
    pub(crate) fn check_time(&self, now: u64) -> Result<(), TlsError> {
        if now <= self.not_after {
            return Ok(());
        }
        let days = (now - self.not_after) / 86_400;
        Err(TlsError::Expired { source_name: self.source.clone(), days })
    }

    /// Cheaper keys come first when a client takes several.
    pub(crate) fn cost(&self) -> u8 {
        match self.key.key.algorithm() {
            SignatureAlgorithm::ECDSA => 0,
            SignatureAlgorithm::RSA => 2,
            _ => 1,
        }
    }
}

/// The certificates of a text; at least one.
pub(crate) fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong =
        |reason: String| TlsError::Pem { source_name: pem.source.clone(), what: "certificate", reason };
    let chain = CertificateDer::pem_slice_iter(&pem.text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("it has no part that begins with -----BEGIN CERTIFICATE-----".into()));
    }
    Ok(chain)
}

/// The private key of a text.
pub(crate) fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&pem.text).map_err(|error| TlsError::Pem {
        source_name: pem.source.clone(),
        what: "private key",
        reason: match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "it has no part that begins with -----BEGIN PRIVATE KEY----- (an encrypted key cannot be used)".into()
            }
            error => error.to_string(),
        },
    })
}
