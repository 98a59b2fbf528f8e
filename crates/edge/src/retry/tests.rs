use proptest::prelude::*;

use super::*;

const PLAN: RetryPlan = RetryPlan { attempts: 2, budget_percent: 20, on_status: true };

/// The most harmless failure that is not free: a GET whose connection ended before the response.
fn failed() -> Try {
    Try {
        failure: Failure::Closed,
        tries: 1,
        idempotent: true,
        sent: true,
        body_at_hand: true,
        another: true,
        deadline: None,
    }
}

fn decide_once(plan: &RetryPlan, failed: &Try) -> Decision {
    let now = Instant::now();
    decide(plan, failed, &mut RetryBudget::new(plan.budget_percent, now), &mut Random::new(1), now)
}

const AT_ONCE: Decision = Decision::Retry { after: Duration::ZERO };

#[test]
fn an_idempotent_request_is_tried_on_another_upstream_at_once() {
    for failure in
        [Failure::NotConnected, Failure::NotProcessed, Failure::Closed, Failure::Timeout, Failure::WentDown]
    {
        assert_eq!(decide_once(&PLAN, &Try { failure, ..failed() }), AT_ONCE, "{failure:?}");
    }
}

#[test]
fn what_may_have_been_processed_is_not_sent_twice() {
    let post = Try { idempotent: false, ..failed() };
    for failure in [Failure::Closed, Failure::Timeout, Failure::WentDown, Failure::Status(503)] {
        assert_eq!(
            decide_once(&PLAN, &Try { failure, ..post }),
            Decision::Stop(Stop::NotIdempotent),
            "{failure:?}"
        );
    }
    // These cannot have been.
    for failure in [Failure::NotConnected, Failure::NotProcessed] {
        assert_eq!(decide_once(&PLAN, &Try { failure, ..post }), AT_ONCE, "{failure:?}");
    }
    assert_eq!(decide_once(&PLAN, &Try { sent: false, ..post }), AT_ONCE);
}

#[test]
fn a_body_that_is_gone_is_not_sent_again() {
    let gone = Try { body_at_hand: false, ..failed() };
    assert_eq!(decide_once(&PLAN, &gone), Decision::Stop(Stop::BodyGone));
    assert_eq!(
        decide_once(&PLAN, &Try { failure: Failure::NotConnected, ..gone }),
        Decision::Stop(Stop::BodyGone)
    );
}

#[test]
fn only_a_gateways_errors_are_no_answers() {
    for (status, on_status, wanted) in [
        (502, true, AT_ONCE),
        (503, true, AT_ONCE),
        (504, true, AT_ONCE),
        (503, false, Decision::Stop(Stop::Answered)),
        (500, true, Decision::Stop(Stop::Answered)),
        (429, true, Decision::Stop(Stop::Answered)),
    ] {
        let plan = RetryPlan { on_status, ..PLAN };
        assert_eq!(
            decide_once(&plan, &Try { failure: Failure::Status(status), ..failed() }),
            wanted,
            "{status}"
        );
    }
    assert_eq!(
        decide_once(&PLAN, &Try { failure: Failure::Begun, ..failed() }),
        Decision::Stop(Stop::Answered)
    );
}

#[test]
fn attempts_end_but_dead_servers_do_not_use_them_up() {
    assert_eq!(decide_once(&PLAN, &Try { tries: 2, ..failed() }), AT_ONCE);
    assert_eq!(decide_once(&PLAN, &Try { tries: 3, ..failed() }), Decision::Stop(Stop::Attempts));
    let dead = Try { failure: Failure::NotConnected, tries: 5, ..failed() };
    assert_eq!(decide_once(&PLAN, &dead), AT_ONCE, "a sixth may be alive");
    assert_eq!(decide_once(&PLAN, &Try { another: false, ..dead }), Decision::Stop(Stop::Attempts));
    assert_eq!(decide_once(&PLAN, &Try { tries: MOST_TRIES, ..dead }), Decision::Stop(Stop::Attempts));
    let none = RetryPlan { attempts: 0, ..PLAN };
    assert_eq!(decide_once(&none, &failed()), Decision::Stop(Stop::Disabled));
}

