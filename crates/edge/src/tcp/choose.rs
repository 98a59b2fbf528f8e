//! Which upstream gets a connection.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::ready;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mainstay_http::proxy_protocol::Version;
use mainstay_http::tls::ClientTls;
use mainstay_site::plan::edge::{ProxyVersion, UpstreamGroup};

use crate::balance::{NoUpstream, Readiness};

/// An upstream, and how it is reached.
pub struct Target {
    /// Its name, in metrics and logs.
    pub name: Rc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// How long connecting (with TLS) may take.
    pub connect: Duration,
    /// TLS to it.
    pub tls: Option<ClientTls>,
    /// A PROXY header in front.
    pub proxy_protocol: Option<Version>,
    /// Dropped when the connection ends: what counts it, or holds its place.
    pub hold: Box<dyn Any>,
}

/// Who knows the groups: which upstreams are fit, and whose turn it is. Asked by one thread.
pub trait Upstreams: 'static {
    /// An upstream of a group for a new connection, other than those that were tried for it.
    fn choose(&self, group: &str, tried: &[SocketAddr]) -> Result<Target, NoUpstream>;

    /// The same once one has room, for as long as the group lets a connection wait. Without a queue, none waits.
    fn wait(&self, _group: &str, _tried: &[SocketAddr]) -> impl Future<Output = Result<Target, NoRoom>> {
        ready(Err(NoRoom::QueueFull))
    }

    /// Told when an upstream took a connection, or did not.
    fn connected(&self, _group: &str, _target: &Target, _taken: bool) {}
}

/// Why a connection that waited got no upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// As many wait already as may.
    #[error("too many connections wait for room at an upstream")]
    QueueFull,
    /// It waited for as long as it may.
    #[error("no upstream had room in time")]
    QueueTime,
    /// There is none any more.
    #[error("no upstream takes new connections")]
    Nobody,
}

/// Takes the fit upstream with the fewest open connections of this thread by weight, ties in turn. Backups are used when
/// no other is left; if none is fit, all are tried, because checks may be wrong. One that is full is not passed by for a
/// worse one: whoever comes may wait.
pub struct LeastConnections<F> {
    groups: RefCell<HashMap<String, Rc<Group>>>,
    fit: F,
}

struct Group {
    plan: UpstreamGroup,
    tls: Option<ClientTls>,
    names: Vec<Rc<str>>,
    open: Vec<Rc<Cell<u32>>>,
    turn: Cell<usize>,
}

impl<R: Into<Readiness>, F: Fn(&str, usize) -> R + 'static> LeastConnections<F> {
    /// Groups with TLS to their upstreams, where they have it. `fit` says whether the upstream with this index of the
    /// group with this name is healthy, and whether it has room.
    pub fn new(groups: impl IntoIterator<Item = (UpstreamGroup, Option<ClientTls>)>, fit: F) -> Self {
        let this = Self { groups: RefCell::default(), fit };
        this.replace(groups);
        this
    }

    /// Takes over new groups. Counts of upstreams that stay go on.
    pub fn replace(&self, groups: impl IntoIterator<Item = (UpstreamGroup, Option<ClientTls>)>) {
        let old = self.groups.take();
        let kept = |group: &str, address: SocketAddr| {
            let old = old.get(group)?;
            let index = old.plan.upstreams.iter().position(|upstream| upstream.address == address)?;
            Some(Rc::clone(&old.open[index]))
        };
        let groups = groups.into_iter().map(|(plan, tls)| {
            let names = plan.upstreams.iter().map(|upstream| Rc::from(upstream.name.as_str())).collect();
            let open = plan.upstreams.iter();
            let open = open.map(|upstream| kept(&plan.name, upstream.address).unwrap_or_default()).collect();
            (plan.name.clone(), Rc::new(Group { plan, tls, names, open, turn: Cell::new(0) }))
        });
        *self.groups.borrow_mut() = groups.collect();
    }
}

impl<R: Into<Readiness>, F: Fn(&str, usize) -> R + 'static> Upstreams for LeastConnections<F> {
    fn choose(&self, group: &str, tried: &[SocketAddr]) -> Result<Target, NoUpstream> {
        let group = Rc::clone(self.groups.borrow().get(group).ok_or(NoUpstream::Nobody)?);
        let index = group.choose(|index| (self.fit)(&group.plan.name, index).into(), tried)?;
        Ok(group.target(index))
    }
}

impl Group {
    fn choose(
        &self,
        readiness: impl Fn(usize) -> Readiness,
        tried: &[SocketAddr],
    ) -> Result<usize, NoUpstream> {
        let upstreams = &self.plan.upstreams;
        let turn = self.turn.get();
        let mut best: Option<((bool, bool), usize)> = None;
        let mut full: Option<(bool, bool)> = None;
        for offset in 0..upstreams.len() {
            let index = (turn + offset) % upstreams.len();
            let upstream = &upstreams[index];
            if upstream.drain || upstream.weight == 0 || tried.contains(&upstream.address) {
                continue;
            }
            let ready = readiness(index);
            let tier = (ready == Readiness::Unfit, upstream.backup);
            if ready == Readiness::Full {
                full = Some(full.map_or(tier, |full| full.min(tier)));
                continue;
            }
            let better = best.is_none_or(|(best_tier, best)| {
                tier < best_tier || (tier == best_tier && self.load_is_less(index, best))
            });
            if better {
                best = Some((tier, index));
            }
        }
        let (_, index) = match (best, full) {
            (Some((tier, index)), full) if full.is_none_or(|full| tier <= full) => (tier, index),
            (_, Some(_)) => return Err(NoUpstream::Full),
            _ => return Err(NoUpstream::Nobody),
        };
        self.turn.set((index + 1) % upstreams.len());
        Ok(index)
    }

    /// Compares connections by weight, as they would be with one more.
    fn load_is_less(&self, one: usize, other: usize) -> bool {
        let load = |index: usize| u64::from(self.open[index].get()) + 1;
        let weight = |index: usize| u64::from(self.plan.upstreams[index].weight);
        load(one) * weight(other) < load(other) * weight(one)
    }

    fn target(&self, index: usize) -> Target {
        let open = Rc::clone(&self.open[index]);
        open.set(open.get() + 1);
        Target {
            name: Rc::clone(&self.names[index]),
            address: self.plan.upstreams[index].address,
            connect: Duration::from_millis(self.plan.connect_ms.max(1)),
            tls: self.tls.clone(),
            proxy_protocol: self.plan.proxy_protocol.map(|version| match version {
                ProxyVersion::V1 => Version::V1,
                ProxyVersion::V2 => Version::V2,
            }),
            hold: Box::new(Open(open)),
        }
    }
}

/// Counts a connection as open as long as it lives.
struct Open(Rc<Cell<u32>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
