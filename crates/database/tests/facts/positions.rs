//! Waiting for a place, and changing sides.

use std::time::Duration;

use mainstay_database::mariadb::replica::Was;
use mainstay_database::mariadb::{Role, binlog};

use crate::servers::{Servers, slave_status};

#[tokio::test]
async fn waiting_for_a_place_ends_with_minus_one_even_where_nothing_can_reach_it() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    primary.insert(1).await;
    replica.caught_up(primary).await;
    let at = primary.position().await.single().unwrap().unwrap();
    let wait = |seq: u64| format!("SELECT MASTER_GTID_WAIT('0-{}-{seq}', 0.1)", at.server);
    assert_eq!(replica.value(&wait(at.seq)).await, "0");
    assert_eq!(replica.value(&wait(at.seq + 1)).await, "-1");
    replica.query("STOP SLAVE SQL_THREAD").await;
    assert_eq!(replica.value(&wait(at.seq + 1)).await, "-1", "a stopped applier is no error");
    let other = format!("SELECT MASTER_GTID_WAIT('0-99-{}', 0.1)", at.seq);
    assert_eq!(replica.value(&other).await, "0", "the server's number is not compared");
}

#[tokio::test]
async fn an_old_primary_goes_on_from_its_own_last_write_only_if_it_is_demoted() {
    let mut servers = Servers::running(2).await;
    servers.members[0].insert(1).await;
    servers.members[1].caught_up(&servers.members[0]).await;
    servers.members[0].kill().await;
    servers.members[1].run("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0").await;
    servers.members[1].insert(2).await;
    servers.members[0].start(Role::Replica).await;
    let [old, new] = &servers.members[..] else { unreachable!() };
    let last = old.view().await;
    assert!(last.slave_pos.is_empty(), "what it wrote itself is no place of a replica: {}", last.slave_pos);
    old.follow(new, Was::Primary, true).await;
    old.caught_up(new).await;
    assert_eq!(old.ids().await, [1, 2]);
    let received = binlog::first_behind(&old.relay_index(), &"".parse().unwrap()).unwrap().unwrap();
    assert_eq!(
        received.first.server,
        new.view().await.server_id,
        "it asked for nothing that it had written itself"
    );
}

#[tokio::test]
async fn a_write_of_its_own_stops_a_replica_in_strict_mode() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    replica.run("SET GLOBAL read_only = 0").await;
    assert_eq!(replica.view().await.errant(), None);
    replica.insert(7).await;
    let view = replica.view().await;
    assert_eq!(view.errant(), Some(&view.binlog_pos));
    primary.insert(1).await;
    replica.when("it stops", |view| view.stream.as_ref().unwrap().applier.error == 1950).await;
    assert_eq!(slave_status(replica, "Slave_SQL_Running").await, "No");
}

#[tokio::test]
async fn read_only_binds_root_too_once_it_lacks_the_right_to_ignore_it() {
    let servers = Servers::running(2).await;
    let replica = &servers.members[1];
    replica.run("SET GLOBAL read_only = 0; CREATE USER IF NOT EXISTS super@localhost; GRANT SUPER ON *.* TO super@localhost").await;
    let grants = replica.query("SHOW GRANTS FOR super@localhost").await;
    assert!(!grants.single().unwrap().contains("READ_ONLY ADMIN"), "{grants:?}");
}

#[tokio::test]
async fn a_name_that_is_not_in_the_certificate_is_refused() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    let port = primary.plan.listen.port();
    // The same server under another of this machine's addresses would not be listened on; so the other's certificate.
    replica
        .run(&format!(
            "STOP SLAVE; CHANGE MASTER TO MASTER_HOST = 'localhost', MASTER_PORT = {port}; START SLAVE"
        ))
        .await;
    let view = replica.when("it fails", |view| view.stream.as_ref().unwrap().receiver.error != 0).await;
    assert!(!view.stream.unwrap().receiver.runs());
    tokio::time::sleep(Duration::ZERO).await;
}
