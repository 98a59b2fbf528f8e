//! A server with so many hands, and more clients than it can serve, simulated from a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};

use super::*;
use crate::balance::random::Random;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
struct Load {
    seed: u64,
    /// Requests that the server works on side by side; others wait in its own queue, however long.
    hands: usize,
    /// What one takes, on average; exponentially distributed.
    service: Duration,
    /// Requests that come, compared with what the server can do.
    factor: f64,
    /// How long a client waits. The server does not notice when it leaves.
    patience: Duration,
    /// Edge workers, each with a shedder of its own; 0: nothing is shed.
    workers: usize,
    seconds: u64,
}

const LOAD: Load = Load {
    seed: 1,
    hands: 50,
    service: Duration::from_millis(10),
    factor: 2.0,
    patience: Duration::from_millis(500),
    workers: 1,
    seconds: 60,
};

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Done(u64),
    Due(usize),
}

struct Request {
    arrived: u64,
    went_ahead: u64,
    worker: usize,
}

struct Simulation {
    load: Load,
    random: Random,
    start: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    shedders: Vec<Shedder<u64>>,
    alarms: Vec<u64>,
    requests: Vec<Request>,
    busy: usize,
    server_queue: VecDeque<u64>,
    turned_away: HashSet<u64>,
    /// Answered in time, after the first ten seconds.
    good: u64,
    /// Times from arrival to answer of those, in microseconds.
    latencies: Vec<u64>,
    most_at_server: usize,
    /// The capacity changes to so many hands at that time.
    change: Option<(u64, usize)>,
}

/// The first seconds, in which it learns, are not counted.
const WARM_UP_MICROS: u64 = 10_000_000;

impl Simulation {
    fn new(load: Load) -> Self {
        let start = Instant::now();
        let shedder =
            |worker| Shedder::new(200, Duration::from_millis(200), load.seed * 100 + worker as u64, start);
        Self {
            load,
            random: Random::new(load.seed),
            start,
            now: 0,
            events: BinaryHeap::new(),
            number: 0,
            shedders: (0..load.workers).map(shedder).collect(),
            alarms: vec![0; load.workers],
            requests: Vec::new(),
            busy: 0,
            server_queue: VecDeque::new(),
            turned_away: HashSet::new(),
            good: 0,
            latencies: Vec::new(),
            most_at_server: 0,
            change: None,
        }
    }

    fn clock(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn at(&mut self, micros: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((micros, self.number, event)));
    }

    fn exponential(&mut self, mean_micros: f64) -> u64 {
        (-(1.0 - self.random.unit()).ln() * mean_micros) as u64
    }

    /// What the server can do in a second.
    fn capacity(&self) -> f64 {
        self.load.hands as f64 / self.load.service.as_secs_f64()
    }

    fn run(mut self) -> Self {
        let between = 1e6 / (self.capacity() * self.load.factor);
        self.at(0, Event::Arrives);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.load.seconds * 1_000_000 {
                break;
            }
            self.now = at;
            if let Some((_, hands)) = self.change.take_if(|(change, _)| *change <= at) {
                self.load.hands = hands;
            }
            match event {
                Event::Arrives => {
                    let next = at + self.exponential(between);
                    self.at(next, Event::Arrives);
                    self.arrives();
                }
                Event::Done(request) => self.done(request),
                Event::Due(worker) if self.alarms[worker] == at => self.serve_waiting(worker),
                Event::Due(_) => {}
            }
        }
        self
    }

    fn arrives(&mut self) {
        let id = self.requests.len() as u64;
        let worker = id as usize % self.load.workers.max(1);
        self.requests.push(Request { arrived: self.now, went_ahead: self.now, worker });
        let now = self.clock();
        match self.shedders.get_mut(worker).map(Shedder::admit) {
            None | Some(Admission::Go) => self.go(id),
            Some(Admission::Wait) => {
                if self.shedders[worker].wait(id, now).is_err() {
                    self.turned_away.insert(id);
                }
                self.serve_waiting(worker);
            }
        }
    }

    fn serve_waiting(&mut self, worker: usize) {
        let now = self.clock();
        while let Some(next) = self.shedders[worker].next(now) {
            match next {
                Next::Go(id) => self.go(id),
                Next::Shed(id) => {
                    self.turned_away.insert(id);
                }
            }
        }
        if let Some(due) = self.shedders[worker].next_due() {
            let micros = due.saturating_duration_since(self.start).as_micros() as u64 + 1;
            let micros = micros.max(self.now + 1);
            // One alarm per worker, the earliest.
            if self.alarms[worker] <= self.now || micros < self.alarms[worker] {
                self.alarms[worker] = micros;
                self.at(micros, Event::Due(worker));
            }
        }
    }

    /// A request reaches the server.
    fn go(&mut self, id: u64) {
        self.requests[id as usize].went_ahead = self.now;
        self.server_queue.push_back(id);
        self.most_at_server = self.most_at_server.max(self.server_queue.len() + self.busy);
        self.work();
    }

    fn work(&mut self) {
        while self.busy < self.load.hands {
            let Some(id) = self.server_queue.pop_front() else { return };
            self.busy += 1;
            let takes = self.exponential(self.load.service.as_secs_f64() * 1e6);
            self.at(self.now + takes, Event::Done(id));
        }
    }

    fn done(&mut self, id: u64) {
        self.busy -= 1;
        let request = &self.requests[id as usize];
        let (whole, at_server) = (self.now - request.arrived, self.now - request.went_ahead);
        let worker = request.worker;
        if whole <= self.load.patience.as_micros() as u64 && self.now > WARM_UP_MICROS {
            self.good += 1;
            self.latencies.push(whole);
        }
        self.work();
        if !self.shedders.is_empty() {
            let now = self.clock();
            self.shedders[worker].finished(Some(Duration::from_micros(at_server)), now);
            self.serve_waiting(worker);
        }
    }

    /// Answers in time, compared with what the server could do.
    fn goodput(&self) -> f64 {
        let seconds = self.load.seconds as f64 - WARM_UP_MICROS as f64 / 1e6;
        self.good as f64 / (self.capacity() * seconds)
    }

    fn percentile(&mut self, share: f64) -> Duration {
        self.latencies.sort_unstable();
        let index = ((self.latencies.len() - 1) as f64 * share) as usize;
        Duration::from_micros(self.latencies[index])
    }
}

