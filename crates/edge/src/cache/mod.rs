//! A shared cache in memory (RFC 9111), off unless the site asks for it.
//!
//! What may be kept and given is decided without I/O: [`directives`] reads what requests and responses say, [`policy`]
//! judges it, [`vary`] tells which requests a response is for, [`validate`] asks the origin and merges its word, [`reply`]
//! answers conditions and ranges from what is kept.
//!
//! What is kept lies in a [`store`] that all workers share, in the order of [`entries`]. [`driver`] is the way of a
//! request: looked up by its [`Key`]; else fetched once for all who ask for the same meanwhile ([`flight`]), and read by
//! them while it comes ([`fill`]). Stored bodies are as the upstream sent them; compressing happens outside.

mod driver;
mod entries;
mod fetch;
mod fill;
mod flight;
mod key;
mod metrics;
mod status;
mod store;
mod stored;

pub mod directives;
pub mod policy;
pub mod reply;
pub mod validate;
pub mod vary;

use std::sync::Arc;
use std::time::Instant;

use mainstay_http::date;
use mainstay_http::metrics::Registry;
use mainstay_site::plan::edge::CachePlan;

pub use driver::WorkerCache;
pub use key::{Key, normalise};
pub use status::{CACHE_STATUS, CacheStatus, Outcome};
pub use stored::{Content, Stored};

use fill::Budget;
use metrics::CacheMetrics;
use policy::Moment;
use store::Store;

/// The part of the plan's memory that holds bodies on their way: a quarter.
const FILL_SHARE: usize = 4;

/// The cache of a whole process. Each worker has a [`WorkerCache`] of it.
pub struct Cache {
    plan: CachePlan,
    store: Arc<Store>,
    /// The largest body that is kept.
    object_bytes: usize,
    budget: Arc<Budget>,
    metrics: CacheMetrics,
    clock: Box<dyn Fn() -> Moment + Send + Sync>,
}

impl Cache {
    /// A cache by its plan, whose metrics are in this registry.
    pub fn new(plan: &CachePlan, registry: &Registry) -> Arc<Self> {
        let start = Instant::now();
        Self::with_clock(plan, registry, move || Moment {
            monotonic_ms: start.elapsed().as_millis() as u64,
            wall_secs: date::wall_seconds(),
        })
    }

    /// A cache with a clock of its own, for tests.
    pub fn with_clock(
        plan: &CachePlan,
        registry: &Registry,
        clock: impl Fn() -> Moment + Send + Sync + 'static,
    ) -> Arc<Self> {
        let memory = usize::try_from(plan.memory.bytes()).unwrap_or(usize::MAX);
        let in_flight = memory / FILL_SHARE;
        let object = usize::try_from(plan.object.bytes()).unwrap_or(usize::MAX).min(in_flight);
        let metrics = CacheMetrics::new(registry);
        let store = Store::new(memory - in_flight, object, metrics.evictions.clone());
        metrics::watch(registry, &store);
        Arc::new(Self {
            plan: *plan,
            store,
            object_bytes: object,
            budget: Budget::new(in_flight),
            metrics,
            clock: Box::new(clock),
        })
    }

    /// Forgets what is kept for a URL, in all its variants. `None` if it is no URL; else how many responses there were.
    pub fn purge_url(&self, url: &str) -> Option<usize> {
        let count = self.store.remove_url(&normalise(url)?);
        self.metrics.purged.add(count as u64);
        Some(count)
    }

    /// Forgets all that is kept for URLs that begin like this one. The end is taken as it is written: `/shop` is the
    /// beginning of `/shopping` too. `None` if it is no URL; else how many responses there were.
    pub fn purge_prefix(&self, url: &str) -> Option<usize> {
        let count = self.store.remove_prefix(&normalise(url)?);
        self.metrics.purged.add(count as u64);
        Some(count)
    }

    /// Forgets everything, and tells how many responses there were.
    pub fn purge_all(&self) -> usize {
        let count = self.store.remove_prefix("");
        self.metrics.purged.add(count as u64);
        count
    }

    /// Bytes that are kept, with all that belongs to them, and the number of responses.
    pub fn size(&self) -> (usize, usize) {
        self.store.size()
    }

    fn now(&self) -> Moment {
        (self.clock)()
    }
}
