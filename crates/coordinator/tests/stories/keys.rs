//! Keys and their revisions.

use mainstay_coordinator::{Error, Operation, Txn};

use crate::servers::Story;

pub(crate) async fn a_key_is_read_with_its_past(story: &Story) {
    let client = &story.client;
    assert_eq!(client.get("k/a").await.unwrap(), None);
    let first = client.put("k/a", "one", None).await.unwrap().revision;
    let second = client.put("k/a", "two", None).await.unwrap().revision;
    let kv = client.get("k/a").await.unwrap().unwrap();
    assert_eq!((kv.key.as_str(), kv.value.as_slice()), ("k/a", b"two".as_slice()));
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (first, second, 2, None));
}

pub(crate) async fn a_key_that_was_deleted_is_made_anew(story: &Story) {
    let client = &story.client;
    client.put("k/a", "one", None).await.unwrap();
    client.put("k/a", "two", None).await.unwrap();
    client.delete("k/a").await.unwrap();
    assert_eq!(client.get("k/a").await.unwrap(), None);
    let revision = client.put("k/a", "three", None).await.unwrap().revision;
    let kv = client.get("k/a").await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.version), (revision, 1));
}

pub(crate) async fn a_list_has_every_key_of_the_prefix_and_no_other(story: &Story) {
    let client = &story.client;
    for key in ["l", "l/", "l/b", "l/a", "l/a/deeper", "l0", "l/\u{10ffff}", "m"] {
        client.put(key, key, None).await.unwrap();
    }
    let listing = client.list("l/").await.unwrap();
    let keys: Vec<&str> = listing.keys.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(keys, ["l/", "l/a", "l/a/deeper", "l/b", "l/\u{10ffff}"]);
    assert_eq!(client.list("").await.unwrap().keys.len(), 8, "all of them");
    assert!(client.list("nothing/").await.unwrap().keys.is_empty());
    let next = client.put("elsewhere", "", None).await.unwrap().revision;
    assert_eq!(next, listing.revision + 1);
}

pub(crate) async fn any_bytes_are_a_value(story: &Story) {
    let all: Vec<u8> = (0..=255).collect();
    for value in [Vec::new(), all, vec![b'x'; 600 << 10]] {
        story.client.put("k/bytes", value.clone(), None).await.unwrap();
        assert_eq!(story.client.get("k/bytes").await.unwrap().unwrap().value, value);
    }
}

pub(crate) async fn each_write_is_one_revision(story: &Story) {
    let client = &story.client;
    let begin = client.put("r/a", "", None).await.unwrap().revision;
    let together = Txn::new()
        .then(Operation::put("r/b", ""))
        .then(Operation::put("r/c", ""))
        .then(Operation::delete("r/a"));
    assert_eq!(client.txn(&together).await.unwrap().revision, begin + 1);
    for key in ["r/b", "r/c"] {
        assert_eq!(client.get(key).await.unwrap().unwrap().mod_revision, begin + 1);
    }
    // What changes nothing is none.
    client.delete("r/nothing").await.unwrap();
    client.txn(&Txn::new().then(Operation::get("r/b"))).await.unwrap();
    assert_eq!(client.list("r/").await.unwrap().revision, begin + 1);
}

pub(crate) async fn a_value_that_is_too_large_is_rejected(story: &Story) {
    for size in [1_540 << 10, 3 << 20] {
        let error = story.client.put("k/large", vec![b'x'; size], None).await.unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{size}: {error}");
    }
    assert_eq!(story.client.get("k/large").await.unwrap(), None);
}

pub(crate) async fn a_server_says_how_it_is(story: &Story) {
    let revision = story.client.put("k/a", "", None).await.unwrap().revision;
    let status = story.client.status(0).await.unwrap();
    assert_eq!(status.revision, revision);
    assert_eq!(status.leader, status.member);
    assert_ne!(status.leader, 0);
    assert!(status.size_bytes > 0 && status.used_bytes > 0 && status.errors.is_empty(), "{status:?}");
}
