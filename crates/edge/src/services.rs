//! Services that are no HTTP: who answers them, as the plan in force and the upstreams' health say.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mainstay_http::networks::Networks;
use mainstay_site::plan::EdgePlan;
use tokio::sync::mpsc;

use crate::certificates::Served;
use crate::control::Told;
use crate::health::{Event, Fitness, Reason};
use crate::in_force::{InForce, SharedUpstream};
use crate::tcp::{LeastConnections, Live, Service, Target, Upstreams};

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

type Fit = Box<dyn Fn(&str, usize) -> bool>;

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
            judged.now().groups.get(group).is_some_and(|group| group.board.fitness(index) != Fitness::Unfit)
        };
        let groups = LeastConnections::new([], Box::new(fit) as Fit);
        Self { current, told, generation: Cell::new(0), groups }
    }

    fn upstream(&self, group: &str, address: SocketAddr) -> Option<Arc<SharedUpstream>> {
        let in_force = self.current.now();
        let found = in_force.groups.get(group)?.upstreams.iter().find(|upstream| upstream.address == address);
        found.cloned()
    }
}

impl Upstreams for Chooser {
    fn choose(&self, group: &str, tried: &[SocketAddr]) -> Option<Target> {
        let in_force = self.current.now();
        if self.generation.replace(in_force.generation) != in_force.generation {
            let groups = in_force.groups.values();
            self.groups.replace(
                groups.map(|group| (group.plan.clone(), group.tls.as_ref().map(|tls| tls.tls.clone()))),
            );
        }
        let mut target = self.groups.choose(group, tried)?;
        if let Some(upstream) = self.upstream(group, target.address) {
            upstream.requests.inc();
            upstream.in_flight.add(1);
            target.hold = Box::new((target.hold, Counted(upstream)));
        }
        Some(target)
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
struct Counted(Arc<SharedUpstream>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.in_flight.add(-1);
    }
}
