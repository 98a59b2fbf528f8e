//! Acknowledged writes that are in a relay log alone survive whatever is done next.

use mainstay_database::mariadb::primary;
use mainstay_database::mariadb::replica::{self, Was};
use mainstay_database::mariadb::{ActionError, Role, accounts, binlog};

use crate::servers::{SOON, Servers};

/// A replica that acknowledged rows 2 to 4, applied none of them, and was killed; its primary is dead too.
async fn crashed() -> Servers {
    let mut servers = Servers::running(3).await;
    let [primary, replica, other] = &servers.members[..] else { unreachable!() };
    primary.insert(1).await;
    replica.caught_up(primary).await;
    other.caught_up(primary).await;
    other.query("STOP SLAVE IO_THREAD").await;
    replica.query("STOP SLAVE SQL_THREAD").await;
    for id in 2..5 {
        primary.insert(id).await;
    }
    servers.members[1].kill().await;
    servers.members[0].kill().await;
    servers.members[1].start(Role::Replica).await;
    servers
}

#[tokio::test]
async fn what_a_crash_left_in_the_relay_log_is_rescued_and_the_replica_can_be_promoted() {
    let servers = crashed().await;
    let replica = &servers.members[1];
    let mut session = replica.session().await;
    let rescued = replica::rescue(&mut session, &replica.relay_index(), SOON).await.unwrap().unwrap();
    assert_eq!(rescued.last.seq - rescued.first.seq, 2);
    assert_eq!(replica.ids().await, [1, 2, 3, 4]);
    assert_eq!(replica.view().await.applied(), rescued.last.into());
    assert_eq!(
        replica::rescue(&mut session, &replica.relay_index(), SOON).await.unwrap(),
        None,
        "once is enough"
    );
    let at = primary::promote(&mut session, &replica.relay_index(), SOON).await.unwrap();
    assert_eq!(at, rescued.last.into());
    primary::open(&mut session, primary::Commits::Wait, SOON).await.unwrap();
    servers.members[2].follow(replica, Was::Replica, true).await;
    replica.insert(5).await;
    servers.members[2].caught_up(replica).await;
    assert_eq!(servers.members[2].ids().await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_rescue_that_is_killed_is_done_again() {
    let mut servers = crashed().await;
    let index = servers.members[1].relay_index();
    {
        // A lock holds the applier up, so that the rescue is under way when the server is killed.
        let member = &servers.members[1];
        let mut holder = member.session().await;
        holder.query_all("BEGIN; SELECT * FROM facts.entries WHERE id >= 3 FOR UPDATE", SOON).await.unwrap();
        let mut session = member.session().await;
        let within = std::time::Duration::from_millis(600);
        let rescued = replica::rescue(&mut session, &index, within).await;
        assert!(matches!(rescued, Err(ActionError::NotReached { .. })), "{rescued:?}");
        // Its applier still runs, and nothing may be set up anew behind its back.
        let promoted = primary::promote(&mut session, &index, SOON).await;
        assert!(matches!(promoted, Err(ActionError::NotApplied { .. })), "{promoted:?}");
    }
    servers.members[1].kill().await;
    servers.members[1].start(Role::Replica).await;
    let member = &servers.members[1];
    replica::rescue(&mut member.session().await, &index, SOON).await.unwrap();
    assert_eq!(member.ids().await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_rescue_that_was_given_up_is_gone_on_with() {
    let servers = crashed().await;
    let member = &servers.members[1];
    let index = member.relay_index();
    let mut holder = member.session().await;
    holder.query_all("BEGIN; SELECT * FROM facts.entries WHERE id >= 3 FOR UPDATE", SOON).await.unwrap();
    let within = std::time::Duration::from_millis(300);
    assert!(replica::rescue(&mut member.session().await, &index, within).await.is_err());
    drop(holder);
    replica::rescue(&mut member.session().await, &index, SOON).await.unwrap();
    assert_eq!(member.ids().await, [1, 2, 3, 4]);
    let stream = member.view().await.stream.unwrap();
    assert!(stream.by_gtid && !stream.applier.runs());
}

#[tokio::test]
async fn following_and_promoting_are_refused_while_the_relay_log_has_more() {
    let servers = crashed().await;
    let [_, replica, other] = &servers.members[..] else { unreachable!() };
    let mut session = replica.session().await;
    let user = accounts::replica_of(replica.address);
    let upstream = replica.upstream(other, &user);
    let index = replica.relay_index();
    let followed = replica::follow(&mut session, &upstream, Was::Replica, true, &index, SOON).await;
    assert!(matches!(followed, Err(ActionError::NotApplied { .. })), "{followed:?}");
    let promoted = primary::promote(&mut session, &index, SOON).await;
    assert!(matches!(promoted, Err(ActionError::NotApplied { .. })), "{promoted:?}");
    assert!(matches!(
        replica::acknowledge(&mut session, true, SOON).await,
        Err(ActionError::ApplierStopped(_))
    ));
    let applied = replica.view().await.applied();
    assert!(binlog::first_behind(&index, &applied).unwrap().is_some(), "nothing was thrown away");
}

#[tokio::test]
async fn an_applier_that_fails_ends_the_wait_at_once_with_its_words() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    // A row that the primary does not have stands in the way.
    replica.run("SET GLOBAL read_only = 0; SET sql_log_bin = 0; INSERT INTO facts.entries VALUES (1); SET GLOBAL read_only = 1").await;
    primary.insert(1).await;
    let target = primary.position().await;
    let began = std::time::Instant::now();
    let drained = replica::drain(&mut replica.session().await, &target, SOON).await;
    assert!(
        matches!(&drained, Err(ActionError::ApplierStopped(words)) if words.contains("1062")),
        "{drained:?}"
    );
    assert!(began.elapsed() < SOON / 2);
    let promoted = primary::promote(&mut replica.session().await, &replica.relay_index(), SOON).await;
    assert!(matches!(promoted, Err(ActionError::ApplierStopped(_))), "{promoted:?}");
}
