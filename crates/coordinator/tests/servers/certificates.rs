//! An authority for tests.

use std::path::Path;

use mainstay_coordinator::Tls;
use mainstay_coordinator::etcd::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Server,
    Client,
    Both,
}

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "a test's authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn pair(&self, name: &str, addresses: &[&str], usage: Usage) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for address in addresses {
            params.subject_alt_names.push(SanType::IpAddress(address.parse().unwrap()));
        }
        if matches!(usage, Usage::Server | Usage::Both) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if matches!(usage, Usage::Client | Usage::Both) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    pub fn tls(&self, pair: &Pair) -> Tls {
        Tls::from_pem(self.pem.as_bytes(), pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap()
    }

    /// What a client shows that may come from anywhere.
    pub fn client(&self) -> Tls {
        self.tls(&self.pair("a client", &[], Usage::Client))
    }

    pub fn files(&self, folder: &Path, name: &str, pair: &Pair) -> TlsFiles {
        let write = |suffix: &str, text: &str| {
            let path = folder.join(format!("{name}-{suffix}.pem"));
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            authority: write("authority", &self.pem),
            certificate: write("certificate", &pair.certificate),
            key: write("key", &pair.key),
        }
    }
}
