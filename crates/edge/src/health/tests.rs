use std::time::{Duration, Instant};

use mainstay_site::plan::edge::{BalancePlan, HealthCheck, HealthPlan, OutlierPlan, UpstreamGroup};

use super::*;
use crate::balance::{Summary, UpstreamId};

pub(super) const CHECKS: HealthPlan =
    HealthPlan { check: HealthCheck::Tcp, port: None, interval_ms: 2000, timeout_ms: 1000, rise: 2, fall: 3 };

pub(super) const OUTLIER: OutlierPlan =
    OutlierPlan { consecutive: 5, latency_percent: 300, base_ms: 10_000, most_ms: 60_000, most_percent: 50 };

pub(super) fn group(
    upstreams: usize,
    health: Option<HealthPlan>,
    outlier: Option<OutlierPlan>,
) -> UpstreamGroup {
    let mut group = crate::balance::tests::group(BalancePlan::RoundRobin, &vec![100; upstreams]);
    (group.health, group.outlier) = (health, outlier);
    group
}

/// A group's health with a clock, and shortcuts to tell it things.
struct World {
    health: GroupHealth,
    ids: Vec<UpstreamId>,
    now: Instant,
    /// What was asked for and not yet done.
    checks: Vec<CheckId>,
    came_up: Vec<UpstreamId>,
    /// Conditions that were entered, by index and word.
    changes: Vec<(usize, &'static str)>,
}

impl World {
    fn new(group: &UpstreamGroup) -> Self {
        let now = Instant::now();
        let mut world = Self {
            health: GroupHealth::new(group, 1, now),
            ids: group.upstreams.iter().map(UpstreamId::of).collect(),
            now,
            checks: Vec::new(),
            came_up: Vec::new(),
            changes: Vec::new(),
        };
        world.tell(Event::Due);
        world
    }

    /// All up: the first check of each passed.
    fn up(group: &UpstreamGroup) -> Self {
        let mut world = Self::new(group);
        world.pass_all();
        assert!(world.fitness().iter().all(|fitness| *fitness == Fitness::Fit));
        world.came_up.clear();
        world.changes.clear();
        world
    }

    fn tell(&mut self, event: Event) {
        for action in self.health.handle(event, self.now) {
            match action {
                Action::StartCheck(check) => self.checks.push(check),
                Action::CameUp(upstream) => self.came_up.push(upstream),
                Action::Changed { upstream, to, .. } => {
                    let index = self.ids.iter().position(|id| *id == upstream).unwrap();
                    self.changes.push((index, to.word()));
                }
                Action::Publish => {}
            }
        }
    }

    fn pass_all(&mut self) {
        for check in std::mem::take(&mut self.checks) {
            self.tell(Event::CheckPassed(check));
        }
    }

    /// Lets time pass, telling of it whenever that is due; checks end at once, by whether their upstream is well.
    fn wait(&mut self, time: Duration, well: impl Fn(usize) -> bool) {
        let end = self.now + time;
        loop {
            for check in std::mem::take(&mut self.checks) {
                let index = self.ids.iter().position(|id| *id == check.upstream).unwrap();
                let failed = Event::CheckFailed(check, Reason::Timeout);
                self.tell(if well(index) { Event::CheckPassed(check) } else { failed });
            }
            let due = self.health.next_due().filter(|due| *due <= end);
            self.now = due.unwrap_or(end).max(self.now);
            if due.is_none() {
                return;
            }
            self.tell(Event::Due);
        }
    }

    fn fail(&mut self, index: usize, streak: u32) {
        for streak in 1..=streak {
            self.tell(Event::Failed { upstream: self.ids[index], streak, reason: Reason::Status(502) });
        }
    }

    fn refuse(&mut self, index: usize) {
        self.tell(Event::Refused(self.ids[index], Reason::Refused));
    }

    fn fitness(&self) -> Vec<Fitness> {
        self.health.fitness().collect()
    }

    fn described(&self, index: usize) -> String {
        let (condition, since) = self.health.condition(index);
        condition.describe(since, self.now)
    }

    fn word(&self, index: usize) -> &'static str {
        self.health.condition(index).0.word()
    }
}

