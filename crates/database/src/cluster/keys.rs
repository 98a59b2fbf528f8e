//! What the keepers of a cluster tell each other through the coordinator: its keys and their values.

use serde::{Deserialize, Serialize};

use super::position::{Epoch, Gtid, Name};

/// A key, below the prefix of the site's database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Who leads; bound to the holder's lease.
    Leader,
    /// The last epoch given; outlives leases.
    Epoch,
    /// The synchronous set.
    Sync,
    /// One server's report; bound to its lease.
    Member(Name),
    /// What is known of an epoch that was opened.
    History(Epoch),
    /// What an operator wants.
    Intent,
    /// Which cluster this is, and who makes its first data.
    Identity,
}

impl Key {
    /// The key's path below the prefix.
    pub fn path(&self) -> String {
        match self {
            Self::Leader => "leader".to_owned(),
            Self::Epoch => "epoch".to_owned(),
            Self::Sync => "sync".to_owned(),
            Self::Member(name) => format!("members/{name}"),
            Self::History(epoch) => format!("history/{epoch}"),
            Self::Intent => "intent".to_owned(),
            Self::Identity => "identity".to_owned(),
        }
    }

    /// The key of a path below the prefix; none for keys that are not ours.
    pub fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "leader" => Self::Leader,
            "epoch" => Self::Epoch,
            "sync" => Self::Sync,
            "intent" => Self::Intent,
            "identity" => Self::Identity,
            _ => match path.split_once('/')? {
                ("members", name) if !name.is_empty() => Self::Member(name.into()),
                ("history", epoch) => Self::History(Epoch(epoch.parse().ok()?)),
                _ => return None,
            },
        })
    }
}

/// A value with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Key::Leader`].
    Leader(Leader),
    /// Of [`Key::Epoch`].
    Epoch(Given),
    /// Of [`Key::Sync`].
    Sync(Sync),
    /// Of [`Key::Member`].
    Member(Name, Member),
    /// Of [`Key::History`].
    History(Epoch, History),
    /// Of [`Key::Intent`].
    Intent(Intent),
    /// Of [`Key::Identity`].
    Identity(Identity),
}

impl Value {
    /// The key that it belongs to.
    pub fn key(&self) -> Key {
        match self {
            Self::Leader(_) => Key::Leader,
            Self::Epoch(_) => Key::Epoch,
            Self::Sync(_) => Key::Sync,
            Self::Member(name, _) => Key::Member(name.clone()),
            Self::History(epoch, _) => Key::History(*epoch),
            Self::Intent(_) => Key::Intent,
            Self::Identity(_) => Key::Identity,
        }
    }

    /// The value as the coordinator keeps it.
    ///
    /// # Errors
    /// None that these types can bring about.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Leader(value) => serde_json::to_vec(value),
            Self::Epoch(value) => serde_json::to_vec(value),
            Self::Sync(value) => serde_json::to_vec(value),
            Self::Member(_, value) => serde_json::to_vec(value),
            Self::History(_, value) => serde_json::to_vec(value),
            Self::Intent(value) => serde_json::to_vec(value),
            Self::Identity(value) => serde_json::to_vec(value),
        }
    }

    /// What the coordinator keeps at a key.
    ///
    /// # Errors
    /// Where it is not what that key holds.
    pub fn from_json(key: &Key, json: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match key {
            Key::Leader => Self::Leader(serde_json::from_slice(json)?),
            Key::Epoch => Self::Epoch(serde_json::from_slice(json)?),
            Key::Sync => Self::Sync(serde_json::from_slice(json)?),
            Key::Member(name) => Self::Member(name.clone(), serde_json::from_slice(json)?),
            Key::History(epoch) => Self::History(*epoch, serde_json::from_slice(json)?),
            Key::Intent => Self::Intent(serde_json::from_slice(json)?),
            Key::Identity => Self::Identity(serde_json::from_slice(json)?),
        })
    }
}

/// Who leads. Its holder alone changes the topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The leadership's number.
    pub epoch: Epoch,
    /// The server that holds it.
    pub server: Name,
    /// Whether it takes writes.
    pub phase: Phase,
    /// When it was taken, in milliseconds since 1970, for people.
    pub since_ms: u64,
    /// Why it does not open, and what would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
}

