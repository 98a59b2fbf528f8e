//! The keys' form, and what history says of a position.

use std::sync::Arc;

use super::*;

fn gtid(server: u32, seq: u64) -> Gtid {
    Gtid { domain: 0, server, seq }
}

fn opened(primary: &str, at: Gtid, previous: u64) -> History {
    History {
        primary: primary.into(),
        promotion_gtid: at,
        previous: Epoch(previous),
        why: "a test".to_owned(),
        loss_accepted: false,
        opened_ms: 0,
        timeline: Vec::new(),
    }
}

/// Epochs 1, 2 and 5; those between were never opened.
fn view() -> View {
    let mut view = View::default();
    for (epoch, primary, at, previous) in
        [(1, "a", Gtid::NONE, 0), (2, "b", gtid(1, 10), 1), (5, "a", gtid(2, 14), 2)]
    {
        view.put(Value::History(Epoch(epoch), opened(primary, at, previous)), epoch, None);
    }
    view
}

#[test]
fn a_position_is_history_up_to_where_the_next_epoch_began() {
    let view = view();
    assert!(view.is_history(Epoch(1), gtid(1, 10)));
    assert!(!view.is_history(Epoch(1), gtid(1, 11)), "nobody took it over");
    assert!(view.is_history(Epoch(2), gtid(2, 14)));
    assert!(!view.is_history(Epoch(2), gtid(2, 15)));
    assert!(view.is_history(Epoch(5), gtid(1, 99)), "it is of today's epoch");
    assert!(view.is_history(Epoch(4), gtid(2, 14)), "an epoch that was not opened wrote nothing");
}

#[test]
fn the_same_number_of_an_older_epoch_is_another_transaction() {
    // `a` leads again, and gives the number 15 anew: with the lineage of its first epoch it is not the same.
    assert!(!view().is_history(Epoch(1), gtid(1, 15)));
}

#[test]
fn what_was_pruned_is_not_known() {
    let mut view = view();
    view.delete(&Key::History(Epoch(2)));
    assert!(!view.is_history(Epoch(1), gtid(1, 5)));
    assert!(view.is_history(Epoch(2), gtid(2, 12)), "no epoch between is missing");
}

#[test]
fn keys_are_read_as_they_are_written() {
    for key in [
        Key::Leader,
        Key::Epoch,
        Key::Sync,
        Key::Member("db1".into()),
        Key::History(Epoch(7)),
        Key::Intent,
        Key::Identity,
    ] {
        assert_eq!(Key::parse(&key.path()), Some(key));
    }
    for path in ["", "members/", "history/x", "leader/a", "something"] {
        assert_eq!(Key::parse(path), None, "{path}");
    }
}

#[test]
fn values_are_read_as_they_are_written() {
    let leader = Leader {
        epoch: Epoch(3),
        server: "db1".into(),
        phase: Phase::Open,
        since_ms: 5,
        hold: Some("a reason".to_owned()),
    };
    let sync =
        Sync { epoch: Epoch(3), primary: "db1".into(), members: vec!["db2".into()], mode: Mode::Strict };
    let released = Some(Released { why: "switchover".to_owned(), nominee: Some("db2".into()) });
    let member = Member {
        state: State::NeedsSeed,
        epoch: Epoch(3),
        revoked_epoch: Epoch(3),
        received: gtid(1, 9),
        applied: gtid(1, 8),
        lineage: Some(Epoch(3)),
        source: Some("db1".into()),
        streaming: true,
        acknowledging: true,
        sync_revision: 12,
        not_promotable: Some("its disk is full".to_owned()),
        promotion: Promotion::Prefer,
    };
    for value in [
        Value::Leader(leader),
        Value::Epoch(Given { epoch: Epoch(3), server: "db1".into(), released }),
        Value::Sync(sync),
        Value::Member("db2".into(), member),
        Value::History(Epoch(3), opened("db1", gtid(1, 4), 2)),
        Value::Intent(Intent::Switchover { to: "db2".into() }),
        Value::Intent(Intent::Pause { by: "me".to_owned(), until_ms: 9 }),
        Value::Intent(Intent::Promote { to: "db2".into(), accepted_by: "me".to_owned() }),
        Value::Identity(Identity { cluster: "x".to_owned(), initialised_by: "db1".into() }),
    ] {
        let json = value.to_json().unwrap();
        assert_eq!(Value::from_json(&value.key(), &json).unwrap(), value);
    }
    let json = Value::Intent(Intent::Switchover { to: "db2".into() }).to_json().unwrap();
    assert_eq!(String::from_utf8(json).unwrap(), r#"{"switchover":{"to":"db2"}}"#);
}

#[test]
fn a_view_follows_what_is_written_and_deleted() {
    let mut view = View::default();
    let intent = Intent::Switchover { to: "db2".into() };
    view.put(Value::Intent(intent), 4, None);
    assert_eq!(view.revision_of(&Key::Intent), 4);
    view.delete(&Key::Intent);
    assert_eq!(view.revision_of(&Key::Intent), 0);
    let shared = Arc::new(view);
    assert_eq!(shared.revision_of(&Key::Leader), 0);
}
