//! HTTP/2 by prior knowledge, with a real client, and with frames that no client sends.

use std::io::Write as _;
use std::time::Duration;

use crate::support::{FILE_BYTES, Running, eventually, file_byte};
use ::h2::client::SendRequest;
use bytes::Bytes;
use http::{HeaderMap, Request};
use mainstay_http::Settings;
use tokio::net::TcpStream;

fn run<F: Future<Output = ()>>(story: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(crate::support::PATIENCE, story).await.expect("in time") });
}

async fn connect(server: &Running) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    // What a client may assume until it has seen the server's settings (RFC 9113, 6.5.2).
    let mut builder = ::h2::client::Builder::new();
    let (client, connection) = builder.initial_max_send_streams(100).handshake(stream).await.unwrap();
    tokio::spawn(async move {
        // Its end is part of the story that the other half tells.
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn fetch(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: &[&'static [u8]],
) -> Result<Answer, ::h2::Error> {
    let (response, mut stream) = client.send_request(request, body.is_empty())?;
    for (number, piece) in body.iter().enumerate() {
        stream.send_data(Bytes::from_static(piece), number + 1 == body.len())?;
    }
    let (head, mut incoming) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        incoming.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let trailers = incoming.trailers().await?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a{path}")).body(()).unwrap()
}

#[test]
fn the_same_service_answers_in_h2() {
    let server = Running::new();
    run(async {
        let mut client = connect(&server).await;
        let hello = fetch(&mut client, get("/hello"), &[]).await.unwrap();
        assert_eq!((hello.status, hello.body.as_slice()), (200, &b"GET /hello"[..]));
        assert!(hello.headers.contains_key("date"));
        let file = fetch(&mut client, get("/file"), &[]).await.unwrap();
        assert_eq!(
            (file.body.len(), &file.headers["content-length"]),
            (FILE_BYTES, &FILE_BYTES.to_string().parse().unwrap())
        );
        assert!(file.body.iter().enumerate().all(|(at, byte)| *byte == file_byte(at)));
        assert_eq!(fetch(&mut client, get("/small-file"), &[]).await.unwrap().body.len(), 1000);
        let stream = fetch(&mut client, get("/stream"), &[]).await.unwrap();
        assert_eq!(stream.body, b"a2a1a0");
        let trailers = stream.trailers.unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"3".parse().unwrap()));
        assert_eq!(fetch(&mut client, get("/empty"), &[]).await.unwrap().status, 204);
        let head = Request::head("http://a/file").body(()).unwrap();
        let head = fetch(&mut client, head, &[]).await.unwrap();
        assert_eq!((head.body.len(), head.headers["content-length"].to_str().unwrap()), (0, "3000000"));
    });
}

#[test]
fn bodies_flow_both_ways() {
    let server = Running::new();
    run(async {
        let mut client = connect(&server).await;
        let echo = Request::post("http://a/echo").body(()).unwrap();
        let answer = fetch(&mut client, echo, &[b"one ", b"two"]).await.unwrap();
        assert_eq!(answer.body, b"one two");
        let read = Request::post("http://a/read").header("content-length", "7").body(()).unwrap();
        assert_eq!(fetch(&mut client, read, &[b"one two"]).await.unwrap().body, b"7");
        let lie = Request::post("http://a/read").header("content-length", "9").body(()).unwrap();
        let lied = fetch(&mut client, lie, &[b"one two"]).await;
        assert!(lied.is_err() || lied.is_ok_and(|answer| answer.status == 400));
    });
}

#[test]
fn files_that_share_a_connection_stay_apart_whatever_the_windows_are() {
    let server = Running::new();
    for window in [20_001, 65_535, 1 << 20] {
        run(async {
            let stream = TcpStream::connect(server.address).await.unwrap();
            let mut builder = ::h2::client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(100_003);
            let (client, mut connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
            tokio::spawn(async move {
                let mut polls = 0;
                std::future::poll_fn(move |cx| {
                    polls += 1;
                    if polls == 20 {
                        // Windows that shrink while files are on their way cut frames anywhere.
                        connection.set_initial_window_size(window / 2).unwrap();
                    }
                    std::pin::Pin::new(&mut connection).poll(cx)
                })
                .await
            });
            let tasks: Vec<_> = (0..6)
                .map(|number| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let mut client = client.ready().await.unwrap();
                        if number % 3 == 0 {
                            // Taken back in the middle; the others do not mind.
                            let (response, _) = client.send_request(get("/file"), true).unwrap();
                            let mut body = response.await.unwrap().into_body();
                            body.data().await.unwrap().unwrap();
                            return;
                        }
                        let file = fetch(&mut client, get("/file"), &[]).await.unwrap();
                        assert_eq!(file.body.len(), FILE_BYTES);
                        assert!(file.body.iter().enumerate().all(|(at, byte)| *byte == file_byte(at)));
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}

#[test]
fn a_file_that_is_too_short_breaks_its_own_stream_only() {
    let server = Running::new();
    run(async {
        let mut client = connect(&server).await;
        assert!(fetch(&mut client, get("/shrunk"), &[]).await.is_err());
        assert_eq!(fetch(&mut client, get("/small-file"), &[]).await.unwrap().body.len(), 1000);
    });
}

#[test]
fn many_streams_share_a_connection() {
    let server = Running::new();
    run(async {
        let client = connect(&server).await;
        let tasks: Vec<_> = (0..300)
            .map(|number| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    client = client.ready().await.unwrap();
                    let path = if number % 10 == 0 { "/later".to_owned() } else { format!("/{number}") };
                    (path.clone(), fetch(&mut client, get(&path), &[]).await.unwrap().body)
                })
            })
            .collect();
        // Those that wait hold up none of the others.
        let (waiting, quick): (Vec<_>, Vec<_>) =
            tasks.into_iter().enumerate().partition(|(number, _)| number % 10 == 0);
        for (_, task) in quick {
            let (path, body) = task.await.unwrap();
            assert_eq!(String::from_utf8_lossy(&body), format!("GET {path}"));
        }
        server.is_later();
        for (_, task) in waiting {
            assert_eq!(task.await.unwrap().1, b"later");
        }
    });
    assert_eq!(server.metric("http_connections_accepted_total "), "1");
}

#[test]
fn requests_are_as_strictly_read_as_in_http_1() {
    let server = Running::new();
    run(async {
        let mut client = connect(&server).await;
        let other = Request::get("http://a/").header("host", "b").body(()).unwrap();
        assert_eq!(fetch(&mut client, other, &[]).await.unwrap().status, 400);
        let tunnel = Request::builder().method("CONNECT").uri("a:80").body(()).unwrap();
        assert_eq!(fetch(&mut client, tunnel, &[]).await.unwrap().status, 501);
        let mut many = Request::get("http://a/");
        for number in 0..150 {
            many = many.header("x-many", number);
        }
        assert_eq!(fetch(&mut client, many.body(()).unwrap(), &[]).await.unwrap().status, 431);
        let fields = Request::get("http://A:80/fields").header("te", "trailers").header("x-kept", "1");
        let fields = fetch(&mut client, fields.body(()).unwrap(), &[]).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&fields.body),
            "host=Some(\"a\") upgrade=false\nx-kept=1\nte=trailers\n"
        );
    });
}

#[test]
fn a_request_that_is_taken_back_ends_the_work_for_it() {
    let server = Running::new();
    run(async {
        let mut client = connect(&server).await;
        let (response, mut stream) = client.send_request(get("/never"), true).unwrap();
        while server.metric("http_engine_requests_in_flight ") != "1" {
            tokio::task::yield_now().await;
        }
        stream.send_reset(::h2::Reason::CANCEL);
        drop(response);
        while server.metric("http_engine_requests_in_flight ") != "0" {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn draining_says_goaway_and_finishes() {
    let mut settings = Settings::default();
    settings.timeouts.drain_idle = Duration::from_millis(100);
    let mut server = Running::with(&settings);
    run(async {
        let mut client = connect(&server).await;
        let (response, _) = client.send_request(get("/later"), true).unwrap();
        while server.metric("http_engine_requests_in_flight ") != "1" {
            tokio::task::yield_now().await;
        }
        server.shutdown.drain();
        server.is_later();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "later");
        let refused = async {
            loop {
                let Ok(mut client) = client.clone().ready().await else { break };
                let Ok((response, _)) = client.send_request(get("/"), true) else { break };
                if response.await.is_err() {
                    break;
                }
            }
        };
        refused.await;
    });
    server.join();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn flood(frame: &[u8]) {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send([PREFACE, SETTINGS].concat());
    let reading = wire.stream.try_clone().unwrap();
    // What comes back is read, so that only the flood itself can be the reason.
    let reader = std::thread::spawn(move || std::io::copy(&mut &reading, &mut std::io::sink()));
    let burst = frame.repeat(100);
    eventually("the connection is cut", || {
        let cut = wire.stream.write_all(&burst).is_err();
        cut && server.metric("http_connections_open ") == "0"
    });
    drop(wire);
    let _ = reader.join().unwrap();
    assert!(server.connect().get("/").status == 200, "the server lives on");
}

#[test]
fn a_ping_flood_is_cut() {
    flood(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_settings_flood_is_cut() {
    flood(SETTINGS);
}

#[test]
fn a_priority_flood_is_cut() {
    flood(&[0, 0, 5, 2, 0, 0, 0, 0, 3, 0, 0, 0, 1, 16]);
}

#[test]
fn a_flood_of_resets_is_cut() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send([PREFACE, SETTINGS].concat());
    // :method GET, :scheme http, :path /, :authority a
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let mut stream_id = 1_u32;
    eventually("the connection is cut", || {
        let mut burst = Vec::new();
        for _ in 0..50 {
            burst.extend([0, 0, 6, 1, 5]);
            burst.extend(stream_id.to_be_bytes());
            burst.extend(head);
            burst.extend([0, 0, 4, 3, 0]);
            burst.extend(stream_id.to_be_bytes());
            burst.extend([0, 0, 0, 8]);
            stream_id += 2;
        }
        wire.stream.write_all(&burst).is_err()
    });
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn an_endless_header_block_is_cut() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send([PREFACE, SETTINGS].concat());
    // HEADERS without END_HEADERS, then CONTINUATION for ever: `x: y` without indexing.
    wire.send([0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82]);
    let field: &[u8] = &[0x00, 0x01, b'x', 0x01, b'y'];
    let payload = field.repeat(200);
    let mut frame = vec![0, (payload.len() >> 8) as u8, payload.len() as u8, 9, 0, 0, 0, 0, 1];
    frame.extend(payload);
    eventually("the connection is cut", || wire.stream.write_all(&frame).is_err());
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn an_idle_connection_is_closed() {
    let mut settings = Settings::default();
    settings.timeouts.idle = Duration::from_millis(200);
    settings.timeouts.drain_idle = Duration::from_millis(100);
    let server = Running::with(&settings);
    let mut wire = server.connect();
    wire.send([PREFACE, SETTINGS].concat());
    wire.rest();
    eventually("it is closed", || server.metric("http_connections_open ") == "0");
}

#[test]
fn a_client_that_opens_no_window_is_given_up() {
    let mut settings = Settings::default();
    settings.timeouts.write = Duration::from_millis(300);
    let server = Running::with(&settings);
    run(async {
        let mut client = connect(&server).await;
        let (response, _) = client.send_request(get("/endless"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        // Read, but never acknowledged.
        let ended = loop {
            match body.data().await {
                Some(Ok(_)) => {}
                ended => break ended,
            }
        };
        assert!(matches!(ended, Some(Err(_))));
    });
}
