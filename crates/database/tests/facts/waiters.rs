//! What happens to transactions that wait for an acknowledgement.

use std::time::{Duration, Instant};

use mainstay_database::mariadb::Role;

use crate::servers::{Servers, insert, slave_status};

#[tokio::test]
async fn a_waiter_that_is_killed_commits_what_no_replica_has() {
    let began = Instant::now();
    let servers = Servers::running(2).await;
    eprintln!("up after {:?}", began.elapsed());
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    primary.insert(1).await;
    replica.caught_up(primary).await;
    replica.query("STOP SLAVE IO_THREAD").await;
    let waiter = primary.waiting_commit(insert(2)).await;
    assert_eq!(primary.ids().await, [1], "nobody sees what waits");
    primary.query(&format!("KILL {}", waiter.connection_id)).await;
    let _ = waiter.task.await.unwrap();
    assert_eq!(primary.ids().await, [1, 2]);
    assert_eq!(replica.ids().await, [1]);
    let _ = (Duration::ZERO, Role::Primary, slave_status(replica, "Gtid_IO_Pos").await);
}
