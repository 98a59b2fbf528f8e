//! What not every site asks of its load balancer, in a whole site: TLS by name, a cache, a canary.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_tests::{Answer, Lab, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const SITE: &str = "http://www.foobar.com";

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("edge").join(name)
}

#[test]
fn an_edge_leads_tls_by_name_keeps_pages_and_shares_visitors_with_a_canary() {
    let lab = Lab::with_own_file(&here("site.toml"));
    lab.up_again();
    tls_goes_by_its_name(&lab);
    a_canary_gets_its_share(&lab);
    a_page_is_kept_and_forgotten_on_command(&lab);
    an_old_page_is_better_than_none(&lab);
}

fn edge(lab: &Lab) -> Value {
    lab.status()["hosts"]["edge1"]["server"]["edge"].clone()
}

/// Bytes are passed on untouched: each server shows its own certificate, which the edge does not have.
fn tls_goes_by_its_name(lab: &Lab) {
    let begin = |server: &str, name: &str| {
        let script = lab.carry(server, &here("tls.py"));
        let begin = format!("setsid /usr/bin/python3 {} {name} >/dev/null 2>&1 & echo $!", script.display());
        lab.on(server, &["sh", "-c", &begin]).trim().to_owned()
    };
    let (_, second) = (begin("server1", "one"), begin("server2", "two"));
    let ask = |name: &str| {
        let way = format!("{name}.foobar.com:8443:www.foobar.com:8443");
        lab.visit(&format!("https://{name}.foobar.com:8443/"), &["-k", "--connect-to", &way])
    };
    for name in ["one", "two"] {
        let answer =
            wait_for("TLS by name", PATIENCE, || Some(ask(name)).filter(|answer| answer.status == 200));
        // For the server, the edge is the one who connects.
        assert_eq!(answer.body, format!("{name} 10.10.0.5\n"));
        let shown = format!(
            "openssl s_client -connect www.foobar.com:8443 -servername {name}.foobar.com </dev/null 2>/dev/null \
             | openssl x509 -noout -subject"
        );
        let shown = lab.on("client", &["sh", "-c", &shown]);
        assert!(shown.contains(&format!("{name}.foobar.com")), "{shown}");
    }
    assert_eq!(ask("three").status, 0, "no group is for that name");
    let services = edge(lab)["services"].clone();
    assert_eq!((&services[0]["name"], &services[0]["listen"]), (&"secure".into(), &"10.10.0.5:8443".into()));
    // An open connection is seen, and a dead server's name fails alone.
    let hold = "exec 3<>/dev/tcp/www.foobar.com/8443; sleep 20";
    lab.on("client", &["sh", "-c", &format!("setsid bash -c '{hold}' >/dev/null 2>&1 &")]);
    wait_for("the connection in the status", PATIENCE, || {
        (edge(lab)["services"][0]["connections_open"].as_i64()? > 0).then_some(())
    });
    let text = String::from_utf8(lab.command(&["status"]).output().unwrap().stdout).unwrap();
    assert!(text.contains("secure at 10.10.0.5:8443: "), "{text}");
    lab.on("server2", &["kill", &second]);
    wait_for("server2's service to be down", PATIENCE, || (ask("two").status == 0).then_some(()));
    assert_eq!(ask("one").status, 200);
}

/// Shares of many requests, by the server that answered.
fn shares(lab: &Lab) -> BTreeMap<String, u32> {
    let script =
        format!("seq 600 | xargs -P 8 -I N curl -s -o /dev/null -w '%header{{x-served-by}}\\n' {SITE}/new?N");
    let mut seen = BTreeMap::new();
    for server in lab.on("client", &["sh", "-c", &script]).lines() {
        *seen.entry(server.to_owned()).or_default() += 1;
    }
    println!("{seen:?}");
    seen
}

fn a_canary_gets_its_share(lab: &Lab) {
    let seen = shares(lab);
    // Five standard deviations around a fifth.
    assert!((70..=170).contains(&seen["server2"]), "{seen:?}");
    assert_eq!(seen["server1"] + seen["server2"], 600);
    let edge = lab.pid("edge1", "edge");
    lab.edit(|text| text.replace("stable = 80, canary = 20", "stable = 50, canary = 50"));
    lab.up_again();
    let seen = shares(lab);
    assert!((240..=360).contains(&seen["server2"]), "{seen:?}");
    assert_eq!(seen["server1"] + seen["server2"], 600);
    assert_eq!(lab.pid("edge1", "edge"), edge, "a share is no reason for a new process");
}

fn page(lab: &Lab, path: &str) -> (Answer, String) {
    let answer = lab.visit(&format!("{SITE}{path}"), &[]);
    let how = answer.header("cache-status").unwrap_or_default().to_owned();
    (answer, how)
}

fn a_page_is_kept_and_forgotten_on_command(lab: &Lab) {
    let (first, how) = page(lab, "/long");
    assert_eq!(first.status, 200);
    assert!(how.contains("fwd=uri-miss"), "{how}");
    let (second, how) = page(lab, "/long");
    assert_eq!(second.body, first.body);
    assert!(how.contains("hit"), "{how}");
    let purge = |what: &str| {
        let (socket, url) = ("/run/mainstay/edge/admin.sock", "http://edge/cache/purge");
        lab.on("edge1", &["curl", "-s", "--unix-socket", socket, url, "-d", what])
    };
    let url = |path: &str| format!(r#"{{"url": "{SITE}{path}"}}"#);
    assert_eq!(purge(&url("/other")), "0\n");
    assert_eq!(purge(&url("/long")), "1\n");
    let (third, how) = page(lab, "/long");
    assert_ne!(third.body, first.body);
    assert!(how.contains("fwd=uri-miss"), "{how}");
    assert_eq!(purge(&format!(r#"{{"prefix": "{SITE}/"}}"#)), "1\n");
    page(lab, "/long");
    assert_eq!(purge(r#""all""#), "1\n");
}

/// The app hangs on both servers; what was kept is given, although it is old.
fn an_old_page_is_better_than_none(lab: &Lab) {
    let (first, _) = page(lab, "/short");
    assert_eq!(first.status, 200);
    let signal = |signal: &str| {
        for server in ["server1", "server2"] {
            lab.on(server, &["kill", signal, &lab.pid(server, "app-page").to_string()]);
        }
    };
    signal("-STOP");
    let stale = wait_for("a stale page", PATIENCE, || {
        let (answer, how) = page(lab, "/short");
        assert_eq!(answer.status, 200, "{how}");
        (!how.contains("hit; ttl=") || how.contains("ttl=-")).then_some((answer, how))
    });
    println!("{}", stale.1);
    assert_eq!(stale.0.body, first.body);
    // What was not kept is not there.
    assert!(page(lab, "/").0.status >= 500);
    signal("-CONT");
    wait_for("a new page", PATIENCE, || (page(lab, "/short").0.body != first.body).then_some(()));
}
