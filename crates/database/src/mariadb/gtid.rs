//! Places in the history of writes: `0-1-42` is the 42nd transaction of domain 0, first committed by server 1.
//!
//! A site has one domain, so places on one history are ordered by their sequence numbers. Two transactions with one number
//! and different servers are two histories: no order can mend that, so comparing has an answer of its own for it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many entries a list of GTIDs may have.
const MOST_ENTRIES: usize = 4096;

/// A global transaction identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Gtid {
    /// The replication domain; Mainstay uses 0 alone.
    pub domain: u32,
    /// The server that first committed it.
    pub server: u32,
    /// Its number in the domain, from 1.
    pub seq: u64,
}

/// How one place stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The other has more.
    Behind,
    /// Both have the same.
    Equal,
    /// This has more.
    Ahead,
    /// They are places in different histories.
    Diverged,
}

/// The last transaction of each domain, as in `gtid_slave_pos`. Empty before the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position(BTreeMap<u32, Gtid>);

/// The last transaction of each server in each domain, as in `gtid_binlog_state`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BinlogState(BTreeMap<(u32, u32), Gtid>);

/// Text that is no GTID, or no list of them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no list of GTIDs such as 0-1-42")]
pub struct ParseGtidError(String);

impl Gtid {
    /// Compares within one history.
    pub fn standing(&self, other: &Self) -> Standing {
        if self.domain != other.domain {
            return Standing::Diverged;
        }
        match self.seq.cmp(&other.seq) {
            std::cmp::Ordering::Less => Standing::Behind,
            std::cmp::Ordering::Greater => Standing::Ahead,
            std::cmp::Ordering::Equal if self.server == other.server => Standing::Equal,
            std::cmp::Ordering::Equal => Standing::Diverged,
        }
    }
}

impl Position {
    /// The place in the one domain that a site has; `None` before the first transaction.
    ///
    /// # Errors
    /// The position itself, if it has several domains: somebody else's numbers are in it.
    pub fn single(&self) -> Result<Option<Gtid>, &Self> {
        match self.0.len() {
            0 => Ok(None),
            1 => Ok(self.0.values().next().copied()),
            _ => Err(self),
        }
    }

    /// The last transaction of a domain.
    pub fn of(&self, domain: u32) -> Option<Gtid> {
        self.0.get(&domain).copied()
    }

    /// Whether there is no transaction.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares over all domains. Ahead in one and behind in another is [`Standing::Diverged`].
    pub fn standing(&self, other: &Self) -> Standing {
        let mut standing = Standing::Equal;
        for domain in self.0.keys().chain(other.0.keys()) {
            let here = match (self.0.get(domain), other.0.get(domain)) {
                (Some(left), Some(right)) => left.standing(right),
                (Some(_), None) => Standing::Ahead,
                (None, _) => Standing::Behind,
            };
            standing = match (standing, here) {
                (one, Standing::Equal) | (Standing::Equal, one) => one,
                (one, two) if one == two => one,
                _ => return Standing::Diverged,
            };
        }
        standing
    }

    /// Whether everything up to `other` is in what is up to here.
    pub fn has(&self, other: &Self) -> bool {
        matches!(self.standing(other), Standing::Equal | Standing::Ahead)
    }

    /// The further of two places on one history.
    ///
    /// # Errors
    /// Both, if they diverged.
    pub fn further(self, other: Self) -> Result<Self, (Self, Self)> {
        match self.standing(&other) {
            Standing::Equal | Standing::Ahead => Ok(self),
            Standing::Behind => Ok(other),
            Standing::Diverged => Err((self, other)),
        }
    }

    /// Takes in a later transaction, as reading a log does.
    pub fn advance(&mut self, gtid: Gtid) {
        self.0.insert(gtid.domain, gtid);
    }
}

impl From<Gtid> for Position {
    fn from(gtid: Gtid) -> Self {
        Self(BTreeMap::from([(gtid.domain, gtid)]))
    }
}

impl BinlogState {
    /// The last transaction that this server committed first.
    pub fn of(&self, domain: u32, server: u32) -> Option<Gtid> {
        self.0.get(&(domain, server)).copied()
    }
}

impl FromStr for Gtid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, ParseGtidError> {
        let error = || ParseGtidError(shortened(text));
        let mut parts = text.split('-');
        let (Some(domain), Some(server), Some(seq), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        let (Some(domain), Some(server), Some(seq)) = (number(domain), number(server), number(seq)) else {
            return Err(error());
        };
        let (Ok(domain), Ok(server)) = (domain.try_into(), server.try_into()) else { return Err(error()) };
        Ok(Self { domain, server, seq })
    }
}

/// Digits alone, written as the server writes them.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

