//! The failover machine of one keeper: `(state, event, now) -> (state, actions)`, without I/O and without a clock.
//!
//! Each server of the database has a keeper, the parent of its mariadbd. Keepers tell each other everything through the coordinator's
//! [keys](Key); each sees them as one snapshot, a [`View`]. A [`Machine`] is told what happens as [`Event`]s and asks for
//! [`Action`]s; whoever drives it is too simple to be wrong.
//!
//! What makes a failover lose nothing:
//!
//! - A commit is acknowledged only when a member of the *synchronous set* has it. Who is not in the set does not acknowledge.
//! - A new leader has *all* of the set end their acknowledgements before it compares positions. From then on the old primary can
//!   acknowledge nothing, whatever it does: it may be frozen, cut off, or believe that it still leads.
//! - Among those it takes the one that has the most, lets it apply all, and only then opens it for writes.
//! - What cannot be proven is not done: the leader holds, and says which server is missing.
//!
//! [`Machine::step`] takes an event in (`intake`) and decides (`decide`): first what ends writes, then, by the leader's key, as the open
//! primary (`serve`, `membership`), as the leader that recovers (`recover`), or as one that does not lead (`replica`, `claim`);
//! at last it tells the others (`publish`). The decision 0015 has the picture and the proof.

//! # What a driver owes the machine
//!
//! - It performs actions in their order, and tells each event in the order in which it learned of it; [`Action::Kill`] never waits for a job.
//! - Reads of the coordinator are linearizable, and snapshots never go back. An answer tells the store's revision, also one that lost.
//! - It has one lease: the one that it told of last. It renews it every sixth of its time, and tells when each renewal was *sent*.
//! - A request without an answer within a quarter of the TTL is [`Outcome::Unknown`]. It is not sent again.
//! - [`Event::Exited`] is told once for each process that ended, and at once for a kill where none runs.
//! - [`Event::Done`] carries a look at mariadbd that was begun after the job's end. Other looks are told as they are taken, every 100 ms,
//!   also while a job runs; each has its own connection and a short limit.
//! - A job that does not end in time is [`Failure::TimedOut`], and its connection is closed. A probe is never killed.
//! - A stamp is on the disk before the statements that it permits, and belongs to the data folder: it comes and goes with it.
//! - A keeper that takes over a running mariadbd first ends all connections of the keeper before it.
//! - A relay log's position counts whole transactions, and where servers may lose power together it is on disk before it is acknowledged
//!   (`sync_relay_log=1`).

mod claim;
mod deadlines;
mod decide;
mod intake;
mod keys;
mod machine;
mod membership;
mod position;
mod publish;
mod recover;
mod replica;
mod rules;
mod serve;
#[cfg(test)]
mod simulation;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod words;

pub use keys::{
    Given, History, Identity, Intent, Key, Leader, Member, Mode, Phase, Promotion, Released, State, Step,
    Sync, Value,
};
pub use machine::Machine;
pub use position::{Epoch, Gtid, Name};
pub use view::{LeaseId, Versioned, View};
pub use words::{
    Action, Durability, Event, Failure, Found, Io, Job, Observed, Outcome, Probed, Role, Settings, Sql,
    Stamp, Timing, Transaction,
};
