//! TLS as clients see it: rustls, and openssl and curl where they are installed.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_http::tls::{CertificatePair, ClientCertificates, ServerOptions, ServerTls, UnknownName};
use mainstay_http::{ListenerOptions, Settings};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use super::authority::Authority;
use super::support::{FILE_BYTES, PATIENCE, Running, eventually, file_byte};

/// A server for the names of these certificates.
pub(crate) fn serving(certificates: &[CertificatePair], options: ServerOptions) -> Running {
    serving_with(&Settings::default(), certificates, options)
}

fn serving_with(settings: &Settings, certificates: &[CertificatePair], options: ServerOptions) -> Running {
    let tls = ServerTls::new(certificates, options).unwrap();
    Running::with_options(settings, ListenerOptions { tls: Some(tls), proxy_protocol: None })
}

/// A client that trusts the authority.
pub(crate) struct Client {
    pub(crate) config: ClientConfig,
}

impl Client {
    pub(crate) fn of(authority: &Authority) -> Self {
        Self::with(authority, rustls::ALL_VERSIONS, None)
    }

    pub(crate) fn with(
        authority: &Authority,
        versions: &[&'static rustls::SupportedProtocolVersion],
        certificate: Option<&CertificatePair>,
    ) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(&pair.chain.text).unwrap()],
                    PrivateKeyDer::from_pem_slice(&pair.key.text).unwrap(),
                )
                .unwrap(),
        };
        Self { config }
    }

    /// Shakes hands.
    pub(crate) fn connect(&self, server: &Running, name: &str) -> io::Result<Connected> {
        self.connect_over(socket(server), name)
    }

    fn connect_over<T: Read + Write>(&self, mut socket: T, name: &str) -> io::Result<Connected<T>> {
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::new(self.config.clone()), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }

    /// Asks for `/tls`, with the name as host.
    pub(crate) fn ask(&self, server: &Running, name: &str) -> io::Result<String> {
        ask(&mut self.connect(server, name)?, name, "/tls")
    }
}

pub(crate) type Connected<T = TcpStream> = StreamOwned<ClientConnection, T>;

