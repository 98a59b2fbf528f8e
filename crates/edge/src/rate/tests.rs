use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_site::plan::edge::{RateLimit, RateWindow};
use proptest::prelude::*;

use super::*;
use crate::balance::random::Random;

fn limit(windows: &[(u32, u64, u32)]) -> RateLimit {
    let window = |&(requests, per_ms, burst): &(u32, u64, u32)| RateWindow { requests, per_ms, burst };
    RateLimit { name: "login".to_owned(), by: None, windows: windows.iter().map(window).collect() }
}

struct World {
    table: RateTable,
    start: Instant,
    at: Duration,
}

impl World {
    fn new(windows: &[(u32, u64, u32)], places: usize) -> Self {
        let start = Instant::now();
        Self { table: RateTable::new(&limit(windows), places, 7, start), start, at: Duration::ZERO }
    }

    fn check(&self, key: u64) -> Verdict {
        self.table.check(key, self.start + self.at)
    }

    fn passed(&self, key: u64, requests: usize) -> usize {
        (0..requests).filter(|_| self.check(key).is_allowed()).count()
    }
}

#[test]
fn a_burst_passes_at_once_and_then_the_rate() {
    let mut world = World::new(&[(10, 1000, 5)], 1000);
    assert_eq!(world.passed(1, 50), 5);
    world.at = Duration::from_millis(250);
    assert_eq!(world.passed(1, 50), 2);
    assert_eq!(world.passed(2, 50), 5, "another key has an allowance of its own");
    world.at = Duration::from_mins(1);
    assert_eq!(world.passed(1, 50), 5);
}

#[test]
fn a_steady_client_within_the_rate_is_never_refused() {
    let mut world = World::new(&[(10, 1000, 1), (600, 60_000, 20)], 1000);
    for request in 0..2000 {
        world.at = Duration::from_millis(100 * request);
        assert!(world.check(1).is_allowed(), "request {request}");
    }
}

#[test]
fn if_one_window_refuses_none_is_charged() {
    // Two a second, and ten a minute.
    let mut world = World::new(&[(2, 1000, 2), (10, 60_000, 10)], 1000);
    assert_eq!(world.passed(1, 1000), 2);
    world.at = Duration::from_secs(1);
    assert_eq!(world.passed(1, 1000), 2);
    world.at = Duration::from_secs(2);
    assert_eq!(world.passed(1, 1000), 2);
    // The thousands that were refused have not used up the minute's window: four are left of it.
    world.at = Duration::from_secs(3);
    assert_eq!(world.passed(1, 1000), 2);
    world.at = Duration::from_secs(4);
    assert_eq!(world.passed(1, 1000), 2);
    world.at = Duration::from_secs(5);
    assert_eq!(world.passed(1, 1000), 0);
}

#[test]
fn whoever_waits_as_told_passes() {
    let mut world = World::new(&[(3, 1000, 2), (7, 10_000, 4)], 1000);
    let mut random = Random::new(1);
    for _ in 0..2000 {
        world.at += Duration::from_millis(random.below(300));
        let Verdict::Refused { retry_after, .. } = world.check(1) else { continue };
        assert!(retry_after > Duration::ZERO);
        world.at += retry_after.saturating_sub(Duration::from_nanos(1));
        assert!(!world.check(1).is_allowed(), "a moment too early");
        world.at += Duration::from_nanos(1);
        assert!(world.check(1).is_allowed());
    }
}

#[test]
fn what_remains_and_when_it_is_whole_is_told() {
    let mut world = World::new(&[(10, 10_000, 5)], 1000);
    let verdict = world.check(1);
    assert_eq!(verdict, Verdict::Allowed { window: 0, remaining: 4, reset: Duration::from_secs(1) });
    world.passed(1, 4);
    let refused = world.check(1);
    assert_eq!(refused, Verdict::Refused { window: 0, retry_after: Duration::from_secs(1) });
    assert_eq!((verdict.retry_after_secs(), refused.retry_after_secs()), (None, Some(1)));
    world.at = Duration::from_millis(1500);
    assert_eq!(
        world.check(1),
        Verdict::Allowed { window: 0, remaining: 0, reset: Duration::from_millis(4500) }
    );
}

