//! What happens to a server, and what has to come of it.

use std::io::Write;
use std::path::{Path, PathBuf};

use mainstay_process::supervise::State;
use mainstay_site::{Plan, paths};

use crate::stage::{
    Manager, PhpVisitor, Visitor, add_user, ask_agent, request, role, serves, sh, write_plan,
};

fn this_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}

pub(crate) fn killed_agent() {
    write_plan(|_| {});
    let mut manager = Manager::new();
    manager.start(&this_binary());
    let before = manager.until("serving", serves);
    let visitor = Visitor::arrives();
    visitor.sees(20);
    manager.kill();
    visitor.sees(20);
    manager.start(&this_binary());
    let after = manager.until("adopted", |now| now.agent.pid != before.agent.pid && serves(now));
    let (old, new) = (role(&before, "web").unwrap(), role(&after, "web").unwrap());
    assert_eq!((old.pid, old.generation, new.restarts), (new.pid, new.generation, 0));
    visitor.sees(20);
    visitor.leaves_content();

    // The adopted role is watched like any other.
    sh(&format!("kill -9 {}", new.pid.unwrap()));
    let again = manager.until("restarted", |now| {
        role(now, "web").is_some_and(|web| web.restarts == 1 && web.state == State::Ready)
    });
    assert_eq!(request().unwrap(), role(&again, "web").unwrap().pid.unwrap().to_string());
    if let Some(totals) = again.totals {
        assert!(totals.processes >= 1 && totals.memory_bytes > 0, "{totals:?}");
    }
    let (code, metrics) = ask_agent("GET", "/metrics").unwrap();
    assert!(code == 200 && metrics.contains("mainstay_role_restarts_total{role=\"web\"} 1"), "{metrics}");
    let log = std::fs::read_to_string("/var/log/mainstay/agent.log").unwrap();
    let entry: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&entry["server"], &entry["role"]), (&"server1".into(), &"agent".into()));
}

pub(crate) fn other_version() {
    write_plan(|_| {});
    let mut manager = Manager::new();
    manager.start(&this_binary());
    let before = manager.until("serving", serves);
    let visitor = Visitor::arrives();
    visitor.sees(20);
    let newer = Path::new("/run/mainstay-newer");
    std::fs::copy(this_binary(), newer).unwrap();
    std::fs::OpenOptions::new().append(true).open(newer).unwrap().write_all(b"newer").unwrap();
    // SIGHUP: the agent leaves its roles to a successor.
    sh(&format!("kill -HUP {}", before.agent.pid));
    assert_eq!(manager.wait_for_end(), 75);
    visitor.sees(20);
    manager.start(newer);
    let old = role(&before, "web").unwrap().pid;
    manager.until("replaced", |now| {
        serves(now) && role(now, "web").is_some_and(|web| web.pid != old && web.draining == 0)
    });
    visitor.sees(20);
    visitor.leaves_content();
}

pub(crate) fn changed_plan() {
    write_plan(|_| {});
    let mut manager = Manager::new();
    manager.start(&this_binary());
    let before = manager.until("serving", serves);
    let pid = role(&before, "web").unwrap().pid;

    write_plan(|plan| "2".clone_into(&mut plan.revision));
    assert_eq!(ask_agent("POST", "/v1/apply").unwrap().0, 202);
    let same = manager.until("carried out", |now| now.plan == "2" && serves(now));
    assert_eq!(role(&same, "web").unwrap().pid, pid, "what did not change is not touched");

    write_plan(|plan| {
        "3".clone_into(&mut plan.revision);
        plan.web = None;
    });
    assert_eq!(ask_agent("POST", "/v1/apply").unwrap().0, 202);
    manager.until("without web", |now| now.plan == "3" && now.settled && now.roles.is_empty());
    assert!(request().is_err(), "nobody listens any more");

    write_plan(|plan| "4".clone_into(&mut plan.revision));
    ask_agent("POST", "/v1/apply").unwrap();
    let again = manager.until("serving again", |now| now.plan == "4" && serves(now));
    request().unwrap();
    let pid = role(&again, "web").unwrap().pid.unwrap();
    assert_eq!(ask_agent("POST", "/v1/stop").unwrap().0, 202);
    assert_eq!(manager.wait_for_end(), 0);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(std::fs::read_dir("/run/mainstay/agent/children").unwrap().count(), 0);
}

