use std::time::Duration;

use mainstay_coordinator::Error;
use mainstay_coordinator::etcd::{AlarmKind, Beginning, Member, Peer, Upkeep, joined_by};
use mainstay_coordinator::transfer::{TransferError, transfer};

use crate::Cluster;
use crate::servers::{EmbeddedServer, Server as _, Usage, block_on, client_at, eventually};

#[test]
fn a_member_that_lost_its_disk_is_replaced() {
    block_on(async {
        let mut cluster = Cluster::found().await;
        let client = cluster.client();
        client.put("k", "before", None).await.unwrap();
        cluster.kill(2);
        std::fs::remove_dir_all(&cluster.members[2].data_folder).unwrap();
        let upkeep = Upkeep::new(client.clone());
        // If the killed one led, the others find that out first.
        eventually("a leader", || {
            let upkeep = upkeep.clone();
            async move { upkeep.members().await.is_ok() }
        })
        .await;
        let old =
            upkeep.members().await.unwrap().into_iter().find(|member| member.name == "server3").unwrap();
        assert_eq!(upkeep.remove(old.id).await.unwrap().len(), 2);
        let peer_url = cluster.members[2].peer_url();
        // strict-reconfig-check refuses as long as the others have not seen each other for a moment.
        let mut members = Vec::new();
        eventually("the addition", || {
            let (upkeep, peer_url) = (upkeep.clone(), peer_url.clone());
            async move {
                upkeep.add(&peer_url).await.is_ok() || upkeep.members().await.is_ok_and(|all| all.len() == 3)
            }
        })
        .await;
        eventually("the list of members", || {
            let upkeep = upkeep.clone();
            async move { upkeep.members().await.is_ok_and(|all| all.len() == 3) }
        })
        .await;
        members.extend(upkeep.members().await.unwrap());
        cluster.members[2].cluster = joined_by(&members, "server3", &peer_url);
        cluster.members[2].beginning = Beginning::Joining;
        cluster.start(2);
        let one = crate::servers::client(vec![cluster.endpoint(2)], Some(cluster.authority.client()));
        eventually("the new member", || async { one.get("k").await.is_ok_and(|kv| kv.is_some()) }).await;
        // It counts: with another one gone there is still a quorum.
        cluster.kill(0);
        eventually("a write", || async { client.put("k", "after", None).await.is_ok() }).await;
    });
}

#[test]
fn a_full_member_says_so_and_is_emptied() {
    block_on(async {
        let mut cluster = Cluster::described(1, Usage::Both);
        cluster.start(0);
        // A quota that is soon reached: the same command with one more argument, which counts.
        cluster.kill(0);
        let member: Member = cluster.members[0].clone();
        cluster.processes[0] =
            Some(crate::servers::Process::start_with(&member, &["--quota-backend-bytes=8388608"]));
        let client = cluster.client();
        eventually("a start", || async { client.list("").await.is_ok() }).await;
        let upkeep = Upkeep::new(client.clone());
        assert_eq!(upkeep.alarms().await.unwrap(), []);
        let full = loop {
            match client.put("fill", vec![b'x'; 500 << 10], None).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::Full { .. }) && !full.may_have_been_done(), "{full}");
        let alarms = upkeep.alarms().await.unwrap();
        assert_eq!(alarms.iter().map(|alarm| alarm.kind).collect::<Vec<_>>(), [AlarmKind::NoSpace]);
        let before = client.status(0).await.unwrap();
        assert!(!before.errors.is_empty(), "{before:?}");
        let revision = client.list("").await.unwrap().revision;
        upkeep.compact(revision).await.unwrap();
        upkeep.defragment().await.unwrap();
        for alarm in alarms {
            upkeep.disarm(alarm).await.unwrap();
        }
        let after = client.status(0).await.unwrap();
        assert!(after.size_bytes < before.size_bytes / 2, "{before:?} {after:?}");
        client.put("fill", "little", None).await.unwrap();
        assert_eq!(upkeep.alarms().await.unwrap(), []);
    });
}

#[test]
fn a_cluster_is_defragmented_one_member_at_a_time_and_serves_meanwhile() {
    block_on(async {
        let cluster = Cluster::found().await;
        let client = cluster.client();
        let upkeep = Upkeep::new(client.clone());
        let (defragmented, ()) = tokio::join!(upkeep.defragment(), async {
            for number in 0..20 {
                client.put("k", number.to_string(), None).await.unwrap();
            }
        });
        defragmented.unwrap();
    });
}

#[test]
fn a_site_moves_from_the_embedded_coordinator_to_etcd() {
    block_on(async {
        let embedded = EmbeddedServer::start();
        let old = client_at(embedded.endpoint());
        let cluster = Cluster::found().await;
        let new = cluster.client();
        for number in 0..150 {
            old.put(&format!("/mainstay/foobar/{number:03}"), vec![b'v'; number * 100], None).await.unwrap();
        }
        old.put("/elsewhere", "not ours", None).await.unwrap();
        let lease = old.grant(Duration::from_mins(1)).await.unwrap().lease;
        old.put("/mainstay/foobar/alive", "", Some(lease)).await.unwrap();
        let prefix = "/mainstay/foobar/";
        let done = transfer(&old, &new, prefix).await.unwrap();
        assert_eq!(
            (done.copied, done.found, done.leased.as_slice()),
            (150, 0, ["/mainstay/foobar/alive".to_owned()].as_slice())
        );
        let there = new.list("").await.unwrap().keys;
        assert_eq!(there.len(), 150);
        for kv in old.list(prefix).await.unwrap().keys.iter().filter(|kv| kv.lease.is_none()) {
            assert!(there.iter().any(|copy| copy.key == kv.key && copy.value == kv.value), "{}", kv.key);
        }
        // Again: nothing is left to do. And what is there otherwise is not overwritten.
        assert_eq!(transfer(&old, &new, prefix).await.unwrap().found, 150);
        new.put("/mainstay/foobar/007", "another site's", None).await.unwrap();
        let error = transfer(&old, &new, prefix).await.unwrap_err();
        assert!(
            matches!(&error, TransferError::Occupied { key } if key == "/mainstay/foobar/007"),
            "{error}"
        );
    });
}

#[test]
fn a_joining_member_is_told_the_names_of_all() {
    let member = |id, name: &str, url: &str| mainstay_coordinator::etcd::MemberInfo {
        id: mainstay_coordinator::etcd::MemberId(id),
        name: name.to_owned(),
        peer_urls: vec![url.to_owned()],
        client_urls: Vec::new(),
    };
    let members = [member(1, "a", "https://a:1"), member(2, "", "https://b:1")];
    let peer = |name: &str, url: &str| Peer { name: name.to_owned(), peer_url: url.to_owned() };
    assert_eq!(joined_by(&members, "b", "https://b:1"), [peer("a", "https://a:1"), peer("b", "https://b:1")]);
}
