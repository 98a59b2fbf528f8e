//! Streams, accounts, events and logs of a cluster in its ordinary days.

use std::process::Command;
use std::time::{Duration, Instant};

use mainstay_database::mariadb::settings::server_id;
use mainstay_database::mariadb::view::{ThreadState, View};
use mainstay_database::mariadb::{Position, accounts, primary, replica};

use crate::servers::{Member, PASSWORD, SOON, Servers, insert};

#[tokio::test]
async fn one_replicas_stream_is_ended_and_no_others_and_it_comes_back_by_itself() {
    let servers = Servers::running(3).await;
    let [primary, one, two] = &servers.members[..] else { unreachable!() };
    let receivers = primary.view().await.receivers;
    let of = |member: &Member| {
        let id = server_id(member.address);
        receivers.iter().find(|receiver| receiver.server_id == Some(id)).unwrap().connection_id
    };
    let (first, second) = (of(one), of(two));
    let mut session = primary.session().await;
    assert!(primary::end_stream(&mut session, server_id(one.address), SOON).await.unwrap());
    let view = primary
        .when("it is back", |view| {
            view.receivers.len() == 2 && view.receivers.iter().all(|receiver| receiver.connection_id != first)
        })
        .await;
    assert!(view.receivers.iter().any(|receiver| receiver.connection_id == second));
    assert!(!primary::end_stream(&mut session, 7, SOON).await.unwrap());
    // Nor does it commit what waits for an acknowledgement: a stream's thread is no client's.
    one.freeze();
    two.freeze();
    let waiter = primary.waiting_commit(insert(1)).await;
    for member in [one, two] {
        assert!(primary::end_stream(&mut session, server_id(member.address), SOON).await.unwrap());
    }
    primary.when("nobody receives", |view| view.receivers.is_empty()).await;
    assert!(!waiter.task.is_finished());
    assert_eq!(primary.ids().await, [0_u64; 0]);
    one.thaw();
    two.thaw();
    // It may need a push: an acknowledgement that was under way is lost with its stream.
    primary.when("one acknowledges", |view| view.acknowledging_replicas > 0).await;
    primary::push(&mut session, 1, SOON).await.unwrap();
    waiter.task.await.unwrap().unwrap();
    // What is asked of one that replicates from nobody is no error.
    replica::revoke(&mut session, SOON).await.unwrap();
}

#[tokio::test]
async fn a_replica_stops_acknowledging_and_begins_again_while_it_receives() {
    let servers = Servers::running(3).await;
    let [primary, one, _] = &servers.members[..] else { unreachable!() };
    let mut session = one.session().await;
    replica::acknowledge(&mut session, false, SOON).await.unwrap();
    primary.when("one is left", |view| view.acknowledging_replicas == 1 && view.receivers.len() == 2).await;
    primary.insert(1).await;
    one.caught_up(primary).await;
    replica::acknowledge(&mut session, true, SOON).await.unwrap();
    primary.when("both acknowledge", |view| view.acknowledging_replicas == 2).await;
    one.when("its own view says so", |view| view.acknowledges).await;
}

#[tokio::test]
async fn binary_logs_go_up_to_what_the_slowest_member_has_and_no_further() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    let mut places: Vec<Position> = Vec::new();
    for id in 0..4 {
        primary.insert(id).await;
        places.push(primary.position().await);
        primary.query("FLUSH BINARY LOGS").await;
    }
    replica.caught_up(primary).await;
    let mut session = primary.session().await;
    let before = primary.query("SHOW BINARY LOGS").await.len();
    assert!(primary::purge(&mut session, &Position::default(), SOON).await.unwrap().is_some());
    assert_eq!(primary.query("SHOW BINARY LOGS").await.len(), before, "one that has nothing needs all");
    let kept = primary::purge(&mut session, &places[1], SOON).await.unwrap();
    let left = primary.query("SHOW BINARY LOGS").await;
    assert_eq!(left.single(), kept.as_deref());
    assert_eq!(left.len(), 3, "rows 2 and 3, and the newest");
    // A member at that place can still follow.
    let missing = primary.value(&format!("SELECT BINLOG_GTID_POS('{}', 4)", kept.unwrap())).await;
    assert_eq!(missing, places[1].to_string());
}

