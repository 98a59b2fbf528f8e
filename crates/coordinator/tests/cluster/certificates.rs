//! What the gateway of etcd 3.4 wants of certificates, held against the installed version.

use std::time::{Duration, Instant};

use mainstay_coordinator::{Error, Tls};

use crate::servers::{Authority, Usage, block_on, eventually};
use crate::{Cluster, servers};

/// One member, with a certificate for this usage. `Ok` when it serves through the gateway.
async fn founded_alone(usage: Usage) -> (Cluster, Result<(), Error>) {
    let mut cluster = Cluster::described(1, usage);
    cluster.start(0);
    let client = cluster.client().with_deadline(Duration::from_secs(1));
    let end = Instant::now() + Duration::from_secs(8);
    loop {
        let outcome = client.list("").await.map(|_| ());
        if outcome.is_ok() || Instant::now() > end {
            return (cluster, outcome);
        }
    }
}

#[test]
fn a_servers_certificate_must_be_one_for_clients_too_for_the_gateway_shows_it_to_its_own_server() {
    block_on(async {
        let (_cluster, outcome) = founded_alone(Usage::Both).await;
        outcome.unwrap();
        let (cluster, outcome) = founded_alone(Usage::Server).await;
        println!("with serverAuth only: {}", outcome.as_ref().unwrap_err());
        let log = cluster.processes[0].as_ref().unwrap().log();
        assert!(log.contains("certificate"), "{log}");
    });
}

#[test]
fn only_a_certificate_of_the_authority_opens_the_door() {
    block_on(async {
        let (cluster, outcome) = founded_alone(Usage::Both).await;
        outcome.unwrap();
        let stranger = Authority::new();
        let pair = stranger.pair("a stranger", &[], Usage::Both);
        let forged =
            Tls::from_pem(cluster.authority.pem.as_bytes(), pair.certificate.as_bytes(), pair.key.as_bytes())
                .unwrap();
        let error =
            cluster.client_showing(forged).with_deadline(Duration::from_secs(1)).list("").await.unwrap_err();
        println!("a stranger: {error}");
        // And we talk to no server but one of the authority.
        let error = cluster
            .client_showing(stranger.client())
            .with_deadline(Duration::from_secs(1))
            .list("")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("TLS"), "{error}");
    });
}

#[test]
fn a_client_may_come_from_anywhere_but_a_peer_only_from_an_address_that_it_names() {
    block_on(async {
        let (cluster, outcome) = founded_alone(Usage::Both).await;
        outcome.unwrap();
        for addresses in [vec![], vec!["10.9.8.7"]] {
            let pair = cluster.authority.pair("a keeper", &addresses, Usage::Both);
            cluster.client_showing(cluster.authority.tls(&pair)).list("").await.unwrap();
        }
        // Connections come from 127.0.0.1 here, which these certificates do not name.
        let mut strangers = Cluster::described_from(3, Usage::Both, &[]);
        for place in 0..3 {
            strangers.start(place);
        }
        eventually("the refusal", || {
            let log = strangers.processes[0].as_ref().unwrap().log();
            async move { log.contains("rejected connection") && log.contains("not 127.0.0.1") }
        })
        .await;
        strangers
            .client()
            .with_deadline(Duration::from_secs(1))
            .list("")
            .await
            .expect_err("they do not meet");
    });
}

#[test]
fn the_certificate_is_read_again_for_each_connection() {
    block_on(async {
        let (cluster, outcome) = founded_alone(Usage::Both).await;
        outcome.unwrap();
        // Another authority signs anew, in the same files.
        let renewed = cluster.authority.pair("server1", &["10.9.8.7"], Usage::Both);
        cluster.authority.files(cluster.folder.path(), "server1", &renewed);
        let fresh = servers::client(vec![cluster.endpoint(0)], Some(cluster.authority.client()));
        eventually("the new certificate", || {
            let fresh = fresh.with_deadline(Duration::from_millis(500));
            async move {
                fresh.list("").await.is_err_and(|error| error.to_string().contains("not valid for name"))
            }
        })
        .await;
    });
}