fn socket(server: &Running) -> TcpStream {
    let socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// One request on a connection, to its end; the end must be told by TLS.
pub(crate) fn ask<T: Read + Write>(stream: &mut Connected<T>, host: &str, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[test]
fn both_versions_are_spoken_with_what_the_client_and_the_server_prefer() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let answer = Client::of(&authority).ask(&server, "a.test").unwrap();
    assert!(
        answer.contains("name=Some(\"a.test\") version=TLSv1.3 cipher=TLS13_AES_256_GCM_SHA384"),
        "{answer}"
    );
    assert!(answer.contains("group=Some(\"X25519MLKEM768\")"), "{answer}");
    let old = Client::with(&authority, &[&rustls::version::TLS12], None);
    let answer = old.ask(&server, "a.test").unwrap();
    assert!(answer.contains("version=TLSv1.2 cipher=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"), "{answer}");
    assert_eq!(server.metric("http_tls_handshakes_total{version=\"TLSv1.3\",resumed=\"no\"}"), "1");
    assert_eq!(server.metric("http_tls_handshakes_total{version=\"TLSv1.2\",resumed=\"no\"}"), "1");
    assert_eq!(server.metric("http_tls_handshake_seconds_count"), "2");
}

#[test]
fn a_certificate_is_chosen_by_name() {
    let authority = Authority::new("a");
    let certificates = [authority.issue(&["first.test"]), authority.issue(&["b.test", "*.b.test"])];
    let server = serving(&certificates, ServerOptions::default());
    let client = Client::of(&authority);
    for name in ["first.test", "b.test", "x.b.test", "X.B.test"] {
        assert!(client.ask(&server, name).is_ok(), "{name}");
    }
    // These get the first certificate, which is not for them.
    for name in ["other.test", "x.y.b.test"] {
        assert!(client.ask(&server, name).unwrap_err().to_string().contains("not valid for name"), "{name}");
    }
    eventually("the client's refusal is counted", || {
        server.metric("http_tls_handshake_failures_total{reason=\"certificate refused by client\"}") == "2"
    });
}

#[test]
fn unknown_names_are_refused_where_that_is_wanted() {
    let authority = Authority::new("a");
    let options = ServerOptions { unknown_name: UnknownName::Refuse, ..ServerOptions::default() };
    let server = serving(&[authority.issue(&["a.test", "127.0.0.1"])], options);
    let client = Client::of(&authority);
    let error = client.ask(&server, "b.test").unwrap_err().to_string();
    assert!(error.contains("UnrecognisedName"), "{error}");
    // A flood of names costs no memory: each counts as the same.
    for name in 0..50 {
        assert!(client.ask(&server, &format!("x{name}.test")).is_err());
    }
    eventually("counted", || {
        server.metric("http_tls_handshake_failures_total{reason=\"unknown name\"}") == "51"
    });
    // Without a name the first certificate is shown.
    assert!(client.ask(&server, "127.0.0.1").unwrap().contains("name=None"));
    assert!(client.ask(&server, "a.test").is_ok());
}

#[test]
fn ecdsa_and_rsa_stand_side_by_side_for_one_name() {
    let authority = Authority::new("a");
    let server =
        serving(&[authority.issue_rsa(&["a.test"]), authority.issue(&["a.test"])], ServerOptions::default());
    for (suite, is_rsa) in [("ECDHE_ECDSA", false), ("ECDHE_RSA", true)] {
        let mut client = Client::with(&authority, &[&rustls::version::TLS12], None);
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|known| format!("{:?}", known.suite()).contains(suite));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        client.config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let answer = client.ask(&server, "a.test").unwrap();
        assert_eq!(answer.contains("_RSA_"), is_rsa, "{answer}");
    }
    // Who takes both gets the cheaper one.
    let mut stream = Client::of(&authority).connect(&server, "a.test").unwrap();
    assert!(stream.conn.peer_certificates().unwrap()[0].len() < 600);
    ask(&mut stream, "a.test", "/").unwrap();
}

#[test]
fn services_learn_whether_the_certificate_is_for_the_host() {
    let authority = Authority::new("a");
    let certificates = [authority.issue(&["a.test", "www.a.test"]), authority.issue(&["b.test"])];
    let server = serving(&certificates, ServerOptions::default());
    let client = Client::of(&authority);
    for (name, host, agrees) in [
        ("a.test", "a.test", true),
        ("a.test", "www.a.test", true),
        ("a.test", "b.test", false),
        ("b.test", "a.test", false),
        // No certificate is for it: it is shown the first, as this client was.
        ("a.test", "unknown.test", true),
        ("b.test", "unknown.test", false),
    ] {
        let answer = ask(&mut client.connect(&server, name).unwrap(), host, "/tls").unwrap();
        assert!(answer.contains(&format!("for_host={agrees}")), "{name} {host}: {answer}");
    }
}

#[test]
fn a_session_goes_on_at_every_server_with_the_same_secret() {
    let authority = Authority::new("a");
    let certificate = authority.issue(&["a.test"]);
    let with = |secret: &[u8]| ServerOptions { ticket_secret: Some(secret.to_vec()), ..Default::default() };
    let first = serving(std::slice::from_ref(&certificate), with(b"the secret of a site's edges"));
    let second = serving(std::slice::from_ref(&certificate), with(b"the secret of a site's edges"));
    let stranger = serving(std::slice::from_ref(&certificate), with(b"another secret, or a later one"));
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let client = Client::with(&authority, versions, None);
        for (server, resumed) in [(&first, false), (&second, true), (&first, true), (&stranger, false)] {
            let mut stream = client.connect(server, "a.test").unwrap();
            let answer = ask(&mut stream, "a.test", "/tls").unwrap();
            assert!(answer.contains(&format!("resumed={resumed}")), "{answer}");
            assert_eq!(stream.conn.handshake_kind() == Some(HandshakeKind::Resumed), resumed);
        }
    }
}

