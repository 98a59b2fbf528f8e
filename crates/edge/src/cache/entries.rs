//! Entries in the order in which they leave: S3-FIFO (Yang et al., 2023). What is asked for once passes through a small
//! queue and leaves soon; what is asked for again, or comes back, stays in the main queue. A hit moves nothing.

use std::collections::{HashSet, VecDeque};

/// The number of an entry, which is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    place: u32,
    generation: u32,
}

/// A set of entries with a bound on their bytes.
#[derive(Debug)]
pub(crate) struct Entries<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    small: Half,
    main: Half,
    ghosts: Ghosts,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    entry: Option<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    bytes: usize,
    /// What it is found by, to know it again when it comes back.
    digest: u64,
    /// Hits since it was last looked at, at most [`MOST_HITS`].
    hits: u8,
    is_main: bool,
}

/// One of the two queues. Numbers of entries that are gone stay until their turn comes.
#[derive(Debug, Default)]
struct Half {
    order: VecDeque<Id>,
    entries: usize,
    bytes: usize,
}

const MOST_HITS: u8 = 3;
/// The small queue's share of memory: a tenth.
const SMALL_SHARE: usize = 10;
/// Entries that left and are remembered.
const MOST_GHOSTS: usize = 8192;
/// A queue may be twice as long as its entries are many, and this much longer.
const SPARE_NUMBERS: usize = 64;

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            small: Half::default(),
            main: Half::default(),
            ghosts: Ghosts::default(),
        }
    }
}

impl<T> Entries<T> {
    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> usize {
        self.small.bytes + self.main.bytes
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.small.entries + self.main.entries
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, value: T, bytes: usize, digest: u64) -> Id {
        let is_main = self.ghosts.take(digest);
        let entry = Entry { value, bytes, digest, hits: 0, is_main };
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(Place { generation: 0, entry: None });
                self.places.len() as u32 - 1
            }
        };
        let there = &mut self.places[place as usize];
        there.entry = Some(entry);
        let id = Id { place, generation: there.generation };
        let half = self.half(is_main);
        half.order.push_back(id);
        half.entries += 1;
        half.bytes += bytes;
        self.tidy(is_main);
        id
    }

    /// An entry.
    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        let place = self.places.get(id.place as usize).filter(|place| place.generation == id.generation)?;
        place.entry.as_ref().map(|entry| &entry.value)
    }

    /// Counts a hit.
    pub(crate) fn hit(&mut self, id: Id) {
        if let Some(entry) = self.entry(id) {
            entry.hits = (entry.hits + 1).min(MOST_HITS);
        }
    }

    /// Puts another value in an entry's place, which keeps its standing.
    pub(crate) fn replace(&mut self, id: Id, value: T, bytes: usize) {
        let Some(entry) = self.entry(id) else { return };
        let (old, is_main) = (std::mem::replace(&mut entry.bytes, bytes), entry.is_main);
        entry.value = value;
        let half = self.half(is_main);
        half.bytes = half.bytes - old + bytes;
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, id: Id) -> Option<T> {
        let place =
            self.places.get_mut(id.place as usize).filter(|place| place.generation == id.generation)?;
        let entry = place.entry.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.place);
        let half = self.half(entry.is_main);
        half.entries -= 1;
        half.bytes -= entry.bytes;
        self.tidy(entry.is_main);
        Some(entry.value)
    }

    /// Takes the next one out while there are more bytes than these.
    pub(crate) fn evict(&mut self, most_bytes: usize) -> Option<(Id, T)> {
        while self.bytes() > most_bytes {
            let from_small = self.small.bytes > most_bytes / SMALL_SHARE || self.main.entries == 0;
            let half = self.half(!from_small);
            // There are bytes, so there is an entry; should the count be wrong, nothing is found.
            let id = half.order.pop_front()?;
            let Some(entry) = self.entry(id) else { continue };
            if entry.hits == 0 {
                let digest = entry.digest;
                if from_small {
                    self.ghosts.add(digest);
                }
                return self.remove(id).map(|value| (id, value));
            }
            let bytes = entry.bytes;
            if from_small {
                entry.hits = 0;
                entry.is_main = true;
                self.small.entries -= 1;
                self.small.bytes -= bytes;
                self.main.entries += 1;
                self.main.bytes += bytes;
            } else {
                entry.hits -= 1;
            }
            self.main.order.push_back(id);
        }
        None
    }

    fn entry(&mut self, id: Id) -> Option<&mut Entry<T>> {
        let place =
            self.places.get_mut(id.place as usize).filter(|place| place.generation == id.generation)?;
        place.entry.as_mut()
    }

    fn half(&mut self, is_main: bool) -> &mut Half {
        if is_main { &mut self.main } else { &mut self.small }
    }

    /// Keeps a queue from growing by numbers of entries that are gone.
    fn tidy(&mut self, is_main: bool) {
        let half = if is_main { &mut self.main } else { &mut self.small };
        if half.order.len() > 2 * half.entries + SPARE_NUMBERS {
            let places = &self.places;
            half.order.retain(|id| {
                let place = &places[id.place as usize];
                place.generation == id.generation && place.entry.is_some()
            });
        }
    }
}