#[tokio::test]
async fn nobody_comes_in_without_tls_and_no_member_without_a_certificate() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    let client = |arguments: &[&str]| {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "--batch", "--skip-column-names", "-e", "SHOW MASTER STATUS"])
            .arg(format!("--host={}", primary.address))
            .arg(format!("--port={}", primary.plan.listen.port()))
            .arg(format!("--password={PASSWORD}"))
            .args(arguments)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let user = format!("--user={}", accounts::MONITOR);
    let file = |name, path: &std::path::Path| format!("--ssl-{name}={}", path.display());
    let (ca, certificate, key) = (
        file("ca", &replica.tls.authority),
        file("cert", &replica.tls.certificate),
        file("key", &replica.tls.key),
    );
    let (plain, words) = client(&[&user, "--skip-ssl"]);
    assert!(!plain && (words.contains("secure transport") || words.contains("Access denied")), "{words}");
    let (anonymous, words) = client(&[&user, &ca]);
    assert!(!anonymous && words.contains("Access denied"), "{words}");
    let (known, words) = client(&[&user, &ca, &certificate, &key, "--ssl-verify-server-cert"]);
    assert!(known, "{words}");
    assert_eq!(
        replica
            .value("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'mainstay-%' AND ssl_type <> 'X509'")
            .await,
        "0"
    );
}

#[tokio::test]
async fn events_run_where_writes_go_and_keep_their_owner() {
    let servers = Servers::running(3).await;
    let [old, new, other] = &servers.members[..] else { unreachable!() };
    old.run("CREATE USER owner@localhost; GRANT ALL ON facts.* TO owner@localhost").await;
    old.run("CREATE DEFINER = owner@localhost EVENT facts.clean ON SCHEDULE EVERY 1 DAY DO DELETE FROM facts.entries").await;
    new.caught_up(old).await;
    let status = "SELECT CONCAT(STATUS, ' ', DEFINER) FROM information_schema.EVENTS";
    assert_eq!(new.value(status).await, "SLAVESIDE_DISABLED owner@localhost");
    let mut session = new.session().await;
    primary::close(&mut old.session().await, SOON).await.unwrap();
    replica::drain(&mut session, &old.position().await, SOON).await.unwrap();
    primary::promote(&mut session, &new.relay_index(), SOON).await.unwrap();
    primary::open(&mut session, primary::Commits::Wait, SOON).await.unwrap();
    other.follow(new, replica::Was::Replica, true).await;
    assert_eq!(accounts::enable_events(&mut session, SOON).await.unwrap(), 1);
    assert_eq!(new.value(status).await, "ENABLED owner@localhost");
    primary::retire(&mut old.session().await, SOON).await.unwrap();
    old.follow(new, replica::Was::Primary, true).await;
    for member in [old, other] {
        member.caught_up(new).await;
        assert_eq!(member.value(status).await, "SLAVESIDE_DISABLED owner@localhost");
    }
}

#[tokio::test]
async fn a_frozen_primarys_stream_has_no_pulse_and_once_it_is_renewed_it_is_revoked_at_once() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    let pulse = || async { replica.view().await.stream.unwrap().pulse };
    let first = pulse().await;
    replica.when("a heartbeat comes", |view| view.stream.as_ref().unwrap().pulse != first).await;
    primary.freeze();
    // What was under way may still arrive; then nothing does for many heartbeats.
    let deadline = Instant::now() + SOON;
    let mut last = pulse().await;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(1) {
        assert!(Instant::now() < deadline, "it still beats");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = pulse().await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    // Longer than by default, so that it cannot be mistaken for a busy machine.
    replica.query("SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout = 3").await;
    let mut session = replica.session().await;
    let began = Instant::now();
    replica::renew(&mut session, SOON).await.unwrap();
    assert!(began.elapsed() > Duration::from_millis(1800));
    // What only tries to connect is stopped at once; how soon that is depends on the machine.
    let connects = |view: &View| view.stream.as_ref().unwrap().receiver.state == ThreadState::Connecting;
    replica.when("it tries to reach the primary", connects).await;
    replica::revoke(&mut session, SOON).await.unwrap();
    primary.thaw();
    replica::acknowledge(&mut session, true, SOON).await.unwrap();
    primary.when("it acknowledges again", |view| view.acknowledging_replicas == 1).await;
    primary.insert(1).await;
    replica.caught_up(primary).await;
}
