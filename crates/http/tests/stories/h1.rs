//! HTTP/1.1 as clients see it, over real sockets.

use std::io::Write as _;
use std::net::Shutdown as Half;
use std::time::{Duration, Instant};

use crate::support::{FILE_BYTES, Running, eventually, file_byte};
use mainstay_http::Settings;

#[test]
fn a_connection_answers_request_after_request() {
    let server = Running::new();
    let mut wire = server.connect();
    for path in ["/one", "/two", "/three"] {
        let answer = wire.get(path);
        assert_eq!((answer.status, answer.text()), (200, format!("GET {path}")));
        assert!(answer.field("date").is_some() && answer.field("connection").is_none());
    }
    wire.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(wire.answer().field("connection"), Some("close"));
    assert!(wire.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Running::new();
    let mut wire = server.connect();
    let requests: Vec<String> = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    wire.send(requests.concat());
    for n in 0..50 {
        assert_eq!(wire.answer().text(), format!("GET /{n}"));
    }
}

#[test]
fn a_response_does_not_wait_for_the_next_request() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send("GET /fast HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.answer().text(), "GET /fast");
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.stream.set_nodelay(true).unwrap();
    for byte in b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
        wire.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(wire.answer().text(), "abc");
    assert_eq!(wire.get("/next").text(), "GET /next");
}

#[test]
fn old_clients_are_closed_unless_they_ask() {
    let server = Running::new();
    let answer = server.exchange("GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"));
    let mut wire = server.connect();
    for _ in 0..2 {
        wire.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(wire.answer().field("connection"), Some("keep-alive"));
    }
    // Without chunks, a body of unknown length ends with the connection.
    let answer = server.exchange("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\na2a1a0") && !answer.contains("chunked"), "{answer}");
}

#[test]
fn answers_without_a_body_have_none() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send("HEAD /file HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = wire.until("\r\n\r\n");
    assert!(head.contains(&format!("content-length: {FILE_BYTES}\r\n")));
    wire.send("HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.until("\r\n\r\n");
    let empty = wire.get("/empty");
    assert_eq!((empty.status, empty.field("content-length")), (204, None));
    let same = wire.get("/not-modified");
    assert_eq!((same.status, same.field("content-length"), same.field("etag")), (304, None, Some("\"x\"")));
    assert_eq!(wire.get("/next").text(), "GET /next");
}

#[test]
fn an_interim_status_is_no_answer() {
    let server = Running::new();
    let mut wire = server.connect();
    assert_eq!(wire.get("/interim").status, 500);
    assert_eq!(wire.get("/next").text(), "GET /next");
}

#[test]
fn streams_are_chunked_with_harmless_trailers_only() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(wire.until("\r\n\r\n").contains("transfer-encoding: chunked"));
    assert_eq!(wire.until("\r\n\r\n"), "2\r\na2\r\n2\r\na1\r\n2\r\na0\r\n0\r\nx-sum: 3\r\n\r\n");
    assert_eq!(wire.get("/told-stream").text(), "a2a1a0");
}

#[test]
fn a_stream_that_lies_about_its_length_breaks_the_connection_off() {
    let server = Running::new();
    let body = |path: &str| {
        let answer = server
            .exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n"));
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    };
    assert!(body("/short-stream").len() < 7);
    assert!(body("/long-stream").len() <= 5);
}

#[test]
fn bodies_flow_both_ways_at_once() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        wire.send("5\r\nhello\r\n");
        assert_eq!(wire.until("hello\r\n").rsplit("\r\n").nth(1), Some("hello"));
    }
    wire.send("0\r\n\r\n");
    wire.until("0\r\n\r\n");
    let body = vec![b'z'; 5 << 20];
    let mut writer = wire.stream.try_clone().unwrap();
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        write!(writer, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", sent.len()).unwrap();
        writer.write_all(&sent).unwrap();
    });
    assert_eq!(wire.answer().body, body);
    sending.join().unwrap();
}

#[test]
fn the_client_is_told_to_go_on_only_when_the_service_reads() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("abc");
    assert_eq!(wire.answer().text(), "3");
    // A service that does not read says so at once, and the connection is of no more use.
    wire.send("POST /ignored HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    let answer = wire.answer();
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert!(wire.is_closed());
    let refused =
        server.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 200-maybe\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 417 "));
}

