//! Which upstreams failed a request already.

/// The most that is remembered; no request is tried more often.
pub(crate) const MOST_TRIED: usize = 8;

/// The upstreams that a request was tried on, by index. Past eight the oldest are forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    indexes: [u16; MOST_TRIED],
    count: u32,
}

impl Tried {
    /// None.
    pub const NONE: Self = Self { indexes: [0; MOST_TRIED], count: 0 };

    /// Remembers one.
    pub fn insert(&mut self, index: usize) {
        self.indexes[self.count as usize % MOST_TRIED] = u16::try_from(index).unwrap_or(u16::MAX);
        self.count = self.count.saturating_add(1);
    }

    /// Whether one was tried.
    pub fn contains(&self, index: usize) -> bool {
        let known = (self.count as usize).min(MOST_TRIED);
        self.indexes[..known].iter().any(|tried| usize::from(*tried) == index)
    }

    /// How often a request was tried.
    pub fn count(&self) -> u32 {
        self.count
    }
}
