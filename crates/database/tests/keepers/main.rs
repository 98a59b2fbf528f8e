//! Keepers with real servers and a real coordinator, each keeper a process of its own that can be killed or frozen.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on says so by panicking")]

mod cluster;

use std::time::{Duration, Instant};

use cluster::{CONFIG, Cluster, run_keeper};

/// For what takes a few seconds on a machine that is not busy.
const SOON: Duration = Duration::from_mins(1);

/// The process of a keeper, which the stories start: no story itself.
#[test]
fn keeper_process() {
    if let Some(config) = std::env::var_os(CONFIG) {
        run_keeper(config.as_ref());
    }
}

#[test]
fn from_nothing_three_servers_become_a_primary_and_two_replicas_that_acknowledge() {
    let cluster = Cluster::begin(3);
    let primary = cluster.until_whole(SOON);
    cluster.write(&primary, 1);
    for server in cluster.servers() {
        cluster
            .until("the row is everywhere", SOON, || cluster.rows(server).ok()?.contains(&1).then_some(()));
    }
}

#[test]
fn a_killed_primary_is_followed_by_a_replica_that_has_every_acknowledged_write() {
    let cluster = Cluster::begin(3);
    let mut acknowledged = Vec::new();
    let mut number = 0;
    let mut times = Vec::new();
    for round in 0..3 {
        let primary = cluster.until_whole(SOON);
        for _ in 0..20 {
            number += 1;
            if cluster.try_write(&primary, number).is_ok() {
                acknowledged.push(number);
            }
        }
        cluster.kill_mariadbd(&primary);
        let fault = Instant::now();
        let next = cluster.until("another write is acknowledged", SOON, || {
            number += 1;
            let primary = cluster.primary()?;
            cluster.try_write(&primary, number).ok()?;
            acknowledged.push(number);
            Some(primary)
        });
        times.push(fault.elapsed());
        assert_ne!(
            next, primary,
            "round {round}: the server whose database was killed is not the one that goes on"
        );
        let rows = cluster.rows(&next).unwrap();
        let lost: Vec<_> = acknowledged.iter().filter(|row| !rows.contains(row)).collect();
        if !lost.is_empty() {
            cluster.show_logs();
        }
        assert!(lost.is_empty(), "round {round}: {lost:?} were acknowledged and are lost");
        let mut unique = rows.clone();
        unique.dedup();
        assert_eq!(unique.len(), rows.len(), "round {round}: a write was done twice");
    }
    eprintln!("from the kill to the next acknowledged write: {times:?}");
    cluster.until_whole(SOON);
}