pub(crate) fn php_and_database() {
    add_user("mainstay-database", 992);
    add_user("mainstay-app-shop", 993);
    let release = paths::releases(&"shop".parse().unwrap()).join("r1");
    sh(&format!("mkdir -p {0}/public {0}/schema && chmod -R a+rX /var/lib/mainstay", release.display()));
    std::fs::write(release.join("schema/001.sql"), "CREATE TABLE goods (name VARCHAR(20));").unwrap();
    sh(
        "mkdir -m 700 -p /var/lib/mainstay/secrets && echo pass-word > /var/lib/mainstay/secrets/database-shop",
    );
    let plan = |greeting: &'static str| {
        move |plan: &mut Plan| {
            greeting.clone_into(&mut plan.revision);
            plan.web = None;
            plan.apps = vec![serde_json::from_value(shop(greeting)).unwrap()];
            plan.database = Some(serde_json::from_value(database()).unwrap());
        }
    };
    write_plan(plan("hello"));
    let mut manager = Manager::new();
    manager.start(&this_binary());
    let first = manager.until("serving", serves);
    let names: Vec<&str> = first.roles.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names, ["app-shop", "database"]);

    // A changed app takes over without one failed request.
    let visitor = PhpVisitor::arrives();
    write_plan(plan("good morning"));
    ask_agent("POST", "/v1/apply").unwrap();
    let old = role(&first, "app-shop").unwrap().pid;
    let second = manager.until("replaced", |now| {
        serves(now) && role(now, "app-shop").is_some_and(|app| app.pid != old && app.draining == 0)
    });
    assert_eq!(role(&second, "database").unwrap().pid, role(&first, "database").unwrap().pid);
    visitor.leaves_content();

    // Each is back soon after it was killed, and leaves no worker behind.
    for name in ["app-shop", "database"] {
        let pid = role(&second, name).unwrap().pid;
        sh(&format!("kill -9 {}", pid.unwrap()));
        let since = std::time::Instant::now();
        manager.until("back", |now| {
            serves(now) && role(now, name).is_some_and(|role| role.pid != pid && role.draining == 0)
        });
        assert!(since.elapsed().as_secs() < 5, "{name} took {:?}", since.elapsed());
        PhpVisitor::arrives().leaves_content();
    }
    ask_agent("POST", "/v1/stop").unwrap();
    assert_eq!(manager.wait_for_end(), 0);
    // Ended ones that nobody reaps in this small world do not count.
    sh("! ps -eo stat,comm | grep -v ^Z | grep -E 'php-fpm|mariadbd'");
}

pub(crate) fn hung_role() {
    write_plan(|_| {});
    let mut manager = Manager::new();
    manager.start(&this_binary());
    let before = manager.until("serving", serves);
    let hung = role(&before, "web").unwrap().pid.unwrap();
    sh(&format!("kill -STOP {hung}"));
    manager.until("replaced", |now| {
        role(now, "web").is_some_and(|web| web.pid != Some(hung) && web.state == State::Ready)
    });
    request().unwrap();
}

fn shop(greeting: &str) -> serde_json::Value {
    serde_json::json!({
        "name": "shop", "release": "r1", "runtime": {"kind": "php", "workers": 4, "settings": {}},
        "environment": {"GREETING": greeting}, "secret_environment": {}, "writable": [],
        "database": {
            "host": "127.0.0.1", "port": 3306, "socket": paths::database_socket(), "name": "shop",
            "user": "shop", "password_secret": "database-shop",
        },
        "readiness_path": null, "memory": "512MiB", "processes": 100,
    })
}

fn database() -> serde_json::Value {
    serde_json::json!({
        "engine": "mariadb", "listen": "127.0.0.1:3306", "allowed_hosts": ["localhost", "127.0.0.1"],
        "memory": "256MiB", "connections": 20,
        "databases": [{
            "app": "shop", "name": "shop", "user": "shop", "password_secret": "database-shop",
            "schema": "/var/lib/mainstay/releases/shop/r1/schema",
        }],
    })
}

pub(crate) fn missing_user() {
    sh("grep -v mainstay-web /etc/passwd > /run/others && cat /run/others > /etc/passwd");
    write_plan(|_| {});
    let mut manager = Manager::new();
    manager.start(&this_binary());
    let stuck = manager.until("telling", |now| !now.problems.is_empty());
    assert!(stuck.problems[0].contains("useradd --system"), "{:?}", stuck.problems);
    assert_eq!(ask_agent("GET", "/health").unwrap().0, 503);
    add_user("mainstay-web", 991);
    let cured = manager.until("cured", serves);
    assert_eq!(cured.problems, Vec::<String>::new());
    assert_eq!(ask_agent("GET", "/health").unwrap(), (200, "ok\n".to_owned()));
}
