//! What a caller may conclude when something fails.

use std::time::{Duration, Instant};

use mainstay_coordinator::{Client, Compare, Error, Operation, Txn};

use crate::servers::{Story, client, eventually, loopback};

const DEADLINE: Duration = Duration::from_millis(800);

/// Asserts that a call ends by its deadline, with time for a busy machine.
fn assert_in_time(begin: Instant) {
    assert!(begin.elapsed() < DEADLINE + Duration::from_secs(2), "{:?}", begin.elapsed());
}

fn hurried(client: &Client) -> Client {
    client.with_deadline(DEADLINE)
}

pub(crate) async fn what_cannot_be_sent_is_certainly_not_done(story: &Story) {
    let nobody = client(vec![format!("http://{}", loopback(9)).parse().unwrap()], None);
    let begin = Instant::now();
    let error = hurried(&nobody).put("f/a", "", None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && !error.may_have_been_done(), "{error}");
    assert_in_time(begin);
    assert_eq!(story.client.get("f/a").await.unwrap(), None);
}

pub(crate) async fn what_is_not_answered_may_have_been_done_and_can_be_found_out(story: &Story) {
    story.wire.lose_answers();
    let begin = Instant::now();
    let error = hurried(&story.client).create("f/a", "only I write this", None).await.unwrap_err();
    assert!(matches!(error, Error::Uncertain { .. }) && error.may_have_been_done(), "{error}");
    assert_in_time(begin);
    // It was, and who looks for what only this one writes, knows.
    eventually("the write", || async { story.direct.get("f/a").await.unwrap().is_some() }).await;
    story.wire.mend();
    let kv = story.client.get("f/a").await.unwrap().unwrap();
    assert_eq!((kv.value.as_slice(), kv.version), (b"only I write this".as_slice(), 1), "done once");
}

pub(crate) async fn what_may_have_been_done_is_settled_and_done_once(story: &Story) {
    let take = |value: &'static str| {
        Txn::new()
            .when(Compare::absent("f/leader"))
            .then(Operation::put("f/leader", value))
            .then(Operation::put(format!("f/{value}"), ""))
    };
    // The first attempt is done and its answer is lost; the one after it would be refused.
    let client = crate::servers::client(vec![story.wire.endpoint(), story.server.endpoint()], None);
    client.list("").await.unwrap();
    story.wire.lose_answers();
    let revision = client.txn_settled(&take("one"), ("f/leader", b"one")).await.unwrap();
    let kv = story.direct.get("f/leader").await.unwrap().unwrap();
    assert_eq!((kv.mod_revision, kv.version), (revision, 1));
    // Who comes too late is refused, whether the answer came at once or not.
    let late = client.txn_settled(&take("two"), ("f/leader", b"two")).await.unwrap_err();
    assert!(matches!(late, Error::Refused(_)), "{late}");
    assert_eq!(story.direct.list("f/").await.unwrap().keys.len(), 2);
}

pub(crate) async fn a_silent_server_holds_nobody_beyond_the_deadline(story: &Story) {
    story.client.put("f/a", "before", None).await.unwrap();
    let lease = story.client.grant(Duration::from_mins(1)).await.unwrap().lease;
    story.wire.silence();
    let client = hurried(&story.client);
    let begin = Instant::now();
    let read = client.get("f/a").await.unwrap_err();
    assert!(matches!(read, Error::Unavailable { .. }), "{read}");
    assert_in_time(begin);
    let begin = Instant::now();
    let written = client.put("f/a", "after", None).await.unwrap_err();
    assert!(written.may_have_been_done(), "{written}");
    assert_in_time(begin);
    let begin = Instant::now();
    client.keep_alive(lease).await.expect_err("not renewed");
    assert_in_time(begin);
    // The silence swallowed it.
    assert_eq!(story.direct.get("f/a").await.unwrap().unwrap().value, b"before");
    story.wire.mend();
    assert!(story.client.get("f/a").await.unwrap().is_some());
}

pub(crate) async fn an_endpoint_that_is_dead_is_passed_over(story: &Story) {
    let dead = format!("http://{}", loopback(9)).parse().unwrap();
    let client = client(vec![dead, story.wire.endpoint()], None);
    client.put("f/a", "", None).await.unwrap();
    assert!(client.get("f/a").await.unwrap().is_some());
    // The other way round: the one that worked is lost, and what may be asked twice goes to the next.
    let silent = crate::servers::client(vec![story.wire.endpoint(), story.server.endpoint()], None);
    silent.get("f/a").await.unwrap();
    story.wire.silence();
    assert!(silent.with_deadline(Duration::from_secs(4)).get("f/a").await.unwrap().is_some());
}

pub(crate) async fn a_lease_whose_answer_was_lost_is_granted_once(story: &Story) {
    let client = crate::servers::client(vec![story.wire.endpoint(), story.server.endpoint()], None);
    client.list("").await.unwrap();
    story.wire.lose_answers();
    let begin = Instant::now();
    let granted = client.with_deadline(Duration::from_secs(6)).grant(Duration::from_mins(1)).await.unwrap();
    assert!(
        granted.sent >= begin && granted.sent <= begin + Duration::from_secs(1),
        "counted from the first attempt"
    );
    assert_eq!(granted.ttl, Duration::from_mins(1));
    assert!(story.direct.lease(granted.lease).await.unwrap().is_some());
}
