//! Figures for the guide: not tests. `cargo test -p mainstay-database --test mariadb -- --ignored --nocapture measures`

use std::time::{Duration, Instant};

use mainstay_database::mariadb::{Acknowledged, replica};

use crate::servers::{SOON, Servers, insert};

/// On a disk rather than in memory: what is measured is the disk.
async fn on_disk(acknowledged: Acknowledged) -> Servers {
    let mut servers = Servers::stopped_in(3, &std::env::temp_dir()).await;
    for member in &mut servers.members {
        member.acknowledged = acknowledged;
    }
    servers.start_all().await;
    servers
}

#[tokio::test]
#[ignore = "measures, and decides nothing"]
async fn measures_what_an_acknowledgement_from_disk_costs() {
    for acknowledged in
        [Acknowledged::Received, Acknowledged::OnDisk, Acknowledged::Received, Acknowledged::OnDisk]
    {
        let servers = on_disk(acknowledged).await;
        for clients in [1_u64, 16] {
            let began = Instant::now();
            let mut tasks = Vec::new();
            for client in 0..clients {
                let mut session = servers.members[0].session().await;
                tasks.push(tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    while began.elapsed() < Duration::from_secs(4) {
                        let sent = Instant::now();
                        let id = clients * 100_000_000 + client * 1_000_000 + latencies.len() as u64;
                        session.query(&insert(id), SOON).await.unwrap();
                        latencies.push(sent.elapsed());
                    }
                    latencies
                }));
            }
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await.unwrap());
            }
            latencies.sort();
            eprintln!(
                "{acknowledged:?}, {clients} clients: {:.0} commits/s, median {:?}, 99 % {:?}",
                latencies.len() as f64 / began.elapsed().as_secs_f64(),
                latencies[latencies.len() / 2],
                latencies[latencies.len() * 99 / 100],
            );
        }
    }
}

#[tokio::test]
#[ignore = "measures, and decides nothing"]
async fn measures_how_long_a_relay_log_takes_to_drain() {
    let servers = on_disk(Acknowledged::OnDisk).await;
    let [primary, member, _] = &servers.members[..] else { unreachable!() };
    for (round, rows) in [100_u64, 1000, 5000].into_iter().enumerate() {
        for threads in [0, 4] {
            member
                .run(&format!("STOP SLAVE; SET GLOBAL slave_parallel_threads = {threads}; START SLAVE"))
                .await;
            member.when("it receives", |view| view.stream.as_ref().unwrap().receiver.runs()).await;
            member.caught_up(primary).await;
            member.run("STOP SLAVE SQL_THREAD").await;
            let mut tasks = Vec::new();
            for client in 0..8_u64 {
                let mut session = primary.session().await;
                tasks.push(tokio::spawn(async move {
                    for row in 0..rows / 8 {
                        let id = (round as u64 * 10 + threads) * 10_000_000 + client * 100_000 + row;
                        session.query(&insert(id), SOON).await.unwrap();
                    }
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            let target = primary.position().await;
            let mut session = member.session().await;
            let began = Instant::now();
            session.query("START SLAVE SQL_THREAD", SOON).await.unwrap();
            replica::drain(&mut session, &target, Duration::from_mins(2)).await.unwrap();
            eprintln!("{rows} transactions of one row, {threads} appliers: drained in {:?}", began.elapsed());
        }
    }
}
