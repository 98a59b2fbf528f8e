//! Seeded runs of whole clusters: keepers' machines against models of the coordinator, of MariaDB, of the network and of clients, with faults
//! of all of them. A failing seed is printed and replays exactly, with all that happened:
//! `MAINSTAY_SEED=17 cargo test -p mainstay-database cluster::simulation::three -- --nocapture`.

// The world's clock only grows.
#![allow(clippy::unchecked_time_subtraction)]

mod check;
mod coordinator;
mod dice;
mod faults;
mod jobs;
mod keeper;
mod mariadb;
mod replication;
mod requests;
mod stories;
mod world;

use std::time::Duration;

use world::{Plan, World};

use super::Durability;
use super::rules::Rule;

/// How long a cluster may take to become whole, first and after everything is healed.
const WHOLE_WITHIN: Duration = Duration::from_secs(45);
/// When an operator decides what nobody else can.
const OPERATOR_AFTER: Duration = Duration::from_secs(12);

const NOT_WHOLE: &str = "it does not become whole";

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
    let mut operator_at = begun + OPERATOR_AFTER;
    loop {
        world.run_until(world.now + Duration::from_millis(250));
        if let Some(violation) = &world.violation {
            return Err(violation.clone());
        }
        if world.is_whole() {
            break;
        }
        let waited = world.now - begun;
        if world.now > operator_at && (world.lost_a_disk || world.failed_applier) && world.is_held() {
            operator_at = world.now + Duration::from_secs(5);
            world.override_hold();
        }
        if waited > WHOLE_WITHIN {
            return Err(format!("{NOT_WHOLE}:\n{}", world.summary()));
        }
    }
    if at_the_end {
        world.quiet = true;
        world.run_until(world.now + Duration::from_millis(1500));
        // One that lost its connection in the last moment comes back.
        let end = world.now + Duration::from_secs(10);
        while !world.is_level() && world.now < end {
            world.run_until(world.now + Duration::from_millis(250));
        }
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

/// Some clients hurry.
fn pace(seed: u64) -> u64 {
    [60, 25, 60, 100][(seed / 7 % 4) as usize]
}

/// A cluster of any kind.
fn mixed(seed: u64) -> Plan {
    Plan {
        servers: [3, 3, 2, 3, 3, 2, 3, 5][(seed % 8) as usize],
        durability: if seed.is_multiple_of(3) { Durability::Available } else { Durability::NoLoss },
        faults: 1 + seed % 5,
        pace_ms: pace(seed),
        ..PLAN
    }
}

fn run(plan: impl Fn(u64) -> Plan, first: u64, count: u64) {
    let trace = std::env::var("MAINSTAY_SEED").is_ok();
    let mut failovers = 0;
    for seed in seeds(first, count) {
        match live(seed, Plan { trace, ..plan(seed) }) {
            Ok(world) => failovers += world.failovers - 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    println!("{count} lives, {failovers} changes of leader");
}

const PLAN: Plan =
    Plan { servers: 3, durability: Durability::NoLoss, broken: None, faults: 0, trace: false, pace_ms: 60 };

#[test]
fn one_server_serves_alone() {
    run(|seed| Plan { servers: 1, ..mixed(seed) }, 1, 300);
}

#[test]
fn two_servers_lose_nothing() {
    run(|seed| Plan { servers: 2, ..mixed(seed) }, 1, 1000);
}

#[test]
fn three_servers_lose_nothing() {
    run(|seed| Plan { servers: 3, ..mixed(seed) }, 1, 2500);
}

#[test]
fn three_more_servers_lose_nothing() {
    run(|seed| Plan { servers: 3, ..mixed(seed) }, 2501, 2500);
}

#[test]
fn five_servers_lose_nothing() {
    run(|seed| Plan { servers: 5, ..mixed(seed) }, 1, 700);
}

#[test]
fn servers_of_any_number_lose_nothing() {
    run(mixed, 1, 3000);
}

/// Lives that a broken rule may take to be noticed.
const LIVES_TO_NOTICE: u64 = 1500;

/// Breaks a rule and says which life noticed, and how.
fn noticed(broken: Rule, lives: u64) -> Option<(u64, String)> {
    (1..=lives).find_map(|seed| {
        let error = live(seed, Plan { broken: Some(broken), ..mixed(seed) }).err()?;
        // That a cluster comes to a halt is no proof that the rule keeps it safe.
        if error.starts_with(NOT_WHOLE) {
            return None;
        }
        // It must be the broken rule that was noticed.
        if let Err(error) = live(seed, mixed(seed)) {
            panic!("seed {seed} with all rules: {error}");
        }
        Some((seed, error))
    })
}

/// Those that chance brings to light too rarely have stories of their own.
#[test]
fn every_broken_rule_is_noticed() {
    let rules = [
        Rule::SelfFence,
        Rule::YieldToEpoch,
        Rule::FenceByKill,
        Rule::CountFromSending,
        Rule::ComparePositions,
        Rule::RevokeAll,
        Rule::DrainFirst,
        Rule::StartAsSlave,
        Rule::StartReplicasWhole,
        Rule::OnlyTheLastPrimary,
        Rule::ProveAtOpening,
        Rule::ProveBeforeStrict,
        Rule::OnlyMembersAcknowledge,
        Rule::RescueRelay,
        Rule::SemiSyncBeforeOpen,
    ];
    let mut unnoticed = Vec::new();
    for rule in rules {
        // It shows only where writes began before anyone could acknowledge them.
        let lives = if rule == Rule::SemiSyncBeforeOpen { LIVES_TO_NOTICE * 6 } else { LIVES_TO_NOTICE };
        match noticed(rule, lives) {
            Some((seed, error)) => {
                println!("{rule:?}: seed {seed}: {}", error.lines().next().unwrap_or_default());
            }
            None => unnoticed.push(rule),
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed that these were broken: {unnoticed:?}");
}

/// Many more lives than an ordinary test has time for: `cargo test --release -p mainstay-database -- --ignored hours`.
#[test]
#[ignore = "it runs for as long as it is let"]
fn lives_for_hours() {
    let first: u64 = std::env::var("FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(100_000);
    let count: u64 = std::env::var("COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(u64::MAX / 2);
    let mut failed = 0;
    let trace = std::env::var("MAINSTAY_SEED").is_ok();
    for seed in seeds(first, count) {
        let plan = Plan { trace, ..mixed(seed) };
        if let Err(error) = live(seed, plan) {
            println!(
                "seed {seed} {plan:?}: {}",
                if trace { error.as_str() } else { error.lines().next().unwrap_or_default() }
            );
            failed += 1;
            assert!(failed < 10, "too many");
        }
    }
}
