//! Three equal servers behind one load balancer: what visitors see of one server's troubles, and of changes. They see nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mainstay_tests::{Lab, Load, Report, example, wait_for};

const SITE: &str = "http://www.foobar.com/";
const LIST: &str = "http://www.foobar.com/api/entries";
const PATIENCE: Duration = Duration::from_secs(30);

/// How hard and how long the site is visited: `MAINSTAY_LONG=1` asks for more than every change of the code can wait for.
struct Measure {
    rate: u32,
    visit: Duration,
    changes: u32,
}

fn measure() -> Measure {
    if std::env::var_os("MAINSTAY_LONG").is_some() {
        Measure { rate: 500, visit: Duration::from_mins(1), changes: 100 }
    } else {
        Measure { rate: 200, visit: Duration::from_secs(1), changes: 30 }
    }
}

/// Waits until the edge finds a server in this state, and tells how long that took.
fn until(lab: &Lab, server: &str, states: &[&str]) -> Duration {
    let begun = Instant::now();
    let why = wait_for(&format!("{server} to be {states:?}"), PATIENCE, || {
        let upstream = lab.upstream(server);
        let state = upstream["state"].as_str()?;
        states.contains(&state).then(|| upstream["why"].as_str().unwrap_or_default().to_owned())
    });
    println!("{server}: {why} (after {:?})", begun.elapsed());
    begun.elapsed()
}

/// Lets a second of visits go by, so that what shows later is seen too.
fn another_second(lab: &Lab) {
    let begun = Instant::now();
    wait_for("another second of visits", PATIENCE, || {
        (begun.elapsed() > Duration::from_secs(1)).then(|| lab.upstream("server1"))
    });
}

fn nobody_noticed(lab: &Lab, what: &str, load: Load) {
    wait_for("the visit to be long enough", PATIENCE + measure().visit, || {
        (load.age() > measure().visit).then(|| lab.upstream("server1"))
    });
    let age = load.age();
    let report: Report = load.end();
    println!(
        "{what}: {} requests in {age:.1?}, {} failed, longest {} ms, begun {} ms late at worst",
        report.sent,
        report.failed.len(),
        report.longest_ms,
        report.late_ms
    );
    assert_eq!(report.failed, [], "{what}: {report:?}");
}

#[test]
fn whatever_befalls_one_of_three_servers_no_visitor_notices_and_the_status_names_it() {
    let lab = Lab::up(&example("2-distributed/site.toml"));
    requests_are_spread(&lab);
    a_killed_web_role(&lab);
    a_frozen_web_role(&lab);
    an_unplugged_server(&lab);
    requests_are_spread(&lab);
}

/// Each server gets its part, and the app behind it knows the visitor and the request.
fn requests_are_spread(lab: &Lab) {
    let script =
        format!("seq 300 | xargs -P 12 -I N curl -s -o /dev/null -w '%header{{x-served-by}}\\n' {SITE}?N");
    // A server that has just come (back) begins with a small part, and one that was slow a moment ago is spared a while.
    let seen = wait_for("all three servers to get their part", PATIENCE, || {
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for server in lab.on("client", &["sh", "-c", &script]).lines() {
            *seen.entry(server.to_owned()).or_default() += 1;
        }
        println!("{seen:?}");
        seen.values().all(|count| *count >= 20).then_some(seen).filter(|seen| seen.len() == 3)
    });
    assert_eq!(seen.values().sum::<u32>(), 300, "each request was answered by one of them");

    let answer = lab.visit(SITE, &["-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Request-Id: 0123456789abcdef"]);
    let (id, server) = (answer.header("x-request-id").unwrap(), answer.header("x-served-by").unwrap());
    assert_ne!(id, "0123456789abcdef");
    for host in ["edge1", server] {
        let line = wait_for("the access log", PATIENCE, || {
            let log = lab.run(&["logs", host, "--role", "access", "--since", "1m"]);
            log.lines().find(|line| line.contains(id)).map(str::to_owned)
        });
        assert!(line.contains("client=198.51.100.2"), "{host}: {line}");
    }
}

fn a_killed_web_role(lab: &Lab) {
    let load = lab.load(LIST, measure().rate);
    let before = lab.pid("server2", "web");
    lab.on("server2", &["kill", "-9", &before.to_string()]);
    wait_for("the web role to be back", PATIENCE, || {
        let role = lab.role("server2", "web");
        (role["pid"].as_i64().is_some_and(|pid| pid != before) && role["state"] == "ready").then_some(())
    });
    until(lab, "server2", &["up"]);
    another_second(lab);
    nobody_noticed(lab, "kill -9 of a web role", load);
}

fn a_frozen_web_role(lab: &Lab) {
    let load = lab.load(LIST, measure().rate);
    let pid = lab.pid("server3", "web").to_string();
    lab.on("server3", &["kill", "-STOP", &pid]);
    until(lab, "server3", &["down", "ejected"]);
    another_second(lab);
    lab.on("server3", &["kill", "-CONT", &pid]);
    until(lab, "server3", &["up"]);
    another_second(lab);
    nobody_noticed(lab, "SIGSTOP of a web role", load);
}

