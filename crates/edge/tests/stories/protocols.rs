//! TLS, the cache and services that are no HTTP, through the whole edge.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use mainstay_site::ByteSize;
use mainstay_site::plan::edge::{
    CachePlan, CertificatePlan, ClientCertificates, EdgePlan, ProxyVersion, TcpService, TcpTls,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Wire, get, request};
use crate::edge::{Edge, bind, route, until};
use crate::origin::{Mood, Origin};

/// A certificate and its key, written as secrets of these names.
fn certificate(folder: &std::path::Path, name: &str, host: &str) -> rcgen::Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{name}-chain")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}-key")), key.serialize_pem()).unwrap();
    certificate
}

fn planned(name: &str) -> CertificatePlan {
    CertificatePlan { chain_secret: format!("{name}-chain"), key_secret: format!("{name}-key") }
}

fn tls_get(edge: &Edge, trusted: &rcgen::Certificate, name: &str, host: &str) -> Result<String, String> {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    tls_ask(edge, trusted, name, &request, None)
}

/// Asks on a connection of its own, with a certificate and its key where one is shown.
fn tls_ask(
    edge: &Edge,
    trusted: &rcgen::Certificate,
    name: &str,
    request: &str,
    shown: Option<&(CertificateDer<'static>, Vec<u8>)>,
) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(key.clone().into());
            config.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(edge.address).unwrap());
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error.to_string()),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

#[test]
fn tls_ends_here_and_its_certificates_change_in_place() {
    let origin = Origin::start("a");
    let secrets = tempfile::tempdir().unwrap();
    let first = certificate(secrets.path(), "one", "a.test");
    let other = certificate(secrets.path(), "two", "x.b.test");
    let copy = |edge: &std::path::Path| {
        for entry in std::fs::read_dir(secrets.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), edge.join(entry.file_name())).unwrap();
        }
    };
    let mut edge = Edge::prepared(&[&origin], &copy, |plan| {
        plan.listeners[0].tls = true;
        plan.certificates = vec![planned("one"), planned("two")];
    });
    let answer = tls_get(&edge, &first, "a.test", "a.test").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    let answer = tls_get(&edge, &other, "x.b.test", "x.b.test").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // A connection for one name is none for a host with another certificate.
    let answer = tls_get(&edge, &first, "a.test", "x.b.test").unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    origin.seen();
    // A broken pair is refused, and the old one stays.
    let folder = edge.folder.path().join("secrets");
    std::fs::copy(folder.join("two-key"), folder.join("broken-key")).unwrap();
    std::fs::copy(folder.join("one-chain"), folder.join("broken-chain")).unwrap();
    assert!(edge.reload(|plan| plan.certificates = vec![planned("broken")]).is_err());
    assert!(tls_get(&edge, &first, "a.test", "a.test").unwrap().starts_with("HTTP/1.1 200 "));
    let renewed = certificate(&folder, "one", "a.test");
    edge.reload(|_| {}).unwrap();
    assert!(tls_get(&edge, &renewed, "a.test", "a.test").unwrap().starts_with("HTTP/1.1 200 "));
    assert!(tls_get(&edge, &first, "a.test", "a.test").is_err());
}

