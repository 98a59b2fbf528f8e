//! Leases and the keys bound to them.

use std::time::{Duration, Instant};

use mainstay_coordinator::{Change, Error, Operation, Txn, Watched};

use crate::servers::{PATIENCE, Story, eventually};

/// The shortest that etcd grants with our election timeout.
const SHORT: Duration = Duration::from_secs(1);

pub(crate) async fn a_lease_that_is_not_renewed_takes_its_keys_along(story: &Story) {
    let client = &story.client;
    let granted = client.grant(SHORT).await.unwrap();
    let txn = Txn::new()
        .then(Operation::put_leased("e/a", "", granted.lease))
        .then(Operation::put_leased("e/b", "", granted.lease))
        .then(Operation::put("e/c", ""));
    let revision = client.txn(&txn).await.unwrap().revision;
    let mut watch = client.watch("e/", revision + 1);
    let Watched::Changed(events) = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() else {
        panic!("compacted")
    };
    // Not before its time is over, however long it took to be told of the grant.
    assert!(granted.sent.elapsed() >= granted.ttl);
    let gone: Vec<(i64, Change)> = events.into_iter().map(|event| (event.revision, event.change)).collect();
    let deleted = |key: &str| (revision + 1, Change::Deleted { key: key.to_owned() });
    assert_eq!(gone, [deleted("e/a"), deleted("e/b")], "together");
    assert_eq!(client.list("e/").await.unwrap().keys.len(), 1);
    assert_eq!(client.lease(granted.lease).await.unwrap(), None);
}

pub(crate) async fn a_lease_that_is_renewed_keeps_its_keys(story: &Story) {
    let client = &story.client;
    // Long enough that a busy machine does not lose it, and renewed beyond its length.
    let granted = client.grant(Duration::from_secs(3)).await.unwrap();
    client.put("e/a", "", Some(granted.lease)).await.unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        let renewed = client.keep_alive(granted.lease).await.unwrap();
        assert_eq!((renewed.lease, renewed.ttl), (granted.lease, granted.ttl));
        assert!(renewed.sent >= begin);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(client.get("e/a").await.unwrap().is_some());
}

pub(crate) async fn a_lease_that_is_gone_is_not_renewed(story: &Story) {
    let client = &story.client;
    let lease = client.grant(SHORT).await.unwrap().lease;
    eventually("the end of the lease", || async { client.lease(lease).await.unwrap().is_none() }).await;
    for _ in 0..2 {
        let error = client.keep_alive(lease).await.unwrap_err();
        assert!(matches!(error, Error::LeaseGone { lease: gone } if gone == lease), "{error}");
    }
}

pub(crate) async fn a_lease_that_is_revoked_takes_its_keys_along_at_once(story: &Story) {
    let client = &story.client;
    let lease = client.grant(Duration::from_mins(1)).await.unwrap().lease;
    let revision = client.put("e/a", "", Some(lease)).await.unwrap().revision;
    client.revoke(lease).await.unwrap();
    let listing = client.list("e/").await.unwrap();
    assert_eq!((listing.keys.len(), listing.revision), (0, revision + 1));
    client.revoke(lease).await.expect("that it has ended already is no error");
    assert!(matches!(client.keep_alive(lease).await, Err(Error::LeaseGone { .. })));
}

pub(crate) async fn a_key_cannot_be_bound_to_a_lease_that_is_gone(story: &Story) {
    let client = &story.client;
    let lease = client.grant(Duration::from_mins(1)).await.unwrap().lease;
    client.revoke(lease).await.unwrap();
    let error = client.put("e/a", "", Some(lease)).await.unwrap_err();
    assert!(
        matches!(error, Error::LeaseGone { lease: gone } if gone == lease) && !error.may_have_been_done(),
        "{error}"
    );
    assert_eq!(client.get("e/a").await.unwrap(), None);
}

pub(crate) async fn a_key_that_is_put_without_its_lease_outlives_it(story: &Story) {
    let client = &story.client;
    let (one, two) = (
        client.grant(Duration::from_mins(1)).await.unwrap().lease,
        client.grant(Duration::from_mins(1)).await.unwrap().lease,
    );
    for key in ["e/none", "e/other"] {
        client.put(key, "", Some(one)).await.unwrap();
    }
    client.put("e/none", "", None).await.unwrap();
    client.put("e/other", "", Some(two)).await.unwrap();
    client.revoke(one).await.unwrap();
    assert_eq!(client.get("e/none").await.unwrap().unwrap().lease, None);
    assert_eq!(client.get("e/other").await.unwrap().unwrap().lease, Some(two));
    client.revoke(two).await.unwrap();
    assert_eq!(client.list("e/").await.unwrap().keys.len(), 1);
}

pub(crate) async fn a_lease_says_what_it_has_left(story: &Story) {
    let client = &story.client;
    let granted = client.grant(Duration::from_secs(30)).await.unwrap();
    assert_eq!(granted.ttl, Duration::from_secs(30));
    client.put("e/a", "", Some(granted.lease)).await.unwrap();
    client.put("e/b", "", Some(granted.lease)).await.unwrap();
    let state = client.lease(granted.lease).await.unwrap().unwrap();
    assert_eq!(state.granted, Duration::from_secs(30));
    assert!(state.left <= Duration::from_secs(30) && state.left > Duration::from_secs(5), "{state:?}");
    let mut keys = state.keys;
    keys.sort();
    assert_eq!(keys, ["e/a", "e/b"]);
    // Less than a second is rounded up where the server counts in seconds.
    let short = client.grant(Duration::from_millis(400)).await.unwrap();
    assert!(short.ttl == Duration::from_millis(400) || short.ttl == Duration::from_secs(1), "{short:?}");
}
