//! Apps that speak HTTP themselves: Python's own server as one that no one here wrote, and a few lines of ours.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_site::plan::{Backend, Route, Target};

use super::client::{connect, get};
use super::server::{DRAIN_MS, Web, folder, until};

/// A Python program that is ended with the test.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn echo_server(port_file: &Path) -> Python {
    let program = "import http.server, os, sys\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20   protocol_version = 'HTTP/1.1'\n\
        \x20   def do_GET(self):\n\
        \x20       n = int(self.headers.get('content-length') or 0)\n\
        \x20       body = (self.requestline + '\\n' + str(self.headers)).encode() + self.rfile.read(n)\n\
        \x20       self.send_response(200)\n\
        \x20       self.send_header('content-length', str(len(body)))\n\
        \x20       self.end_headers()\n\
        \x20       self.wfile.write(body)\n\
        \x20   do_POST = do_GET\n\
        s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)\n\
        open(sys.argv[1] + '.new', 'w').write(str(s.server_address[1]))\n\
        os.rename(sys.argv[1] + '.new', sys.argv[1])\n\
        s.serve_forever()\n";
    let child = Command::new("python3")
        .args(["-c", program])
        .arg(port_file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 runs");
    Python(child)
}

#[test]
fn behind_a_load_balancer_the_app_and_the_log_know_the_client_and_the_request() {
    let folder = folder(&[("public/a.css", "css")]);
    let port_file = folder.path().join("port");
    let app = super::server::app(folder.path(), Backend::HttpPort { port_file: port_file.clone() });
    let route = Route { host: None, path: "/".to_owned(), target: Target::App(app) };
    let mut web = Web::behind(folder, vec![route], vec!["127.0.0.1".to_owned()]);
    let _app = echo_server(&port_file);
    let told = "x-forwarded-for: 6.6.6.6, 192.0.2.9\r\nx-forwarded-proto: https\r\nx-request-id: from-the-edge-1\r\n";
    let lower = get(web.address, "/x", told).text().to_ascii_lowercase();
    for line in [
        "x-forwarded-for: 192.0.2.9\n",
        "x-real-ip: 192.0.2.9\n",
        "x-forwarded-proto: https\n",
        "x-request-id: from-the-edge-1\n",
        "forwarded: for=192.0.2.9;host=\"a.test\";proto=https\n",
    ] {
        assert!(lower.contains(line), "{line}\n{lower}");
    }
    let log = web.stop();
    assert!(log.contains("\"request_id\":\"from-the-edge-1\",\"client\":\"192.0.2.9\""), "{log}");
}

#[test]
fn an_app_on_a_port_learns_who_asked_and_survives_a_restart() {
    let folder = folder(&[("public/a.css", "css")]);
    let port_file = folder.path().join("port");
    let web = Web::of_app(folder, Backend::HttpPort { port_file: port_file.clone() });
    assert_eq!(get(web.address, "/a.css", "").text(), "css");
    let first = echo_server(&port_file);
    let shown = get(web.address, "/x//y/../z?q=%2F", "x-forwarded-for: 6.6.6.6\r\nproxy: evil\r\n").text();
    assert!(shown.starts_with("GET /x/z?q=%2F HTTP/1.1\n"), "{shown}");
    let lower = shown.to_ascii_lowercase();
    for line in [
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: a.test\n",
        "host: a.test\n",
        "forwarded: for=127.0.0.1;host=\"a.test\";proto=http\n",
    ] {
        assert!(lower.contains(line), "{line}\n{lower}");
    }
    assert!(!lower.contains("6.6.6.6") && !lower.contains("evil"), "{lower}");
    drop(first);
    let address = web.address;
    let waiting = std::thread::spawn(move || get(address, "/again", ""));
    let _second = echo_server(&port_file);
    assert_eq!(waiting.join().unwrap().status, 200);
}

