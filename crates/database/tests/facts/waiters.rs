//! What becomes of transactions that wait for an acknowledgement.

use std::time::{Duration, Instant};

use mainstay_database::mariadb::Role;
use mainstay_database::mariadb::server::{Failure, StartError};

use crate::servers::{Servers, copy, insert};

/// A primary with one acknowledged row, and a replica that receives nothing more.
async fn without_acknowledgements() -> Servers {
    let servers = Servers::running(2).await;
    servers.members[0].insert(1).await;
    servers.members[1].caught_up(&servers.members[0]).await;
    servers.members[1].query("STOP SLAVE IO_THREAD").await;
    servers
}

#[tokio::test]
async fn a_waiter_that_is_killed_commits_what_no_replica_has() {
    let servers = without_acknowledgements().await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    let waiter = primary.waiting_commit(insert(2)).await;
    assert_eq!(primary.ids().await, [1], "nobody sees what waits");
    primary.query(&format!("KILL {}", waiter.connection_id)).await;
    // Its client is told nothing; it commits in a moment.
    let _ = waiter.task.await.unwrap();
    primary.shows(&[1, 2]).await;
    assert_eq!(replica.ids().await, [1]);
}

#[tokio::test]
async fn switching_the_waiting_off_commits_what_no_replica_has() {
    let servers = without_acknowledgements().await;
    let primary = &servers.members[0];
    let waiter = primary.waiting_commit(insert(2)).await;
    primary.query("SET GLOBAL rpl_semi_sync_master_enabled = 0").await;
    waiter.task.await.unwrap().unwrap();
    assert_eq!(primary.ids().await, [1, 2]);
}

#[tokio::test]
async fn a_time_that_is_up_commits_what_no_replica_has() {
    let servers = without_acknowledgements().await;
    let primary = &servers.members[0];
    primary.query("SET GLOBAL rpl_semi_sync_master_timeout = 200").await;
    primary.insert(2).await;
    assert_eq!(primary.ids().await, [1, 2]);
    assert_eq!(
        primary.value("SHOW STATUS LIKE 'Rpl_semi_sync_master_status'").await,
        "Rpl_semi_sync_master_status"
    );
    // And from then on nothing waits any more, without a word to anyone.
    primary.insert(3).await;
    assert_eq!(servers.members[1].ids().await, [1]);
}

#[tokio::test]
async fn the_largest_timeout_does_not_overflow_into_a_short_one() {
    let servers = without_acknowledgements().await;
    let primary = &servers.members[0];
    assert_eq!(primary.value("SELECT @@rpl_semi_sync_master_timeout").await, u64::MAX.to_string());
    let waiter = primary.waiting_commit(insert(2)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiter.task.is_finished());
}

#[tokio::test]
async fn a_clean_stop_commits_what_no_replica_has_and_the_replica_role_cannot_mend_it() {
    let mut servers = without_acknowledgements().await;
    let before = servers.members[0].position().await;
    let waiter = servers.members[0].waiting_commit(insert(2)).await;
    servers.members[0].stop().await;
    let _ = waiter.task.await.unwrap();
    servers.members[0].start(Role::Replica).await;
    assert_eq!(servers.members[0].ids().await, [1, 2]);
    let after = servers.members[0].position().await;
    assert!(after.has(&before) && after != before, "one ahead of every replica: {before} {after}");
}

