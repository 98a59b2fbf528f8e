//! Relay logs: what keeps them, what throws them away, and who may acknowledge.

use std::time::{Duration, Instant};

use mainstay_database::mariadb::{Role, binlog};

use crate::servers::{Servers, insert, slave_status};

/// A primary and a replica that has received and acknowledged rows 2 and 3 and applied none of them.
async fn with_unapplied() -> Servers {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    primary.insert(1).await;
    replica.caught_up(primary).await;
    replica.query("STOP SLAVE SQL_THREAD").await;
    primary.insert(2).await;
    primary.insert(3).await;
    servers
}

#[tokio::test]
async fn starting_a_thread_while_both_are_stopped_throws_acknowledged_writes_away() {
    let mut servers = with_unapplied().await;
    servers.members[0].kill().await;
    let replica = &servers.members[1];
    replica.query("STOP SLAVE").await;
    let before = replica.view().await;
    assert_ne!(before.received(), before.applied(), "acknowledged, and in no other place than its relay log");
    replica.query("START SLAVE SQL_THREAD").await;
    replica.when("the applier runs", |view| view.stream.as_ref().unwrap().applier.runs()).await;
    let unapplied = binlog::first_behind(&replica.relay_index(), &before.applied()).unwrap();
    assert_eq!(unapplied, None, "the relay log is gone");
    assert_eq!(replica.view().await.received(), before.applied());
    assert_eq!(replica.ids().await, [1]);
}

#[tokio::test]
async fn starting_the_receiver_while_the_applier_runs_keeps_the_relay_log() {
    let servers = with_unapplied().await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    // The applier runs, and is held up by a lock.
    let mut holder = replica.session().await;
    holder
        .query_all("BEGIN; SELECT * FROM facts.entries WHERE id >= 1 FOR UPDATE", Duration::from_secs(5))
        .await
        .unwrap();
    replica.query("STOP SLAVE IO_THREAD").await;
    let received = primary.position().await;
    let applied = replica.view().await.applied();
    // Both were stopped for a moment here, so this very start may purge; what counts is the next ones.
    replica.query("START SLAVE").await;
    replica.when("all is received", |view| view.received() == received).await;
    for _ in 0..3 {
        replica.query("STOP SLAVE IO_THREAD").await;
        replica.query("START SLAVE IO_THREAD").await;
        let unapplied = binlog::first_behind(&replica.relay_index(), &applied).unwrap();
        assert!(unapplied.is_some(), "still there");
    }
    drop(holder);
    replica.caught_up(primary).await;
    assert_eq!(replica.ids().await, [1, 2, 3]);
}

#[tokio::test]
async fn setting_replication_up_anew_throws_the_relay_log_away() {
    let servers = with_unapplied().await;
    let replica = &servers.members[1];
    let applied = replica.view().await.applied();
    assert!(binlog::first_behind(&replica.relay_index(), &applied).unwrap().is_some());
    replica.run("STOP SLAVE; CHANGE MASTER TO MASTER_CONNECT_RETRY = 2").await;
    let kept = binlog::first_behind(&replica.relay_index(), &applied).unwrap();
    assert_eq!(kept, None);
}

#[tokio::test]
async fn a_relay_log_survives_sigkill_and_what_it_holds_can_be_applied_from_a_named_place() {
    let mut servers = with_unapplied().await;
    let before = servers.members[1].view().await;
    servers.members[1].kill().await;
    servers.members[0].kill().await;
    servers.members[1].start(Role::Replica).await;
    let replica = &servers.members[1];
    assert_eq!(
        slave_status(replica, "Gtid_IO_Pos").await,
        "",
        "the server itself does not look into its files"
    );
    let applied = replica.view().await.applied();
    assert_eq!(applied, before.applied());
    let found = binlog::first_behind(&replica.relay_index(), &applied).unwrap().unwrap();
    assert_eq!(mainstay_database::mariadb::Position::from(found.last), before.received());
    let file = found.file.file_name().unwrap().to_string_lossy().into_owned();

    // Without the name of a primary's log, several appliers crash the server (10.11.14 and 10.11.19): they compare it with the events'.
    // From a place that is too early it stops, and does no harm.
    let from = |position: u64| {
        format!(
            "CHANGE MASTER TO MASTER_USE_GTID = no, MASTER_LOG_FILE = 'binlog.000001', MASTER_LOG_POS = 4, \
             RELAY_LOG_FILE = '{file}', RELAY_LOG_POS = {position}; START SLAVE SQL_THREAD"
        )
    };
    let mut early = 0;
    binlog::read(&found.file, |group| {
        early = group.start;
        false
    })
    .unwrap();
    if early < found.start {
        replica.run(&from(early)).await;
        replica.when("the applier stopped", |view| view.stream.as_ref().unwrap().applier.error == 1950).await;
        assert_eq!(replica.ids().await, [1]);
    }
    replica.run(&format!("STOP SLAVE; {}", from(found.start))).await;
    let after = replica.when("all is applied", |view| view.applied() == before.received()).await;
    assert_eq!(replica.ids().await, [1, 2, 3]);
    assert_eq!(after.binlog_pos, before.received(), "under its own identifier, in the binary log too");
}