#[test]
fn an_app_that_hangs_up_without_a_word_is_asked_once_more_where_that_does_no_harm() {
    let folder = folder(&[("public/a.css", "css")]);
    let port_file = folder.path().join("port");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    std::fs::write(&port_file, listener.local_addr().expect("an address").port().to_string())
        .expect("written");
    let web = Web::of_app(folder, Backend::HttpPort { port_file });
    // Hangs up on every request but the second one.
    let app = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while seen.len() < 5 {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut line = String::new();
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
            lines.read_line(&mut line).expect("a request line");
            let mut field = String::new();
            while lines.read_line(&mut field).expect("a field") > 2 {
                field.clear();
            }
            seen.push(line.split(' ').take(2).collect::<Vec<_>>().join(" "));
            if seen.len() == 2 {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").expect("written");
            }
        }
        seen
    });
    assert_eq!(get(web.address, "/once", "").text(), "hi");
    let mut post = connect(web.address);
    write!(post, "POST /order HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    post.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(get(web.address, "/last", "").status, 502, "not asked for ever");
    let seen = app.join().expect("the app ends");
    assert_eq!(seen, ["GET /once", "GET /once", "POST /order", "GET /last", "GET /last"]);
}

#[test]
fn an_app_that_is_not_there_gives_a_page_that_says_so() {
    let folder = folder(&[]);
    let socket = folder.path().join("none.sock");
    let web = Web::of_app(folder, Backend::HttpSocket { socket });
    let answer = get(web.address, "/", "");
    assert_eq!((answer.status, answer.field("retry-after")), (503, "1"));
}

#[test]
fn an_app_that_talks_nonsense_is_a_bad_gateway() {
    let folder = folder(&[]);
    let socket = folder.path().join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let app = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(b"nonsense\r\n\r\n").unwrap();
    });
    let web = Web::of_app(folder, Backend::HttpSocket { socket });
    assert_eq!(get(web.address, "/", "").status, 502);
    app.join().unwrap();
}

#[test]
fn a_connection_that_leaves_http_is_joined_with_the_app() {
    let folder = folder(&[]);
    let socket = folder.path().join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let app = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        (&stream)
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n")
            .unwrap();
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).unwrap();
        bytes.reverse();
        (&stream).write_all(&bytes).unwrap();
        head.to_ascii_lowercase()
    });
    let web = Web::of_app(folder, Backend::HttpSocket { socket });
    let mut client: TcpStream = connect(web.address);
    client
        .write_all(b"GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n")
        .unwrap();
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).unwrap();
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.write_all(b"\x01\x02\x00\xff").unwrap();
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"\xff\x00\x02\x01");
    let seen = app.join().unwrap();
    assert!(seen.contains("sec-websocket-key: k") && seen.contains("upgrade: websocket"), "{seen}");
}

#[test]
fn what_left_http_lives_on_while_the_server_drains_for_as_long_as_the_plan_says() {
    let folder = folder(&[]);
    let socket = folder.path().join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let app = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let switching =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        (&stream).write_all(switching).unwrap();
        let mut byte = [0];
        while reader.read_exact(&mut byte).is_ok() && (&stream).write_all(&byte).is_ok() {}
    });
    let mut web = Web::of_app(folder, Backend::HttpSocket { socket });
    let mut client: TcpStream = connect(web.address);
    let request = b"GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n";
    client.write_all(request).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let began = Instant::now();
    let server = web.server.take().unwrap();
    server.shutdown().drain();
    let ended = std::thread::spawn(move || server.join());
    let mut echoed = 0;
    while client.write_all(b"x").is_ok() && client.read_exact(&mut byte).is_ok() {
        echoed += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its own limit ended it, long before that of requests would have.
    let lived = began.elapsed();
    assert!(echoed > 0 && lived >= Duration::from_millis(DRAIN_MS), "{echoed} echoes in {lived:?}");
    assert!(lived < Duration::from_secs(30), "{lived:?}");
    ended.join().unwrap().unwrap();
    app.join().unwrap();
}

#[test]
fn an_app_streams_as_it_goes() {
    let folder = folder(&[]);
    let port_file = folder.path().join("port");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(&port_file, listener.local_addr().unwrap().port().to_string()).unwrap();
    let web = Web::of_app(folder, Backend::HttpPort { port_file });
    let mut client = connect(web.address);
    client.write_all(b"GET /events HTTP/1.1\r\nhost: a.test\r\naccept-encoding: gzip\r\n\r\n").unwrap();
    let (mut app, _) = listener.accept().unwrap();
    app.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n").unwrap();
    // The app has not finished, and yet the client has the first event.
    let mut seen = Vec::new();
    until("the first event arrives", || {
        let mut bytes = [0; 1024];
        let count = client.read(&mut bytes).unwrap();
        seen.extend_from_slice(&bytes[..count]);
        seen.windows(7).any(|window| window == b"data: 1")
    });
}
