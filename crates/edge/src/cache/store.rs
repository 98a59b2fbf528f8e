//! All that is kept: shards by the URL's hash, each behind a lock that is held for a look-up or an insertion only.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use mainstay_http::metrics::Counter;

use super::entries::{Entries, Id};
use super::flight::{Flight, Stage, Ticket};
use super::key::Key;
use super::policy::is_personal;
use super::stored::Stored;
use super::vary;

/// Shards, at most. Workers rarely meet at one then.
const MOST_SHARDS: usize = 64;
/// A shard has room for at least this many of the largest objects.
const OBJECTS_PER_SHARD: usize = 8;
/// Variants of one URL, by `Vary` and partition: so many, then the oldest goes.
const MOST_VARIANTS: usize = 32;
/// Fetches under way in a shard that others may wait for.
const MOST_FLIGHTS: usize = 4096;
/// URLs of a shard that are known to be uncacheable.
const MOST_PASSES: usize = 4096;
/// How long a URL is taken to be uncacheable.
const PASS_MS: u64 = 30_000;

/// All that is kept. Shared by all workers.
pub(crate) struct Store {
    shards: Box<[Mutex<Shard>]>,
    /// Keyed by chance, so that nobody can choose URLs that meet.
    hasher: RandomState,
    shard_bytes: usize,
    evictions: Counter,
}

#[derive(Default)]
struct Shard {
    /// The variants of a URL, the newest last.
    urls: HashMap<Arc<str>, Vec<Id>>,
    entries: Entries<Arc<Stored>>,
    /// Fetches under way, by a hash of all that is known to tell requests apart.
    flights: HashMap<u64, Arc<Flight>>,
    passes: Passes,
    /// Counts invalidations: who began to fetch before one may not store after it.
    epoch: u64,
}

/// How a request that needs the upstream goes about it.
pub(crate) enum Turn {
    /// It fetches, and others wait for it.
    Lead(Lead),
    /// Another one is fetching.
    Wait(Arc<Flight>),
    /// It fetches by itself.
    Alone(Ticket),
}

/// The one who fetches. Dropping it lets those who wait try again.
pub(crate) struct Lead {
    pub(crate) ticket: Ticket,
    pub(crate) flight: Arc<Flight>,
    store: Arc<Store>,
    hash: u64,
}