fn list(text: &str) -> Result<Vec<Gtid>, ParseGtidError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // The server separates by a comma, its information files by a comma and a line end.
    let entries: Vec<Gtid> =
        text.split(',').take(MOST_ENTRIES + 1).map(|entry| entry.trim().parse()).collect::<Result<_, _>>()?;
    if entries.len() > MOST_ENTRIES { Err(ParseGtidError(shortened(text))) } else { Ok(entries) }
}

impl FromStr for Position {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, ParseGtidError> {
        let entries = list(text)?;
        let count = entries.len();
        let map: BTreeMap<u32, Gtid> = entries.into_iter().map(|gtid| (gtid.domain, gtid)).collect();
        if map.len() == count { Ok(Self(map)) } else { Err(ParseGtidError(shortened(text))) }
    }
}

impl FromStr for BinlogState {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, ParseGtidError> {
        let entries = list(text)?;
        let count = entries.len();
        let map: BTreeMap<(u32, u32), Gtid> =
            entries.into_iter().map(|gtid| ((gtid.domain, gtid.server), gtid)).collect();
        if map.len() == count { Ok(Self(map)) } else { Err(ParseGtidError(shortened(text))) }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.domain, self.server, self.seq)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(formatter, self.0.values())
    }
}

impl fmt::Display for BinlogState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(formatter, self.0.values())
    }
}

fn write_list<'a>(formatter: &mut fmt::Formatter<'_>, gtids: impl Iterator<Item = &'a Gtid>) -> fmt::Result {
    for (index, gtid) in gtids.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(formatter, "{comma}{gtid}")?;
    }
    Ok(())
}

/// Serialised as the server writes it.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = ParseGtidError;

            fn try_from(text: String) -> Result<Self, ParseGtidError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text!(Gtid, Position, BinlogState);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn one_number_of_two_servers_is_a_divergence_and_not_an_order() {
        assert_eq!(position("0-1-5").standing(&position("0-1-6")), Standing::Behind);
        assert_eq!(position("0-2-6").standing(&position("0-1-5")), Standing::Ahead);
        assert_eq!(position("0-2-5").standing(&position("0-1-5")), Standing::Diverged);
        assert_eq!(position("").standing(&position("0-1-1")), Standing::Behind);
        assert_eq!(position("").standing(&position("")), Standing::Equal);
        assert_eq!(position("0-1-5,1-1-1").standing(&position("0-1-6")), Standing::Diverged);
        assert!(position("0-1-5,1-1-1").single().is_err());
        assert!(position("0-2-5").further(position("0-1-5")).is_err());
    }

    #[test]
    fn what_the_server_would_not_write_is_refused() {
        for text in [
            "0-1",
            "0-1-2-3",
            "+0-1-2",
            "0-1- 2",
            "00-1-2",
            "0-4294967296-1",
            "0-1-18446744073709551616",
            "a-b-c",
            ",",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
        assert!("0-1-2,0-2-3".parse::<Position>().is_err(), "one place per domain");
        assert!("0-1-2,0-2-3".parse::<BinlogState>().is_ok());
        assert!("0-1-2,0-1-3".parse::<BinlogState>().is_err());
    }

    fn gtid() -> impl Strategy<Value = Gtid> {
        (0_u32..3, 1_u32..4, 0_u64..6).prop_map(|(domain, server, seq)| Gtid { domain, server, seq })
    }

    fn any_position() -> impl Strategy<Value = Position> {
        proptest::collection::vec(gtid(), 0..3).prop_map(|gtids| {
            let mut position = Position::default();
            for gtid in gtids {
                position.advance(gtid);
            }
            position
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(domain: u32, server: u32, seq: u64) {
            let gtid = Gtid { domain, server, seq };
            prop_assert_eq!(gtid.to_string().parse::<Gtid>().unwrap(), gtid);
        }

        #[test]
        fn what_is_read_is_written_back(text in "[0-9-]{0,12}(,[0-9-]{0,12}){0,2}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
            }
        }

        #[test]
        fn standings_mirror_each_other(left in any_position(), right in any_position()) {
            let mirrored = match left.standing(&right) {
                Standing::Ahead => Standing::Behind,
                Standing::Behind => Standing::Ahead,
                same => same,
            };
            prop_assert_eq!(right.standing(&left), mirrored);
            prop_assert_eq!(left.standing(&right) == Standing::Equal, left == right);
        }

        #[test]
        fn having_is_transitive_in_one_domain(a in 0_u64..4, b in 0_u64..4, c in 0_u64..4, servers in (1_u32..3, 1_u32..3, 1_u32..3)) {
            let at = |server, seq| Position::from(Gtid { domain: 0, server, seq });
            let (a, b, c) = (at(servers.0, a), at(servers.1, b), at(servers.2, c));
            if a.has(&b) && b.has(&c) {
                prop_assert!(a.has(&c) || a.standing(&c) == Standing::Diverged);
            }
        }
    }
}
