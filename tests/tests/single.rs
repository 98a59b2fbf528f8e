//! One server that serves a real site: what its visitors see, and what they see while its parts are killed.
#![allow(clippy::print_stdout, reason = "what was measured is shown with the test's output")]

use std::time::{Duration, Instant};

use mainstay_tests::{Lab, Load, example, wait_for};

const SITE: &str = "http://www.foobar.com/";
const LIST: &str = "http://www.foobar.com/api/entries";

fn up() -> Lab {
    Lab::up(&example("1-single/site.toml"))
}

#[test]
fn a_visitor_reads_and_signs_the_guest_book_by_name() {
    let lab = up();
    let page = lab.visit(SITE, &[]);
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.body.contains("Welcome to the guest book"), "{}", page.body);
    assert!(page.body.contains("Answered by <strong>server1</strong>"));
    assert_eq!(page.header("x-served-by"), Some("server1"));

    // Written through the form, with its token, and read again.
    let form = r#"
        jar=$(mktemp); url=http://www.foobar.com
        token=$(curl -s -c $jar $url/ | sed -n 's/.*name="token" value="\([0-9a-f]*\)".*/\1/p' | head -1)
        curl -s -b $jar -o /dev/null -w '%{http_code}' $url/entries --form-string token=$token --form-string author=Ada --form-string 'message=<b>Hello</b>'
    "#;
    assert_eq!(lab.on("client", &["sh", "-c", form]), "303\n".trim_end());
    assert!(lab.visit(SITE, &[]).body.contains("&lt;b&gt;Hello&lt;/b&gt;"));
    assert_eq!(lab.visit("http://www.foobar.com/entries", &["-d", "author=Eve&message=x"]).status, 403);

    // A browser on this machine finds it on the printed address.
    let page = lab.browse(&lab.url(), &[]);
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.body.contains("&lt;b&gt;Hello&lt;/b&gt;"));
}

#[test]
fn files_pictures_and_people_are_served_as_they_should_be() {
    let lab = up();
    let style = lab.visit("http://www.foobar.com/style.css", &[]);
    assert_eq!((style.status, style.header("content-type")), (200, Some("text/css; charset=utf-8")));
    let tag = style.header("etag").expect("an entity tag").to_owned();
    let again = lab.visit("http://www.foobar.com/style.css", &["-H", &format!("If-None-Match: {tag}")]);
    assert_eq!(again.status, 304);
    let part = lab.visit("http://www.foobar.com/style.css", &["-r", "0-4"]);
    assert_eq!((part.status, part.body.as_str()), (206, ":root"));
    for secret in ["/.hidden", "/../src/database.php", "/index.php~", "/%2e%2e/src/database.php"] {
        let answer = lab.visit(&format!("http://www.foobar.com{secret}"), &["--path-as-is"]);
        assert!((400..500).contains(&answer.status), "{secret}: {answer:?}");
        assert!(!answer.body.contains("<?php"), "{secret}: {answer:?}");
    }

    let picture = r#"
        cd $(mktemp -d); url=http://www.foobar.com; jar=jar
        php -r '$i = imagecreatetruecolor(64, 48); imagepng($i, "in.png");'
        echo '<?php echo 1;' > evil.png
        token=$(curl -s -c $jar $url/ | sed -n 's/.*name="token" value="\([0-9a-f]*\)".*/\1/p' | head -1)
        post() { curl -s -b $jar -c $jar -o /dev/null -w '%{http_code} ' "$@"; }
        post $url/entries -F token=$token -F author=Bob -F message=look -F picture=@in.png
        post $url/entries -F token=$token -F author=Bob -F message=evil -F picture=@evil.png
        post $url/sign-up -d token=$token -d name=Ada -d password=correct-horse
        post $url/sign-out -d token=$token
        post $url/sign-in -d token=$token -d name=Ada -d password=wrong-horse
        post $url/sign-in -d token=$token -d name=Ada -d password=correct-horse
        curl -s -b $jar $url/ | grep -c 'Signed in as <strong>Ada'
    "#;
    assert_eq!(lab.on("client", &["sh", "-c", picture]).trim(), "303 415 303 303 403 303 1");
    let page = lab.visit(SITE, &[]).body;
    let name = page.split("/uploads/").nth(1).and_then(|rest| rest.split('"').next()).expect("a picture");
    let served = lab.visit(&format!("http://www.foobar.com/uploads/{name}"), &["-o", "/dev/null", "-D", "-"]);
    assert_eq!((served.status, served.header("content-type")), (200, Some("image/png")));

    // What an app stores is never run, whatever it is called.
    let folder = "/var/lib/mainstay/data/guestbook/public/uploads";
    lab.on(
        "server1",
        &["sh", "-c", &format!("echo '<?php echo 6*7;' > {folder}/x.php; chmod 644 {folder}/x.php")],
    );
    let answer = lab.visit("http://www.foobar.com/uploads/x.php", &[]);
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.body.trim() != "42" && !answer.body.contains("<?php"), "{answer:?}");
}