#[test]
fn the_first_check_decides_alone() {
    let mut world = World::new(&group(2, Some(CHECKS), None));
    assert_eq!(world.fitness(), [Fitness::Unfit; 2]);
    assert_eq!(world.described(0), "not checked yet");
    let [one, other] = world.checks[..] else { panic!("two checks are due at once: {:?}", world.checks) };
    world.tell(Event::CheckPassed(one));
    world.tell(Event::CheckFailed(other, Reason::Status(500)));
    assert_eq!(world.fitness(), [Fitness::Fit, Fitness::Unfit]);
    world.now += Duration::from_secs(12);
    assert_eq!(world.described(0), "up for 12 s");
    assert_eq!(world.described(1), "down for 12 s: answered 500");
}

#[test]
fn without_checks_all_are_fit() {
    let world = World::new(&group(2, None, None));
    assert_eq!(world.fitness(), [Fitness::Fit; 2]);
    assert_eq!(world.health.next_due(), None);
}

#[test]
fn it_takes_fall_failures_to_go_down_and_rise_passes_to_come_up() {
    let mut world = World::up(&group(2, Some(CHECKS), None));
    let checks_until = |world: &mut World, passes: bool, fitness| {
        let mut checks = 0;
        while world.fitness()[0] != fitness {
            world.now = world.health.next_due().unwrap();
            world.tell(Event::Due);
            for check in std::mem::take(&mut world.checks) {
                let is_first = check.upstream == world.ids[0];
                checks += usize::from(is_first);
                let failed = Event::CheckFailed(check, Reason::Closed);
                world.tell(if is_first && !passes { failed } else { Event::CheckPassed(check) });
            }
            assert!(checks < 10);
        }
        checks
    };
    assert_eq!(checks_until(&mut world, false, Fitness::Unfit), 3);
    assert_eq!(checks_until(&mut world, true, Fitness::Fit), 2);
    assert_eq!(world.came_up, [world.ids[0]]);
    assert_eq!(world.changes, [(0, "down"), (0, "up")]);
}

#[test]
fn a_refused_connection_takes_it_out_in_the_same_instant_and_has_it_checked() {
    let mut world = World::up(&group(2, Some(CHECKS), None));
    world.now += Duration::from_millis(500);
    world.refuse(0);
    assert_eq!(world.fitness(), [Fitness::Unfit, Fitness::Fit]);
    assert_eq!(world.described(0), "down for 0 ms: connection refused; being checked");
    let [check] = world.checks[..] else { panic!("a check is due at once: {:?}", world.checks) };
    // It was but a hiccup.
    world.now += Duration::from_millis(1);
    world.tell(Event::CheckPassed(check));
    assert_eq!(world.fitness(), [Fitness::Fit; 2]);
}

#[test]
fn a_check_that_began_before_the_refusal_does_not_clear_it() {
    let mut world = World::up(&group(2, Some(CHECKS), None));
    world.now = world.health.next_due().unwrap();
    world.tell(Event::Due);
    let old = std::mem::take(&mut world.checks)[0];
    let index = world.ids.iter().position(|id| *id == old.upstream).unwrap();
    world.now += Duration::from_millis(1);
    world.refuse(index);
    world.now += Duration::from_millis(1);
    world.tell(Event::CheckPassed(old));
    assert_eq!(world.fitness()[index], Fitness::Unfit);
    // The next one comes at once, and counts.
    let asked = world.now;
    world.wait(Duration::from_millis(60), |_| true);
    assert_eq!(world.fitness()[index], Fitness::Fit);
    assert!(world.now - asked <= Duration::from_millis(60));
}

#[test]
fn a_killed_upstream_that_comes_back_is_in_use_within_a_second() {
    let mut world = World::up(&group(3, Some(CHECKS), Some(OUTLIER)));
    world.now += Duration::from_millis(300);
    world.refuse(1);
    world.wait(Duration::from_secs(5), |index| index != 1);
    assert_eq!(world.word(1), "down");
    world.wait(Duration::from_secs(1), |_| true);
    assert_eq!(world.fitness(), [Fitness::Fit; 3]);
    assert_eq!(world.came_up, [world.ids[1]]);
}

#[test]
fn a_thousand_refusals_cost_few_checks() {
    let mut world = World::up(&group(2, Some(CHECKS), None));
    let mut checks = 0;
    for _ in 0..1000 {
        world.now += Duration::from_millis(1);
        world.refuse(0);
        for check in std::mem::take(&mut world.checks) {
            checks += usize::from(check.upstream == world.ids[0]);
            world.tell(Event::CheckPassed(check));
        }
    }
    assert!((15..=21).contains(&checks), "{checks} checks in a second");
}

