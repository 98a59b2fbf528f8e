//! PHP through the real php-fpm.

use std::io::{Read as _, Write as _};
use std::time::Instant;

use mainstay_site::plan::Backend;

use super::client::{Answer, ask, connect, get, parse};
use super::php_fpm::PhpFpm;
use super::server::{Web, folder};

const SHOW: &str = "<?php header('Content-Type: application/json'); \
    echo json_encode(['server' => $_SERVER, 'get' => $_GET, 'post' => $_POST, 'body' => strlen(file_get_contents('php://input')), \
    'md5' => md5(file_get_contents('php://input'))]);";

fn site(files: &[(&str, &str)], workers: u32, front: bool) -> (Web, PhpFpm) {
    let folder = folder(files);
    let fpm = PhpFpm::start(folder.path(), workers);
    let backend = Backend::FastCgi {
        socket: fpm.socket(),
        front_controller: front.then(|| "/index.php".to_owned()),
        max_requests: workers,
    };
    (Web::of_app(folder, backend), fpm)
}

fn json(answer: &Answer) -> serde_json::Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn post(web: &Web, path: &str, fields: &str, body: &[u8]) -> Answer {
    let mut stream = connect(web.address);
    let head = format!("POST {path} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    parse(&bytes, "POST")
}

#[test]
fn a_script_sees_the_request_as_behind_nginx() {
    let (web, _fpm) = site(&[("public/show.php", SHOW)], 2, false);
    let fields = "proxy: evil\r\nx_forwarded_for: evil\r\nx-forwarded-for: 6.6.6.6\r\nx-two: a\r\nx-two: b\r\ncookie: c=d\r\n";
    let shown = json(&get(web.address, "/show.php/more/info?a=b%20c", fields));
    let server = &shown["server"];
    let root = web.path("public").display().to_string();
    for (name, value) in [
        ("SCRIPT_FILENAME", format!("{root}/show.php").as_str()),
        ("SCRIPT_NAME", "/show.php"),
        ("PATH_INFO", "/more/info"),
        ("DOCUMENT_ROOT", &root),
        ("REQUEST_URI", "/show.php/more/info?a=b%20c"),
        ("QUERY_STRING", "a=b%20c"),
        ("REQUEST_METHOD", "GET"),
        ("SERVER_NAME", "a.test"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("HTTP_HOST", "a.test"),
        ("HTTP_X_TWO", "a, b"),
        ("HTTP_COOKIE", "c=d"),
    ] {
        assert_eq!(server[name], value, "{name}");
    }
    assert_eq!(json(&get(web.address, "/show.php", ""))["server"]["PHP_SELF"], "/show.php");
    for name in ["HTTP_PROXY", "HTTP_X_FORWARDED_FOR", "HTTPS"] {
        assert!(server[name].is_null(), "{name}");
    }
    assert_eq!(server["HTTP_X_REQUEST_ID"].as_str().unwrap().len(), 32);
}

#[test]
fn only_scripts_in_the_public_folder_are_run() {
    let run = "<?php echo 'ran';";
    let (web, _fpm) = site(
        &[
            (
                "public/index.php",
                "<?php echo 'front ', $_SERVER['PATH_INFO'] ?? '', $_SERVER['REQUEST_URI'];",
            ),
            ("public/a.jpg", run),
            ("public/style.css", "css"),
            ("public/sub/index.php", "<?php echo 'sub';"),
            ("uploads/evil.php", run),
            ("uploads/evil.PHP", run),
            ("uploads/pic.jpg", "picture"),
            ("public/x.phtml", run),
        ],
        2,
        true,
    );
    let text = |path: &str| get(web.address, path, "").text();
    assert_eq!(text("/style.css"), "css");
    assert_eq!(text("/"), "front /");
    assert_eq!(text("/pretty/url?x=1"), "front /pretty/url?x=1");
    assert_eq!(text("/a.jpg/x.php"), "front /a.jpg/x.php");
    assert_eq!(text("/x.phtml"), "front /x.phtml");
    assert_eq!(text("/a.jpg"), run);
    assert_eq!(text("/sub/"), "sub");
    assert_eq!(get(web.address, "/sub", "").field("location"), "/sub/");
    assert_eq!(text("/uploads/pic.jpg"), "picture");
    for path in
        ["/uploads/evil.php", "/uploads/evil.PHP", "/uploads/evil.php/x", "/uploads/pic.jpg/x.php", "/.env"]
    {
        assert_eq!(get(web.address, path, "").status, 404, "{path}");
    }
}

#[test]
fn bodies_of_any_size_and_framing_arrive_whole() {
    let (web, _fpm) = site(&[("public/show.php", SHOW)], 2, false);
    let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 5\r\n";
    assert_eq!(json(&post(&web, "/show.php", form, b"a=b+c"))["post"]["a"], "b c");
    for size in [0, 1, 65_535, 65_536, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
        let plain = json(&post(&web, "/show.php", &format!("content-length: {size}\r\n"), &body));
        let mut chunked = Vec::new();
        for piece in body.chunks(10_000) {
            chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let spooled = json(&post(&web, "/show.php", "transfer-encoding: chunked\r\n", &chunked));
        assert_eq!((&plain["body"], &spooled["body"]), (&size.into(), &size.into()));
        assert_eq!(plain["md5"], spooled["md5"]);
    }
    assert_eq!(post(&web, "/show.php", "content-length: 99999999\r\n", b"").status, 413);
}

#[test]
fn responses_are_what_the_script_says() {
    let (web, _fpm) = site(
        &[
            (
                "public/gone.php",
                "<?php http_response_code(410); setcookie('a', '1'); setcookie('b', '2'); echo 'gone';",
            ),
            ("public/move.php", "<?php header('Location: /there');"),
            ("public/large.php", "<?php for ($i = 0; $i < 40000; $i++) { printf('%07d ', $i); }"),
            ("public/fail.php", "<?php error_log('complaint'); throw new Exception('no');"),
        ],
        2,
        false,
    );
    let gone = get(web.address, "/gone.php", "");
    assert_eq!((gone.status, gone.fields("set-cookie").len()), (410, 2));
    assert_eq!(gone.field("x-release"), "r1");
    let moved = get(web.address, "/move.php", "");
    assert_eq!((moved.status, moved.field("location")), (302, "/there"));
    assert_eq!(get(web.address, "/large.php", "").body.len(), 320_000);
    let small = get(web.address, "/large.php", "accept-encoding: gzip\r\n");
    assert_eq!(small.field("content-encoding"), "gzip");
    assert!(small.body.len() < 320_000);
    assert_eq!(get(web.address, "/fail.php", "").status, 500);
    let head =
        ask(web.address, "HEAD /large.php HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n", "HEAD");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(get(web.address, "/none.php", "").status, 404);
}

#[test]
fn a_restart_of_php_fails_no_request() {
    let (web, mut fpm) = site(&[("public/pid.php", "<?php echo getmypid();")], 2, false);
    let first = get(web.address, "/pid.php", "").text();
    fpm.stop();
    let address = web.address;
    let waiting = std::thread::spawn(move || get(address, "/pid.php", ""));
    let posting = std::thread::spawn(move || {
        ask(
            address,
            "POST /pid.php HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx",
            "POST",
        )
    });
    fpm.start_again();
    let (got, posted) = (waiting.join().unwrap(), posting.join().unwrap());
    assert_eq!((got.status, posted.status), (200, 200));
    assert_ne!(got.text(), first);
}

#[test]
fn more_requests_than_processes_wait_for_their_turn() {
    let (web, _fpm) = site(&[("public/slow.php", "<?php usleep(50000); echo 'done';")], 2, false);
    let address = web.address;
    // The time that a request takes is what shows how many were worked on at once: four rounds of two.
    let started = Instant::now();
    let all: Vec<_> =
        (0..8).map(|_| std::thread::spawn(move || get(address, "/slow.php", "").text())).collect();
    assert!(all.into_iter().all(|one| one.join().unwrap() == "done"));
    assert!(started.elapsed().as_millis() >= 200);
}

#[test]
fn php_that_is_away_for_long_gives_a_page_that_says_so() {
    let (web, mut fpm) = site(&[("public/a.php", "<?php echo 1;")], 1, false);
    fpm.stop();
    let answer = get(web.address, "/a.php", "");
    assert_eq!((answer.status, answer.field("retry-after")), (503, "1"));
    assert!(answer.text().contains("try again"));
}
