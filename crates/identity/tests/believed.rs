//! What the authority issues is believed by those who trust it, and by nobody else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_identity::{Authority, Issued, Store, StoreError, Subject, VALID};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{Error, RootCertStore};

fn site() -> mainstay_site::SiteName {
    "foobar".parse().expect("a name")
}

fn subject(address: &str) -> Subject {
    Subject {
        server: "server1".parse().expect("a name"),
        addresses: vec![address.parse().expect("an address")],
    }
}

fn roots(authority: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM")).expect("a root");
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn as_server(authority: &str, issued: &Issued, name: &str, at: SystemTime) -> Result<(), Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), provider())
        .build()
        .expect("a verifier");
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::since_unix_epoch(since)).map(|_| ())
}

#[test]
fn a_server_is_believed_under_its_name_and_its_addresses_only() {
    let now = SystemTime::now();
    let authority = Authority::create(&site(), now).expect("an authority");
    let issued = authority.issue(&subject("10.10.0.11"), now).expect("a certificate");
    for name in ["server1", "10.10.0.11"] {
        assert_eq!(as_server(authority.certificate(), &issued, name, now), Ok(()), "{name}");
    }
    for name in ["server2", "10.10.0.12"] {
        assert!(as_server(authority.certificate(), &issued, name, now).is_err(), "{name}");
    }
    let late = now + VALID + Duration::from_mins(1);
    assert!(as_server(authority.certificate(), &issued, "server1", late).is_err(), "its time is over");
}

#[test]
fn a_server_is_believed_as_a_client_too() {
    let now = SystemTime::now();
    let authority = Authority::create(&site(), now).expect("an authority");
    let issued = authority.issue(&subject("10.10.0.11"), now).expect("a certificate");
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority.certificate()), provider())
        .build()
        .expect("a verifier");
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM");
    assert!(verifier.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok());
}

#[test]
fn another_authority_of_the_same_site_is_a_stranger() {
    let now = SystemTime::now();
    let authority = Authority::create(&site(), now).expect("an authority");
    let other = Authority::create(&site(), now).expect("an authority");
    let issued = other.issue(&subject("10.10.0.11"), now).expect("a certificate");
    assert!(as_server(authority.certificate(), &issued, "server1", now).is_err());
}

#[test]
fn an_authority_that_was_stored_issues_what_those_believe_who_knew_it_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = SystemTime::now();
    let trusted = Store::open(folder.path(), &site(), now).expect("a store").trusted().to_owned();
    let again = Store::open(folder.path(), &site(), now).expect("a store");
    assert_eq!(again.trusted(), trusted);
    let issued = again.server(&subject("10.10.0.11"), now).expect("a certificate");
    assert_eq!(as_server(&trusted, &issued, "server1", now), Ok(()));
}

#[test]
fn a_certificate_is_kept_until_it_is_old_or_no_longer_fits() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = SystemTime::now();
    let store = Store::open(folder.path(), &site(), now).expect("a store");
    let first = store.server(&subject("10.10.0.11"), now).expect("a certificate");
    let soon = now + VALID / 2;
    assert_eq!(store.server(&subject("10.10.0.11"), soon).expect("a certificate"), first);
    let late = now + VALID / 4 * 3;
    let renewed = store.server(&subject("10.10.0.11"), late).expect("a certificate");
    assert_ne!(renewed, first, "two thirds of its time are over");
    let moved = store.server(&subject("10.10.0.99"), late).expect("a certificate");
    assert_ne!(moved, renewed, "the server has another address");
    assert_eq!(as_server(store.trusted(), &moved, "10.10.0.99", late), Ok(()));
}

#[test]
fn half_an_authority_is_an_error_and_not_a_reason_for_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = SystemTime::now();
    drop(Store::open(folder.path(), &site(), now).expect("a store"));
    std::fs::remove_file(folder.path().join("authority.key")).expect("removed");
    let error = Store::open(folder.path(), &site(), now).expect_err("half of it is gone");
    assert!(matches!(error, StoreError::Half { .. }), "{error}");
    assert!(error.to_string().contains("authority.key is missing"), "{error}");
}