#[test]
fn without_shedding_overload_serves_nobody() {
    let goodput = Simulation::new(Load { workers: 0, seconds: 30, ..LOAD }).run().goodput();
    assert!(goodput < 0.05, "goodput {goodput:.2}");
}

fn overload(load: Load) {
    let mut world = Simulation::new(load).run();
    let (goodput, p99) = (world.goodput(), world.percentile(0.99));
    let limits: Vec<u32> = world.shedders.iter().map(Shedder::limit).collect();
    println!("{load:?}: goodput {goodput:.3}, 99 % within {p99:?}, limits {limits:?}");
    assert!(goodput >= 0.9, "{load:?}: goodput {goodput:.3}, limits {limits:?}");
    assert!(p99 < load.service * 25, "{load:?}: 99 % within {p99:?}");
}

#[test]
fn at_twice_the_capacity_goodput_stays() {
    for seed in 1..=4 {
        for workers in [1, 2, 4] {
            overload(Load { seed, workers, ..LOAD });
        }
    }
}

#[test]
fn at_ten_times_the_capacity_goodput_stays() {
    overload(Load { factor: 10.0, seconds: 30, ..LOAD });
}

#[test]
fn it_stays_over_many_minutes() {
    // Limits that learn from each other's load would have run away by then.
    for workers in [2, 4] {
        overload(Load { workers, seconds: 600, service: Duration::from_millis(40), ..LOAD });
    }
}

#[test]
fn two_edges_that_learn_together_do_not_drive_each_other_up() {
    let mut world =
        Simulation::new(Load { workers: 2, seconds: 600, service: Duration::from_millis(40), ..LOAD });
    // The second one was started later, and their clocks differ a little.
    world.shedders[1] =
        Shedder::new(200, Duration::from_millis(200), 9, world.start + Duration::from_secs(15));
    world.shedders[0].learn_at(world.start + Duration::from_secs(20));
    world.shedders[1].learn_at(world.start + Duration::from_millis(20_050));
    let world = world.run();
    let limits: Vec<u32> = world.shedders.iter().map(Shedder::limit).collect();
    assert!(world.goodput() >= 0.9, "goodput {:.3}, limits {limits:?}", world.goodput());
}

#[test]
fn all_learn_at_the_next_full_half_minute() {
    let now = Instant::now();
    let in_millis = |wall| next_half_minute(Duration::from_millis(wall), now).duration_since(now).as_millis();
    assert_eq!(in_millis(1_700_000_000_000 - 20_000), 30_000);
    assert_eq!(in_millis(1_700_000_000_250 - 20_000), 29_750);
    assert_eq!(in_millis(1_700_000_009_999), 1);
    // Those that start at other times, at two servers whose clocks differ by 50 ms, agree to within that.
    let one = next_half_minute(Duration::from_secs(1_700_000_012), now);
    let later = now + Duration::from_secs(7);
    let other = next_half_minute(Duration::from_millis(1_700_000_019_050), later);
    assert_eq!(one - other, Duration::from_millis(50));
}

