//! From one primary to another: by plan, and because the old one is frozen.

use std::time::{Duration, Instant};

use mainstay_database::mariadb::primary::{self, Commits};
use mainstay_database::mariadb::rejoin::{self, Judgement};
use mainstay_database::mariadb::replica::{self, Was};
use mainstay_database::mariadb::{ActionError, Role};

use crate::servers::{SOON, Servers, insert};

#[tokio::test]
async fn a_frozen_primary_is_replaced_without_loss_and_comes_back_as_a_replica() {
    let mut servers = Servers::running(3).await;
    let [old, one, two] = &servers.members[..] else { unreachable!() };
    old.insert(1).await;
    one.caught_up(old).await;
    two.caught_up(old).await;
    // Row 2 is acknowledged by one replica alone, row 3 by none.
    two.query("STOP SLAVE IO_THREAD").await;
    old.insert(2).await;
    one.query("STOP SLAVE IO_THREAD").await;
    let waiter = old.waiting_commit(insert(3)).await;
    one.query("START SLAVE IO_THREAD").await;
    waiter.task.await.unwrap().unwrap();
    one.query("STOP SLAVE IO_THREAD").await;
    let waiter = old.waiting_commit(insert(4)).await;
    old.freeze();

    let began = Instant::now();
    let (mut session_one, mut session_two) = (one.session().await, two.session().await);
    let (of_one, of_two) =
        tokio::join!(replica::revoke(&mut session_one, SOON), replica::revoke(&mut session_two, SOON));
    let (of_one, of_two) = (of_one.unwrap(), of_two.unwrap());
    let revoked = began.elapsed();
    assert!(of_one.received.has(&of_two.received) && of_one.received != of_two.received);
    replica::drain(&mut session_one, &of_one.received, SOON).await.unwrap();
    let promoted_at = primary::promote(&mut session_one, &one.relay_index(), SOON).await.unwrap();
    assert_eq!(promoted_at, of_one.received);
    let view = one.view().await;
    assert!(view.waits && view.read_only && view.stream.is_none());
    primary::open(&mut session_one, Commits::Wait, SOON).await.unwrap();
    two.follow(one, Was::Replica, true).await;
    one.insert(5).await;
    eprintln!("revoked after {revoked:?}, next acknowledged write after {:?}", began.elapsed());
    two.caught_up(one).await;
    assert_eq!(two.ids().await, [1, 2, 3, 5]);

    // The old one thaws, and can commit nothing: it is killed, what it alone had is kept, and it follows.
    old.thaw();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiter.task.is_finished());
    servers.members[0].kill().await;
    let old = &servers.members[0];
    let file = servers.path().join("kept.sql");
    let kept = rejoin::keep(&old.binlog_index(), &promoted_at, &file, SOON).await.unwrap().unwrap();
    assert_eq!(kept.transactions.len(), 1);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("### INSERT INTO `facts`.`entries`") && text.contains("@1=4"), "{text}");
    servers.members[0].start(Role::Replica).await;
    let [old, one, _] = &servers.members[..] else { unreachable!() };
    let state = one.view().await.binlog_state;
    let judgement = rejoin::judge(&old.position().await, promoted_at.single().unwrap(), &state);
    assert_eq!(judgement, Judgement::InHistory, "recovery cut it off");
    old.follow(one, Was::Primary, true).await;
    old.caught_up(one).await;
    assert_eq!(old.ids().await, [1, 2, 3, 5]);
}

#[tokio::test]
async fn a_planned_change_loses_nothing_and_takes_a_moment() {
    let servers = Servers::running(3).await;
    let [old, new, other] = &servers.members[..] else { unreachable!() };
    for id in 0..50 {
        old.insert(id).await;
    }
    let (mut at_old, mut at_new) = (old.session().await, new.session().await);
    let began = Instant::now();
    let last = primary::close(&mut at_old, Duration::from_secs(1)).await.unwrap();
    replica::drain(&mut at_new, &last, SOON).await.unwrap();
    let promoted_at = primary::promote(&mut at_new, &new.relay_index(), SOON).await.unwrap();
    assert_eq!(promoted_at, last);
    primary::open(&mut at_new, Commits::Wait, SOON).await.unwrap();
    other.follow(new, Was::Replica, true).await;
    new.insert(100).await;
    let paused = began.elapsed();
    eprintln!("writes paused for {paused:?}");
    assert!(primary::end_clients(&mut at_old, SOON).await.is_ok());
    primary::retire(&mut at_old, SOON).await.unwrap();
    old.follow(new, Was::Primary, true).await;
    for member in [old, other] {
        member.caught_up(new).await;
        assert_eq!(member.ids().await.len(), 51);
    }
    new.when("both acknowledge", |view| view.acknowledging_replicas == 2).await;
}

#[tokio::test]
async fn a_primary_with_a_waiter_is_not_closed_nor_retired_nor_are_its_clients_ended() {
    let servers = Servers::running(2).await;
    let [primary, replica] = &servers.members[..] else { unreachable!() };
    replica.query("STOP SLAVE IO_THREAD").await;
    let waiter = primary.waiting_commit(insert(1)).await;
    let mut session = primary.session().await;
    let began = Instant::now();
    let closed = primary::close(&mut session, Duration::from_millis(300)).await;
    assert!(matches!(closed, Err(ActionError::Waiters { waiters: 1 })), "{closed:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(matches!(
        primary::open(&mut session, Commits::DoNotWait, SOON).await,
        Err(ActionError::Waiters { .. })
    ));
    assert!(matches!(primary::retire(&mut session, SOON).await, Err(ActionError::WrongState(_))));
    assert!(matches!(primary::end_clients(&mut session, SOON).await, Err(ActionError::WrongState(_))));
    assert!(!waiter.task.is_finished());
    assert_eq!(primary.ids().await, [0_u64; 0]);
}

#[tokio::test]
async fn an_old_primary_that_is_ahead_is_judged_so_and_what_it_has_is_kept() {
    let mut servers = Servers::running(2).await;
    servers.members[0].insert(1).await;
    servers.members[1].caught_up(&servers.members[0]).await;
    servers.members[1].query("STOP SLAVE IO_THREAD").await;
    let waiter = servers.members[0].waiting_commit(insert(2)).await;
    // A clean stop commits it: the mistake that judging is for.
    servers.members[0].stop().await;
    let _ = waiter.task.await;
    let new = &servers.members[1];
    let promoted_at = primary::promote(&mut new.session().await, &new.relay_index(), SOON).await.unwrap();
    primary::open(&mut new.session().await, Commits::DoNotWait, SOON).await.unwrap();
    new.insert(3).await;
    servers.members[0].start(Role::Replica).await;
    let [old, new] = &servers.members[..] else { unreachable!() };
    let (last, state) = (old.position().await, new.view().await.binlog_state);
    for known in [promoted_at.single().unwrap(), None] {
        assert_eq!(rejoin::judge(&last, known, &state), Judgement::Beyond, "{last} {state}");
    }
    let file = servers.path().join("kept.sql");
    let kept = rejoin::keep(&old.binlog_index(), &promoted_at, &file, SOON).await.unwrap().unwrap();
    assert_eq!(kept.transactions, [last.single().unwrap().unwrap()]);
}
