//! The decisions about one child, without I/O and without a clock: `(state, event, now) -> (state, actions)`.
//!
//! A child has *generations*: each start makes one. Usually one generation lives. While a changed spec takes over by
//! [`Replace::Overlap`] there are two: the candidate starts beside the one that serves, and only when the candidate
//! is ready does the old one drain. A candidate that never gets ready is dropped, the old one stays, and the
//! reason is kept in [`Machine::rejected`].
//!
//! By [`Replace::Reload`] the generation that serves takes a change over itself where it can: orders of one *family* differ
//! only in what a running generation can take. One that refuses, or says nothing in time, is replaced by overlap.
//!
//! What is to run is an [`Order`]: a number that stands for a spec. The driver knows which.

mod backoff;
mod machine;
#[cfg(test)]
mod simulation;
mod words;

pub use backoff::{Backoff, FALLS_UNTIL_FAILED, LONGEST, RECOVERED_AFTER};
pub use machine::{GENERATIONS_AT_ONCE, Generation, Machine, STOP_WITHIN};
pub use words::{Action, Adopted, Event, Exit, Failure, Order, Phase, Rejected, Report, State};
