//! Names of servers, epochs, and positions in the history of writes.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a server, as the site's file has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// The number of a leadership. Epochs only grow, and each is given once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transaction's global identity, and so the position after it. The cluster has one domain, so that within one
/// lineage the sequence number alone orders positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gtid {
    /// The domain; 0 everywhere.
    pub domain: u32,
    /// The server that first wrote it.
    pub server: u32,
    /// Its number; 0 stands for nothing written yet.
    pub seq: u64,
}

impl Gtid {
    /// Nothing written yet.
    pub const NONE: Self = Self { domain: 0, server: 0, seq: 0 };

    /// The later of two positions of one lineage.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.seq > self.seq { other } else { self }
    }

    /// Whether everything up to `other` is here, if both are of one lineage.
    pub fn reaches(self, other: Self) -> bool {
        self.seq >= other.seq
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.seq)
    }
}
