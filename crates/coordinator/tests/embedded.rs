//! What holds for the embedded coordinator alone: restarts, strangers, and what lies on its disk.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a story that cannot go on fails, and says what it measured"
)]

mod servers;

use std::path::Path;
use std::time::{Duration, Instant};

use mainstay_coordinator::embedded::{Embedded, Limits, Listener, OpenError};
use mainstay_coordinator::{Client, Endpoint, Error, Watched};
use servers::{Authority, PATIENCE, Usage, block_on, client, client_at, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mainstay-test-embedded-").tempdir().unwrap()
}

/// Opens the store in a folder, as soon as nobody else has it, and serves it.
async fn serve(folder: &Path, limits: Limits) -> (Client, JoinHandle<()>) {
    let end = Instant::now() + PATIENCE;
    let embedded = loop {
        match Embedded::open_with(&folder.join("store"), limits) {
            Ok(embedded) => break embedded,
            Err(OpenError::InUse { .. }) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let socket = folder.join("socket");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(async move {
        let _ = embedded.serve(Listener::Unix(listener)).await;
    });
    (client_at(Endpoint::Unix(socket)), serving)
}

#[test]
fn a_restart_keeps_keys_revisions_and_leases_and_gives_these_their_time_again() {
    block_on(async {
        let folder = folder();
        let (client, serving) = serve(folder.path(), Limits::default()).await;
        let lease = client.grant(Duration::from_millis(1500)).await.unwrap().lease;
        client.put("k/leased", "", Some(lease)).await.unwrap();
        let revision = client.put("k/a", "value", None).await.unwrap().revision;
        let mut watch = client.watch("k/", 1);
        assert!(matches!(watch.next().await, Watched::Changed(_)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        serving.abort();
        let _ = serving.await;

        let (_, serving) = serve(folder.path(), Limits::default()).await;
        let reopened = Instant::now();
        let left = client.lease(lease).await.unwrap().unwrap().left;
        assert!(left + reopened.elapsed() > Duration::from_millis(1400), "{left:?}");
        let kv = client.get("k/a").await.unwrap().unwrap();
        assert_eq!((kv.value.as_slice(), kv.mod_revision, kv.version), (b"value".as_slice(), revision, 1));
        let next = client.put("k/b", "", None).await.unwrap().revision;
        assert_eq!(next, revision + 1);
        // The watch of before goes on, and one from before begins.
        let mut keys = Vec::new();
        while keys.len() < 2 {
            let Watched::Changed(events) = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() else {
                panic!()
            };
            keys.extend(
                events.iter().filter(|event| event.revision >= revision).map(|event| event.key().to_owned()),
            );
        }
        assert!(keys.ends_with(&["k/b".to_owned()]) || keys.contains(&"k/b".to_owned()), "{keys:?}");
        let mut old = client.watch("k/", 2);
        let Watched::Changed(events) = old.next().await else { panic!() };
        assert_eq!(events[0].revision, 2);
        eventually("the end of the lease", || async { client.get("k/leased").await.unwrap().is_none() })
            .await;
        serving.abort();
    });
}

#[test]
fn another_store_at_the_same_place_is_noticed_by_watches() {
    block_on(async {
        let folder = folder();
        let (client, serving) = serve(folder.path(), Limits::default()).await;
        for _ in 0..5 {
            client.put("k", "", None).await.unwrap();
        }
        let mut watch = client.watch("k", 1);
        assert!(matches!(watch.next().await, Watched::Changed(_)));
        serving.abort();
        let _ = serving.await;
        eventually("the end of the store", || async { Embedded::open(&folder.path().join("store")).is_ok() })
            .await;
        std::fs::remove_file(folder.path().join("store")).unwrap();
        let (client, serving) = serve(folder.path(), Limits::default()).await;
        client.put("k", "another", None).await.unwrap();
        loop {
            match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() {
                Watched::Changed(events) => assert!(events.iter().all(|event| event.revision <= 6)),
                Watched::StartOver { why } => {
                    assert!(why.contains("another store"), "{why}");
                    break;
                }
            }
        }
        serving.abort();
    });
}

#[test]
fn the_history_is_bounded_and_a_watch_with_few_keys_keeps_up_with_it() {
    block_on(async {
        let folder = folder();
        let limits = Limits { history_events: 50, ..Limits::default() };
        let (client, serving) = serve(folder.path(), limits).await;
        client.put("few/a", "", None).await.unwrap();
        let mut few = client.watch("few/", 1);
        assert!(matches!(few.next().await, Watched::Changed(_)));
        // It is told now and then that nothing was for it.
        for _ in 0..3 {
            for number in 0..40 {
                client.put("many", number.to_string(), None).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1100)).await;
            client.put("many", "tick", None).await.unwrap();
        }
        let mut late = client.watch("", 1);
        assert!(matches!(late.next().await, Watched::StartOver { .. }));
        serving.abort();
        let _ = serving.await;
        let (client, serving) = serve(folder.path(), limits).await;
        client.put("few/b", "", None).await.unwrap();
        let Watched::Changed(events) = tokio::time::timeout(PATIENCE, few.next()).await.unwrap() else {
            panic!("it had to start over")
        };
        assert_eq!(events[0].key(), "few/b");
        serving.abort();
    });
}

#[test]
fn over_tls_it_serves_whoever_has_a_certificate_of_the_authority_and_nobody_else() {
    block_on(async {
        let folder = folder();
        let authority = Authority::new();
        let tls = authority.tls(&authority.pair("server1", &["127.0.0.1"], Usage::Both));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let embedded = Embedded::open(&folder.path().join("store")).unwrap();
        let serving = tokio::spawn(async move {
            let _ = embedded.serve(Listener::Tls(listener, tls)).await;
        });
        let endpoint: Endpoint = format!("https://{address}").parse().unwrap();
        let ours = client(vec![endpoint.clone()], Some(authority.client()));
        ours.put("k", "", None).await.unwrap();
        let mut watch = ours.watch("k", 1);
        assert!(matches!(tokio::time::timeout(PATIENCE, watch.next()).await.unwrap(), Watched::Changed(_)));
        let stranger = Authority::new();
        let pair = stranger.pair("a stranger", &[], Usage::Both);
        let forged = mainstay_coordinator::Tls::from_pem(
            authority.pem.as_bytes(),
            pair.certificate.as_bytes(),
            pair.key.as_bytes(),
        );
        for tls in [Some(forged.unwrap()), Some(stranger.client()), None] {
            let theirs = client(vec![endpoint.clone()], tls).with_deadline(Duration::from_millis(500));
            theirs.get("k").await.unwrap_err();
        }
        serving.abort();
    });
}

#[test]
fn strangers_get_an_error_and_do_no_harm() {
    block_on(async {
        let folder = folder();
        let embedded = Embedded::open(&folder.path().join("store")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let _ = embedded.serve(Listener::Tcp(listener)).await;
        });
        let large = vec![b'x'; 3 << 20];
        for (head, body, status) in [
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"".as_slice(), "501"),
            ("GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b"", "200"),
            ("POST /v3/kv/put HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n", b"{]", "400"),
            ("POST /v3/kv/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n", b"{}", "501"),
            ("POST /v3/kv/put HTTP/1.1\r\nhost: x\r\ncontent-length: 3145728\r\n\r\n", &large, "400"),
            ("nonsense\r\n\r\n", b"", "400"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            // The server may answer, and close, before it has read it all.
            let _ = stream.write_all(body).await;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer[9..], status.as_bytes(), "{head}");
        }
        let client = client_at(format!("http://{address}").parse().unwrap());
        client.put("k", "", None).await.unwrap();
        serving.abort();
    });
}

#[test]
fn two_processes_cannot_have_one_store_and_a_full_one_says_so() {
    block_on(async {
        let folder = folder();
        let (client, serving) =
            serve(folder.path(), Limits { store_bytes: 10_000, ..Limits::default() }).await;
        assert!(matches!(Embedded::open(&folder.path().join("store")), Err(OpenError::InUse { .. })));
        client.put("a", vec![b'x'; 9000], None).await.unwrap();
        let error = client.put("b", vec![b'x'; 9000], None).await.unwrap_err();
        assert!(matches!(error, Error::Full { .. }), "{error}");
        client.delete("a").await.unwrap();
        client.put("b", vec![b'x'; 9000], None).await.unwrap();
        serving.abort();
    });
}
