//! Which keys a request is about.

use std::ops::Bound;

use crate::wire::Base64;

/// The ends of a range.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// One key, or all from one on up to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Range {
    One(Vec<u8>),
    /// From the first, up to the second but without it; without a second, to the end.
    Between(Vec<u8>, Option<Vec<u8>>),
}

impl Range {
    /// etcd's way to write it: no end is one key, a zero byte as the end is all from the key on.
    pub(super) fn new(key: &Base64, end: &Base64) -> Self {
        match end.0.as_slice() {
            [] => Self::One(key.0.clone()),
            [0] => Self::Between(key.0.clone(), None),
            end => Self::Between(key.0.clone(), Some(end.to_vec())),
        }
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Between(start, end) => {
                start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice())
            }
        }
    }

    /// Bounds for an ordered map, which wants the first not after the second. `None` if nothing can be in between.
    pub(super) fn bounds(&self) -> Option<Bounds<'_>> {
        match self {
            Self::One(key) => Some((Bound::Included(key), Bound::Included(key))),
            Self::Between(start, None) => Some((Bound::Included(start), Bound::Unbounded)),
            Self::Between(start, Some(end)) if start < end => {
                Some((Bound::Included(start), Bound::Excluded(end)))
            }
            Self::Between(..) => None,
        }
    }
}
