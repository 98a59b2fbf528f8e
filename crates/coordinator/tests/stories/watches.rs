//! Ordered watches.

use std::time::Duration;

use mainstay_coordinator::{Change, Client, Event, Operation, Txn, Watch, Watched};

use crate::servers::{PATIENCE, Story};

/// The next changes, which must come.
async fn next(watch: &mut Watch) -> Vec<Event> {
    match tokio::time::timeout(PATIENCE, watch.next()).await.expect("no change comes") {
        Watched::Changed(events) => events,
        Watched::StartOver { why } => panic!("{why}"),
    }
}

/// As many changes as there must be.
async fn collect(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next(watch).await);
    }
    events
}

async fn count(client: &Client, from: u32, to: u32) {
    for number in from..to {
        client.put(&format!("w/{}", number % 3), number.to_string(), None).await.unwrap();
    }
}

/// Every number once, in order, each at the revision after that of the one before.
fn assert_counted(events: &[Event], from: u32) {
    for (place, event) in events.iter().enumerate() {
        let Change::Put(kv) = &event.change else { panic!("{event:?}") };
        assert_eq!(kv.json::<u32>().unwrap(), from + place as u32);
        assert_eq!(kv.mod_revision, event.revision);
        assert!(place == 0 || events[place - 1].revision < event.revision);
    }
}

pub(crate) async fn a_watch_sees_each_change_once_and_in_order(story: &Story) {
    let client = &story.client;
    let revision = client.list("w/").await.unwrap().revision;
    let mut watch = client.watch("w/", revision + 1);
    count(client, 0, 30).await;
    assert_counted(&collect(&mut watch, 30).await, 0);
    // What one transaction does comes together, in the order of its operations.
    let txn = Txn::new()
        .then(Operation::put("w/9", "x"))
        .then(Operation::delete("w/0"))
        .then(Operation::put("w/1", "y"));
    let revision = client.txn(&txn).await.unwrap().revision;
    let events = next(&mut watch).await;
    assert!(events.iter().all(|event| event.revision == revision));
    assert_eq!(events.iter().map(Event::key).collect::<Vec<_>>(), ["w/9", "w/0", "w/1"]);
    assert!(matches!(&events[1].change, Change::Deleted { key } if key == "w/0"));
}

pub(crate) async fn a_watch_begins_at_an_old_revision(story: &Story) {
    let client = &story.client;
    let revision = client.list("w/").await.unwrap().revision;
    count(client, 0, 20).await;
    let mut watch = client.watch("w/", revision + 11);
    count(client, 20, 25).await;
    assert_counted(&collect(&mut watch, 15).await, 10);
}

pub(crate) async fn a_watch_of_what_is_to_come_waits(story: &Story) {
    let client = &story.client;
    let revision = client.list("w/").await.unwrap().revision;
    let mut watch = client.watch("w/", revision + 4);
    count(client, 0, 5).await;
    assert_counted(&collect(&mut watch, 2).await, 3);
}

pub(crate) async fn a_watch_sees_no_other_keys(story: &Story) {
    let client = &story.client;
    let mut watch = client.watch("w/", 1);
    for key in ["v", "w", "w0", "x", "w/mine"] {
        client.put(key, "", None).await.unwrap();
    }
    let txn = Txn::new().then(Operation::put("w", "")).then(Operation::put("w/too", ""));
    client.txn(&txn).await.unwrap();
    let events = collect(&mut watch, 2).await;
    assert_eq!(events.iter().map(Event::key).collect::<Vec<_>>(), ["w/mine", "w/too"]);
}

pub(crate) async fn a_watch_goes_on_after_its_connection_was_cut(story: &Story) {
    let mut watch = story.client.watch("w/", 1);
    let mut seen = Vec::new();
    for round in 0..5 {
        count(&story.direct, round * 20, round * 20 + 10).await;
        story.wire.cut();
        count(&story.direct, round * 20 + 10, round * 20 + 20).await;
        story.wire.mend();
        let due = (round as usize + 1) * 20;
        while seen.len() < due {
            seen.extend(next(&mut watch).await);
        }
    }
    assert_eq!(seen.len(), 100);
    assert_counted(&seen, 0);
}

pub(crate) async fn a_watch_goes_on_after_a_silence(story: &Story) {
    let mut watch = story.client.watch("w/", 1);
    count(&story.direct, 0, 5).await;
    assert_counted(&collect(&mut watch, 5).await, 0);
    // Nothing is closed: only nothing comes any more, and nothing on connections that were open then ever will.
    story.wire.silence();
    count(&story.direct, 5, 10).await;
    let silent = tokio::time::timeout(Duration::from_millis(300), watch.next()).await;
    assert!(silent.is_err());
    story.wire.mend();
    assert_counted(&collect(&mut watch, 5).await, 5);
    let heard = watch.last_heard();
    crate::servers::eventually("a sign of life", || async { watch.last_heard() > heard }).await;
}

pub(crate) async fn a_watch_of_what_was_compacted_is_told_to_start_over(story: &Story) {
    let client = &story.client;
    count(client, 0, 20).await;
    let listing = client.list("w/").await.unwrap();
    story.server.compact(listing.revision - 5).await;
    let mut watch = client.watch("w/", listing.revision - 10);
    for _ in 0..2 {
        let told = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        assert!(matches!(&told, Watched::StartOver { why } if why.contains("compacted")), "{told:?}");
    }
    // As it is told.
    let mut watch = client.watch("w/", listing.revision + 1);
    count(client, 20, 22).await;
    assert_counted(&collect(&mut watch, 2).await, 20);
}