#[test]
fn the_same_upstream_is_given_a_pause() {
    for (tries, longest_ms) in [(1, 25), (2, 50)] {
        let Decision::Retry { after } = decide_once(&PLAN, &Try { another: false, tries, ..failed() }) else {
            panic!("it may be tried again");
        };
        let longest = Duration::from_millis(longest_ms);
        assert!(after <= longest && after >= longest / 2, "{after:?}");
    }
}

#[test]
fn there_must_be_time_for_it() {
    let now = Instant::now();
    let decide = |another, deadline| {
        let failed = Try { another, deadline: Some(deadline), ..failed() };
        decide(&PLAN, &failed, &mut RetryBudget::new(20, now), &mut Random::new(1), now)
    };
    assert_eq!(decide(true, now), Decision::Stop(Stop::Deadline));
    assert_eq!(decide(true, now + Duration::from_millis(1)), AT_ONCE);
    assert_eq!(decide(false, now + Duration::from_millis(5)), Decision::Stop(Stop::Deadline));
}

#[test]
fn retries_add_no_more_than_the_budget_to_the_load() {
    // Everything fails: a thousand requests a second for a minute.
    let start = Instant::now();
    let mut budget = RetryBudget::new(20, start);
    let mut random = Random::new(1);
    let mut retries = 0;
    for request in 0..60_000 {
        let now = start + Duration::from_millis(request);
        budget.request(now);
        let decision = decide(&PLAN, &failed(), &mut budget, &mut random, now);
        retries += u64::from(matches!(decision, Decision::Retry { .. }));
        let stopped = matches!(decision, Decision::Stop(Stop::Budget));
        assert!(stopped || matches!(decision, Decision::Retry { .. }));
    }
    assert!((11_000..=12_300).contains(&retries), "{retries} retries of 60000 requests");
}

#[test]
fn a_site_with_little_to_do_has_a_few_retries_too() {
    let start = Instant::now();
    let mut budget = RetryBudget::new(0, start);
    let burst = |budget: &mut RetryBudget, now| (0..100).filter(|_| budget.withdraw(now)).count();
    assert_eq!(burst(&mut budget, start), 30);
    assert_eq!(burst(&mut budget, start + Duration::from_secs(9)), 0);
    assert_eq!(burst(&mut budget, start + Duration::from_secs(10)), 30);
    assert_eq!(burst(&mut budget, start + Duration::from_hours(1000)), 30);
}

#[test]
fn connections_that_were_not_made_do_not_draw_on_the_budget() {
    let now = Instant::now();
    let mut budget = RetryBudget::new(0, now);
    while budget.withdraw(now) {}
    let refused = Try { failure: Failure::NotConnected, ..failed() };
    assert_eq!(decide(&PLAN, &refused, &mut budget, &mut Random::new(1), now), AT_ONCE);
    assert_eq!(decide(&PLAN, &failed(), &mut budget, &mut Random::new(1), now), Decision::Stop(Stop::Budget));
}

#[test]
fn idempotent_methods_are_those_of_the_rfc() {
    let idempotent = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
    for method in
        ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "CONNECT", "get", "PURGE"]
    {
        let parsed = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(is_idempotent(&parsed), idempotent.contains(&method), "{method}");
    }
}

proptest! {
    #[test]
    fn nothing_is_ever_processed_twice(
        failure in prop_oneof![
            Just(Failure::NotConnected), Just(Failure::NotProcessed), Just(Failure::Closed), Just(Failure::Timeout),
            Just(Failure::WentDown), Just(Failure::Begun), (100_u16..600).prop_map(Failure::Status),
        ],
        tries in 1_u32..20, idempotent: bool, sent: bool, body_at_hand: bool, another: bool,
        attempts in 0_u32..20, budget_percent in 0_u32..200, on_status: bool,
    ) {
        let plan = RetryPlan { attempts, budget_percent, on_status };
        let failed = Try { failure, tries, idempotent, sent, body_at_hand, another, deadline: None };
        if let Decision::Retry { after } = decide_once(&plan, &failed) {
            prop_assert!(body_at_hand && attempts > 0 && tries < MOST_TRIES && failure != Failure::Begun);
            let untouched = matches!(failure, Failure::NotConnected | Failure::NotProcessed)
                || !sent && !matches!(failure, Failure::Status(_));
            prop_assert!(idempotent || untouched);
            prop_assert!(after <= Duration::from_secs(1));
        }
    }
}
