//! Apps that are not PHP: Python behind gunicorn, and any command on a port or a socket.
#![allow(clippy::print_stdout, reason = "what was measured is shown with the test's output")]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mainstay_tests::{Lab, example, wait_for};

#[test]
fn the_guest_book_in_python_serves_the_same_pages() {
    let lab = Lab::up(&example("1-single/site-python.toml"));
    let page = lab.visit("http://www.foobar.com/", &[]);
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.body.contains("Welcome to the guest book"), "{page:?}");
    assert_eq!(lab.visit("http://www.foobar.com/style.css", &[]).status, 200);
    let script = r#"
        cd $(mktemp -d); url=http://www.foobar.com; jar=jar
        php -r '$i = imagecreatetruecolor(64, 48); imagepng($i, "in.png");'
        token=$(curl -s -c $jar $url/ | sed -n 's/.*name="token" value="\([0-9a-f]*\)".*/\1/p' | head -1)
        post() { curl -s -b $jar -c $jar -o /dev/null -w '%{http_code} ' "$@"; }
        post $url/entries -F token=$token -F author=Bob -F message=look -F picture=@in.png
        post $url/entries -F author=Eve -F message=x
        post $url/sign-up -d token=$token -d name=Ada -d password=correct-horse
        post $url/sign-out -d token=$token
        post $url/sign-in -d token=$token -d name=Ada -d password=correct-horse
        curl -s -b $jar $url/ | grep -c 'Signed in as <strong>Ada'
    "#;
    assert_eq!(lab.on("client", &["sh", "-c", script]).trim(), "303 403 303 303 303 1");
    let page = lab.visit("http://www.foobar.com/", &[]).body;
    let name = page.split("/uploads/").nth(1).and_then(|rest| rest.split('"').next()).expect("a picture");
    let picture =
        lab.visit(&format!("http://www.foobar.com/uploads/{name}"), &["-o", "/dev/null", "-D", "-"]);
    assert_eq!((picture.status, picture.header("content-type")), (200, Some("image/png")));

    // A killed gunicorn comes back on the same socket.
    let before = lab.pid("server1", "app-guestbook");
    lab.on("server1", &["kill", "-9", &before.to_string()]);
    wait_for("gunicorn to be back", Duration::from_secs(20), || {
        let role = lab.role("server1", "app-guestbook");
        (role["pid"].as_i64().is_some_and(|pid| pid != before) && role["state"] == "ready").then_some(())
    });
    assert_eq!(lab.visit("http://www.foobar.com/api/entries", &[]).status, 200);
}

#[test]
fn any_command_is_served_on_a_port_or_a_socket_and_speaks_websocket() {
    let lab = Lab::up(&Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/site.toml"));
    for (host, told) in [("port", "on-port port /x?y=1\n"), ("socket", "on-socket socket /x?y=1\n")] {
        let url = format!("http://{host}.foobar.com/x?y=1");
        let page = lab.visit(&url, &[]);
        assert_eq!((page.status, page.body.as_str()), (200, told), "{page:?}");
        assert_eq!(lab.visit(&url, &["-d", "a body"]).body, "a body");
        let echoed = lab.on("client", &["python3", "-c", WEBSOCKET, &format!("{host}.foobar.com")]);
        assert_eq!(echoed.trim(), "hello through the web server");
    }
    // A restart makes visitors wait, and fails none of them.
    let load = lab.load("http://socket.foobar.com/", 50);
    let before = lab.pid("server1", "app-on-socket");
    lab.on("server1", &["kill", "-9", &before.to_string()]);
    wait_for("the command to be back", Duration::from_secs(20), || {
        let role = lab.role("server1", "app-on-socket");
        (role["pid"].as_i64().is_some_and(|pid| pid != before) && role["state"] == "ready").then_some(())
    });
    let report = load.end();
    assert!(report.failed.len() <= 2, "only what was inside the killed process: {report:?}");
}

/// Upgrades, sends one masked text frame, and prints what comes back.
const WEBSOCKET: &str = r#"
import os, socket, sys
host = sys.argv[1]
with socket.create_connection((host, 80), timeout=10) as s:
    s.sendall((f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
               "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode())
    stream = s.makefile("rb")
    assert stream.readline().startswith(b"HTTP/1.1 101"), "no upgrade"
    while stream.readline().strip():
        pass
    text, mask = b"hello through the web server", os.urandom(4)
    s.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
    head = stream.read(2)
    print(stream.read(head[1] & 127).decode())
"#;

#[test]
fn an_app_that_leaves_the_file_is_not_waited_for_and_ends_by_itself() {
    let lab = Lab::with_own_copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("two-php/site.toml"));
    lab.up_again();
    // Each of its processes is used once, and its connection kept for the next request.
    let visits: Vec<_> = (0..4)
        .map(|_| {
            let mut visit =
                lab.command(&["exec", "client", "--", "curl", "-s", "http://two.foobar.com/?ms=300"]);
            visit.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for visit in visits {
        assert_eq!(visit.wait_with_output().unwrap().stdout, b"two");
    }
    // One more is on its way when the app goes, and is answered.
    let mut last = lab.command(&["exec", "client", "--", "curl", "-s", "http://two.foobar.com/?ms=4000"]);
    let last = last.stdout(Stdio::piped()).spawn().unwrap();
    let in_flight = "curl -s --unix-socket /run/mainstay/web/admin.sock http://web/metrics | grep '^mainstay_web_requests_in_flight'";
    wait_for("it to be on its way", Duration::from_secs(10), || {
        let told = lab.on("server1", &["sh", "-c", in_flight]);
        told.trim().ends_with(" 1").then_some(())
    });
    let text = std::fs::read_to_string(lab.file()).unwrap();
    std::fs::write(lab.file(), text.split("# From here").next().unwrap().replace(", \"two.foobar.com\"", ""))
        .unwrap();
    let begun = Instant::now();
    let output = lab.up_again();
    println!("up without the app took {:?}", begun.elapsed());
    assert!(output.contains("checks passed"), "{output}");
    assert_eq!(lab.visit("http://one.foobar.com/", &[]).body, "one");
    assert_eq!(lab.visit("http://one.foobar.com/", &["-H", "Host: two.foobar.com"]).status, 421);
    assert_eq!(last.wait_with_output().unwrap().stdout, b"two");
    // With the last request it ends, long before php-fpm's own patience of 20 s is over.
    wait_for("the app to be gone", Duration::from_secs(10), || {
        lab.role("server1", "app-two").is_null().then_some(())
    });
    println!("it was gone after {:?}", begun.elapsed());
    assert_eq!(lab.status()["healthy"], true);
}