#[test]
fn clients_show_certificates_where_they_must_and_where_they_may() {
    let (authority, clients, others) =
        (Authority::new("a"), Authority::new("clients"), Authority::new("others"));
    let certificate = authority.issue(&["a.test"]);
    let (alice, eve) = (clients.issue(&["alice"]), others.issue(&["eve"]));
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let options = |client_certificates| ServerOptions { client_certificates, ..Default::default() };
        let client = |pair| Client::with(&authority, versions, pair);
        let must =
            serving(std::slice::from_ref(&certificate), options(ClientCertificates::Required(clients.ca())));
        let answer = client(Some(&alice)).ask(&must, "a.test").unwrap();
        assert!(answer.contains("client=Some((\"CN=alice\", [\"alice\"]))"), "{answer}");
        assert!(client(None).ask(&must, "a.test").is_err());
        assert!(client(Some(&eve)).ask(&must, "a.test").is_err());
        eventually("both are counted", || {
            let of =
                |reason| must.metric(&format!("http_tls_handshake_failures_total{{reason=\"{reason}\"}}"));
            of("no client certificate") == "1" && of("client certificate refused") == "1"
        });
        let may =
            serving(std::slice::from_ref(&certificate), options(ClientCertificates::Optional(clients.ca())));
        assert!(client(Some(&alice)).ask(&may, "a.test").unwrap().contains("CN=alice"));
        assert!(client(None).ask(&may, "a.test").unwrap().contains("client=None"));
        assert!(client(Some(&eve)).ask(&may, "a.test").is_err());
        // A resumed session still knows its client.
        let again = client(Some(&alice));
        again.ask(&may, "a.test").unwrap();
        let answer = again.ask(&may, "a.test").unwrap();
        assert!(answer.contains("resumed=true client=Some((\"CN=alice\""), "{answer}");
    }
}

/// Writes every byte by itself.
struct Trickle(TcpStream);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Trickle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_hello_in_segments_of_one_byte_is_understood() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let mut stream = Client::of(&authority).connect_over(Trickle(socket(&server)), "a.test").unwrap();
    assert!(ask(&mut stream, "a.test", "/tls").unwrap().contains("TLSv1.3"));
}

#[test]
fn a_slow_handshake_is_cut_off_by_its_deadline() {
    let authority = Authority::new("a");
    let mut settings = Settings::default();
    settings.timeouts.handshake = Duration::from_millis(300);
    let server = serving_with(&settings, &[authority.issue(&["a.test"])], ServerOptions::default());
    let begin = Instant::now();
    let mut silent = socket(&server);
    let mut halted = socket(&server);
    halted.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).unwrap();
    for socket in [&mut silent, &mut halted] {
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(begin.elapsed() < PATIENCE);
    eventually("both are counted", || {
        server.metric("http_tls_handshake_failures_total{reason=\"timed out\"}") == "2"
    });
}

#[test]
fn what_is_no_handshake_or_too_large_a_one_is_cut_off() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let mut plain = socket(&server);
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.first().is_none_or(|first| *first == 21), "an alert, or nothing: {answer:?}");
    // A hello of 64 KiB, in many records.
    let mut large = socket(&server);
    let message = [&[1, 0, 0xff, 0xff][..], &vec![3; 0xffff]].concat();
    for piece in message.chunks(1000) {
        let record = [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
        if large.write_all(&record).is_err() {
            break;
        }
    }
    let _ = large.read(&mut [0; 100]);
    eventually("both are counted", || {
        let of = |reason| server.metric(&format!("http_tls_handshake_failures_total{{reason=\"{reason}\"}}"));
        of("no TLS") == "1" && of("too large") == "1"
    });
}

