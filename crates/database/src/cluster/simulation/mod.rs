//! Seeded runs of whole clusters: keepers' machines against models of the coordinator, of MariaDB, of the network and of clients, with faults
//! of all of them. A failing seed is printed and replays exactly, with all that happened:
//! `MAINSTAY_SEED=17 cargo test -p mainstay-database cluster::simulation::three -- --nocapture`.

mod check;
mod coordinator;
mod dice;
mod faults;
mod keeper;
mod mariadb;
mod replication;
mod world;

use std::time::Duration;

use world::{Plan, World};

use super::Durability;
use super::rules::Rule;

/// How long a cluster may take to become whole, first and after everything is healed.
const WHOLE_WITHIN: Duration = Duration::from_secs(45);
/// When an operator decides what nobody else can.
const OPERATOR_AFTER: Duration = Duration::from_secs(12);

/// One life of a cluster. An error is what must not be.
fn live(seed: u64, plan: Plan) -> Result<World, String> {
    let mut world = World::new(seed, plan);
    become_whole(&mut world, false)?;
    world.calm = false;
    world.plan_faults();
    world.run_until(world.now + Duration::from_secs(15));
    world.heal_all();
    become_whole(&mut world, true)?;
    Ok(world)
}

fn become_whole(world: &mut World, at_the_end: bool) -> Result<(), String> {
    let begun = world.now;
    let mut asked = false;
    loop {
        world.run_until(world.now + Duration::from_millis(250));
        if let Some(violation) = &world.violation {
            return Err(violation.clone());
        }
        if world.is_whole() {
            break;
        }
        let waited = world.now - begun;
        if waited > OPERATOR_AFTER && !asked && world.lost_a_disk && world.is_held() {
            asked = true;
            world.override_hold();
        }
        if waited > WHOLE_WITHIN {
            return Err(format!("it does not become whole:\n{}", world.summary()));
        }
    }
    if at_the_end {
        world.quiet = true;
        world.run_until(world.now + Duration::from_millis(1500));
        world.check_end();
    }
    world.violation.clone().map_or(Ok(()), Err)
}

fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    match std::env::var("MAINSTAY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => first..first + count,
    }
}

fn run(plan: Plan, count: u64) {
    let trace = std::env::var("MAINSTAY_SEED").is_ok();
    let mut failovers = 0;
    for seed in seeds(1, count) {
        match live(seed, Plan { faults: plan.faults.max(1 + seed % 3), trace, ..plan }) {
            Ok(world) => failovers += world.failovers - 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    println!("{count} lives, {failovers} changes of leader");
}

const PLAN: Plan = Plan { servers: 3, durability: Durability::NoLoss, broken: None, faults: 0, trace: false };

#[test]
fn three_servers_lose_nothing() {
    run(PLAN, 1000);
}