#[test]
fn a_frozen_upstream_is_found_out_in_the_time_of_its_checks() {
    let mut world = World::up(&group(2, Some(CHECKS), None));
    world.now += Duration::from_millis(300);
    let frozen_at = world.now;
    world.tell(Event::Suspected(world.ids[0]));
    assert_eq!(world.fitness(), [Fitness::Fit; 2], "being late is no proof");
    // Each check takes its whole timeout.
    while world.fitness()[0] == Fitness::Fit {
        for check in std::mem::take(&mut world.checks) {
            if check.upstream == world.ids[0] {
                world.now += Duration::from_secs(1);
                world.tell(Event::CheckFailed(check, Reason::Timeout));
            } else {
                world.tell(Event::CheckPassed(check));
            }
        }
        if world.checks.is_empty() {
            world.now = world.health.next_due().unwrap().max(world.now);
            world.tell(Event::Due);
        }
    }
    assert!(world.now - frozen_at < Duration::from_millis(3100), "{:?}", world.now - frozen_at);
}

#[test]
fn a_frozen_upstream_with_requests_is_down_in_little_more_than_a_second() {
    let mut plan = group(2, Some(CHECKS), None);
    if let Some(health) = &mut plan.health {
        (health.interval_ms, health.timeout_ms, health.fall) = (1000, 800, 3);
    }
    let mut world = World::up(&plan);
    world.wait(Duration::from_secs(20), |_| true);
    world.now += Duration::from_millis(300);
    let frozen_at = world.now;
    // Workers look every 100 ms, and doubt after 300 ms.
    world.now += Duration::from_millis(400);
    world.tell(Event::Silent(world.ids[0]));
    assert_eq!(world.fitness(), [Fitness::Fit; 2], "being late is no proof");
    let mut checks = 0;
    while world.fitness()[0] == Fitness::Fit {
        for check in std::mem::take(&mut world.checks) {
            if check.upstream == world.ids[0] {
                checks += 1;
                world.now += world.health.check_limit(check.upstream).unwrap();
                world.tell(Event::CheckFailed(check, Reason::Timeout));
            } else {
                world.tell(Event::CheckPassed(check));
            }
        }
        if world.checks.is_empty() {
            world.now = world.health.next_due().unwrap().max(world.now);
            world.tell(Event::Due);
        }
    }
    assert_eq!(checks, 3, "it takes as many failures as ever");
    assert!(world.now - frozen_at < Duration::from_millis(1500), "{:?}", world.now - frozen_at);
}

#[test]
fn one_that_is_doubted_but_answers_checks_stays_and_is_given_its_time_again() {
    let mut world = World::up(&group(1, Some(CHECKS), None));
    for _ in 0..50 {
        world.now += Duration::from_millis(100);
        world.tell(Event::Silent(world.ids[0]));
        assert!(world.health.check_limit(world.ids[0]).unwrap() < Duration::from_secs(1));
        world.now += Duration::from_millis(50);
        for check in std::mem::take(&mut world.checks) {
            world.tell(Event::CheckPassed(check));
            assert_eq!(world.health.check_limit(check.upstream), Some(Duration::from_secs(1)));
        }
    }
    assert_eq!(world.fitness(), [Fitness::Fit]);
}

#[test]
fn a_check_without_a_result_has_failed() {
    let mut world = World::up(&group(1, Some(CHECKS), None));
    for _ in 0..CHECKS.fall {
        world.now = world.health.next_due().unwrap();
        world.tell(Event::Due);
        world.now = world.health.next_due().unwrap();
        world.tell(Event::Due);
    }
    assert!(world.described(0).contains("the check gave no result"), "{}", world.described(0));
}

