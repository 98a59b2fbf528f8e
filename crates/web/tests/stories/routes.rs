//! Hosts, routes, and what is told about requests afterwards.

use mainstay_http::client::{self, Bounds, Upstream};
use mainstay_site::plan::{Route, Target};

use super::client::{ask, get};
use super::server::{Web, folder, host};

fn with_host(web: &Web, host: &str, path: &str) -> u16 {
    ask(web.address, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"), "GET")
        .status
}

#[test]
fn a_host_of_another_site_is_misdirected() {
    let web = Web::of_files(&[("public/index.html", "home")]);
    for name in ["a.test", "A.TEST:8080", "a.test.", "x.b.test"] {
        assert_eq!(with_host(&web, name, "/"), 200, "{name}");
    }
    for name in ["b.test", "evil.test", "127.0.0.1", "a.test.evil.test"] {
        assert_eq!(with_host(&web, name, "/"), 421, "{name}");
    }
}

#[test]
fn the_first_route_that_matches_answers() {
    let folder = folder(&[("public/x", "a"), ("uploads/x", "b")]);
    let files = |name: &str| Target::Static { root: folder.path().join(name) };
    let redirect = |to: &str, status| Target::Redirect { to: to.to_owned(), status };
    let routes = vec![
        Route { host: None, path: "/old".to_owned(), target: redirect("https://new.test/*", 308) },
        Route { host: Some(host("b.test", true)), path: "/".to_owned(), target: files("uploads") },
        Route { host: None, path: "/files".to_owned(), target: files("public") },
    ];
    let web = Web::start(folder, routes);
    let moved = get(web.address, "/old/a%20b?q=1", "");
    assert_eq!((moved.status, moved.field("location")), (308, "https://new.test/a%20b?q=1"));
    assert_eq!(get(web.address, "/files/x", "").text(), "a");
    assert_eq!(with_host(&web, "y.b.test", "/x"), 200);
    assert_eq!(get(web.address, "/x", "").status, 404);
}

#[test]
fn every_request_is_told_in_the_log_and_in_the_metrics() {
    let mut web = Web::of_files(&[("public/a.txt", "hello")]);
    let id = get(web.address, "/a.txt?x", "user-agent: a\"\tb\r\nx-request-id: forged\r\n")
        .field("x-request-id")
        .to_owned();
    assert_ne!(id, "forged");
    get(web.address, "/none", "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admin = Upstream::Unix(web.path("run/admin.sock"));
    let fetch = |path| {
        runtime
            .block_on(client::call(&admin, &http::Method::GET, path, None, Bounds::default()))
            .unwrap()
            .text()
    };
    assert_eq!(fetch("/health").trim(), "ok");
    let metrics = fetch("/metrics");
    for line in [
        "mainstay_web_requests_total{target=\"static\",method=\"GET\",class=\"2xx\"} 1",
        "mainstay_web_requests_total{target=\"static\",method=\"GET\",class=\"4xx\"} 1",
        "mainstay_web_request_duration_seconds_count{target=\"static\"} 2",
        "mainstay_web_requests_in_flight 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let log = web.stop();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["request_id"], id.as_str());
    assert_eq!((&lines[0]["path"], &lines[0]["status"]), (&"/a.txt?x".into(), &200.into()));
    assert_eq!((&lines[0]["bytes"], &lines[0]["user_agent"]), (&5.into(), &"a\"\tb".into()));
    assert_eq!(lines[1]["status"], 404);
}
