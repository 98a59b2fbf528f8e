//! What the cache counts of itself.

use std::sync::Arc;

use mainstay_http::metrics::{Counter, Registry};

use super::status::Outcome;
use super::store::Store;

#[derive(Clone)]
pub(crate) struct CacheMetrics {
    outcomes: Vec<Counter>,
    pub(crate) stored: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) evictions: Counter,
    pub(crate) purged: Counter,
    pub(crate) invalidated: Counter,
    pub(crate) wait_timeouts: Counter,
    pub(crate) broken: Counter,
}

impl CacheMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let outcomes = registry.counters(
            "mainstay_edge_cache_requests_total",
            "Requests, by what came of a look into the cache.",
            &["outcome"],
        );
        Self {
            outcomes: Outcome::ALL.iter().map(|outcome| outcomes.with(&[outcome.name()])).collect(),
            stored: registry.counter("mainstay_edge_cache_stored_total", "Responses that were stored."),
            refreshes: registry.counter("mainstay_edge_cache_refreshes_total", "Stale responses refreshed in the background."),
            evictions: registry.counter("mainstay_edge_cache_evictions_total", "Responses dropped because memory was full."),
            purged: registry.counter("mainstay_edge_cache_purged_total", "Responses dropped on request."),
            invalidated: registry.counter("mainstay_edge_cache_invalidated_total", "Responses dropped because of an unsafe request."),
            wait_timeouts: registry.counter(
                "mainstay_edge_cache_wait_timeouts_total",
                "Requests that waited too long for another one's fetch, and went by themselves.",
            ),
            broken: registry.counter("mainstay_edge_cache_unfinished_total", "Responses not stored because their bodies did not end well, grew too large, or nobody read them."),
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        // Both are in the order of `Outcome::ALL`.
        self.outcomes[outcome as usize].inc();
    }
}

/// Registers what is asked for at each scrape.
pub(crate) fn watch(registry: &Registry, store: &Arc<Store>) {
    let bytes = Arc::clone(store);
    registry.computed("mainstay_edge_cache_stored_bytes", "Memory of stored responses.", move || {
        bytes.size().0 as f64
    });
    let entries = Arc::clone(store);
    registry.computed("mainstay_edge_cache_entries", "Stored responses.", move || entries.size().1 as f64);
}