fn an_unplugged_server(lab: &Lab) {
    let load = lab.load(LIST, measure().rate);
    // The fourth server of the file is at this port of the site's bridge.
    lab.on("internet", &["ip", "link", "set", "port3", "down"]);
    until(lab, "server3", &["down", "ejected"]);
    another_second(lab);
    lab.on("internet", &["ip", "link", "set", "port3", "up"]);
    until(lab, "server3", &["up"]);
    another_second(lab);
    nobody_noticed(lab, "an unplugged server", load);
}

#[test]
fn changes_of_the_plan_and_of_the_binary_cost_no_request() {
    let lab = Lab::with_own_file(&example("2-distributed/site.toml"));
    lab.up_again();
    let file = lab.file().to_str().unwrap().to_owned();
    let load = lab.load(LIST, measure().rate);
    let edge = lab.pid("edge1", "edge");
    let mut weight = 100;
    for change in 1..=measure().changes {
        let next = 50 + change;
        lab.edit(|text| text.replace(&format!("server1 = {weight}"), &format!("server1 = {next}")));
        weight = next;
        lab.run(&["up", "--detach", &file]);
        wait_for("the weight to be in force", PATIENCE, || {
            (lab.upstream("server1")["weight"] == weight).then_some(())
        });
    }
    assert_eq!(lab.pid("edge1", "edge"), edge, "weights are no reason for a new process");
    nobody_noticed(&lab, "changes of weights", load);

    // Other limits take a new process, which the old one makes room for.
    let load = lab.load(LIST, measure().rate);
    lab.edit(|text| text.replace("[edge]\n", "[edge]\nheaders = 60\n"));
    lab.up_again();
    let second = lab.pid("edge1", "edge");
    assert_ne!(second, edge);
    nobody_noticed(&lab, "a change that takes a new process", load);

    let load = lab.load(LIST, measure().rate);
    let output = lab.command_of(&lab.other_binary(), &["up", &file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_for("the new binary's edge", PATIENCE, || {
        let role = lab.role("edge1", "edge");
        (role["pid"].as_i64().is_some_and(|pid| pid != second) && role["draining"] == 0).then_some(())
    });
    nobody_noticed(&lab, "another binary", load);

    // A file that is refused changes nothing.
    lab.edit(|text| text.replace("[edge]\n", "[edge]\nbalance_by = 1\n"));
    assert_eq!(lab.command(&["up", &file]).output().unwrap().status.code(), Some(2));
    assert_eq!(lab.visit(SITE, &[]).status, 200);
}

#[test]
fn with_a_certificate_visitors_are_led_to_https_and_a_renewed_one_is_served_at_once() {
    let lab = Lab::with_own_file(&example("2-distributed/site.toml"));
    let certify = |serial: &str| {
        let folder = lab.file().parent().unwrap();
        let done = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args([
                "-subj",
                "/CN=www.foobar.com",
                "-addext",
                "subjectAltName=DNS:www.foobar.com,DNS:foobar.com",
            ])
            .args(["-set_serial", serial, "-keyout", "site.key", "-out", "site.pem"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    certify("4711");
    lab.edit(|text| text + "\n[tls]\ncertificate = \"site.pem\"\nkey = \"site.key\"\n");
    lab.up_again();
    let http = lab.visit(SITE, &[]);
    assert_eq!((http.status, http.header("location")), (308, Some("https://www.foobar.com/")));
    let https = lab.visit("https://www.foobar.com/", &["-k"]);
    assert_eq!(https.status, 200);
    // From this machine, under the site's own name.
    let port = lab.status()["https_port"].as_u64().expect("a port for HTTPS");
    let way = format!("www.foobar.com:{port}:127.0.0.1");
    let page = lab.browse(&format!("https://www.foobar.com:{port}/"), &["-k", "--resolve", &way]);
    assert_eq!(page.status, 200);
    // And as a browser goes, from the printed address.
    let url = lab.url();
    let sent = lab.browse(&format!("{url}style.css?a=1"), &[]);
    let there = format!("https://localhost:{port}/style.css?a=1");
    assert_eq!((sent.status, sent.header("location")), (308, Some(there.as_str())));
    assert_eq!(lab.browse(&there, &["-k"]).status, 200);

    let serial = || {
        let script = "openssl s_client -connect www.foobar.com:443 -servername www.foobar.com </dev/null 2>/dev/null \
            | openssl x509 -noout -serial";
        lab.on("client", &["sh", "-c", script]).trim().to_owned()
    };
    assert_eq!(serial(), format!("serial={:X}", 4711));
    let before = lab.pid("edge1", "edge");
    certify("4712");
    lab.up_again();
    assert_eq!(serial(), format!("serial={:X}", 4712));
    assert_eq!(lab.pid("edge1", "edge"), before, "a certificate is no reason for a new process");
    // The key lies where nobody but the role reads it, and the old one is gone.
    let found = lab.on("edge1", &["sh", "-c", "stat -c '%U %a %n' /run/mainstay/edge/secrets/*/tls-key-1"]);
    assert!(found.lines().count() == 1 && found.starts_with("mainstay-edge 600 "), "{found}");
}