/// How far a leader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It revokes, compares and drains. Nobody takes writes.
    Recovering,
    /// Its server takes writes.
    Open,
}

/// The last epoch that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Its number.
    pub epoch: Epoch,
    /// To whom.
    pub server: Name,
    /// That its leader let go of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
}

/// Why a leader let go, and whom it wants to follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// For people.
    pub why: String,
    /// Who claims first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominee: Option<Name>,
}

/// The synchronous set, as the leader of `epoch` last set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// Whose set it is.
    pub epoch: Epoch,
    /// The server that led then: it has every acknowledged commit itself.
    pub primary: Name,
    /// The replicas that may acknowledge.
    pub members: Vec<Name>,
    /// What the set proves.
    pub mode: Mode,
}

/// What the synchronous set proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// At least one of the members has every acknowledged commit.
    Strict,
    /// The primary commits without an acknowledgement: only itself is sure to have everything.
    Degraded,
    /// No member is proven yet. A commit waits for an acknowledgement where there is more than one server.
    Unprotected,
}

/// What a server tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// In one word.
    pub state: State,
    /// The epoch of the leader that it acts under.
    pub epoch: Epoch,
    /// The highest epoch for which it acknowledges nothing older any more.
    #[serde(default)]
    pub revoked_epoch: Epoch,
    /// All that lies in its relay log or is applied.
    pub received: Gtid,
    /// All that is applied.
    pub applied: Gtid,
    /// The epoch whose history its data is a part of; none without data.
    #[serde(default)]
    pub lineage: Option<Epoch>,
    /// The server that it replicates from.
    #[serde(default)]
    pub source: Option<Name>,
    /// Whether it receives from there right now.
    #[serde(default)]
    pub streaming: bool,
    /// Whether it acknowledges what it receives.
    #[serde(default)]
    pub acknowledging: bool,
    /// The revision of the synchronous set that it acts on.
    #[serde(default)]
    pub sync_revision: u64,
    /// Why it may not be promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_promotable: Option<String>,
    /// What the site's file says of its promotion.
    pub promotion: Promotion,
}

/// A server's state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has no data.
    Absent,
    /// It copies another's data.
    Seeding,
    /// Its own data is of no use any more.
    NeedsSeed,
    /// mariadbd does not run.
    Down,
    /// It replicates, or waits to.
    Replica,
    /// It acknowledges nothing until a leader opens.
    Revoked,
    /// It leads and recovers.
    Recovering,
    /// It takes writes.
    Primary,
}

/// What the site's file says of a server's promotion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Promotion {
    /// Before others that have as much.
    Prefer,
    /// As any other.
    #[default]
    Allow,
    /// Not by itself.
    Never,
}

/// An epoch that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Who took writes.
    pub primary: Name,
    /// The position at which it began: what an older lineage has beyond it is no part of history.
    pub promotion_gtid: Gtid,
    /// The epoch opened before it.
    #[serde(default)]
    pub previous: Epoch,
    /// Why there was a new leader.
    pub why: String,
    /// Whether an operator accepted that acknowledged writes may be missing.
    #[serde(default)]
    pub loss_accepted: bool,
    /// When it opened, in milliseconds since 1970, for people.
    pub opened_ms: u64,
    /// The steps of the failover.
    #[serde(default)]
    pub timeline: Vec<Step>,
}

/// One step of a failover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done: `noticed`, `led`, `revoked`, `drained`, `promoted`, `opened`, `first-write`.
    pub step: String,
    /// Milliseconds since the leader's absence was noticed.
    pub after_ms: u64,
}

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// Another server is to take the writes.
    Switchover {
        /// Which.
        to: Name,
    },
    /// Nothing is to be decided until then; the command that resumes deletes the key.
    Pause {
        /// Who asked.
        by: String,
        /// In milliseconds since 1970.
        until_ms: u64,
    },
    /// A server is to lead although what it lacks cannot be known.
    Promote {
        /// Which.
        to: Name,
        /// Who accepts that acknowledged writes may be lost.
        accepted_by: String,
    },
}

/// Which cluster this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// A number drawn once.
    pub cluster: String,
    /// The server that makes the first data.
    pub initialised_by: Name,
}
