//! Single stories, told so that they happen in every life: how long things take, and what chance alone brings about too rarely.

use std::time::Duration;

use super::faults::Fault;
use super::world::{Plan, World};
use super::{NOT_WHOLE, PLAN, become_whole};
use crate::cluster::rules::Rule;
use crate::cluster::{Durability, Intent, Mode};

const LIVES: u64 = 100;

fn whole(seed: u64, plan: Plan) -> World {
    let mut world = World::new(seed, Plan { pace_ms: 5, ..plan });
    for server in &mut world.servers {
        server.lag_ms = server.lag_ms.min(8);
    }
    become_whole(&mut world, false).unwrap();
    world
}

/// One whose keepers miss a rule from now on.
fn broken_whole(seed: u64, plan: Plan, broken: Option<Rule>) -> World {
    let mut world = whole(seed, plan);
    world.plan.broken = broken;
    for server in &mut world.servers {
        if let Some(keeper) = &mut server.keeper {
            keeper.machine.broken = broken;
        }
    }
    world
}

impl World {
    fn primary(&self) -> usize {
        self.opened.expect("it was whole").1
    }

    /// A replica, by its number among the replicas.
    fn replica(&self, number: usize) -> usize {
        (0..self.servers.len())
            .filter(|server| *server != self.primary())
            .nth(number)
            .expect("it has so many")
    }

    fn pass(&mut self, millis: u64) {
        self.run_until(self.now + Duration::from_millis(millis));
    }

    /// How long no write is acknowledged from now on.
    fn outage(&mut self) -> Duration {
        let begun = self.now;
        // What was under way is no sign of life.
        self.pass(60);
        let before = self.acknowledged.len();
        while self.acknowledged.len() == before && self.now - begun < Duration::from_secs(30) {
            self.pass(5);
        }
        assert_eq!(self.violation, None);
        self.now - begun
    }

    fn intends(&mut self, intent: Intent) {
        self.order_by_operator(intent);
    }
}

/// The median and the worst of many lives.
fn outages(story: impl Fn(&mut World)) -> (Duration, Duration) {
    let trace = std::env::var("MAINSTAY_SEED").is_ok();
    let mut all: Vec<Duration> = super::seeds(1, LIVES)
        .map(|seed| {
            let mut world = whole(seed, Plan { trace, ..PLAN });
            story(&mut world);
            world.outage()
        })
        .collect();
    all.sort();
    let (median, worst) = (all[all.len() / 2], all[all.len() - 1]);
    println!("median {median:?}, worst {worst:?}");
    (median, worst)
}

#[test]
fn a_killed_mariadbd_costs_less_than_a_second() {
    let (median, worst) = outages(|world| world.fault(Fault::KillDatabase(world.primary())));
    assert!(median <= Duration::from_millis(500) && worst <= Duration::from_millis(1500));
}

#[test]
fn a_dead_server_costs_less_than_three_seconds() {
    let (median, worst) = outages(|world| world.fault(Fault::Crash(world.primary())));
    assert!(median <= Duration::from_secs(3) && worst <= Duration::from_secs(4));
}

#[test]
fn an_unplugged_server_costs_less_than_three_and_a_half_seconds() {
    let (median, worst) = outages(|world| world.fault(Fault::Unplug(world.primary())));
    assert!(median <= Duration::from_millis(3500) && worst <= Duration::from_millis(4500));
}

#[test]
fn a_switchover_costs_less_than_half_a_second() {
    let (median, worst) = outages(|world| {
        let to = world.servers[world.replica(0)].name.clone();
        world.intends(Intent::Switchover { to });
    });
    assert!(median <= Duration::from_millis(500) && worst <= Duration::from_secs(1));
}

#[test]
fn a_killed_keeper_costs_nothing() {
    for seed in 1..=LIVES {
        let mut world = whole(seed, PLAN);
        let primary = world.primary();
        world.fault(Fault::KillKeeper(primary));
        world.pass(1000);
        world.heal(Fault::KillKeeper(primary));
        world.pass(5000);
        assert_eq!((world.primary(), world.failovers), (primary, 1), "seed {seed}");
        assert_eq!(world.violation, None);
    }
}

#[test]
fn the_primary_goes_on_while_there_is_no_coordinator() {
    let trace = std::env::var("MAINSTAY_SEED").is_ok();
    for seed in super::seeds(1, LIVES) {
        let mut world = whole(seed, Plan { trace, ..PLAN });
        let primary = world.primary();
        world.fault(Fault::CoordinatorDown);
        world.pass(10_000);
        assert!(world.now - world.acknowledged_at < Duration::from_millis(500), "seed {seed}");
        world.heal(Fault::CoordinatorDown);
        become_whole(&mut world, true).unwrap();
        assert_eq!(
            (world.primary(), world.failovers),
            (primary, 1),
            "seed {seed}: it takes its epoch up again"
        );
    }
}