#[test]
fn status_agrees_with_what_runs() {
    let lab = up();
    let status = lab.status();
    assert_eq!(status["healthy"], true, "{status:#}");
    let roles = status["hosts"]["server1"]["server"]["roles"].as_array().unwrap().clone();
    let mut names: Vec<&str> = roles.iter().map(|role| role["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["app-guestbook", "database", "dns", "web"]);
    for role in &roles {
        let pid = role["pid"].to_string();
        let user = lab.on("server1", &["stat", "-c", "%U", &format!("/proc/{pid}")]);
        assert_eq!(user.trim(), role["user"].as_str().unwrap(), "{role}");
        assert!(role["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{role}");
    }
    // A server sees its own processes, disk, name and addresses, and nobody else's.
    let first = lab.on("server1", &["sh", "-c", "cat /proc/1/comm; hostname; ip -o -4 addr show eth0"]);
    assert!(first.starts_with("mainstay\nserver1\n") && first.contains("10.10.0.11/24"), "{first}");
    assert!(
        lab.on("client", &["sh", "-c", "ls /proc | grep -c '^[0-9]'"]).trim().parse::<u32>().unwrap() < 10
    );
}

#[test]
fn a_second_up_says_that_there_is_nothing_to_do_and_changes_nothing() {
    let lab = up();
    let before = lab.pid("server1", "web");
    let begun = Instant::now();
    let output = lab.up_again();
    assert!(output.contains("nothing to do"), "{output}");
    println!("a second up took {:?}", begun.elapsed());
    assert_eq!(lab.pid("server1", "web"), before);
}

#[test]
fn two_sites_with_equal_addresses_do_not_meet_and_leave_nothing() {
    let (one, two) = (up(), up());
    one.on(
        "client",
        &[
            "curl",
            "-s",
            LIST,
            "-H",
            "Content-Type: application/json",
            "-d",
            r#"{"author":"a","message":"only here"}"#,
        ],
    );
    assert!(one.visit(LIST, &[]).body.contains("only here"));
    assert!(!two.visit(LIST, &[]).body.contains("only here"));
    assert_ne!(one.url(), two.url());
    let state = one.state();
    one.run(&["down", "--purge"]);
    assert!(!state.exists(), "the state is still there");
    assert_eq!(two.visit(SITE, &[]).status, 200);
}

/// Kills a role's process under load and returns what the visitor saw, once the role is ready again.
fn kill_under_load(lab: &Lab, url: &str, role: &str) -> (mainstay_tests::Report, Duration) {
    let load: Load = lab.load(url, 200);
    let before = lab.pid("server1", role);
    lab.on("server1", &["kill", "-9", &before.to_string()]);
    let killed = Instant::now();
    wait_for(&format!("{role} to be back"), Duration::from_secs(20), || {
        let status = lab.status();
        let back = if role == "agent" {
            status["hosts"]["server1"]["server"]["agent"]["pid"].as_i64() != Some(before)
        } else {
            lab.role("server1", role)["pid"].as_i64().is_some_and(|pid| pid != before)
        };
        (back && status["healthy"] == true).then_some(())
    });
    let back_after = killed.elapsed();
    // A little longer under load: what only shows later is seen too.
    wait_for("another second of visits", Duration::from_secs(5), || {
        (killed.elapsed() > back_after + Duration::from_secs(1)).then_some(())
    });
    let report = load.end();
    println!("{role}: back after {back_after:?}; {report:?}");
    (report, back_after)
}

#[test]
fn killed_processes_come_back_and_visitors_hardly_notice() {
    let lab = up();
    let (report, _) = kill_under_load(&lab, LIST, "agent");
    assert_eq!(report.failed, [], "nobody notices an agent");

    // Requests that were inside the killed process are lost, at 200 a second a handful; none that came after.
    let (report, back_after) = kill_under_load(&lab, LIST, "web");
    assert!(report.failed.len() <= 20, "{report:?}");
    assert!(back_after < Duration::from_secs(2), "{back_after:?}");

    let (report, back_after) = kill_under_load(&lab, LIST, "app-guestbook");
    assert!(report.failed.len() <= 20, "{report:?}");
    assert!(back_after < Duration::from_secs(2), "{back_after:?}");

    let (_, back_after) = kill_under_load(&lab, LIST, "database");
    assert!(back_after < Duration::from_secs(2), "{back_after:?}");
    assert_eq!(lab.visit(LIST, &[]).status, 200);
}

#[test]
fn up_revives_whatever_died_and_the_rows_are_still_there() {
    let lab = up();
    let entry = r#"{"author":"a","message":"before the crash"}"#;
    lab.visit(LIST, &["-H", "Content-Type: application/json", "-d", entry]);
    for hosts in [&["server1"][..], &["internet"], &["client"], &["server1", "internet", "client"]] {
        for host in hosts {
            let pid = lab.status()["hosts"][host]["pid"].as_i64().unwrap();
            assert!(
                std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success()
            );
        }
        let output = lab.up_again();
        assert!(output.contains("checks passed"), "{output}");
        assert!(lab.visit(LIST, &[]).body.contains("before the crash"));
        assert_eq!(lab.browse(&lab.url(), &[]).status, 200);
    }
    lab.run(&["down"]);
    assert!(lab.up_again().contains("checks passed"));
    assert!(lab.visit(LIST, &[]).body.contains("before the crash"));
}

#[test]
fn changed_code_and_a_changed_binary_take_over_without_a_failed_request() {
    let lab = Lab::with_own_copy(&example("1-single/site.toml"));
    lab.up_again();
    let release = |lab: &Lab| lab.visit(SITE, &[]).header("x-release").map(str::to_owned);
    let before = release(&lab).expect("a release");
    let load = lab.load(LIST, 100);
    let template = lab.file().parent().unwrap().join("app/templates/entries.php");
    let text =
        std::fs::read_to_string(&template).unwrap().replace("<h1>Guest book</h1>", "<h1>New guest book</h1>");
    std::fs::write(&template, text).unwrap();
    lab.up_again();
    assert!(lab.visit(SITE, &[]).body.contains("New guest book"));
    assert_ne!(release(&lab), Some(before));

    let (web, database) = (lab.pid("server1", "web"), lab.pid("server1", "database"));
    let other = lab.state().join("another-mainstay");
    let mut binary = std::fs::read(lab.command(&[]).get_program()).unwrap();
    binary.extend_from_slice(b"another version");
    std::fs::write(&other, binary).unwrap();
    std::os::unix::fs::chown(&other, Some(0), Some(0)).unwrap();
    std::process::Command::new("chmod").arg("755").arg(&other).status().unwrap();
    let output = lab.command_of(&other, &["up", lab.file().to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_for("the new binary's web role", Duration::from_secs(20), || {
        (lab.pid("server1", "web") != web && lab.status()["healthy"] == true).then_some(())
    });
    assert_eq!(lab.pid("server1", "database"), database, "a database is no business of a new binary");
    let report = load.end();
    assert_eq!(report.failed, [], "{report:?}");
}
