//! Certificates for stories: an authority, and what it issues.

use mainstay_http::tls::{CertificatePair, Pem};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm,
};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn ca(&self) -> Pem {
        Pem::new("authority.pem", self.pem.clone())
    }

    /// An ECDSA certificate.
    pub(crate) fn issue(&self, names: &[&str]) -> CertificatePair {
        self.issue_with(names, &PKCS_ECDSA_P256_SHA256, |_| {})
    }

    pub(crate) fn issue_rsa(&self, names: &[&str]) -> CertificatePair {
        self.issue_with(names, &PKCS_RSA_SHA256, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificatePair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        CertificatePair {
            chain: Pem::new("chain.pem", certificate.pem()),
            key: Pem::new("key.pem", key.serialize_pem()),
        }
    }
}
