use std::time::{Duration, Instant};

use mainstay_coordinator::{Change, Client, Compare, Error, Operation, Txn, Watch, Watched};

use crate::Cluster;
use crate::servers::{PATIENCE, block_on, eventually};

/// Writes the next number, and says how long that took.
async fn write_through(client: &Client, from: u32) -> (u32, Duration) {
    let begin = Instant::now();
    let key = format!("n/{from:04}");
    let value = from.to_string();
    let txn = Txn::new().when(Compare::absent(&key)).then(Operation::put(&key, value.clone()));
    client.with_deadline(PATIENCE).txn_settled(&txn, (&key, value.as_bytes())).await.unwrap();
    (from + 1, begin.elapsed())
}

async fn numbers(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < count {
        match tokio::time::timeout(PATIENCE, watch.next()).await.expect("no change comes") {
            Watched::Changed(events) => keys.extend(events.into_iter().map(|event| match event.change {
                Change::Put(kv) => kv.key,
                Change::Deleted { key } => panic!("{key} was deleted"),
            })),
            Watched::StartOver { why } => panic!("{why}"),
        }
    }
    keys
}

#[test]
fn members_that_die_are_not_missed_as_long_as_two_are_left() {
    block_on(async {
        let mut cluster = Cluster::found().await;
        let client = cluster.client();
        let lease = client.grant(Duration::from_secs(8)).await.unwrap().lease;
        client.put("held", "", Some(lease)).await.unwrap();
        let mut watch = client.watch("n/", 1);
        let mut next = 0;
        for fault in ["follower", "leader", "leader"] {
            for _ in 0..5 {
                (next, _) = write_through(&client, next).await;
            }
            let leader = cluster.leader().await;
            let victim = if fault == "leader" { leader } else { (leader + 1) % 3 };
            cluster.kill(victim);
            let took;
            (next, took) = write_through(&client, next).await;
            println!("the next write after a killed {fault}: {took:?}");
            eventually("a renewal", || async { client.keep_alive(lease).await.is_ok() }).await;
            cluster.start(victim);
            let all = cluster.client();
            eventually("the member's return", || async {
                all.status(victim).await.is_ok_and(|s| s.leader != 0)
            })
            .await;
        }
        // A lease that was renewed outlives its leaders.
        assert!(client.get("held").await.unwrap().is_some());
        let keys = numbers(&mut watch, next as usize).await;
        let expected: Vec<String> = (0..next).map(|number| format!("n/{number:04}")).collect();
        assert_eq!(keys, expected, "each once and in order");
    });
}

#[test]
fn a_frozen_leader_is_replaced_and_watches_leave_it() {
    block_on(async {
        let cluster = Cluster::found().await;
        let client = cluster.client();
        let leader = cluster.leader().await;
        // A client that begins with the member that will freeze, so its watch is there.
        let mut endpoints = vec![cluster.endpoint(leader)];
        endpoints.extend((0..3).filter(|place| *place != leader).map(|place| cluster.endpoint(place)));
        let theirs = crate::servers::client(endpoints, Some(cluster.authority.client()));
        let mut watch = theirs.watch("n/", 1);
        let (next, _) = write_through(&client, 0).await;
        assert_eq!(numbers(&mut watch, 1).await.len(), 1);
        cluster.signal(leader, "-STOP");
        let (next, took) = write_through(&client, next).await;
        println!("the next write after a frozen leader: {took:?}");
        let begin = Instant::now();
        assert_eq!(numbers(&mut watch, 1).await, ["n/0001"]);
        println!("a watch left the frozen leader after {:?}", begin.elapsed());
        cluster.signal(leader, "-CONT");
        write_through(&client, next).await;
        assert_eq!(numbers(&mut watch, 1).await, ["n/0002"]);
    });
}

#[test]
fn without_a_quorum_calls_end_by_their_deadline_and_say_so() {
    block_on(async {
        let mut cluster = Cluster::found().await;
        let client = cluster.client();
        client.put("k", "before", None).await.unwrap();
        let granted = client.grant(Duration::from_mins(1)).await.unwrap();
        let mut watch = client.watch("k", 1);
        let _ = watch.next().await;
        cluster.kill(0);
        cluster.kill(1);
        let one = client.with_deadline(Duration::from_secs(2));
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "it does not say for certain that nobody took it on");
            let asked = Instant::now();
            let read = one.get("k").await.unwrap_err();
            let renewed = one.keep_alive(granted.lease).await.unwrap_err();
            let written = one.put("k", "alone", None).await.unwrap_err();
            assert!(
                asked.elapsed() < Duration::from_secs(6) + Duration::from_secs(3),
                "{:?}",
                asked.elapsed()
            );
            assert!(matches!(read, Error::Unavailable { .. }), "{read}");
            // The one that is left needs an election's time to know that it is alone. Before, nobody can say.
            if [&renewed, &written].iter().all(|error| matches!(error, Error::Unavailable { .. })) {
                println!("alone: {written}");
                break;
            }
        }
        assert!(watch.last_heard().elapsed() > Duration::from_secs(1), "nobody follows the store");
        // One more, and everything goes on.
        cluster.start(0);
        eventually("the quorum's return", || async { one.put("k", "again", None).await.is_ok() }).await;
        assert!(one.keep_alive(granted.lease).await.is_ok());
        let Watched::Changed(events) = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() else {
            panic!()
        };
        assert!(events.iter().all(|event| event.key() == "k"));
    });
}
