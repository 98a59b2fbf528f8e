//! Services that are no HTTP: who answers them, as the plan in force and the upstreams' health say.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mainstay_http::networks::Networks;
use mainstay_site::plan::EdgePlan;
use tokio::sync::mpsc;

use crate::balance::{NoUpstream, Readiness};
use crate::certificates::Served;
use crate::control::Told;
use crate::health::{Event, Fitness, Reason};
use crate::in_force::{InForce, Place, Queue, SharedGroup, SharedUpstream};
use crate::tcp::{LeastConnections, Live, NoRoom, Service, Target, Upstreams};

/// How long one that waits believes that nothing has changed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The plan in force, for threads that are asked for one thing at a time. The lock is held for a clone of the pointer,
/// once per connection.
#[derive(Clone)]
pub(crate) struct Current(Arc<Mutex<Arc<InForce>>>);

impl Current {
    pub(crate) fn new(in_force: Arc<InForce>) -> Self {
        Self(Arc::new(Mutex::new(in_force)))
    }

    pub(crate) fn replace(&self, in_force: Arc<InForce>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = in_force;
    }

    fn now(&self) -> Arc<InForce> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The services of a plan, by the address where each is offered.
#[derive(Clone, Default)]
pub(crate) struct Services(Vec<(SocketAddr, Live)>);

impl Services {
    pub(crate) fn new(plan: &EdgePlan, tls: &Served) -> Result<Self, String> {
        let services = compile(plan, tls)?.into_iter();
        Ok(Self(services.map(|(address, service)| (address, Live::new(service))).collect()))
    }

    pub(crate) fn at(&self, address: SocketAddr) -> Option<&Live> {
        self.0.iter().find(|(listen, _)| *listen == address).map(|(_, live)| live)
    }

    /// Takes over another plan's, which are offered at the same addresses.
    pub(crate) fn replace(&self, services: Vec<(SocketAddr, Service)>) {
        for (address, service) in services {
            if let Some(live) = self.at(address) {
                live.replace(service);
            }
        }
    }
}

/// The services of a plan.
pub(crate) fn compile(plan: &EdgePlan, tls: &Served) -> Result<Vec<(SocketAddr, Service)>, String> {
    let trusted = Networks::parse(&plan.trusted_proxies)?;
    let services = plan.tcp.iter();
    services.map(|planned| Ok((planned.listen, Service::new(planned, tls.tcp.as_ref(), &trusted)?))).collect()
}

type Fit = Box<dyn Fn(&str, usize) -> Readiness>;

/// Chooses among the upstreams of the plan in force, on one thread.
pub(crate) struct Chooser {
    current: Current,
    told: mpsc::Sender<Told>,
    generation: Cell<u64>,
    groups: LeastConnections<Fit>,
}

impl Chooser {
    pub(crate) fn new(current: Current, told: mpsc::Sender<Told>) -> Self {
        let judged = current.clone();
        let fit = move |group: &str, index: usize| {
            let in_force = judged.now();
            let found =
                in_force.groups.get(group).and_then(|group| Some((group, group.upstreams.get(index)?)));
            match found {
                Some((group, _)) if group.board.fitness(index) == Fitness::Unfit => Readiness::Unfit,
                Some((_, upstream)) if upstream.has_room() => Readiness::Ready,
                Some(_) => Readiness::Full,
                None => Readiness::Unfit,
            }
        };
        let groups = LeastConnections::new([], Box::new(fit) as Fit);
        Self { current, told, generation: Cell::new(0), groups }
    }

    fn upstream(&self, group: &str, address: SocketAddr) -> Option<Arc<SharedUpstream>> {
        let in_force = self.current.now();
        let found = in_force.groups.get(group)?.upstreams.iter().find(|upstream| upstream.address == address);
        found.cloned()
    }

    fn group(&self, name: &str) -> Option<Arc<SharedGroup>> {
        self.current.now().groups.get(name).cloned()
    }

    /// Chooses an upstream and takes a place there.
    fn take(&self, group: &str, tried: &[SocketAddr]) -> Result<Target, NoUpstream> {
        let in_force = self.current.now();
        if self.generation.replace(in_force.generation) != in_force.generation {
            let groups = in_force.groups.values();
            self.groups.replace(
                groups.map(|group| (group.plan.clone(), group.tls.as_ref().map(|tls| tls.tls.clone()))),
            );
        }
        let shared = in_force.groups.get(group).ok_or(NoUpstream::Nobody)?;
        // Another thread may take the last place in between.
        for _ in 0..4 {
            let mut target = self.groups.choose(group, tried)?;
            let Some(upstream) = self.upstream(group, target.address) else { return Ok(target) };
            let Some(place) = upstream.enter() else { continue };
            upstream.requests.inc();
            upstream.in_flight.add(1);
            let counted = Counted { upstream, place, queue: Arc::clone(&shared.queue) };
            target.hold = Box::new((target.hold, counted));
            return Ok(target);
        }
        Err(NoUpstream::Full)
    }
}

impl Upstreams for Chooser {
    fn choose(&self, group: &str, tried: &[SocketAddr]) -> Result<Target, NoUpstream> {
        // Nobody overtakes those that wait.
        if self.group(group).is_some_and(|group| group.queue.is_used()) {
            return Err(NoUpstream::Full);
        }
        self.take(group, tried)
    }

    async fn wait(&self, group: &str, tried: &[SocketAddr]) -> Result<Target, NoRoom> {
        let shared = self.group(group).ok_or(NoRoom::Nobody)?;
        let _waiting = shared.queue.join(shared.plan.queue).ok_or(NoRoom::QueueFull)?;
        let until = Instant::now() + shared.patience();
        loop {
            let room = shared.queue.room.notified();
            let now = Instant::now();
            match self.take(group, tried) {
                Ok(target) => return Ok(target),
                Err(NoUpstream::Nobody) => return Err(NoRoom::Nobody),
                Err(NoUpstream::Full) if now >= until => return Err(NoRoom::QueueTime),
                Err(NoUpstream::Full) => {}
            }
            // Also without a word there may be room: health and limits change.
            let look_again = (now + LOOK_AGAIN).min(until);
            let _ = tokio::time::timeout_at(look_again.into(), room).await;
        }
    }

    fn connected(&self, group: &str, target: &Target, taken: bool) {
        if taken {
            return;
        }
        let in_force = self.current.now();
        let (Some(shared), Some(upstream)) =
            (in_force.groups.get(group), self.upstream(group, target.address))
        else {
            return;
        };
        upstream.failures.inc();
        // If the control thread is too busy, it will see the next one.
        let _ = self
            .told
            .try_send(Told::Health(Arc::clone(shared), Event::Refused(upstream.id, Reason::Refused)));
    }
}

/// A connection at an upstream.
struct Counted {
    upstream: Arc<SharedUpstream>,
    place: Place,
    queue: Arc<Queue>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.upstream.in_flight.add(-1);
        self.upstream.leave(self.place);
        self.queue.tell();
    }
}