#[test]
fn a_replica_that_dies_costs_nothing() {
    for seed in 1..=LIVES {
        let mut world = whole(seed, PLAN);
        let replica = world.replica(0);
        world.fault(Fault::Crash(replica));
        for _ in 0..40 {
            world.pass(250);
            let silent = world.now - world.acknowledged_at;
            assert!(silent < Duration::from_millis(300), "seed {seed}: no write for {silent:?}");
        }
        let sync = world.coordinator.view.sync.clone().unwrap().value;
        assert_eq!((sync.mode, sync.members.len()), (Mode::Strict, 1));
    }
}

#[test]
fn without_replicas_writes_wait_or_go_on_as_the_file_says() {
    for (durability, goes_on) in [(Durability::NoLoss, false), (Durability::Available, true)] {
        for seed in 1..=20 {
            let mut world = whole(seed, Plan { durability, ..PLAN });
            for replica in [world.replica(0), world.replica(1)] {
                world.fault(Fault::Crash(replica));
            }
            world.pass(8000);
            let silent = world.now - world.acknowledged_at;
            assert_eq!(silent < Duration::from_secs(1), goes_on, "seed {seed}");
            world.heal_all();
            become_whole(&mut world, true).unwrap();
        }
    }
}

#[test]
fn a_whole_cluster_that_was_switched_off_comes_back_by_itself() {
    for servers in [1, 2, 3, 5] {
        for seed in 1..=20 {
            let mut world = whole(seed, Plan { servers, ..PLAN });
            world.pass(500);
            for server in 0..servers {
                world.fault(Fault::Crash(server));
            }
            world.pass(3000);
            for server in 0..servers {
                world.heal(Fault::Crash(server));
                world.pass(700);
            }
            become_whole(&mut world, true).unwrap();
        }
    }
}

#[test]
fn nothing_is_decided_while_it_is_paused() {
    let mut world = whole(3, PLAN);
    let until_ms = (world.now + Duration::from_secs(5)).as_millis() as u64;
    world.intends(Intent::Pause { by: "somebody".to_owned(), until_ms });
    world.pass(100);
    world.fault(Fault::KillDatabase(world.primary()));
    world.pass(4000);
    assert_eq!(world.failovers, 1);
    become_whole(&mut world, true).unwrap();
    assert_eq!(world.failovers, 2);
}

#[test]
fn a_primary_with_a_full_disk_hands_over() {
    let (median, worst) = outages(|world| world.fault(Fault::FillDisk(world.primary())));
    assert!(median <= Duration::from_secs(1) && worst <= Duration::from_secs(2));
}

#[test]
fn a_network_that_pauses_costs_little_more_than_its_pause() {
    for seed in 1..=LIVES {
        let mut world = whole(seed, PLAN);
        let (primary, one, other) = (world.primary(), world.replica(0), world.replica(1));
        world.fault(Fault::Cut(primary, one));
        world.fault(Fault::Cut(primary, other));
        world.pass(1500);
        world.heal(Fault::Cut(primary, one));
        world.heal(Fault::Cut(primary, other));
        let mut longest = Duration::ZERO;
        for _ in 0..600 {
            world.pass(10);
            longest = longest.max(world.now - world.acknowledged_at);
        }
        assert!(longest < Duration::from_secs(3), "seed {seed}: {longest:?}");
        assert_eq!((world.primary(), world.failovers), (primary, 1));
    }
}

#[test]
fn the_preferred_server_leads_where_others_have_as_much() {
    // Of three the second is preferred.
    for seed in 1..=LIVES {
        let mut world = whole(seed, PLAN);
        if world.primary() == 1 {
            continue;
        }
        world.quiet = true;
        world.pass(1500);
        let primary = world.primary();
        world.fault(Fault::KillBoth(primary));
        world.pass(5000);
        assert_eq!(world.primary(), 1, "seed {seed}");
    }
}

#[test]
fn flapping_is_damped() {
    let mut world = whole(1, PLAN);
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        world.fault(Fault::KillDatabase(world.primary()));
        longest = longest.max(world.outage());
        world.pass(1500);
    }
    assert!(longest > Duration::from_secs(2), "{longest:?}");
    assert!(longest < Duration::from_secs(14), "{longest:?}");
    become_whole(&mut world, true).unwrap();
}

#[test]
fn an_operator_may_accept_a_loss_and_the_errant_are_seeded_anew() {
    for seed in 1..=20 {
        let mut world = whole(seed, PLAN);
        let (primary, one, other) = (world.primary(), world.replica(0), world.replica(1));
        world.fault(Fault::Cut(primary, other));
        world.pass(100);
        world.fault(Fault::Crash(primary));
        world.fault(Fault::Crash(one));
        world.pass(8000);
        let leader = world.coordinator.view.leader.clone().expect("it holds").value;
        assert!(leader.hold.is_some_and(|hold| hold.contains(world.servers[one].name.as_str())));
        world.overridden = true;
        world.override_pending = true;
        let to = world.servers[other].name.clone();
        world.intends(Intent::Promote { to, accepted_by: "somebody".to_owned() });
        world.pass(6000);
        assert_eq!(world.primary(), other);
        assert!(
            world.coordinator.view.history.values().next_back().is_some_and(|last| last.value.loss_accepted)
        );
        world.heal_all();
        become_whole(&mut world, true).unwrap();
    }
}