#[tokio::test]
async fn read_only_hangs_behind_a_waiter_and_fails_in_time_only_with_a_limit() {
    let servers = without_acknowledgements().await;
    let primary = &servers.members[0];
    let waiter = primary.waiting_commit(insert(2)).await;
    let mut session = primary.session().await;
    let began = Instant::now();
    let limited = session.query(
        "SET STATEMENT max_statement_time = 0.5 FOR SET GLOBAL read_only = 1",
        Duration::from_secs(10),
    );
    let error = limited.await.unwrap_err();
    assert!(error.is(1969), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert!(!primary.view().await.read_only);
    let unlimited = session.query("SET GLOBAL read_only = 1", Duration::from_millis(800)).await;
    assert!(unlimited.is_err(), "it hangs");
    assert!(!waiter.task.is_finished());
}

#[tokio::test]
async fn a_waiter_is_released_when_a_replica_comes_back() {
    let servers = without_acknowledgements().await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    let waiter = primary.waiting_commit(insert(2)).await;
    replica.query("START SLAVE IO_THREAD").await;
    waiter.task.await.unwrap().unwrap();
    replica.caught_up(primary).await;
    assert_eq!(replica.ids().await, [1, 2]);
}

#[tokio::test]
async fn after_sigkill_the_replica_role_cuts_off_what_waited_and_the_primary_role_shows_it() {
    let mut servers = without_acknowledgements().await;
    let before = servers.members[0].position().await;
    let waiters = [
        servers.members[0].waiting_commit(insert(2)).await,
        servers.members[0].waiting_commit(insert(3)).await,
    ];
    servers.members[0].kill().await;
    for waiter in waiters {
        assert!(waiter.task.await.unwrap().is_err());
    }
    let data = servers.members[0].place.data.clone();
    copy(&data, &data.with_extension("copy"));

    servers.members[0].start(Role::Replica).await;
    assert_eq!(servers.members[0].ids().await, [1]);
    assert_eq!(servers.members[0].position().await, before, "nothing is left of it in the binary log");
    assert!(servers.members[0].error_log().contains("Successfully truncated"));
    servers.members[0].stop().await;

    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(data.with_extension("copy"), &data).unwrap();
    servers.members[0].start(Role::Primary).await;
    assert_eq!(servers.members[0].ids().await, [1, 2, 3], "shown, and acknowledged by nobody");
}

#[tokio::test]
async fn a_definition_behind_a_waiter_keeps_the_replica_role_from_starting() {
    let mut servers = without_acknowledgements().await;
    let row = servers.members[0].waiting_commit(insert(2)).await;
    let definition = servers.members[0].waiting_commit("CREATE TABLE facts.more (id INT)".to_owned()).await;
    servers.members[0].kill().await;
    assert!(row.task.await.unwrap().is_err() && definition.task.await.unwrap().is_err());
    let error = servers.members[0].try_start(Role::Replica).await.unwrap_err();
    let StartError::Ended { failure, .. } = &error else { panic!("{error}") };
    assert!(matches!(failure, Failure::CannotTruncate(_)), "{failure}");
    assert!(failure.needs_seeding());
}

#[tokio::test]
async fn a_definition_alone_that_waited_is_there_after_sigkill_in_either_role() {
    let mut servers = without_acknowledgements().await;
    let before = servers.members[0].position().await;
    let waiter = servers.members[0].waiting_commit("CREATE TABLE facts.more (id INT)".to_owned()).await;
    servers.members[0].kill().await;
    assert!(waiter.task.await.unwrap().is_err());
    servers.members[0].start(Role::Replica).await;
    // So a start without complaint does not mean that the server has nothing of its own: its place is to be judged.
    assert_ne!(servers.members[0].position().await, before);
    assert_eq!(servers.members[0].value("SHOW TABLES FROM facts LIKE 'more'").await, "more");
}

#[tokio::test]
async fn the_count_of_waiters_is_that_of_the_first_group_alone() {
    let servers = without_acknowledgements().await;
    let primary = &servers.members[0];
    let one = primary.waiting_commit(insert(2)).await;
    let two = primary.waiting_commit(insert(3)).await;
    assert_eq!(primary.view().await.waiters, 1, "one counts, the other waits for it");
    assert!(!one.task.is_finished() && !two.task.is_finished());
}

#[tokio::test]
async fn a_waiter_whose_acknowledgement_was_lost_with_the_stream_waits_until_somebody_else_writes() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    replica.freeze();
    let waiter = primary.waiting_commit(insert(1)).await;
    let stream = primary.view().await.receivers[0].connection_id;
    primary.query(&format!("KILL {stream}")).await;
    primary.when("the stream is gone", |view| view.receivers.is_empty()).await;
    replica.thaw();
    primary.when("it is back", |view| view.acknowledging_replicas == 1 && !view.receivers.is_empty()).await;
    let position = primary.position().await;
    replica.when("it has the write", |view| view.received() == position).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!waiter.task.is_finished(), "the replica has it, and nobody says so");
    primary.insert(2).await;
    waiter.task.await.unwrap().unwrap();
}
