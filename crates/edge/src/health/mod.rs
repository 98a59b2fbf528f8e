//! Which upstreams are fit to take requests, and why the others are not.
//!
//! One [`GroupHealth`] per group judges for the whole edge; workers tell it what they see. It brings together two pure
//! state machines: [`ActiveHealth`], which counts health checks of one upstream, and [`Outlier`], which puts out
//! upstreams of the group that fail requests or are slow. The driver feeds [`Event`]s and does [`Action`]s; workers read
//! the result from a [`Board`] without a lock.
//!
//! What makes a dead upstream cost no request:
//!
//! - A refused connection that a worker reports ([`Event::Refused`]) makes the upstream unfit in the same instant, before
//!   any check, and has it checked at once; a check that began afterwards and passes makes it fit again. The request
//!   itself is tried elsewhere ([`retry`](crate::retry)).
//! - A response that is late ([`Event::Suspected`]) has the upstream checked at once, so that a frozen or unplugged
//!   server is found out in the time of `fall` checks, not of `fall` intervals. When it is found down
//!   ([`Action::Changed`] to [`Condition::Down`]), requests that still wait for its response can be tried elsewhere.
//! - While a verdict is open (some checks failed, or passed, but too few), and for a while after it went down, checks come
//!   ten times as often as the plan says (50 ms to 1 s apart), so that it is out, and back, soon.
//! - The first check decides alone. Until it came in, an upstream is not fit, except that a group without any fit
//!   upstream uses all ([`balance`](crate::balance)): a site that starts serves at once.
//!
//! Passive health never takes the last upstream: ejected ones count as fit as long as no other is.

mod active;
mod board;
mod condition;
mod group;
mod outlier;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use self::active::{ActiveHealth, CheckedState};
pub use self::board::{Board, Fitness};
pub use self::condition::{Cause, Condition, Reason};
pub use self::group::{Action, CheckId, Event, GroupHealth};
pub use self::outlier::{Outlier, Standing};
