//! Static files.

use std::io::Read as _;
use std::os::unix::fs::symlink;

use super::client::{ask, get};
use super::server::{Web, until};

fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_file_comes_with_all_that_caches_need() {
    let web = Web::of_files(&[("public/a.html", "<p>hello</p>")]);
    let answer = get(web.address, "/a.html", "");
    assert_eq!((answer.status, answer.text().as_str()), (200, "<p>hello</p>"));
    assert_eq!(answer.field("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.field("accept-ranges"), "bytes");
    assert_eq!(answer.field("vary"), "accept-encoding");
    assert_eq!(answer.field("x-served-by"), "server1");
    assert_eq!(answer.field("x-request-id").len(), 32);
    let (tag, date) = (answer.field("etag"), answer.field("last-modified"));
    assert_eq!(get(web.address, "/a.html", &format!("if-none-match: {tag}\r\n")).status, 304);
    assert_eq!(get(web.address, "/a.html", &format!("if-modified-since: {date}\r\n")).status, 304);
    assert_eq!(get(web.address, "/a.html", "if-match: \"other\"\r\n").status, 412);
    let head = ask(web.address, "HEAD /a.html HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n", "HEAD");
    assert_eq!((head.status, head.field("content-length"), head.body.len()), (200, "12", 0));
}

#[test]
fn parts_of_small_and_large_files_are_those_asked_for() {
    let large: String = (0..40_000).map(|number| format!("{number:07} ")).collect();
    let web = Web::of_files(&[("public/small", "0123456789"), ("public/large", &large)]);
    let one = get(web.address, "/small", "range: bytes=2-4\r\n");
    assert_eq!((one.status, one.text().as_str(), one.field("content-range")), (206, "234", "bytes 2-4/10"));
    let one = get(web.address, "/large", "range: bytes=-8\r\n");
    assert_eq!((one.status, one.text().as_str()), (206, "0039999 "));
    let none = get(web.address, "/small", "range: bytes=10-\r\n");
    assert_eq!((none.status, none.field("content-range")), (416, "bytes */10"));
    for path in ["/small", "/large"] {
        let several = get(web.address, path, "range: bytes=0-1,5-6\r\n");
        assert_eq!(several.status, 206);
        let boundary = several.field("content-type").split_once("boundary=").unwrap().1.to_owned();
        let text = several.text();
        assert_eq!(text.matches(&format!("--{boundary}")).count(), 3, "{text}");
        assert!(text.contains("content-range: bytes 5-6/"), "{text}");
    }
    let changed = get(web.address, "/small", "range: bytes=0-0\r\nif-range: \"other\"\r\n");
    assert_eq!((changed.status, changed.body.len()), (200, 10));
    assert_eq!(get(web.address, "/large", "").text(), large);
}

#[test]
fn a_client_gets_the_coding_that_it_likes_best() {
    let long = "hello ".repeat(1000);
    let huge = "hello ".repeat(100_000);
    let web = Web::of_files(&[
        ("public/a.txt", &long),
        ("public/huge.txt", &huge),
        ("public/b.css", "plain"),
        ("public/b.css.br", "brotli"),
        ("public/b.css.gz", "gzipped"),
        ("public/c.txt", "short"),
        ("public/d.png", &long),
    ]);
    let coded = get(web.address, "/a.txt", "accept-encoding: gzip, br;q=0.5\r\n");
    assert_eq!((coded.field("content-encoding"), gunzip(&coded.body)), ("gzip", long.clone()));
    assert_ne!(coded.field("etag"), get(web.address, "/a.txt", "").field("etag"));
    let streamed = get(web.address, "/huge.txt", "accept-encoding: gzip\r\n");
    assert_eq!((streamed.field("content-encoding"), gunzip(&streamed.body)), ("gzip", huge));
    assert!(streamed.field("etag").starts_with("W/"));
    for path in ["/a.txt", "/huge.txt"] {
        for coding in ["br", "zstd"] {
            let coded = get(web.address, path, &format!("accept-encoding: gzip;q=0.5, {coding}\r\n"));
            assert_eq!(coded.field("content-encoding"), coding, "{path}");
            assert!(coded.body.len() < 1000, "{path} in {coding}");
        }
    }
    assert_eq!(get(web.address, "/b.css", "accept-encoding: gzip, br\r\n").text(), "brotli");
    assert_eq!(get(web.address, "/b.css", "accept-encoding: gzip, br;q=0.1\r\n").text(), "gzipped");
    assert_eq!(get(web.address, "/b.css", "").text(), "plain");
    assert_eq!(get(web.address, "/c.txt", "accept-encoding: gzip\r\n").text(), "short");
    assert_eq!(get(web.address, "/d.png", "accept-encoding: gzip\r\n").field("content-encoding"), "");
}

#[test]
fn what_is_not_public_is_not_there() {
    let web = Web::of_files(&[
        ("public/.env", "secret"),
        ("public/.git/config", "secret"),
        ("public/.well-known/security.txt", "contact"),
        ("public/source.php", "<?php secret"),
        ("public/source.php.bak", "<?php secret"),
        ("public/x.phtml", "<?php secret"),
        ("outside/secret", "secret"),
        ("public/sub/in", "inside"),
    ]);
    symlink("../outside/secret", web.path("public/out")).unwrap();
    symlink("/etc/passwd", web.path("public/passwd")).unwrap();
    symlink("../outside", web.path("public/folder")).unwrap();
    symlink("sub/in", web.path("public/link")).unwrap();
    nix::unistd::mkfifo(&web.path("public/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/source.php",
        "/source.php.bak",
        "/source%2Ephp",
        "/x.phtml",
        "/source.php/",
        "/out",
        "/passwd",
        "/folder/secret",
        "/fifo",
        "/none",
        "/sub",
        "/sub/in/",
    ] {
        let answer = get(web.address, path, "");
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.text().contains("secret"), "{path}");
    }
    for path in [
        "/../outside/secret",
        "/%2e%2e/outside/secret",
        "/sub/..%2f..%2foutside/secret",
        "/a%00",
        "/a\\b",
        "/%",
    ] {
        assert_eq!(get(web.address, path, "").status, 400, "{path}");
    }
    assert_eq!(get(web.address, "/link", "").text(), "inside");
    assert_eq!(get(web.address, "//sub/./x/../in", "").text(), "inside");
    assert_eq!(get(web.address, "/.well-known/security.txt", "").text(), "contact");
}

#[test]
fn folders_have_an_index_and_a_slash() {
    let web = Web::of_files(&[("public/index.html", "home"), ("public/docs/index.html", "docs")]);
    assert_eq!(get(web.address, "/", "").text(), "home");
    assert_eq!(get(web.address, "/docs/", "").text(), "docs");
    let redirect = get(web.address, "/docs?a=b", "");
    assert_eq!((redirect.status, redirect.field("location")), (301, "/docs/?a=b"));
}

#[test]
fn a_file_is_read_and_nothing_else() {
    let web = Web::of_files(&[("public/a.txt", "a")]);
    let with = |method: &str| {
        let request = format!(
            "{method} /a.txt HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        ask(web.address, &request, method)
    };
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = with(method);
        assert_eq!((answer.status, answer.field("allow")), (405, "GET, HEAD, OPTIONS"), "{method}");
    }
    assert_eq!((with("OPTIONS").status, with("TRACE").status), (204, 405));
}

#[test]
fn a_changed_file_is_seen_soon() {
    let web = Web::of_files(&[("public/a.txt", "one")]);
    assert_eq!(get(web.address, "/a.txt", "").text(), "one");
    std::fs::write(web.path("public/a.txt"), "two").unwrap();
    until("the new content is served", || get(web.address, "/a.txt", "").text() == "two");
    std::fs::remove_file(web.path("public/a.txt")).unwrap();
    until("the file is gone", || get(web.address, "/a.txt", "").status == 404);
}
