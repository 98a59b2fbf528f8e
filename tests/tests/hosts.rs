//! A lab's hosts are machines of their own: what they read of themselves is theirs, and they are reached over IPv6 too.

use std::path::Path;
use std::time::Duration;

use mainstay_tests::{Lab, wait_for};

fn up() -> Lab {
    Lab::up(&Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts/site.toml"))
}

/// The words of a command's output.
fn words(lab: &Lab, host: &str, command: &str) -> Vec<String> {
    lab.on(host, &["sh", "-c", command]).split_whitespace().map(str::to_owned).collect()
}

fn count(lab: &Lab, host: &str, command: &str) -> usize {
    words(lab, host, command)[0].parse().expect("a number")
}

fn number(lab: &Lab, host: &str, command: &str) -> f64 {
    let words = words(lab, host, command);
    words.first().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{command}: {words:?}"))
}

#[test]
fn a_server_reads_its_own_memory_processors_time_and_load() {
    let lab = up();
    let machine = std::thread::available_parallelism().unwrap().get();
    // `memory = "512MiB"` and `cpus = 1` of the file.
    let free = words(&lab, "small", "free -m | grep ^Mem:");
    let [total, used, free] = [1, 2, 3].map(|column| free[column].parse::<u32>().unwrap());
    assert_eq!(total, 512);
    assert!(used > 0 && used + free <= 512, "used {used}, free {free}");
    assert_eq!(count(&lab, "small", "nproc"), 1);
    assert_eq!(count(&lab, "small", "getconf _NPROCESSORS_ONLN"), 1);
    assert_eq!(count(&lab, "small", "grep -c ^processor /proc/cpuinfo"), 1);
    assert_eq!(count(&lab, "small", "grep -c '^cpu[0-9]' /proc/stat"), 1);
    // What the file does not bound is the machine's.
    assert!(words(&lab, "large", "free -m | grep ^Mem:")[1].parse::<u32>().unwrap() > 512);
    assert_eq!(count(&lab, "large", "nproc"), machine);
    assert_eq!(count(&lab, "large", "grep -c ^processor /proc/cpuinfo"), machine);

    // A host has been up since it was started, whatever the machine has been; and its processes are no older.
    for host in ["small", "large", "client"] {
        assert!(
            words(&lab, host, "uptime").contains(&"min,".to_owned()),
            "{:?}",
            words(&lab, host, "uptime")
        );
        let up = number(&lab, host, "cat /proc/uptime");
        assert!(up < 300.0, "{host} has been up for {up} s");
        assert!(number(&lab, host, "ps -o etimes= -p 1") <= up);
        assert!(number(&lab, host, "ps -o etimes= -p $$") <= up, "a process that has just begun");
    }

    // Its own work is its load, and nobody else's.
    let busy = "for i in 1 2 3; do (timeout 60 sh -c 'while :; do :; done' >/dev/null 2>&1 &) ; done";
    lab.on("small", &["sh", "-c", busy]);
    wait_for("a load in the busy server", Duration::from_secs(40), || {
        (number(&lab, "small", "cat /proc/loadavg") >= 0.2).then_some(())
    });
    wait_for("the time of its one processor to pass", Duration::from_secs(20), || {
        let stat = words(&lab, "small", "grep '^cpu ' /proc/stat");
        (stat[1].parse::<u64>().unwrap() > 100).then_some(())
    });
    assert!(number(&lab, "client", "cat /proc/loadavg") < 0.1);

    // Memory that is taken is missing.
    let before = number(&lab, "small", "awk '/^MemFree/ {print $2}' /proc/meminfo");
    let take = "python3 -c 'import time; x = bytearray(100 << 20); print(len(x), flush=True); time.sleep(60)' >/dev/null 2>&1 &";
    lab.on("small", &["sh", "-c", take]);
    wait_for("100 MiB less to be free", Duration::from_secs(20), || {
        let now = number(&lab, "small", "awk '/^MemFree/ {print $2}' /proc/meminfo");
        (before - now > 90_000.0).then_some(())
    });
}

#[test]
fn visitors_reach_a_site_over_ipv6() {
    let lab = up();
    let output = lab.up_again();
    assert!(output.contains("nothing to do"), "{output}");
    let found = lab.on("client", &["getent", "ahostsv6", "www.foobar.com"]);
    assert!(found.contains("2001:db8:10::11") && found.contains("2001:db8:10::12"), "{found}");
    // One server after the other answers, each at its own address.
    for (server, address) in [("small", "2001:db8:10::11"), ("large", "2001:db8:10::12")] {
        let there = format!("www.foobar.com:80:[{address}]");
        let page = lab.visit("http://www.foobar.com/over-six", &["-6", "--resolve", &there]);
        assert_eq!((page.status, page.body.as_str()), (200, "echo socket /over-six\n"), "{page:?}");
        assert_eq!(page.header("x-served-by"), Some(server));
    }
    let page = lab.visit("http://www.foobar.com/", &["-6"]);
    assert_eq!(page.status, 200, "{page:?}");
    // The access log has the visitor's own address.
    wait_for("the visit in the log", Duration::from_secs(10), || {
        lab.run(&["logs", "--role", "access"]).contains("2001:db8::2").then_some(())
    });
}

#[test]
fn cables_that_are_pulled_or_lost_work_again_when_they_are_back() {
    let lab = up();
    let there = ["-4", "--max-time", "2", "--resolve", "www.foobar.com:80:10.10.0.11"];
    let status = || lab.visit("http://www.foobar.com/", &there).status;
    assert_eq!(status(), 200);
    lab.on("internet", &["ip", "link", "set", "port0", "down"]);
    assert_eq!(status(), 0, "nobody reaches a server without a cable");
    lab.on("internet", &["ip", "link", "del", "port0"]);
    assert!(lab.up_again().contains("checks passed"));
    assert_eq!(status(), 200);
    for state in ["down", "up"] {
        lab.on("internet", &["ip", "link", "set", "client", state]);
    }
    wait_for("both families to work again", Duration::from_secs(20), || {
        let six = lab.visit("http://www.foobar.com/", &["-6", "--max-time", "2"]).status;
        (status() == 200 && six == 200).then_some(())
    });
}
