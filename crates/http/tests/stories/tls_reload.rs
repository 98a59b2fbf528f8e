//! Certificates that are replaced under connections, and those that are refused.

use std::io::{Read as _, Write as _};

use mainstay_http::tls::{CertificatePair, Pem, ServerOptions, ServerTls, TlsError};
use mainstay_http::{ListenerOptions, Settings};

use super::authority::Authority;
use super::support::Running;
use super::tls::Client;

#[test]
fn new_connections_get_the_new_certificate_and_old_ones_go_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tls = ServerTls::new(&[old.issue(&["a.test"])], ServerOptions::default()).unwrap();
    let options = ListenerOptions { tls: Some(tls.clone()), proxy_protocol: None };
    let server = Running::with_options(&Settings::default(), options);
    let mut kept = Client::of(&old).connect(&server, "a.test").unwrap();
    tls.replace(&[new.issue(&["a.test"])]).unwrap();
    assert!(Client::of(&old).ask(&server, "a.test").is_err());
    assert!(Client::of(&new).ask(&server, "a.test").is_ok());
    kept.write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

fn joined(first: &CertificatePair, second: &str) -> CertificatePair {
    let text = [&first.chain.text[..], second.as_bytes()].concat();
    CertificatePair { chain: Pem::new("chain.pem", text), key: first.key.clone() }
}

#[test]
fn what_cannot_be_served_is_refused_and_the_old_is_kept() {
    let (authority, other) = (Authority::new("issuer"), Authority::new("other"));
    let good = authority.issue(&["a.test"]);
    let tls = ServerTls::new(std::slice::from_ref(&good), ServerOptions::default()).unwrap();
    let options = ListenerOptions { tls: Some(tls.clone()), proxy_protocol: None };
    let server = Running::with_options(&Settings::default(), options);
    let wrong_key = CertificatePair { key: authority.issue(&["a.test"]).key, ..good.clone() };
    let expired = authority.issue_with(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let own_last = CertificatePair {
        chain: Pem::new("chain.pem", [authority.pem.as_bytes(), &good.chain.text].concat()),
        key: good.key.clone(),
    };
    let garbled = CertificatePair {
        chain: Pem::new("chain.pem", "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"),
        key: good.key.clone(),
    };
    let swapped = CertificatePair { chain: good.key.clone(), key: good.chain.clone() };
    let no_base64 = CertificatePair {
        chain: Pem::new("chain.pem", "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n"),
        key: good.key.clone(),
    };
    let told = |pair: &CertificatePair| {
        // One bad pair among good ones is enough.
        tls.replace(&[good.clone(), pair.clone()]).unwrap_err()
    };
    type Kind = fn(&TlsError) -> bool;
    let expectations: [(_, Kind, &str); 7] = [
        (
            &wrong_key,
            |e| matches!(e, TlsError::Mismatch { .. }),
            "key.pem does not belong to the certificate",
        ),
        (&expired, |e| matches!(e, TlsError::Expired { .. }), "expired"),
        (&own_last, |e| matches!(e, TlsError::OwnNotFirst { place: 2, .. }), "put number 2"),
        (&garbled, |e| matches!(e, TlsError::NoCertificate { place: 1, .. }), "damaged"),
        (&swapped, |e| matches!(e, TlsError::Pem { what: "certificate", .. }), "BEGIN CERTIFICATE"),
        (&no_base64, |e| matches!(e, TlsError::Pem { .. }), "chain.pem"),
        (&joined(&good, &other.pem), |e| matches!(e, TlsError::Order { place: 2, .. }), "\"CN=other\""),
    ];
    for (pair, is_it, text) in expectations {
        let error = told(pair);
        assert!(is_it(&error), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(tls.replace(&[]).unwrap_err(), TlsError::NoPair);
    assert!(Client::of(&authority).ask(&server, "a.test").is_ok(), "the old one is still served");
    tls.replace(&[joined(&good, &authority.pem)]).unwrap();
    assert!(Client::of(&authority).ask(&server, "a.test").is_ok());
}

#[test]
fn an_expired_certificate_is_better_than_none_at_the_start() {
    let authority = Authority::new("issuer");
    let expired = authority.issue_with(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    assert!(ServerTls::new(&[expired], ServerOptions::default()).is_ok());
}
