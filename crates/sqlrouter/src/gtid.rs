//! MariaDB's positions: domain, server and sequence number (`0-1-42`), one of each domain.

use std::fmt;
use std::str::FromStr;

/// Domains of one position that are looked at.
const DOMAINS: usize = 16;

/// How far a server or a session is: the highest sequence number of each domain. Empty: nothing is known, or nothing was
/// written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position(Vec<Gtid>);

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gtid {
    /// The domain.
    pub domain: u32,
    /// The server that wrote it.
    pub server: u32,
    /// Its number in the domain.
    pub sequence: u64,
}

/// The text is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no GTID position")]
pub struct NoPosition(String);

impl Position {
    /// Whether whoever is here has all that `other` has.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|theirs| {
            self.0.iter().any(|ours| ours.domain == theirs.domain && ours.sequence >= theirs.sequence)
        })
    }

    /// Moves forward to what `other` has more.
    pub fn advance(&mut self, other: &Self) {
        for gtid in &other.0 {
            match self.0.iter().position(|ours| ours.domain == gtid.domain) {
                Some(at) if self.0[at].sequence < gtid.sequence => self.0[at] = *gtid,
                None if self.0.len() < DOMAINS => self.0.push(*gtid),
                Some(_) | None => {}
            }
        }
    }

    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let one = |text: &str| {
            let mut parts = text.trim().split('-');
            let gtid = Gtid {
                domain: parts.next()?.parse().ok()?,
                server: parts.next()?.parse().ok()?,
                sequence: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(gtid)
        };
        let mut position = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let gtid = one(part).ok_or_else(|| NoPosition(text.to_owned()))?;
            position.advance(&Self(vec![gtid]));
        }
        Ok(position)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Gtid { domain, server, sequence }) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{domain}-{server}-{sequence}")?;
        }
        Ok(())
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn a_position_covers_what_is_not_ahead_in_any_domain() {
        assert!(position("0-2-7").covers(&position("0-1-7")));
        assert!(!position("0-1-6").covers(&position("0-1-7")));
        assert!(!position("0-1-9").covers(&position("0-1-7,1-1-1")));
        assert!(position("").covers(&position("")));
        assert!("0-1".parse::<Position>().is_err() && "a-b-c".parse::<Position>().is_err());
        let mut moved = position("0-1-6");
        moved.advance(&position("0-2-8,3-1-1"));
        assert_eq!(moved.to_string(), "0-2-8,3-1-1");
    }
}