#[test]
fn large_responses_and_uploads_pass_whole_over_tls() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let client = Client::of(&authority);
    let mut stream = client.connect(&server, "a.test").unwrap();
    stream.write_all(b"GET /file HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer.len() - body, FILE_BYTES);
    assert!(answer[body..].iter().enumerate().all(|(at, byte)| *byte == file_byte(at)));

    let mut stream = client.connect(&server, "a.test").unwrap();
    let upload = vec![b'x'; 2_000_000];
    write!(
        stream,
        "POST /read HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 2000000\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&upload).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("2000000"), "{answer}");
}

#[test]
fn an_upload_comes_back_while_it_is_still_sent() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let mut stream = Client::of(&authority).connect(&server, "a.test").unwrap();
    write!(stream, "POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 400000\r\n\r\n").unwrap();
    let mut read = 0;
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..4 {
        stream.write_all(&vec![b'y'; 100_000]).unwrap();
        read += stream.read(&mut buffer).unwrap();
    }
    while read < 400_000 {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "ended after {read} bytes");
        read += count;
    }
}

#[test]
fn h2_is_agreed_on_by_alpn() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    for (offered, agreed) in
        [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let mut client = Client::of(&authority);
        client.config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let mut stream = client.connect(&server, "a.test").unwrap();
        assert_eq!(stream.conn.alpn_protocol(), agreed);
        if agreed == Some(b"h2") {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            let mut frame = [0; 9];
            stream.read_exact(&mut frame).unwrap();
            assert_eq!(frame[3], 4, "SETTINGS: {frame:?}");
        } else {
            assert!(ask(&mut stream, "a.test", "/tls").unwrap().contains("TLSv1.3"));
        }
    }
    let mut client = Client::of(&authority);
    client.config.alpn_protocols = vec![b"gopher".to_vec()];
    assert!(client.connect(&server, "a.test").unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[test]
fn a_draining_server_waits_for_handshakes_a_moment_and_no_longer() {
    let authority = Authority::new("a");
    let mut settings = Settings::default();
    settings.timeouts.drain_idle = Duration::from_millis(200);
    let mut server = serving_with(&settings, &[authority.issue(&["a.test"])], ServerOptions::default());
    let mut waiting = socket(&server);
    eventually("it is accepted", || server.metric("http_connections_open") == "1");
    server.shutdown.drain();
    server.join();
    assert_eq!(waiting.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(server.metric("http_tls_handshake_failures_total{reason=\"server stops\"}"), "1");
}

/// Runs a program; `None` where it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let output = child.ok()?.wait_with_output().unwrap();
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn curl_and_openssl_are_content() {
    let authority = Authority::new("a");
    let server =
        serving(&[authority.issue(&["a.test"]), authority.issue_rsa(&["a.test"])], ServerOptions::default());
    let folder = tempfile::Builder::new().prefix("mainstay-test-").tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let (ca, port) = (ca.to_str().unwrap(), server.address.port());
    let resolve = format!("a.test:{port}:127.0.0.1");
    for (version, tls) in [("--http2", "--tlsv1.3"), ("--http1.1", "--tlsv1.2"), ("--http1.1", "--tlsv1.3")] {
        let url = format!("https://a.test:{port}/tls");
        let arguments =
            ["-sS", "--cacert", ca, "--resolve", &resolve, version, tls, &url, "-w", " %{http_version}"];
        if let Some(answer) = run("curl", &arguments) {
            assert!(answer.contains("name=Some(\"a.test\") version=TLSv1.3"), "{answer}");
            assert!(answer.ends_with(if version == "--http2" { " 2" } else { " 1.1" }), "{answer}");
        }
    }
    let connect = format!("127.0.0.1:{port}");
    let base = ["s_client", "-connect", &connect, "-servername", "a.test", "-CAfile", ca, "-brief"];
    for (more, wanted) in [
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..], "ECDHE-RSA-AES128-GCM-SHA256"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], "ECDHE-ECDSA-CHACHA20-POLY1305"),
        (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256"], "Verification: OK"),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "alert"),
    ] {
        if let Some(answer) = run("openssl", &[&base[..], more].concat()) {
            assert!(answer.contains(wanted), "{more:?}: {answer}");
        }
    }
}