#[test]
fn below_the_capacity_nobody_is_turned_away() {
    for factor in [0.1, 0.5, 0.8] {
        let world = Simulation::new(Load { factor, workers: 2, ..LOAD }).run();
        let share = world.turned_away.len() as f64 / world.requests.len() as f64;
        assert!(share < 0.002, "at {factor} of the capacity {share:.4} were turned away");
    }
}

#[test]
fn a_server_that_loses_half_its_hands_is_followed() {
    let load = Load { seconds: 90, ..LOAD };
    let mut world = Simulation::new(load);
    world.change = Some((40_000_000, load.hands / 2));
    let mut world = world.run();
    // Thirty seconds of all hands, fifty of half of them; capacity() is that of half now.
    let possible = world.capacity() * 2.0 * 30.0 + world.capacity() * 50.0;
    assert!(world.good as f64 >= 0.9 * possible, "{} of {possible}", world.good);
    let p99 = world.percentile(0.99);
    assert!(p99 < Duration::from_millis(300), "{p99:?}");
}

#[test]
fn little_to_do_moves_no_limit() {
    // Latency goes up and down for reasons of its own while a few requests are in flight.
    let start = Instant::now();
    let mut limit = Limit::new(start);
    let first = limit.limit();
    for request in 0..5000 {
        let latency = Duration::from_millis(if request / 500 % 2 == 0 { 5 } else { 500 });
        limit.observe(Some(latency), 3, start + Duration::from_millis(request * 4));
    }
    assert_eq!(limit.limit(), first);
}

#[test]
fn long_polls_pull_the_limit_down_to_its_floor_and_it_recovers() {
    let start = Instant::now();
    let mut now = start;
    let mut limit = Limit::new(start);
    let mut observe = |limit: &mut Limit, latency, requests| {
        for _ in 0..requests {
            now += Duration::from_millis(2);
            let in_flight = limit.limit();
            limit.observe(Some(latency), in_flight, now);
        }
    };
    observe(&mut limit, Duration::from_millis(10), 1000);
    let before = limit.limit();
    observe(&mut limit, Duration::from_secs(30), 5000);
    assert!(limit.limit() >= LEAST_LIMIT && limit.limit() < before / 2, "{} of {before}", limit.limit());
    observe(&mut limit, Duration::from_millis(10), 30_000);
    assert!(limit.limit() >= before, "{} of {before}", limit.limit());
}

#[test]
fn a_queue_is_bounded_in_length_and_time() {
    let start = Instant::now();
    let mut queue = Queue::new(2, Duration::from_millis(50), start);
    assert_eq!(queue.push('a', start), Ok(()));
    assert_eq!(queue.push('b', start + Duration::from_millis(10)), Ok(()));
    assert_eq!(queue.push('c', start + Duration::from_millis(10)), Err('c'));
    assert_eq!(queue.next_due(), Some(start + Duration::from_millis(50)));
    assert_eq!(queue.next(false, start + Duration::from_millis(49)), None);
    assert_eq!(queue.next(false, start + Duration::from_millis(50)), Some(Next::Shed('a')));
    assert_eq!(queue.next(true, start + Duration::from_millis(50)), Some(Next::Go('b')));
    assert_eq!(queue.next(true, start + Duration::from_millis(50)), None);
    assert_eq!(queue.next_due(), None);
}

#[test]
fn a_burst_is_served_in_order_and_a_standing_queue_newest_first() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut queue = Queue::new(100, Duration::from_secs(1), start);
    (0..3).for_each(|number| queue.push(number, at(0)).unwrap());
    assert_eq!(queue.next(true, at(90)), Some(Next::Go(0)));
    queue.push(3, at(510)).unwrap();
    queue.push(4, at(511)).unwrap();
    // It was never empty for half a second: who waits for more than a quarter goes, and then the newest is served.
    assert_eq!(queue.most_wait(at(512)), Duration::from_millis(250));
    let rest: Vec<_> = std::iter::from_fn(|| queue.next(true, at(512))).collect();
    assert_eq!(rest, [Next::Shed(1), Next::Shed(2), Next::Go(4), Next::Go(3)]);
    queue.push(5, at(600)).unwrap();
    assert_eq!(queue.most_wait(at(600)), Duration::from_secs(1), "it was empty meanwhile");
}

#[test]
fn nobody_overtakes_those_that_wait() {
    let now = Instant::now();
    let mut shedder = Shedder::new(10, Duration::from_secs(1), 0, now);
    while shedder.admit() == Admission::Go {}
    shedder.wait('a', now).unwrap();
    shedder.finished(None, now);
    assert_eq!(shedder.admit(), Admission::Wait);
    assert_eq!(shedder.next(now), Some(Next::Go('a')));
    assert_eq!(shedder.next(now), None);
    assert_eq!((shedder.in_flight(), shedder.waiting()), (shedder.limit(), 0));
}
