//! Figures for the guide: not tests. `cargo test -p mainstay-database --test mariadb -- --ignored --nocapture measures`

use std::time::{Duration, Instant};

use mainstay_database::mariadb::{Acknowledged, Role, replica, view};

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

/// In a network of its own alone: `unshare -n sh -c 'ip link set lo up; MAINSTAY_OWN_NETWORK=1 THIS-TEST measures_stopping --ignored --nocapture'`.
#[tokio::test]
#[ignore = "measures, and decides nothing"]
async fn measures_stopping_the_receiver_of_a_primary_that_cannot_be_reached() {
    if std::env::var_os("MAINSTAY_OWN_NETWORK").is_none() {
        return;
    }
    let servers = Servers::running(2).await;
    let [primary, member] = &servers.members[..] else { unreachable!() };
    let rules = format!(
        "table ip away {{\nchain incoming {{\ntype filter hook input priority 0;\nip daddr {address} drop\n\
         ip saddr {address} drop\n}}\n}}\n",
        address = primary.address
    );
    assert!(std::process::Command::new("nft").arg(&rules).status().unwrap().success());
    let mut session = member.session().await;
    let began = Instant::now();
    let revoked = replica::revoke(&mut session, SOON).await.unwrap();
    eprintln!("revoked at {} after {:?}", revoked.received, began.elapsed());
    // And once it has noticed by itself, be it that it cannot be reached or that it is frozen.
    for frozen in [false, true] {
        assert!(std::process::Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
        member.follow(primary, replica::Was::Replica, true).await;
        member.when("it receives", |view| view.stream.as_ref().unwrap().receiver.runs()).await;
        let began = Instant::now();
        if frozen {
            primary.freeze();
        } else {
            assert!(std::process::Command::new("nft").arg(&rules).status().unwrap().success());
        }
        member.when("it notices", |view| !view.stream.as_ref().unwrap().receiver.runs()).await;
        let noticed = began.elapsed();
        let began = Instant::now();
        replica::renew(&mut session, SOON).await.unwrap();
        let renewed = began.elapsed();
        let began = Instant::now();
        replica::revoke(&mut session, SOON).await.unwrap();
        eprintln!(
            "frozen: {frozen}, noticed after {noticed:?}, renewed in {renewed:?}, then revoked in {:?}",
            began.elapsed()
        );
        primary.thaw();
    }
}

#[tokio::test]
#[ignore = "measures, and decides nothing"]
async fn measures_how_long_a_look_and_a_start_take() {
    let mut servers = Servers::running(3).await;
    for member in &servers.members[..2] {
        let mut session = member.session().await;
        let began = Instant::now();
        for _ in 0..500 {
            view::view(&mut session, SOON).await.unwrap();
        }
        eprintln!("a look at an open session: {:?}", began.elapsed() / 500);
    }
    for _ in 0..3 {
        let began = Instant::now();
        servers.members[1].kill().await;
        let killed = began.elapsed();
        servers.members[1].start(Role::Replica).await;
        eprintln!("killed after {killed:?}, answers again after {:?}", began.elapsed());
    }
}
