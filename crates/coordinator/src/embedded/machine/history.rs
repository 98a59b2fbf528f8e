//! The changes that watches may still ask for: the newest, bounded by count and by bytes. A revision is kept whole or not at all.

use std::collections::VecDeque;

use super::range::Range;
use crate::embedded::limits::{ENTRY_BYTES, EVENTS_BATCH_BYTES};
use crate::embedded::record::Past;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    events: VecDeque<Past>,
    bytes: usize,
    /// The last revision whose changes are no longer here.
    compacted: i64,
}

impl History {
    pub(super) fn new(compacted: i64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, compacted }
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(super) fn events(&self) -> impl Iterator<Item = &Past> {
        self.events.iter()
    }

    pub(super) fn push(&mut self, event: Past) {
        self.bytes += size(&event);
        self.events.push_back(event);
    }

    /// Forgets the oldest revisions until the rest is within its bounds. The newest revision stays in any case, for it is
    /// what the watches that have kept up wait for.
    pub(super) fn trim(&mut self, count: usize, bytes: usize) {
        while self.events.len() > count || self.bytes > bytes {
            let (Some(oldest), Some(newest)) = (self.events.front(), self.events.back()) else { return };
            if oldest.revision == newest.revision {
                return;
            }
            self.compact(oldest.revision);
        }
    }

    /// Forgets the changes up to `revision`.
    pub(super) fn compact(&mut self, revision: i64) {
        while self.events.front().is_some_and(|event| event.revision <= revision) {
            if let Some(event) = self.events.pop_front() {
                self.bytes -= size(&event);
            }
        }
        self.compacted = self.compacted.max(revision);
    }

    /// Changes of a range from a revision on, whole revisions, about as many as fit into a batch; and the revision to ask from
    /// next. `None` if part of them is no longer here.
    pub(super) fn since(&self, range: &Range, from: i64, current: i64) -> Option<(Vec<&Past>, i64)> {
        if from <= self.compacted {
            return None;
        }
        let start = self.events.partition_point(|event| event.revision < from);
        let mut found: Vec<&Past> = Vec::new();
        let mut bytes = 0;
        for event in self.events.range(start..).filter(|event| range.contains(&event.key.0)) {
            if bytes > EVENTS_BATCH_BYTES
                && let Some(last) = found.last()
                && last.revision != event.revision
            {
                let next = last.revision + 1;
                return Some((found, next));
            }
            bytes += size(event);
            found.push(event);
        }
        Some((found, from.max(current + 1)))
    }
}

fn size(event: &Past) -> usize {
    ENTRY_BYTES + event.key.0.len() + event.put.as_ref().map_or(0, |put| put.value.0.len())
}
