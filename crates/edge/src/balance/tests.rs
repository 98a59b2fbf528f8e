use std::collections::BTreeMap;

use mainstay_site::plan::edge::{HashKey, Upstream};
use proptest::prelude::*;

use super::random::mix;
use super::*;
use crate::fixture;

const EVERYONE: fn(usize) -> bool = |_| true;

fn upstream(number: usize, weight: u32) -> Upstream {
    let address = format!("10.0.{}.{}:80", number / 250, number % 250 + 1).parse().unwrap();
    Upstream { weight, ..fixture::upstream(&format!("web-{number}"), address) }
}

/// A group of upstreams with these weights.
pub(crate) fn group(balance: BalancePlan, weights: &[u32]) -> UpstreamGroup {
    let upstreams = weights.iter().enumerate().map(|(number, weight)| upstream(number, *weight)).collect();
    UpstreamGroup { balance, ..fixture::group("web", upstreams) }
}

fn hash(bound_percent: u32) -> BalancePlan {
    BalancePlan::ConsistentHash { by: HashKey::Client, bound_percent }
}

/// How often each upstream is chosen for so many requests that end at once.
fn shares(balancer: &mut Balancer, requests: usize, now: Instant) -> Vec<usize> {
    let mut shares = vec![0; balancer.len()];
    for _ in 0..requests {
        let index = balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap();
        let request = balancer.started(index);
        balancer.finished(request, Outcome::Answered(Duration::from_millis(10)), now);
        shares[index] += 1;
    }
    shares
}