impl Store {
    pub(crate) fn new(memory_bytes: usize, object_bytes: usize, evictions: Counter) -> Arc<Self> {
        let shards = (memory_bytes / (OBJECTS_PER_SHARD * object_bytes).max(1)).clamp(1, MOST_SHARDS);
        Arc::new(Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            shard_bytes: memory_bytes / shards,
            evictions,
        })
    }

    /// Bytes and number of the entries.
    pub(crate) fn size(&self) -> (usize, usize) {
        let sizes = self.shards.iter().map(|shard| {
            let shard = lock(shard);
            (shard.entries.bytes(), shard.entries.len())
        });
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    /// The newest stored response that is for this request, counted as a hit. The second word tells whether there are
    /// others for this URL.
    pub(crate) fn find(&self, key: &Key, request: &HeaderMap) -> (Option<Arc<Stored>>, bool) {
        let mut shard = self.shard(&key.url);
        let shard = &mut *shard;
        let Some(ids) = shard.urls.get(&key.url) else { return (None, false) };
        let found = ids.iter().rev().find(|id| {
            shard
                .entries
                .get(**id)
                .is_some_and(|stored| stored.key.partition == key.partition && stored.vary.matches(request))
        });
        let Some(id) = found else { return (None, true) };
        shard.entries.hit(*id);
        (shard.entries.get(*id).cloned(), true)
    }

    /// Keeps a response, in place of others for the same requests. `false` if it is too large, or was invalidated while
    /// it was fetched.
    pub(crate) fn insert(&self, stored: Stored, request: &HeaderMap, ticket: &Ticket) -> Option<Arc<Stored>> {
        let stored = Arc::new(stored);
        let bytes = stored.bytes();
        let url = Arc::clone(&stored.key.url);
        let digest = self.hasher.hash_one(&stored.key);
        let mut shard = self.shard(&url);
        if bytes > self.shard_bytes || !ticket.is_valid(shard.epoch) {
            return None;
        }
        let shard = &mut *shard;
        if stored.terms.is_shared() {
            shard.passes.remove(self.pass_hash(&stored.key, request));
        }
        let ids = shard.urls.entry(Arc::clone(&url)).or_default();
        let entries = &mut shard.entries;
        let same = |id: &Id, entries: &Entries<Arc<Stored>>| {
            entries.get(*id).is_some_and(|old| {
                old.key.partition == stored.key.partition
                    && (old.vary.matches(request) || old.vary == stored.vary)
            })
        };
        let mut replaced = None;
        ids.retain(|id| {
            if !same(id, entries) {
                return true;
            }
            // The first keeps its standing, others are shadowed by it from now on.
            if replaced.is_none() {
                replaced = Some(*id);
            } else {
                entries.remove(*id);
            }
            false
        });
        let id = match replaced {
            Some(id) => {
                entries.replace(id, Arc::clone(&stored), bytes);
                id
            }
            None => entries.add(Arc::clone(&stored), bytes, digest),
        };
        ids.push(id);
        if ids.len() > MOST_VARIANTS {
            entries.remove(ids.remove(0));
        }
        while let Some((id, out)) = entries.evict(self.shard_bytes) {
            self.evictions.inc();
            forget(&mut shard.urls, &out.key.url, id);
        }
        Some(stored)
    }

    /// Removes a stored response, if it is still there.
    pub(crate) fn remove(&self, stored: &Arc<Stored>) {
        let mut shard = self.shard(&stored.key.url);
        let shard = &mut *shard;
        let ids = shard.urls.get(&stored.key.url);
        let id = ids.and_then(|ids| {
            ids.iter()
                .find(|id| shard.entries.get(**id).is_some_and(|there| Arc::ptr_eq(there, stored)))
                .copied()
        });
        if let Some(id) = id {
            shard.entries.remove(id);
            forget(&mut shard.urls, &stored.key.url, id);
        }
    }

    /// Removes all responses for a URL, also such as are on their way. Tells how many there were.
    pub(crate) fn remove_url(&self, url: &str) -> usize {
        let mut shard = self.shard(url);
        let shard = &mut *shard;
        shard.epoch += 1;
        shard.flights.retain(|_, flight| {
            let other = &*flight.key.url != url;
            other || flight.doom()
        });
        let ids = shard.urls.remove(url).unwrap_or_default();
        ids.into_iter().filter(|id| shard.entries.remove(*id).is_some()).count()
    }

    /// Removes all responses whose URLs begin like this. Tells how many there were.
    pub(crate) fn remove_prefix(&self, prefix: &str) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            let shard = &mut *shard;
            shard.epoch += 1;
            shard.flights.retain(|_, flight| !flight.key.url.starts_with(prefix) || flight.doom());
            let entries = &mut shard.entries;
            shard.urls.retain(|url, ids| {
                if !url.starts_with(prefix) {
                    return true;
                }
                count += ids.drain(..).filter(|id| entries.remove(*id).is_some()).count();
                false
            });
        }
        count
    }

    /// Decides who fetches.
    pub(crate) fn join(self: &Arc<Self>, key: &Key, request: &HeaderMap, now_ms: u64) -> Turn {
        let mut shard = self.shard(&key.url);
        let epoch = shard.epoch;
        if shard.passes.contains(self.pass_hash(key, request), now_ms) {
            return Turn::Alone(Ticket::alone(epoch));
        }
        let hash = shard.flight_hash(&self.hasher, key, request);
        match shard.flights.get(&hash) {
            Some(flight) if flight.key == *key => Turn::Wait(Arc::clone(flight)),
            Some(_) => Turn::Alone(Ticket::alone(epoch)),
            None if shard.flights.len() >= MOST_FLIGHTS => Turn::Alone(Ticket::alone(epoch)),
            None => {
                let flight = Flight::new(key.clone());
                shard.flights.insert(hash, Arc::clone(&flight));
                Turn::Lead(Lead { ticket: Ticket::of(&flight), flight, store: Arc::clone(self), hash })
            }
        }
    }

    /// The ticket of one who fetches without leading.
    pub(crate) fn alone(&self, key: &Key) -> Ticket {
        Ticket::alone(self.shard(&key.url).epoch)
    }

    /// Remembers for a while that responses to such requests are not kept, so that nobody waits for one.
    pub(crate) fn pass(&self, key: &Key, request: &HeaderMap, now_ms: u64) {
        let hash = self.pass_hash(key, request);
        self.shard(&key.url).passes.add(hash, now_ms + PASS_MS, now_ms);
    }

    fn pass_hash(&self, key: &Key, request: &HeaderMap) -> u64 {
        self.hasher.hash_one((key, is_personal(request)))
    }

    fn shard(&self, url: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(url) as usize;
        lock(&self.shards[hash % self.shards.len()])
    }
}

impl Shard {
    /// Requests of one hash are likely to get one response: what `Vary` named last is in it.
    fn flight_hash(&self, hasher: &RandomState, key: &Key, request: &HeaderMap) -> u64 {
        let newest = self.urls.get(&key.url).and_then(|ids| self.entries.get(*ids.last()?));
        let values: Vec<_> = newest
            .map(|stored| stored.vary.names().map(|name| vary::value(request, name)).collect())
            .unwrap_or_default();
        hasher.hash_one((key, is_personal(request), values))
    }
}

impl Lead {
    /// Tells those who wait.
    pub(crate) fn publish(&self, stage: Stage) {
        self.flight.publish(stage);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut shard = self.store.shard(&self.flight.key.url);
        if shard.flights.get(&self.hash).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            shard.flights.remove(&self.hash);
        }
        drop(shard);
        self.flight.end();
    }
}

/// URLs that are known to be uncacheable, by hash, until when in milliseconds.
#[derive(Default)]
struct Passes {
    until: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Passes {
    fn contains(&mut self, hash: u64, now_ms: u64) -> bool {
        self.until.get(&hash).is_some_and(|until| now_ms < *until)
    }

    fn add(&mut self, hash: u64, until_ms: u64, now_ms: u64) {
        if self.until.insert(hash, until_ms).is_none() {
            self.order.push_back(hash);
        }
        // The oldest go when they ended, or when there are too many.
        while let Some(oldest) = self.order.front() {
            let ended = self.until.get(oldest).is_none_or(|until| *until <= now_ms);
            if !ended && self.order.len() <= MOST_PASSES {
                break;
            }
            self.until.remove(oldest);
            self.order.pop_front();
        }
    }

    fn remove(&mut self, hash: u64) {
        self.until.remove(&hash);
    }
}

fn forget(urls: &mut HashMap<Arc<str>, Vec<Id>>, url: &str, id: Id) {
    if let Some(ids) = urls.get_mut(url) {
        ids.retain(|there| *there != id);
        if ids.is_empty() {
            urls.remove(url);
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A shard after a panic is at worst short of an entry; requests must go on.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