#[test]
fn failures_in_a_row_put_an_upstream_out_for_twice_as_long_each_time() {
    let mut world = World::up(&group(3, None, Some(OUTLIER)));
    let mut times = Vec::new();
    for _ in 0..5 {
        world.fail(0, 5);
        assert_eq!(world.word(0), "ejected");
        let began = world.now;
        while world.fitness()[0] != Fitness::Probe {
            world.wait(Duration::from_secs(1), |_| true);
        }
        times.push((world.now - began).as_secs());
        world.tell(Event::ProbeStarted(world.ids[0]));
        assert_eq!(world.fitness()[0], Fitness::Unfit, "one request only");
        world.tell(Event::ProbeEnded(world.ids[0], Some(true)));
        assert_eq!(world.fitness()[0], Fitness::Fit);
    }
    assert_eq!(times, [10, 20, 40, 60, 60]);
    assert_eq!(world.came_up.len(), 5);
    // Good behaviour takes it back.
    world.wait(Duration::from_secs(100), |_| true);
    world.fail(0, 5);
    assert_eq!(world.described(0), "ejected for 10 s more: 5 failures in a row, the last: answered 502");
}

#[test]
fn a_failed_probe_puts_it_out_again() {
    let mut world = World::up(&group(2, None, Some(OUTLIER)));
    world.fail(0, 5);
    world.wait(Duration::from_secs(10), |_| true);
    assert_eq!(world.fitness()[0], Fitness::Probe);
    // A client that leaves says nothing.
    world.tell(Event::ProbeStarted(world.ids[0]));
    world.tell(Event::ProbeEnded(world.ids[0], None));
    assert_eq!(world.fitness()[0], Fitness::Probe);
    world.tell(Event::ProbeStarted(world.ids[0]));
    world.tell(Event::ProbeEnded(world.ids[0], Some(false)));
    assert_eq!(world.described(0), "ejected for 20 s more: the first request after its time out failed");
}

#[test]
fn a_probe_that_nobody_sends_or_ends_keeps_no_one_out() {
    let mut world = World::up(&group(2, None, Some(OUTLIER)));
    world.fail(0, 5);
    world.wait(Duration::from_secs(10), |_| true);
    world.tell(Event::ProbeStarted(world.ids[0]));
    world.wait(Duration::from_secs(10), |_| true);
    assert_eq!(world.fitness()[0], Fitness::Probe, "its worker is gone");
    world.wait(Duration::from_secs(10), |_| true);
    assert_eq!(world.fitness()[0], Fitness::Fit, "nobody asks for it");
}

#[test]
fn the_last_upstream_is_never_put_out() {
    let mut world = World::up(&group(2, None, Some(OutlierPlan { most_percent: 100, ..OUTLIER })));
    world.fail(0, 5);
    world.fail(1, 50);
    assert_eq!(world.fitness(), [Fitness::Unfit, Fitness::Fit]);
    let mut alone = World::up(&group(1, None, Some(OUTLIER)));
    alone.fail(0, 50);
    alone.refuse(0);
    assert_eq!(alone.fitness(), [Fitness::Fit]);
}

#[test]
fn an_ejected_upstream_is_used_when_the_others_go_down() {
    let mut world = World::up(&group(2, Some(CHECKS), Some(OUTLIER)));
    world.fail(0, 5);
    assert_eq!(world.fitness(), [Fitness::Unfit, Fitness::Fit]);
    world.wait(Duration::from_secs(5), |index| index == 0);
    assert_eq!((world.word(0), world.word(1)), ("ejected", "down"));
    assert_eq!(world.fitness(), [Fitness::Fit, Fitness::Unfit]);
    world.wait(Duration::from_secs(2), |_| true);
    assert_eq!(world.fitness(), [Fitness::Unfit, Fitness::Fit]);
}

#[test]
fn the_share_that_may_be_out_is_kept() {
    let mut world = World::up(&group(6, None, Some(OUTLIER)));
    (0..6).for_each(|index| world.fail(index, 5));
    let out = world.fitness().iter().filter(|fitness| **fitness == Fitness::Unfit).count();
    assert_eq!(out, 3, "half of six");
    let mut world = World::up(&group(3, None, Some(OutlierPlan { most_percent: 10, ..OUTLIER })));
    (0..3).for_each(|index| world.fail(index, 5));
    let out = world.fitness().iter().filter(|fitness| **fitness == Fitness::Unfit).count();
    assert_eq!(out, 1, "one may always be out");
}

#[test]
fn one_that_was_restarted_is_not_held_to_its_past() {
    let mut world = World::up(&group(2, Some(CHECKS), Some(OUTLIER)));
    world.fail(0, 5);
    world.wait(Duration::from_secs(5), |index| index != 0);
    assert_eq!(world.word(0), "down");
    world.wait(Duration::from_secs(1), |_| true);
    assert_eq!(world.fitness(), [Fitness::Fit; 2]);
}