proptest! {
    #[test]
    fn in_turn_each_gets_exactly_its_weight_in_every_cycle(
        weights in proptest::collection::vec(0_u32..30, 1..8), seed: u64, turns in 0_usize..100,
    ) {
        let cycle = weights.iter().sum::<u32>() as usize;
        prop_assume!(cycle > 0);
        let mut balancer = Balancer::new(&group(BalancePlan::RoundRobin, &weights), seed);
        let now = Instant::now();
        shares(&mut balancer, turns, now);
        let wanted: Vec<usize> = weights.iter().map(|weight| *weight as usize).collect();
        prop_assert_eq!(shares(&mut balancer, cycle, now), wanted);
    }

    #[test]
    fn turns_are_smooth(weights in proptest::collection::vec(1_u32..30, 2..6), seed: u64) {
        // At no moment of a cycle has anyone had more than one request more or less than its share so far, give or take
        // what the place where the worker began makes.
        let total: u32 = weights.iter().sum();
        let mut balancer = Balancer::new(&group(BalancePlan::RoundRobin, &weights), seed);
        let now = Instant::now();
        let mut had = vec![0_i64; weights.len()];
        for turn in 1..=i64::from(total) {
            had[balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap()] += 1;
            for (had, weight) in had.iter().zip(&weights) {
                let ahead = had * i64::from(total) - turn * i64::from(*weight);
                prop_assert!(ahead.abs() <= 2 * i64::from(total), "{had} of {turn} turns with weights {weights:?}");
            }
        }
    }

    #[test]
    fn whoever_is_chosen_may_be(
        kind in 0..4, members in proptest::collection::vec((0_u32..4, any::<bool>(), any::<bool>(), 0_usize..3), 0..8),
        tried in proptest::collection::vec(0_usize..8, 0..4), key: Option<u64>, seed: u64,
    ) {
        let balance = match kind {
            0 => BalancePlan::RoundRobin,
            1 => BalancePlan::LeastConnections,
            2 => BalancePlan::Latency,
            _ => hash(125),
        };
        let mut plan = group(balance, &members.iter().map(|(weight, ..)| *weight).collect::<Vec<_>>());
        for (upstream, (_, backup, drain, _)) in plan.upstreams.iter_mut().zip(&members) {
            (upstream.backup, upstream.drain) = (*backup, *drain);
        }
        let mut memory = Tried::NONE;
        for index in &tried {
            memory.insert(*index);
        }
        let readiness = |index: usize| {
            [Readiness::Ready, Readiness::Full, Readiness::Unfit][members[index].3]
        };
        let eligible = || members.iter().enumerate().filter(|(_, (weight, _, drain, _))| *weight > 0 && !drain);
        let mut balancer = Balancer::new(&plan, seed);
        match balancer.choose(readiness, key, &memory, Instant::now()) {
            Ok(index) => {
                prop_assert!(eligible().any(|(other, _)| other == index));
                prop_assert!(readiness(index) != Readiness::Full);
                let anyone_ready = eligible().any(|(other, _)| readiness(other) == Readiness::Ready);
                prop_assert_eq!(readiness(index) == Readiness::Unfit, !anyone_ready);
                let untried = eligible().any(|(other, _)| {
                    readiness(other) == readiness(index) && !memory.contains(other)
                });
                prop_assert!(!untried || !memory.contains(index));
                if members[index].1 {
                    let primary = eligible().any(|(other, member)| {
                        !member.1 && readiness(other) == readiness(index)
                            && memory.contains(other) == memory.contains(index)
                    });
                    prop_assert!(!primary, "a backup was taken before a primary");
                }
                prop_assert_eq!(balancer.panics() > 0, !anyone_ready);
            }
            Err(NoUpstream::Full) => {
                prop_assert!(eligible().any(|(other, _)| readiness(other) == Readiness::Full));
            }
            Err(NoUpstream::Nobody) => prop_assert_eq!(eligible().count(), 0),
        }
    }

    #[test]
    fn when_an_upstream_goes_only_its_own_keys_move(
        weights in proptest::collection::vec(1_u32..10, 2..12), gone in 0_usize..12, seed: u64,
    ) {
        let gone = gone % weights.len();
        let now = Instant::now();
        let mut balancer = Balancer::new(&group(hash(1000), &weights), 0);
        for key in (0..500).map(|key| mix(seed.wrapping_add(key))) {
            let before = balancer.choose(EVERYONE, Some(key), &Tried::NONE, now).unwrap();
            let after = balancer.choose(|index| index != gone, Some(key), &Tried::NONE, now).unwrap();
            prop_assert!(before == gone || before == after);
            prop_assert!(after != gone);
        }
    }

    #[test]
    fn no_upstream_has_more_than_its_bound(
        weights in proptest::collection::vec(1_u32..10, 2..8), bound in 100_u32..200,
        keys in proptest::collection::vec(0_u64..5, 1..300),
    ) {
        // Few keys, all asked for at once: without a bound one upstream would get a large part of them.
        let now = Instant::now();
        let mut balancer = Balancer::new(&group(hash(bound), &weights), 0);
        let total: u32 = weights.iter().sum();
        for (count, key) in keys.iter().enumerate() {
            let index = balancer.choose(EVERYONE, Some(mix(*key)), &Tried::NONE, now).unwrap();
            let _ = balancer.started(index);
            let share = (count as f64 + 1.0) * f64::from(weights[index]) / f64::from(total);
            let most = (share * f64::from(bound) / 100.0).ceil().max(4.0);
            prop_assert!(f64::from(balancer.in_flight(index)) <= most + 1e-6);
        }
    }
}

#[test]
fn the_classic_order_of_five_one_one() {
    let mut plan = group(BalancePlan::RoundRobin, &[5, 1, 1]);
    plan.upstreams[0].name = "a".to_owned();
    // Seeds that begin at different places give the same order, rotated.
    let orders: std::collections::BTreeSet<String> = (0..50)
        .map(|seed| {
            let mut balancer = Balancer::new(&plan, seed);
            let now = Instant::now();
            let pick = |_| balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap().to_string();
            (0..7).map(pick).collect()
        })
        .collect();
    assert!(orders.contains("0010200"), "{orders:?}");
    assert!(orders.len() > 4, "workers begin at places of their own: {orders:?}");
    assert!(orders.iter().all(|order| "00102000010200".contains(order.as_str())), "{orders:?}");
}