/// A lone old primary leads again by an operator's word, and gives numbers that it had given before to other writes. Whoever was away
/// with the older ones must not be taken for one of its own.
fn led_twice(seed: u64, broken: Option<Rule>) -> Result<(), String> {
    let mut world = broken_whole(seed, PLAN, broken);
    let (primary, one, other) = (world.primary(), world.replica(0), world.replica(1));
    world.fault(Fault::Cut(primary, one));
    world.pass(300);
    world.fault(Fault::Crash(other));
    world.fault(Fault::Crash(primary));
    world.pass(200);
    world.heal(Fault::Cut(primary, one));
    world.heal(Fault::Crash(primary));
    world.pass(4000);
    world.overridden = true;
    world.override_pending = true;
    let to = world.servers[primary].name.clone();
    world.intends(Intent::Promote { to, accepted_by: "somebody".to_owned() });
    world.pass(8000);
    world.heal(Fault::Crash(other));
    become_whole(&mut world, true)
}

/// Tells a story with all rules, which must end well, and with one of them broken, which must be noticed.
fn shows(rule: Rule, story: impl Fn(u64, Option<Rule>) -> Result<(), String>) {
    for seed in 1..=50 {
        story(seed, None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    let error = (1..=50).find_map(|seed| story(seed, Some(rule)).err()).expect("it is noticed");
    println!("{rule:?}: {error}");
    assert!(!error.starts_with(NOT_WHOLE), "{error}");
}

#[test]
fn without_the_lineage_two_histories_are_mixed_up() {
    shows(Rule::CheckLineage, led_twice);
}

/// Only one replica has a write, and falls; the other is cut off, and does not know it yet.
fn shrunk(seed: u64, broken: Option<Rule>) -> Result<(), String> {
    let mut world = broken_whole(seed, PLAN, broken);
    let (primary, one, other) = (world.primary(), world.replica(0), world.replica(1));
    world.fault(Fault::Cut(primary, other));
    world.pass(30);
    world.fault(Fault::KillBoth(one));
    world.pass(1150);
    world.fault(Fault::Crash(primary));
    world.heal(Fault::Cut(primary, other));
    world.pass(6000);
    world.violation.clone().map_or(Ok(()), Err)?;
    world.heal_all();
    become_whole(&mut world, true)
}

#[test]
fn without_a_proof_the_set_shrinks_to_one_that_lacks_a_write() {
    shows(Rule::ProveBeforeShrink, shrunk);
}

/// A replica left the set because its keeper froze; its mariadbd did not.
fn acknowledged_from_outside(seed: u64, broken: Option<Rule>) -> Result<(), String> {
    let mut world = broken_whole(seed, PLAN, broken);
    let (primary, one, other) = (world.primary(), world.replica(0), world.replica(1));
    world.fault(Fault::FreezeKeeper(one));
    while world.coordinator.view.sync.as_ref().is_some_and(|sync| sync.value.members.len() == 2) {
        world.pass(1);
    }
    world.fault(Fault::Cut(primary, other));
    world.pass(100);
    world.fault(Fault::Crash(primary));
    world.heal(Fault::Cut(primary, other));
    world.pass(6000);
    world.violation.clone().map_or(Ok(()), Err)?;
    world.heal_all();
    become_whole(&mut world, true)
}

#[test]
fn without_an_exclusion_one_outside_the_set_acknowledges() {
    shows(Rule::ExcludeBeforeShrink, acknowledged_from_outside);
}

/// The set became strict, but the answer that it did is lost together with the way to the coordinator.
fn unanswered(seed: u64, broken: Option<Rule>) -> Result<(), String> {
    let plan = Plan { servers: 2, durability: Durability::Available, ..PLAN };
    let mut world = broken_whole(seed, plan, broken);
    let (primary, replica) = (world.primary(), world.replica(0));
    world.fault(Fault::Crash(replica));
    world.pass(6000);
    world.heal(Fault::Crash(replica));
    let is_strict = |world: &World| {
        world.coordinator.view.sync.as_ref().is_some_and(|sync| sync.value.mode == Mode::Strict)
    };
    while !is_strict(&world) {
        world.run_until(world.now + Duration::from_micros(100));
    }
    world.fault(Fault::CutFromCoordinator(primary));
    world.pass(10_000);
    world.heal(Fault::CutFromCoordinator(primary));
    world.violation.clone().map_or(Ok(()), Err)?;
    become_whole(&mut world, true)
}

#[test]
fn without_settling_doubt_two_servers_stay_writable() {
    shows(Rule::SettleDoubt, unanswered);
}