#[tokio::test]
async fn waiting_for_acknowledgements_on_a_replica_blocks_its_applier() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    replica.query("SET GLOBAL rpl_semi_sync_master_enabled = 1").await;
    primary.insert(1).await;
    let blocked = replica.when("the applier waits", |view| view.waiters == 1).await;
    assert_eq!(replica.ids().await, [0_u64; 0]);
    assert_eq!(blocked.received(), primary.position().await);
    replica.query("SET GLOBAL rpl_semi_sync_master_enabled = 0").await;
    replica.caught_up(primary).await;
}

#[tokio::test]
async fn a_stopped_receiver_acknowledges_nothing() {
    let servers = Servers::running(3).await;
    let primary = &servers.members[0];
    for replica in &servers.members[1..] {
        replica.query("STOP SLAVE IO_THREAD").await;
    }
    let waiter = primary.waiting_commit(insert(1)).await;
    // Whatever else a replica does with its applier, it does not help the one who waits.
    servers.members[1].query("STOP SLAVE SQL_THREAD").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiter.task.is_finished());
    servers.members[2].query("START SLAVE IO_THREAD").await;
    waiter.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn stopping_the_receiver_of_a_frozen_primary_lasts_the_kill_timeout_even_if_acknowledging_was_turned_off()
 {
    let servers = Servers::running(4).await;
    servers.members[3]
        .run("STOP SLAVE IO_THREAD; SET GLOBAL rpl_semi_sync_slave_enabled = 0; START SLAVE IO_THREAD")
        .await;
    servers.members[3].when("it receives", |view| view.stream.as_ref().unwrap().receiver.runs()).await;
    // Longer than by default, so that it cannot be mistaken for a busy machine. One second is the least that can be set (0 is no
    // limit at all), and two are the most that it lasts: then STOP SLAVE interrupts the thread again.
    for member in &servers.members[1..] {
        member.query("SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout = 3").await;
    }
    servers.members[0].freeze();
    let stop = async |member: usize, statements: &str| {
        let began = Instant::now();
        servers.members[member].run(statements).await;
        began.elapsed()
    };
    let (with, without) = tokio::join!(
        stop(1, "STOP SLAVE IO_THREAD"),
        stop(2, "SET GLOBAL rpl_semi_sync_slave_enabled = 0; STOP SLAVE IO_THREAD"),
    );
    assert!(with >= Duration::from_millis(1800), "{with:?}");
    assert!(without >= Duration::from_millis(1800), "{without:?}");
    // One that was started without acknowledging has no stream to end.
    let asynchronous = stop(3, "STOP SLAVE IO_THREAD").await;
    assert!(asynchronous < Duration::from_millis(1800), "{asynchronous:?}");
    // And the receiver of a dead one goes at once.
    servers.members[1].query("START SLAVE IO_THREAD").await;
    servers.members[0].thaw();
    servers.members[1].when("it receives", |view| view.stream.as_ref().unwrap().receiver.runs()).await;
    servers.members[0].signal("KILL");
    servers.members[1].when("it notices", |view| !view.stream.as_ref().unwrap().receiver.runs()).await;
    let dead = stop(1, "STOP SLAVE IO_THREAD").await;
    assert!(dead < Duration::from_millis(1800), "{dead:?}");
}

#[tokio::test]
async fn turning_acknowledging_off_leaves_a_running_stream_whole() {
    let servers = Servers::running(3).await;
    let [primary, one, two] = &servers.members[..] else { unreachable!() };
    for round in 0..20_u64 {
        one.query(&format!("SET GLOBAL rpl_semi_sync_slave_enabled = {}", round % 2)).await;
        primary.insert(round).await;
    }
    one.caught_up(primary).await;
    two.caught_up(primary).await;
    let stream = one.view().await.stream.unwrap();
    assert_eq!((stream.receiver.error, stream.applier.error), (0, 0), "{stream:?}");
}

#[tokio::test]
async fn a_group_that_is_received_by_half_does_not_count_as_received() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    primary.run("CREATE TABLE facts.large (id INT PRIMARY KEY, content LONGBLOB)").await;
    replica.caught_up(primary).await;
    let before = replica.view().await.received();
    let statement =
        "INSERT INTO facts.large SELECT seq, REPEAT(CHAR(65 + seq % 26), 1000000) FROM facts.seq_1_to_60"
            .to_owned();
    let session = primary.session().await;
    let writing = tokio::spawn(async move {
        let mut session = session;
        session.query(&statement, Duration::from_secs(20)).await
    });
    // Frozen at some time while it is sent; where that is missed, the transaction is whole and counts.
    let began = Instant::now();
    while relay_bytes(replica) < 5_000_000 && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    primary.freeze();
    replica.run("SET GLOBAL rpl_semi_sync_slave_enabled = 0; STOP SLAVE IO_THREAD").await;
    let received = replica.view().await.received();
    let in_files = binlog::last(&replica.relay_index(), &before).unwrap();
    assert_eq!(received, in_files, "the server and its files agree on what is whole");
    eprintln!("stopped after {} bytes: {before} -> {received}", relay_bytes(replica));
    primary.thaw();
    replica.query("START SLAVE IO_THREAD").await;
    primary.query("SET GLOBAL rpl_semi_sync_master_enabled = 0").await;
    writing.await.unwrap().unwrap();
    replica.caught_up(primary).await;
    assert_eq!(replica.value("SELECT COUNT(*) FROM facts.large").await, "60");
}

fn relay_bytes(replica: &crate::servers::Member) -> u64 {
    let files = binlog::files(&replica.relay_index()).unwrap_or_default();
    files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).sum()
}