#[test]
fn without_checks_a_refused_upstream_is_left_out_for_longer_and_longer() {
    let mut world = World::up(&group(2, None, None));
    let mut times = Vec::new();
    for _ in 0..7 {
        world.refuse(0);
        let began = world.now;
        while world.fitness()[0] != Fitness::Probe {
            world.wait(Duration::from_millis(50), |_| true);
        }
        times.push((world.now - began).as_millis());
        world.tell(Event::ProbeStarted(world.ids[0]));
        world.refuse(0);
        world.tell(Event::ProbeEnded(world.ids[0], Some(false)));
        world.wait(Duration::ZERO, |_| true);
    }
    assert_eq!(times, [250, 500, 1000, 2000, 4000, 8000, 8000]);
}

#[test]
fn a_slow_upstream_is_put_out_after_two_looks() {
    let mut world = World::up(&group(4, None, Some(OUTLIER)));
    let mut look = |latencies_ms: [u64; 4], requests| {
        for (index, latency) in latencies_ms.into_iter().enumerate() {
            let upstream = world.ids[index];
            let latency = Duration::from_millis(latency) * requests;
            world.tell(Event::Summarized(Summary { upstream, requests, latency }));
        }
        world.wait(Duration::from_secs(10), |_| true);
        world.described(2)
    };
    assert!(look([10, 11, 40, 9], 100).starts_with("up"));
    assert!(look([10, 11, 12, 9], 100).starts_with("up"), "once is nothing");
    assert!(look([10, 11, 400, 9], 10).starts_with("up"), "too few to say");
    assert!(look([10, 11, 31, 9], 100).starts_with("up"));
    assert!(
        look([10, 11, 40, 9], 100)
            .starts_with("ejected for 10 s more: latency at 400 % of the group's median")
    );
}

#[test]
fn microseconds_are_nothing_to_be_put_out_for() {
    let mut world = World::up(&group(3, None, Some(OUTLIER)));
    for _ in 0..5 {
        for (index, micros) in [100, 100, 900].into_iter().enumerate() {
            let (upstream, latency) = (world.ids[index], Duration::from_micros(micros) * 100);
            world.tell(Event::Summarized(Summary { upstream, requests: 100, latency }));
        }
        world.wait(Duration::from_secs(10), |_| true);
    }
    assert_eq!(world.fitness(), [Fitness::Fit; 3]);
}

#[test]
fn a_draining_upstream_stays_fit_for_those_who_stick_to_it() {
    let mut plan = group(2, Some(CHECKS), None);
    let mut world = World::up(&plan);
    plan.upstreams[0].drain = true;
    world.health.update(&plan, world.now);
    world.now += Duration::from_mins(5);
    assert_eq!(world.fitness(), [Fitness::Fit; 2]);
    assert_eq!(world.described(0), "draining for 5 min");
    assert_eq!(world.health.fit(), 1);
}

#[test]
fn a_new_plan_keeps_the_state_of_those_that_stay() {
    let mut plan = group(3, Some(CHECKS), Some(OUTLIER));
    let mut world = World::up(&plan);
    world.fail(1, 5);
    world.wait(Duration::from_secs(5), |index| index != 2);
    assert_eq!((world.word(0), world.word(1), world.word(2)), ("up", "ejected", "down"));
    plan.upstreams.remove(0);
    plan.upstreams.push(crate::balance::tests::group(BalancePlan::RoundRobin, &[1; 9]).upstreams[8].clone());
    let actions = world.health.update(&plan, world.now);
    let words: Vec<_> = (0..3).map(|index| world.health.condition(index).0.word()).collect();
    assert_eq!(words, ["ejected", "down", "unchecked"]);
    assert!(actions.contains(&Action::Publish), "the ejected one is the only one left: {actions:?}");
    assert_eq!(world.fitness(), [Fitness::Fit, Fitness::Unfit, Fitness::Unfit]);
}

#[test]
fn the_right_to_probe_is_given_once() {
    let board = Board::new(2);
    board.publish([Fitness::Fit, Fitness::Probe]);
    assert_eq!(board.fitness(0), Fitness::Fit);
    assert!(!board.claim_probe(0));
    assert!(board.claim_probe(1));
    assert!(!board.claim_probe(1));
    assert_eq!(board.fitness(1), Fitness::Unfit);
    assert_eq!(board.fitness(2), Fitness::Unfit);
}
