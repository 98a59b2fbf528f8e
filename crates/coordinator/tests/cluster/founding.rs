use mainstay_coordinator::Watched;
use mainstay_coordinator::etcd::Upkeep;

use crate::servers::block_on;
use crate::{Cluster, servers};

#[test]
fn three_servers_found_a_cluster_from_nothing_and_found_it_only_once() {
    block_on(async {
        let mut cluster = Cluster::found().await;
        let client = cluster.client();
        let members = Upkeep::new(client.clone()).members().await.unwrap();
        assert_eq!(members.len(), 3);
        client.put("a/key", "a value", None).await.unwrap();
        // Every member again with the same command: the data says what the cluster is.
        for place in 0..3 {
            cluster.kill(place);
        }
        for place in 0..3 {
            cluster.start(place);
        }
        servers::eventually("the cluster's return", || async { client.get("a/key").await.is_ok() }).await;
        assert_eq!(client.get("a/key").await.unwrap().unwrap().value, b"a value");
        assert_eq!(Upkeep::new(client).members().await.unwrap(), members);
    });
}

#[test]
fn what_one_member_takes_all_members_show() {
    block_on(async {
        let cluster = Cluster::found().await;
        let all = cluster.client();
        let mut watches: Vec<_> = Vec::new();
        for place in 0..3 {
            let one = servers::client(vec![cluster.endpoint(place)], Some(cluster.authority.client()));
            one.put(&format!("m/{place}"), "", None).await.unwrap();
            assert_eq!(all.list("m/").await.unwrap().keys.len(), place + 1);
            watches.push(one.watch("m/", 1));
        }
        for mut watch in watches {
            let mut keys = Vec::new();
            while keys.len() < 3 {
                let Watched::Changed(events) = watch.next().await else { panic!("compacted") };
                keys.extend(events.iter().map(|event| event.key().to_owned()));
            }
            assert_eq!(keys, ["m/0", "m/1", "m/2"]);
        }
    });
}