#[test]
fn what_may_be_kept_is_asked_for_once() {
    let origin = Origin::start("a");
    origin.is(Mood::Says(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 4\r\n\r\nkept"));
    let edge = Edge::with(&[&origin], |plan| {
        plan.cache = Some(CachePlan {
            memory: ByteSize::from_mebibytes(16),
            object: ByteSize::from_mebibytes(1),
            heuristic_ms: 0,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: 0,
        });
        plan.routes[0].cache = true;
    });
    for _ in 0..5 {
        assert_eq!(get(edge.address, "/style.css", "").text(), "kept");
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(edge.status()["cache"]["responses"], 1);
    assert_eq!(edge.purge(r#""all""#).status, 200);
    get(edge.address, "/style.css", "");
    assert_eq!(origin.count(), 2);
    // No one else gets what is answered to a change.
    let post = "POST /style.css HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(request(edge.address, post).status, 200);
    get(edge.address, "/style.css", "");
    assert_eq!(origin.count(), 4);
    until("nothing is in flight", || edge.status()["groups"][0]["upstreams"][0]["in_flight"] == 0);
}

#[test]
fn clients_show_certificates_where_they_are_asked_and_upstreams_learn_whose() {
    let origin = Origin::start("a");
    let secrets = tempfile::tempdir().unwrap();
    let server = certificate(secrets.path(), "one", "a.test");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    std::fs::write(secrets.path().join("clients"), authority.pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.der().clone(), key.serialize_der())
    };
    let alice = issue("alice");
    let copy = |edge: &std::path::Path| {
        for entry in std::fs::read_dir(secrets.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), edge.join(entry.file_name())).unwrap();
        }
    };
    let start = |required: bool| {
        Edge::prepared(&[&origin], &copy, |plan| {
            plan.listeners[0].tls = true;
            plan.certificates = vec![planned("one")];
            plan.client_certificates =
                Some(ClientCertificates { authorities_secret: "clients".to_owned(), required });
            plan.routes.insert(0, route("own", "/own"));
            plan.routes[0].client_certificate = true;
        })
    };
    let ask = |edge: &Edge, shown: Option<&(CertificateDer<'static>, Vec<u8>)>, path: &str| {
        let fields = "x-client-certificate-subject: CN=root\r\n";
        let request = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{fields}connection: close\r\n\r\n");
        tls_ask(edge, &server, "a.test", &request, shown)
    };
    let mut edge = start(false);
    let answer = ask(&edge, Some(&alice), "/own").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(origin.seen().pop().unwrap().field("x-client-certificate-subject"), Some("CN=alice"));
    // Who shows none is nobody, whatever he says, and gets what is for everybody.
    assert!(ask(&edge, None, "/").unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(origin.seen().pop().unwrap().field("x-client-certificate-subject"), None);
    assert!(ask(&edge, None, "/own").unwrap().starts_with("HTTP/1.1 403 "));
    assert_eq!(origin.count(), 0);
    let change = |plan: &mut EdgePlan| plan.client_certificates.as_mut().unwrap().required = true;
    assert!(edge.reload(change).unwrap_err().contains("new process"));
    let edge = start(true);
    assert!(ask(&edge, Some(&alice), "/").unwrap().starts_with("HTTP/1.1 200 "));
    assert!(ask(&edge, None, "/").is_err());
}

fn raw_service(listen: std::net::SocketAddr) -> TcpService {
    TcpService {
        name: "raw".to_owned(),
        listen,
        tls: TcpTls::None,
        proxy_protocol: false,
        by_name: Vec::new(),
        group: Some("web".to_owned()),
        idle_ms: 20_000,
        connections: 10,
        connections_per_client: 0,
    }
}

#[test]
fn connections_of_a_service_wait_for_room_at_an_upstream() {
    let origin = Origin::start("a");
    let socket = bind("127.0.0.1:0".parse().unwrap());
    let listen = socket.local_addr().unwrap();
    let mut edge = Edge::listening(&[&origin], vec![socket], |plan| {
        plan.tcp = vec![raw_service(listen)];
        plan.groups[0].connections = 1;
        plan.groups[0].queue = 1;
        plan.groups[0].queue_ms = 20_000;
    });
    let raw = || {
        let mut wire = Wire::to(listen);
        wire.send("GET /raw HTTP/1.1\r\n\r\n");
        wire
    };
    let answered = |wire: &mut Wire| wire.answer().unwrap().text().starts_with("GET /raw ");
    let waiting = |edge: &Edge| edge.status()["groups"][0]["waiting"].as_u64();
    let mut first = raw();
    assert!(answered(&mut first));
    let mut second = raw();
    until("one waits", || waiting(&edge) == Some(1));
    let status = edge.status();
    let service = &status["services"][0];
    assert_eq!((&service["name"], &service["connections"]), (&"raw".into(), &10.into()), "{status}");
    assert_eq!(service["connections_open"], 2, "{status}");
    assert_eq!(status["groups"][0]["upstreams"][0]["in_flight"], 1, "{status}");
    // A third is one too many, and hears so at once.
    assert_eq!(raw().rest(), "");
    let errors = |edge: &Edge, reason: &str| {
        edge.metric(&format!("mainstay_edge_tcp_errors_total{{service=\"raw\",reason=\"{reason}\"}}"))
    };
    until("the refusal is counted", || errors(&edge, "queue full") == 1.0);
    // Requests wait for the same room, behind those that came before them.
    assert_eq!(get(edge.address, "/", "").status, 503);
    drop(first);
    assert!(answered(&mut second));
    assert_eq!(waiting(&edge), Some(0));
    // The queue has a deadline.
    edge.reload(|plan| plan.groups[0].queue_ms = 200).unwrap();
    assert_eq!(raw().rest(), "");
    // It is counted when the client has heard it already.
    until("the end of the wait is counted", || errors(&edge, "queue timeout") == 1.0);
    // More room is there at once.
    edge.reload(|plan| plan.groups[0].connections = 2).unwrap();
    assert!(answered(&mut raw()) && answered(&mut second_request(second)));
}

/// On the same connection.
fn second_request(mut wire: Wire) -> Wire {
    wire.send("GET /raw HTTP/1.1\r\n\r\n");
    wire
}

#[test]
fn a_service_that_is_no_http_is_passed_on() {
    let origin = Origin::start("a");
    let socket = bind("127.0.0.1:0".parse().unwrap());
    let listen = socket.local_addr().unwrap();
    let edge = Edge::listening(&[&origin], vec![socket], |plan| {
        plan.tcp = vec![raw_service(listen)];
    });
    let mut wire = Wire::to(listen);
    // Passed on as it is: nothing is added.
    wire.send("GET /raw HTTP/1.1\r\nx: y\r\n\r\n");
    assert!(wire.answer().unwrap().text().starts_with("GET /raw HTTP/1.1\nx: y\n\n"));
    assert_eq!(edge.status()["groups"][0]["upstreams"][0]["in_flight"], 1);
    assert_eq!(get(edge.address, "/", "").status, 200);
}

#[test]
fn proxy_headers_are_believed_on_listeners_that_ask_for_them_and_passed_on() {
    let origin = Origin::start("a");
    let edge = Edge::with(&[&origin], |plan| {
        plan.listeners[0].proxy_protocol = true;
        plan.trusted_proxies = vec!["127.0.0.1".to_owned()];
        plan.groups[0].proxy_protocol = Some(ProxyVersion::V1);
    });
    let mut wire = Wire::to(edge.address);
    wire.send("PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\nGET / HTTP/1.1\r\nhost: a.test\r\nx-forwarded-for: 6.6.6.6\r\n\r\n");
    // The origin takes the PROXY line for a request line, and the request line for a field.
    let answer = wire.answer().unwrap().text();
    assert!(answer.starts_with("PROXY TCP4 192.0.2.9 192.0.2.1 1234 80"), "{answer}");
    assert!(answer.contains("x-real-ip: 192.0.2.9") && !answer.contains("6.6.6.6"), "{answer}");
}
