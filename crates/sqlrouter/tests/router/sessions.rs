//! Logins: every plugin, TLS on both sides, and what a password is good for.

use std::path::Path;

use mainstay_sqlrouter::auth::Plugin;
use mainstay_sqlrouter::config::CertificateFiles;

use crate::fixture::client::Client;
use crate::fixture::mariadb::{MariaDb, PASSWORD, is_here};
use crate::fixture::router::{Router, topology};

#[test]
fn clients_prove_their_password_with_the_plugin_of_their_account() {
    for plugin in [Plugin::Native, Plugin::CachingSha2, Plugin::Ed25519] {
        let router = Router::with(topology(1, None, &[]), |config| config.accounts[0].plugin = plugin);
        assert!(Client::connect(router.address, "app", PASSWORD, None).is_ok(), "{plugin:?}");
        assert_eq!(
            Client::connect(router.address, "app", "wrong", None).err().unwrap().0,
            1045,
            "{plugin:?}"
        );
    }
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates(folder: &Path) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "the site's authority");
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".into(), "db1".into()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), leaf.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}

#[test]
fn tls_is_verified_towards_servers_and_offered_to_clients() {
    if !is_here() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("mainstay-test-sqlrouter-").tempdir().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name);
    let option = |name: &str, file: &str| format!("--{name}={}", path(file).display());
    let (ca, cert, key) =
        (option("ssl-ca", "ca.pem"), option("ssl-cert", "cert.pem"), option("ssl-key", "key.pem"));
    let server = MariaDb::start(1, &[&ca, &cert, &key, "--require-secure-transport=1"]);
    let first = topology(1, Some(("one", server.address)), &[]);
    let router = Router::with(first.clone(), |config| {
        config.authorities = Some(path("ca.pem"));
        config.tls = Some(CertificateFiles { chain: path("cert.pem"), key: path("key.pem") });
    });
    let mut client = router.client("app", Some("app"));
    let rows = client.query("SHOW STATUS LIKE 'Ssl_version'").unwrap();
    assert_eq!(rows[0][1].as_deref(), Some("TLSv1.3"));
    // The same with the client of MariaDB, over TLS to the router.
    // It does not wait after it has asked for TLS, so that its first bytes may come together.
    for _ in 0..20 {
        with_tls(&router, &option("ssl-ca", "ca.pem"));
    }
    // A server that another authority vouches for is not believed.
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let router = Router::with(first, |config| {
        config.authorities = Some(other.path().join("ca.pem"));
        config.limits.hold_ms = 100;
    });
    let error = router.client("app", None).query("SELECT 1").unwrap_err();
    assert!(error.1.contains("cannot verify 127.0.0.1"), "{error:?}");
}

fn with_tls(router: &Router, authority: &str) {
    let output = std::process::Command::new("mariadb")
        .args(["--no-defaults", "-h127.0.0.1", "-uapp", "--ssl-verify-server-cert", "app", "-Nse"])
        .arg("SELECT 40 + 2; SHOW STATUS LIKE 'Ssl_cipher'")
        .arg(format!("-P{}", router.address.port()))
        .arg(format!("-p{PASSWORD}"))
        .arg(authority)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("42\n"), "{text} {}", String::from_utf8_lossy(&output.stderr));
}
