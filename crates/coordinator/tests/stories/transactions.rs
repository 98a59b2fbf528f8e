//! Compare and set.

use mainstay_coordinator::{Compare, Error, LeaseId, Operand, Operation, OperationResult, Relation, Txn};

use crate::servers::Story;

pub(crate) async fn two_who_make_the_same_key_one_wins(story: &Story) {
    let (one, two) = (story.another(), story.another());
    let (one, two) = tokio::join!(one.create("t/leader", "one", None), two.create("t/leader", "two", None));
    let winner = match (&one, &two) {
        (Ok(_), Err(Error::Refused(_))) => "one",
        (Err(Error::Refused(_)), Ok(_)) => "two",
        other => panic!("{other:?}"),
    };
    assert_eq!(story.client.get("t/leader").await.unwrap().unwrap().value, winner.as_bytes());
}

pub(crate) async fn many_who_count_by_compare_and_set_lose_nothing(story: &Story) {
    const WRITERS: u32 = 4;
    const ROUNDS: u32 = 10;
    story.client.put("t/counter", "0", None).await.unwrap();
    let writers = (0..WRITERS).map(|_| {
        let client = story.another();
        tokio::spawn(async move {
            let mut done = 0;
            while done < ROUNDS {
                let kv = client.get("t/counter").await.unwrap().unwrap();
                let count: u32 = kv.json().unwrap();
                let txn = Txn::new()
                    .when(Compare::mod_revision("t/counter", kv.mod_revision))
                    .then(Operation::put("t/counter", (count + 1).to_string()));
                match client.txn(&txn).await {
                    Ok(_) => done += 1,
                    Err(Error::Refused(refusal)) => assert!(refusal.revision > kv.mod_revision),
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let kv = story.client.get("t/counter").await.unwrap().unwrap();
    assert_eq!(kv.json::<u32>().unwrap(), WRITERS * ROUNDS);
    assert_eq!(kv.version, i64::from(WRITERS * ROUNDS) + 1);
}

pub(crate) async fn every_comparison_compares_what_it_says(story: &Story) {
    use Relation::{Equal, Greater, Less, NotEqual};
    let client = &story.client;
    let lease = client.grant(std::time::Duration::from_mins(1)).await.unwrap().lease;
    let created = client.put("t/k", "b", None).await.unwrap().revision;
    let modified = client.put("t/k", "b", Some(lease)).await.unwrap().revision;
    let value = |text: &str| Operand::Value(text.as_bytes().to_vec());
    let cases = [
        ("t/k", Equal, Operand::Version(2), true),
        ("t/k", Equal, Operand::Version(1), false),
        ("t/k", Greater, Operand::Version(1), true),
        ("t/k", Less, Operand::Version(2), false),
        ("t/k", NotEqual, Operand::Version(2), false),
        ("t/k", Equal, Operand::CreateRevision(created), true),
        ("t/k", Equal, Operand::CreateRevision(modified), false),
        ("t/k", Equal, Operand::ModRevision(modified), true),
        ("t/k", Less, Operand::ModRevision(modified + 1), true),
        ("t/k", Greater, Operand::ModRevision(modified), false),
        ("t/k", Equal, value("b"), true),
        ("t/k", Equal, value("B"), false),
        ("t/k", Greater, value("a"), true),
        ("t/k", Less, value("bb"), true),
        ("t/k", NotEqual, value("b"), false),
        ("t/k", Equal, value(""), false),
        ("t/k", Equal, Operand::Lease(lease), true),
        ("t/k", Equal, Operand::Lease(LeaseId(lease.0 ^ 1)), false),
        ("t/none", Equal, Operand::Version(0), true),
        ("t/none", Greater, Operand::Version(0), false),
        ("t/none", Equal, Operand::ModRevision(0), true),
        ("t/none", Equal, Operand::CreateRevision(0), true),
        ("t/none", Equal, value(""), false),
        ("t/none", NotEqual, value("x"), false),
        ("t/none", Equal, Operand::Lease(LeaseId(0)), true),
    ];
    for (key, relation, operand, holds) in cases {
        let compare = Compare::new(key, relation, operand);
        let outcome = client.txn(&Txn::new().when(compare.clone())).await;
        assert_eq!(outcome.is_ok(), holds, "{compare:?}: {outcome:?}");
    }
}

pub(crate) async fn a_transaction_is_all_or_nothing(story: &Story) {
    let client = &story.client;
    client.put("t/old", "old", None).await.unwrap();
    let revision = client.list("t/").await.unwrap().revision;
    let txn = Txn::new()
        .then(Operation::put("t/new", "new"))
        .then(Operation::delete("t/old"))
        .then(Operation::put_leased("t/leased", "x", LeaseId(4711)));
    let error = client.txn(&txn).await.unwrap_err();
    assert!(matches!(error, Error::LeaseGone { .. }) && !error.may_have_been_done(), "{error}");
    // Two comparisons, of which the second fails.
    let txn = Txn::new()
        .when(Compare::present("t/old"))
        .when(Compare::present("t/new"))
        .then(Operation::delete("t/old"));
    assert!(matches!(client.txn(&txn).await, Err(Error::Refused(_))));
    let listing = client.list("t/").await.unwrap();
    assert_eq!((listing.revision, listing.keys.len(), listing.keys[0].key.as_str()), (revision, 1, "t/old"));
}

pub(crate) async fn a_refused_transaction_does_its_other_branch(story: &Story) {
    let client = &story.client;
    client.put("t/a", "a", None).await.unwrap();
    let txn = Txn::new()
        .when(Compare::absent("t/a"))
        .then(Operation::put("t/a", "never"))
        .otherwise(Operation::get("t/a"))
        .otherwise(Operation::put("t/b", "b"))
        .otherwise(Operation::delete("t/none"));
    let Err(Error::Refused(refusal)) = client.txn(&txn).await else { panic!("it was not refused") };
    let [OperationResult::Got(Some(kv)), OperationResult::Put, OperationResult::Deleted(false)] =
        &refusal.results[..]
    else {
        panic!("{refusal:?}");
    };
    assert_eq!(kv.value, b"a");
    assert_eq!(client.get("t/b").await.unwrap().unwrap().mod_revision, refusal.revision);
}

pub(crate) async fn a_transaction_reads_what_it_has_written(story: &Story) {
    let txn =
        Txn::new().then(Operation::get("t/a")).then(Operation::put("t/a", "now")).then(Operation::get("t/a"));
    let committed = story.client.txn(&txn).await.unwrap();
    let [OperationResult::Got(None), OperationResult::Put, OperationResult::Got(Some(kv))] =
        &committed.results[..]
    else {
        panic!("{committed:?}");
    };
    assert_eq!((kv.value.as_slice(), kv.mod_revision), (b"now".as_slice(), committed.revision));
}

pub(crate) async fn a_transaction_that_contradicts_itself_is_rejected(story: &Story) {
    let twice = Txn::new().then(Operation::put("t/a", "1")).then(Operation::put("t/a", "2"));
    let both = Txn::new().then(Operation::put("t/a", "1")).then(Operation::delete("t/a"));
    let elsewhere = Txn::new().then(Operation::put("t/b", "1")).otherwise(Operation::put("", "1"));
    for txn in [twice, both, elsewhere] {
        let error = story.client.txn(&txn).await.unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{txn:?}: {error}");
    }
    assert!(story.client.list("").await.unwrap().keys.is_empty());
}

pub(crate) async fn a_transaction_that_is_too_long_is_rejected(story: &Story) {
    let of =
        |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.then(Operation::put(format!("t/{n}"), "")));
    assert_eq!(story.client.txn(&of(128)).await.unwrap().results.len(), 128);
    assert!(matches!(story.client.txn(&of(129)).await, Err(Error::Rejected { .. })));
}
