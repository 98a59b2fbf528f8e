//! Issuing certificates.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use mainstay_site::{ServerName, SiteName};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};

/// How long a server's certificate is valid.
pub const VALID: Duration = Duration::from_hours(30 * 24);
/// How long the authority's own certificate is valid.
const AUTHORITY_VALID: Duration = Duration::from_hours(10 * 365 * 24);
/// Certificates are valid from a little before they were made: clocks of servers differ.
const BACKDATED: Duration = Duration::from_hours(1);

/// What can go wrong when certificates are made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key or a name is not what it should be.
    #[error("cannot {doing}: {source}")]
    Certificate {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: rcgen::Error,
    },
}

fn failed(doing: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |source| Error::Certificate { doing, source }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The server: the common name, and a DNS name that peers may ask for.
    pub server: ServerName,
    /// Addresses at which peers reach it.
    pub addresses: Vec<IpAddr>,
}

/// A certificate with its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate. It is issued by the authority itself, so it is a whole chain.
    pub certificate: String,
    /// Its private key (PKCS#8, ECDSA over P-256).
    pub key: String,
}

/// The site's certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority for the site, with a new key.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn create(site: &SiteName, now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(failed("make the authority's key"))?;
        let mut params = of_authority(site);
        valid(&mut params, now, AUTHORITY_VALID);
        let certificate = params.self_signed(&key).map_err(failed("sign the authority's certificate"))?;
        Ok(Self { certificate: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// The authority that was created for the site before.
    ///
    /// # Errors
    /// If the key is no PEM of a private key.
    pub fn load(site: &SiteName, certificate: String, key: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key).map_err(failed("read the authority's key"))?;
        // Of itself an issuer puts its name and its key's identifier into what it issues; both follow from site and key.
        Ok(Self { issuer: Issuer::new(of_authority(site), key), certificate })
    }

    /// What peers are to trust, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key in PEM: whoever has it can be any server.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a server, with a new key, valid for [`VALID`].
    ///
    /// # Errors
    /// If no key can be made, or the server's name is none for a certificate.
    pub fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Issued, Error> {
        let key = KeyPair::generate().map_err(failed("make the server's key"))?;
        let mut params = CertificateParams::new(vec![subject.server.to_string()])
            .map_err(failed("name the server in its certificate"))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.server.to_string());
        params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, VALID);
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(failed("sign the server's certificate"))?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn of_authority(site: &SiteName) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{site} site authority"));
    params.distinguished_name.push(DnType::OrganizationName, "Mainstay");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn valid(params: &mut CertificateParams, now: SystemTime, time: Duration) {
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + time).into();
}