#[test]
fn a_seed_repeats_itself() {
    for balance in [BalancePlan::RoundRobin, BalancePlan::Latency] {
        let choices = || {
            let mut balancer = Balancer::new(&group(balance.clone(), &[3, 2, 1, 1]), 7);
            let now = Instant::now();
            (0..100)
                .map(move |_| balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(choices(), choices());
    }
}

#[test]
fn the_least_busy_gets_the_next_request() {
    let now = Instant::now();
    let mut balancer = Balancer::new(&group(BalancePlan::LeastConnections, &[1, 1, 2]), 1);
    // Requests that do not end fill upstreams by weight.
    for _ in 0..40 {
        let index = balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap();
        let _ = balancer.started(index);
    }
    assert_eq!((0..3).map(|index| balancer.in_flight(index)).collect::<Vec<_>>(), [10, 10, 20]);
    // An idle group takes turns by weight instead of using the first always.
    let mut idle = Balancer::new(&group(BalancePlan::LeastConnections, &[1, 1, 2]), 1);
    assert_eq!(shares(&mut idle, 40, now), [10, 10, 20]);
}

/// A closed world: requests arrive at fixed times and take as long as their upstream's latency.
fn simulate(balancer: &mut Balancer, latencies_ms: &[u64], per_second: u64, seconds: u64) -> Vec<usize> {
    let start = Instant::now();
    let mut shares = vec![0; latencies_ms.len()];
    let mut ends: BTreeMap<(u64, u64), (InFlight, u64)> = BTreeMap::new();
    for request in 0..per_second * seconds {
        let micros = request * 1_000_000 / per_second;
        while let Some(first) = ends.first_entry().filter(|first| first.key().0 <= micros) {
            let (end, _) = *first.key();
            let (in_flight, latency) = first.remove();
            let outcome = Outcome::Answered(Duration::from_micros(latency));
            balancer.finished(in_flight, outcome, start + Duration::from_micros(end));
        }
        let now = start + Duration::from_micros(micros);
        let index = balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap();
        // Upstreams work side by side, a little slower with each request more.
        let latency = latencies_ms[index] * (1000 + 20 * u64::from(balancer.in_flight(index)));
        let in_flight = balancer.started(index);
        ends.insert((micros + latency, request), (in_flight, latency));
        shares[index] += 1;
    }
    shares
}

#[test]
fn the_faster_of_two_gets_more() {
    for seed in 0..20 {
        let mut balancer = Balancer::new(&group(BalancePlan::Latency, &[100, 100, 100]), seed);
        let shares = simulate(&mut balancer, &[5, 5, 50], 1000, 20);
        assert!(shares[2] * 5 < shares[0], "seed {seed}: {shares:?}");
        assert!(shares[0].abs_diff(shares[1]) * 5 < shares[0], "seed {seed}: {shares:?}");
        assert!(shares[2] > 0, "seed {seed}: the slow one is still looked at: {shares:?}");
    }
}

#[test]
fn equally_fast_ones_share_by_weight() {
    for seed in 0..20 {
        let mut balancer = Balancer::new(&group(BalancePlan::Latency, &[100, 100, 200]), seed);
        let shares = simulate(&mut balancer, &[20, 20, 20], 2000, 10);
        let share = shares[2] as f64 / shares[0] as f64;
        assert!((1.4..3.0).contains(&share), "seed {seed}: {shares:?}");
    }
}

#[test]
fn one_that_fails_fast_is_not_the_fastest() {
    let start = Instant::now();
    let mut balancer = Balancer::new(&group(BalancePlan::Latency, &[1, 1, 1]), 3);
    let mut shares = [0; 3];
    for request in 0..3000 {
        let now = start + Duration::from_millis(request);
        let index = balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap();
        shares[index] += 1;
        let in_flight = balancer.started(index);
        let outcome = if index == 0 { Outcome::Failed } else { Outcome::Answered(Duration::from_millis(20)) };
        balancer.finished(in_flight, outcome, now);
    }
    assert!(shares[0] < 100, "{shares:?}");
}

#[test]
fn a_fresh_upstream_is_not_flooded() {
    for seed in 0..20 {
        let mut plan = group(BalancePlan::Latency, &[1, 1, 1]);
        let mut balancer = Balancer::new(&plan, seed);
        simulate(&mut balancer, &[20, 20, 20], 1000, 3);
        plan.upstreams.push(upstream(3, 1));
        let now = Instant::now() + Duration::from_secs(3);
        balancer.update(&plan, now);
        // Nothing ends meanwhile: the new one fills up like the others.
        let mut got = 0;
        for _ in 0..400 {
            let index = balancer.choose(EVERYONE, None, &Tried::NONE, now).unwrap();
            let _ = balancer.started(index);
            got += usize::from(index == 3);
        }
        assert!((50..=200).contains(&got), "seed {seed}: {got} of 400");
    }
}

#[test]
fn old_news_of_a_slow_one_fade() {
    let start = Instant::now();
    let mut mean = PeakAverage::default();
    mean.observe_evenly(Duration::from_millis(10), start);
    let mut slow = PeakAverage::default();
    slow.observe(Duration::from_secs(2), &mean, start);
    let after = |seconds| slow.estimate(&mean, start + Duration::from_secs(seconds));
    assert!((after(0) - 2.0).abs() < 1e-9);
    assert!(after(10) < 0.75);
    assert!((after(120) - 0.01).abs() < 0.001);
}

#[test]
fn keys_spread_by_weight() {
    let now = Instant::now();
    let mut balancer = Balancer::new(&group(hash(1000), &[1, 2, 3, 4]), 0);
    let mut shares = [0_u32; 4];
    for key in 0..100_000_u64 {
        let index =
            balancer.choose(EVERYONE, Some(hash::key(&key.to_be_bytes(), 1)), &Tried::NONE, now).unwrap();
        shares[index] += 1;
    }
    for (share, weight) in shares.iter().zip([1, 2, 3, 4]) {
        assert!(share.abs_diff(weight * 10_000) < 600, "{shares:?}");
    }
}

#[test]
fn a_new_upstream_takes_its_share_of_keys_from_all_and_nothing_else_moves() {
    let now = Instant::now();
    let mut plan = group(hash(1000), &[1; 9]);
    let keys = || (0..20_000_u64).map(|key| hash::key(&key.to_be_bytes(), 9));
    let place = |balancer: &mut Balancer, now| {
        let choose = |key| balancer.choose(EVERYONE, Some(key), &Tried::NONE, now).unwrap();
        keys().map(choose).collect::<Vec<_>>()
    };
    let mut balancer = Balancer::new(&plan, 0);
    let before = place(&mut balancer, now);
    // It comes first, so that all others have new indexes.
    plan.upstreams.insert(0, upstream(77, 1));
    balancer.update(&plan, now);
    let after = place(&mut balancer, now + Duration::from_secs(1));
    let moved = before.iter().zip(&after).filter(|(before, after)| *before + 1 != **after).count();
    assert!(after.iter().zip(&before).all(|(after, before)| *after == 0 || *after == before + 1));
    assert!((1800..2200).contains(&moved), "{moved} of 20000 keys moved to one of ten");
}

#[test]
fn requests_without_a_key_take_turns() {
    let mut balancer = Balancer::new(&group(hash(125), &[1, 1, 2]), 0);
    assert_eq!(shares(&mut balancer, 40, Instant::now()), [10, 10, 20]);
}

#[test]
fn who_comes_up_starts_with_a_tenth_of_its_share() {
    let start = Instant::now();
    let mut plan = group(BalancePlan::RoundRobin, &[10, 10]);
    plan.slow_start_ms = 10_000;
    let mut balancer = Balancer::new(&plan, 0);
    let late = balancer.upstream(1);
    balancer.came_up(late, start);
    assert_eq!(balancer.warmth(1, start), 100);
    assert_eq!(balancer.warmth(1, start + Duration::from_secs(5)), 550);
    assert_eq!(shares(&mut balancer, 110, start), [100, 10]);
    let warm = start + Duration::from_secs(10);
    assert_eq!(balancer.warmth(1, warm), 1000);
    let shares = shares(&mut balancer, 100, warm);
    assert!(shares[0].abs_diff(50) <= 1, "{shares:?}");
}

#[test]
fn a_new_plan_keeps_what_is_known_of_those_that_stay() {
    let now = Instant::now();
    let mut plan = group(BalancePlan::LeastConnections, &[1, 1, 1]);
    let mut balancer = Balancer::new(&plan, 0);
    let first = balancer.started(0);
    let third = balancer.started(2);
    let fourth = balancer.started(2);
    plan.upstreams.remove(0);
    plan.upstreams.reverse();
    balancer.update(&plan, now);
    assert_eq!((balancer.in_flight(0), balancer.in_flight(1)), (2, 0));
    // The one that is gone takes its requests with it.
    balancer.finished(first, Outcome::Answered(Duration::from_millis(1)), now);
    assert_eq!((balancer.in_flight(0), balancer.in_flight(1)), (2, 0));
    balancer.finished(third, Outcome::Failed, now);
    balancer.finished(fourth, Outcome::Abandoned(Duration::ZERO), now);
    assert_eq!((balancer.in_flight(0), balancer.in_flight(1)), (0, 0));
    // At another address it is another upstream.
    let _ = balancer.started(0);
    plan.upstreams[0].address.set_port(8080);
    balancer.update(&plan, now);
    assert_eq!(balancer.in_flight(0), 0);
}

#[test]
fn a_draining_or_weightless_upstream_gets_nothing_new() {
    let now = Instant::now();
    let mut plan = group(BalancePlan::RoundRobin, &[1, 1, 0]);
    plan.upstreams[0].drain = true;
    let mut balancer = Balancer::new(&plan, 0);
    assert_eq!(shares(&mut balancer, 10, now), [0, 10, 0]);
    plan.upstreams[1].drain = true;
    balancer.update(&plan, now);
    assert_eq!(balancer.choose(EVERYONE, None, &Tried::NONE, now), Err(NoUpstream::Nobody));
    assert_eq!(balancer.choose(|_| false, None, &Tried::NONE, now), Err(NoUpstream::Nobody));
}

#[test]
fn a_backup_waits_until_every_primary_is_unfit() {
    let now = Instant::now();
    let mut plan = group(BalancePlan::RoundRobin, &[1, 1]);
    plan.upstreams[1].backup = true;
    let mut balancer = Balancer::new(&plan, 0);
    assert_eq!(shares(&mut balancer, 10, now), [10, 0]);
    assert_eq!(balancer.choose(|index| index == 1, None, &Tried::NONE, now), Ok(1));
    let full = |index| if index == 0 { Readiness::Full } else { Readiness::Ready };
    assert_eq!(balancer.choose(full, None, &Tried::NONE, now), Err(NoUpstream::Full));
}

#[test]
fn failures_in_a_row_are_counted_and_latencies_summed_up() {
    let now = Instant::now();
    let mut balancer = Balancer::new(&group(BalancePlan::RoundRobin, &[1]), 0);
    let mut end = |outcome| {
        let request = balancer.started(0);
        balancer.finished(request, outcome, now)
    };
    let answered = Outcome::Answered(Duration::from_millis(5));
    let streaks = [Outcome::Failed, Outcome::Failed, answered, Outcome::Failed, answered].map(&mut end);
    assert_eq!(streaks, [1, 2, 0, 1, 0]);
    assert_eq!(end(Outcome::Abandoned(Duration::from_secs(1))), 0);
    let summaries: Vec<Summary> = balancer.summaries().collect();
    assert_eq!(summaries.len(), 1);
    assert_eq!((summaries[0].requests, summaries[0].latency), (2, Duration::from_millis(10)));
    assert_eq!(balancer.summaries().count(), 0);
}