/// Digests of what left the small queue a while ago.
#[derive(Debug, Default)]
struct Ghosts {
    order: VecDeque<u64>,
    there: HashSet<u64>,
}

impl Ghosts {
    fn add(&mut self, digest: u64) {
        if self.there.insert(digest) {
            self.order.push_back(digest);
        }
        if self.order.len() > MOST_GHOSTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.there.remove(&oldest);
        }
    }

    /// Whether it is there. It stays in the order until its turn comes.
    fn take(&mut self, digest: u64) -> bool {
        self.there.remove(&digest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Entries;

    #[test]
    fn what_is_asked_for_again_outlives_what_is_asked_for_once() {
        let mut entries = Entries::default();
        let popular = entries.add(0, 10, 0);
        entries.hit(popular);
        for number in 1..1000 {
            entries.add(number, 10, number);
            while entries.evict(100).is_some() {}
            entries.hit(popular);
        }
        assert_eq!(entries.get(popular), Some(&0));
        assert_eq!(entries.len(), 10);
    }

    #[test]
    fn what_comes_back_soon_stays() {
        let mut entries = Entries::default();
        entries.add(7, 10, 7);
        (100..120).for_each(|number| {
            entries.add(number, 10, number);
            while entries.evict(100).is_some() {}
        });
        let back = entries.add(7, 10, 7);
        (200..205).for_each(|number| {
            entries.add(number, 10, number);
            while entries.evict(100).is_some() {}
        });
        assert_eq!(entries.get(back), Some(&7));
    }

    proptest! {
        #[test]
        fn bytes_and_numbers_stay_within_bounds(steps in proptest::collection::vec((0u8..4, 0usize..40, 1usize..50), 1..400)) {
            let mut entries = Entries::default();
            let mut ids = Vec::new();
            for (kind, which, bytes) in steps {
                match kind {
                    0 | 1 => ids.push((entries.add(which, bytes, which as u64), bytes)),
                    2 => if let Some((id, _)) = ids.get(which) { entries.hit(*id) },
                    _ => if which < ids.len() {
                        let (id, _) = ids.swap_remove(which);
                        entries.remove(id);
                        prop_assert!(entries.get(id).is_none());
                    },
                }
                while entries.evict(200).is_some() {}
                prop_assert!(entries.bytes() <= 200);
                let there: usize = ids.iter().filter(|(id, _)| entries.get(*id).is_some()).map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(there, entries.bytes());
                prop_assert!(entries.small.order.len() + entries.main.order.len() <= 2 * entries.len() + 200);
            }
        }
    }
}
