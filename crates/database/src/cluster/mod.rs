//! The failover machine of one keeper, without I/O and without a clock.

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