#[test]
fn an_unread_body_is_thrown_away_or_ends_the_connection() {
    let server = Running::new();
    let mut wire = server.connect();
    let body = "x".repeat(100_000);
    wire.send(format!("POST /ignored HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert_eq!(wire.answer().status, 200);
    assert_eq!(wire.get("/next").text(), "GET /next");
    wire.send("POST /ignored HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    assert_eq!(wire.answer().field("connection"), Some("close"));
    wire.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.rest(), "");
}

#[test]
fn files_arrive_whole_in_every_size() {
    let server = Running::new();
    let mut wire = server.connect();
    for _ in 0..2 {
        let answer = wire.get("/file");
        assert_eq!(answer.body.len(), FILE_BYTES);
        assert!(answer.body.iter().enumerate().all(|(at, byte)| *byte == file_byte(at)));
        let small = wire.get("/small-file");
        assert!(
            small.body.iter().enumerate().all(|(at, byte)| *byte == file_byte(at + 10))
                && small.body.len() == 1000
        );
    }
}

#[test]
fn a_file_that_shrinks_while_sent_breaks_the_connection_off() {
    let server = Running::new();
    let answer =
        server.exchange("GET /shrunk HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(
        answer.contains(&format!("content-length: {}\r\n", FILE_BYTES + 1)) && !answer.contains("GET /next")
    );
}

#[test]
fn an_upgraded_connection_belongs_to_the_service() {
    let server = Running::new();
    let mut wire = server.connect();
    // The first bytes of the new protocol may come along with the request.
    wire.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
    let head = wire.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n"));
    assert_eq!(wire.take(5), b"HELLO");
    wire.send("more");
    assert_eq!(wire.take(4), b"MORE");
    wire.stream.shutdown(Half::Write).unwrap();
    assert!(wire.is_closed());
}

#[test]
fn what_belongs_to_the_connection_does_not_reach_the_service() {
    let server = Running::new();
    let fields = server.exchange(
        "GET /fields HTTP/1.1\r\nHost: A.b:80\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nX-Kept: 2\r\nTE: trailers\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\nTrailer: x\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
    );
    assert!(
        fields.ends_with("host=Some(\"a.b\") upgrade=false\nhost=A.b:80\nx-kept=2\nte=trailers\n"),
        "{fields}"
    );
}

#[test]
fn a_client_that_leaves_ends_the_work_for_it() {
    let server = Running::new();
    let mut wire = server.connect();
    wire.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is in flight", || server.metric("http_engine_requests_in_flight ") == "1");
    drop(wire);
    eventually("the request is given up", || server.metric("http_engine_requests_in_flight ") == "0");
    eventually("the connection is closed", || server.metric("http_connections_open ") == "0");
}

#[test]
fn a_bug_in_a_service_takes_one_connection_and_no_more() {
    let server = Running::new();
    let mut other = server.connect();
    assert_eq!(other.get("/a").status, 200);
    assert_eq!(server.exchange("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n"), "");
    assert_eq!(other.get("/b").status, 200);
    eventually("the panic is counted", || server.metric("http_panics_total ") == "1");
    eventually("nothing is in flight", || server.metric("http_engine_requests_in_flight ") == "0");
}

fn hasty() -> Settings {
    let mut settings = Settings::default();
    settings.timeouts.head = Duration::from_millis(200);
    settings.timeouts.body = Duration::from_millis(200);
    settings.timeouts.idle = Duration::from_millis(200);
    settings.timeouts.write = Duration::from_millis(300);
    settings.timeouts.drain = Duration::from_secs(2);
    settings.timeouts.drain_idle = Duration::from_millis(200);
    settings
}

#[test]
fn slow_clients_are_not_waited_for() {
    let server = Running::with(&hasty());
    let mut slow_head = server.connect();
    slow_head.send("GET / HTTP/1.1\r\nHo");
    assert!(slow_head.rest().starts_with("HTTP/1.1 408 "));
    assert!(server.connect().is_closed(), "a client that says nothing is told nothing");
    let mut idle = server.connect();
    idle.get("/");
    assert!(idle.is_closed());
    let mut slow_body = server.connect();
    slow_body.send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    let answer = slow_body.answer();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    assert!(slow_body.is_closed());
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let server = Running::with(&hasty());
    let mut wire = server.connect();
    wire.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
    let name = "http_protocol_errors_total{reason=\"response not taken\"}";
    eventually("it is cut off", || server.metric(name) == "1");
    eventually("it is closed", || server.metric("http_connections_open ") == "0");
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let mut settings = Settings::default();
    settings.limits.body_bytes = 10;
    let server = Running::with(&settings);
    let told = server.exchange("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world");
    assert!(told.starts_with("HTTP/1.1 413 "), "{told}");
    let chunks = "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n";
    let found = server.exchange(chunks);
    assert!(found.starts_with("HTTP/1.1 413 ") && found.contains("connection: close"), "{found}");
}

#[test]
fn draining_finishes_what_is_in_flight_and_refuses_no_one() {
    let mut server = Running::with(&Settings { timeouts: hasty().timeouts, ..Settings::default() });
    let mut busy = server.connect();
    busy.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is in flight", || server.metric("http_engine_requests_in_flight ") == "1");
    let mut idle = server.connect();
    idle.get("/");
    let mut kept = server.connect();
    kept.get("/");
    let mut unused = server.connect();
    eventually("all are accepted", || server.metric("http_connections_open ") == "4");
    server.shutdown.drain();
    // A kept connection that is used while draining is answered, and told to go.
    assert_eq!(kept.get("/again").field("connection"), Some("close"));
    server.is_later();
    let answer = busy.answer();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("later", Some("close")));
    assert!(busy.is_closed() && idle.is_closed() && kept.is_closed() && unused.is_closed());
    server.join();
}

#[test]
fn draining_has_an_end() {
    let mut server = Running::with(&hasty());
    let mut stuck = server.connect();
    stuck.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is in flight", || server.metric("http_engine_requests_in_flight ") == "1");
    server.shutdown.drain();
    let start = Instant::now();
    server.join();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(stuck.rest(), "");
}

#[test]
fn at_the_connection_limit_an_idle_connection_makes_room() {
    let mut settings = Settings::default();
    settings.limits.connections = 2;
    let server = Running::with(&settings);
    let mut busy = server.connect();
    busy.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut idle = server.connect();
    idle.get("/");
    let mut third = server.connect();
    assert_eq!(third.get("/third").text(), "GET /third");
    assert!(idle.is_closed());
}