#[test]
fn fields_tell_of_it() {
    let one = limit(&[(10, 60_000, 10)]);
    let several = limit(&[(5, 1000, 5), (100, 3_600_000, 20)]);
    assert_eq!(policy_field(&one), "\"login\";q=10;w=60");
    assert_eq!(policy_field(&several), "\"login-1\";q=5;w=1, \"login-2\";q=100;w=3600");
    let allowed = Verdict::Allowed { window: 1, remaining: 7, reset: Duration::from_millis(17_001) };
    assert_eq!(RateFields::new(&several).limit_field(&allowed), "\"login-2\";r=7;t=18");
    let refused = Verdict::Refused { window: 0, retry_after: Duration::from_millis(20) };
    assert_eq!(RateFields::new(&one).limit_field(&refused), "\"login\";r=0;t=1");
    let odd = RateLimit { name: "a\"b\\c\r\nd é".to_owned(), ..one };
    assert_eq!(policy_field(&odd), "\"abcd\";q=10;w=60");
}

#[test]
fn no_requests_means_none() {
    let world = World::new(&[(0, 1000, 10)], 1000);
    assert_eq!(world.passed(1, 10), 0);
    let unlimited = World::new(&[], 1000);
    assert_eq!(unlimited.passed(1, 10), 10);
}

#[test]
fn a_flood_of_keys_does_not_free_those_who_come_too_often() {
    // 1024 places, and a hundred thousand strangers.
    let mut world = World::new(&[(10, 60_000, 10)], 1024);
    let mut passed = 0;
    for stranger in 0..100_000 {
        world.at += Duration::from_micros(100);
        world.check(1_000_000 + stranger);
        if stranger % 100 == 0 {
            passed += world.passed(1, 5);
        }
    }
    // Ten seconds went by: the burst, and two more.
    assert!(passed <= 12, "{passed} passed");
}

#[test]
fn a_flood_of_keys_does_not_shut_out_the_honest() {
    let mut world = World::new(&[(10, 10_000, 10)], 1024);
    for round in 0..200 {
        world.at += Duration::from_secs(1);
        for stranger in 0..5000 {
            world.check(round * 10_000 + stranger + 1_000_000);
        }
        for honest in 0..50 {
            assert!(world.check(honest).is_allowed(), "round {round}");
        }
    }
}

#[test]
fn threads_share_one_allowance() {
    let start = Instant::now();
    let table = Arc::new(RateTable::new(&limit(&[(1, 1_000_000, 1000)]), 1000, 7, start));
    let passed = |table: Arc<RateTable>| {
        std::thread::spawn(move || (0..1000).filter(|_| table.check(5, start).is_allowed()).count())
    };
    let threads: Vec<_> = (0..4).map(|_| passed(Arc::clone(&table))).collect();
    assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 1000);
}

proptest! {
    #[test]
    fn in_any_time_no_more_than_burst_and_rate_pass(
        requests in 1_u32..50, per_ms in 1_u64..5000, burst in 0_u32..20,
        gaps in proptest::collection::vec(0_u64..50_000, 1..400),
    ) {
        let mut world = World::new(&[(requests, per_ms, burst)], 100);
        let mut passed = Vec::new();
        for gap in gaps {
            world.at += Duration::from_micros(gap);
            if world.check(1).is_allowed() {
                passed.push(world.at);
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (count, to) in passed[first..].iter().enumerate() {
                let grown = to.saturating_sub(*from).as_secs_f64() * 1000.0 * f64::from(requests) / per_ms as f64;
                let most = f64::from(burst.max(1)) + grown;
                prop_assert!((count + 1) as f64 <= most + 1e-6);
            }
        }
    }

    #[test]
    fn no_numbers_break_it(
        windows in proptest::collection::vec((any::<u32>(), any::<u64>(), any::<u32>()), 0..4),
        steps in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..50), places in 0_usize..1000,
    ) {
        let mut world = World::new(&windows, places);
        for (key, nanos) in steps {
            world.at = Duration::from_nanos(nanos);
            if let Some(seconds) = world.check(key).retry_after_secs() {
                prop_assert!(seconds >= 1);
            }
        }
    }
}
