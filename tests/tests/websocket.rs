//! `WebSocket`s through the load balancer and the web server: nothing changes on the way, and changes of the site leave them be.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says so by panicking")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mainstay_tests::{Lab, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("websocket").join(name)
}

#[test]
fn each_case_of_the_protocol_ends_through_the_load_balancer_as_it_ends_without() {
    let lab = Lab::up(&here("site.toml"));
    let script = lab.carry("client", &here("conformance.py"));
    let backend = lab.carry("client", &here("code/echo.py"));
    let folder = backend.parent().unwrap().to_str().unwrap();
    let told = lab.on("client", &["/usr/bin/python3", script.to_str().unwrap(), "www.foobar.com:80", folder]);
    println!("{told}");
    let last = told.lines().last().unwrap_or_default();
    assert!(last.ends_with(" cases, 0 different, 0 without an outcome"), "{told}");
}

#[test]
fn websockets_stay_connected_over_changes_of_the_plan_and_of_the_binary() {
    let lab = Lab::with_own_file(&here("site.toml"));
    lab.up_again();
    let file = lab.file().to_str().unwrap().to_owned();
    let script = lab.carry("client", &here("stay.py"));
    let mut visitors = lab
        .command(&[
            "exec",
            "client",
            "--",
            "/usr/bin/python3",
            script.to_str().unwrap(),
            "www.foobar.com",
            "4",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(visitors.stdout.take().unwrap());
    let mut word = String::new();
    told.read_line(&mut word).unwrap();
    assert_eq!(word, "begun\n");

    let edge = lab.pid("edge1", "edge");
    let mut weight = 100;
    let changes = if std::env::var_os("MAINSTAY_LONG").is_some() { 100 } else { 10 };
    for change in 1..=changes {
        let next = 100 + change;
        lab.edit(|text| text.replace(&format!("server1 = {weight}"), &format!("server1 = {next}")));
        weight = next;
        lab.run(&["up", "--detach", &file]);
        wait_for("the weight to be in force", PATIENCE, || {
            (lab.upstream("server1")["weight"] == weight).then_some(())
        });
    }
    assert_eq!(lab.pid("edge1", "edge"), edge, "weights are no reason for a new process");

    // A new process takes new connections; these stay in the old one.
    lab.edit(|text| text.replace("[edge]\n", "[edge]\nheaders = 60\n"));
    lab.up_again();
    let second = lab.pid("edge1", "edge");
    assert_ne!(second, edge);
    assert_eq!(lab.role("edge1", "edge")["draining"], 1);

    // Another binary replaces every role on the way, the web server's too.
    let output = lab.command_of(&lab.other_binary(), &["up", &file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_for("the new binary's edge", PATIENCE, || {
        (lab.role("edge1", "edge")["pid"].as_i64()? != second).then_some(())
    });

    drop(visitors.stdin.take());
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    println!("{changes} changes, a new process and a new binary: {rest}");
    assert!(visitors.wait().unwrap().success(), "{rest}");
    wait_for("the old processes to end with their last connection", PATIENCE, || {
        (lab.role("edge1", "edge")["draining"] == 0).then_some(())
    });
}
