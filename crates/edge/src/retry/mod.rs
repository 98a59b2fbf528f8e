//! What is tried again on another upstream.
//!
//! A request is tried again only if nothing can have been processed twice (RFC 9110, section 9.2.2): none of it can have
//! reached an application, or its method is idempotent; and its body must still be at hand. How much is tried again is
//! bounded by the group's [`RetryBudget`], so that retries never multiply the load on upstreams that are going down
//! under it.
//!
//! [`decide`] is the whole decision.

mod budget;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use http::Method;
use mainstay_site::plan::edge::RetryPlan;

pub use self::budget::RetryBudget;

use crate::balance::random::Random;

/// The most tries of one request, whatever a plan says: as many as [`Tried`](crate::balance::Tried) remembers.
pub const MOST_TRIES: u32 = 8;
/// The first pause, where there is one; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection (refused, reset, unreachable, timed out, TLS failed): nothing of the request was sent.
    NotConnected,
    /// The upstream said that it has not processed the request: `REFUSED_STREAM`, or a stream above the last one of a
    /// `GOAWAY` (RFC 9113, section 8.7).
    NotProcessed,
    /// The connection ended before a response began.
    Closed,
    /// No response began in time.
    Timeout,
    /// The upstream was found down while the request waited for its response.
    WentDown,
    /// It answered with this status.
    Status(u16),
    /// The response had begun: there is no way back.
    Begun,
}

/// A try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    /// How.
    pub failure: Failure,
    /// Tries so far, this one included.
    pub tries: u32,
    /// Whether the method is idempotent ([`is_idempotent`]).
    pub idempotent: bool,
    /// Whether any byte of the request was written to the upstream.
    pub sent: bool,
    /// Whether the whole request could be sent again: its body is empty, kept, or not begun.
    pub body_at_hand: bool,
    /// Whether another upstream is fit that was not tried.
    pub another: bool,
    /// When the whole request must be done.
    pub deadline: Option<Instant>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this pause; zero when another upstream is there.
    Retry {
        /// The pause.
        after: Duration,
    },
    /// Give up; the client gets the response that there is, or an error.
    Stop(Stop),
}

/// Why a request is not tried again; a label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The plan wants no retries.
    Disabled,
    /// The response is what was asked for, or has begun.
    Answered,
    /// It may have been processed, and twice is not the same as once.
    NotIdempotent,
    /// Its body is gone.
    BodyGone,
    /// It was tried as often as allowed.
    Attempts,
    /// There were too many retries lately.
    Budget,
    /// There is no time left.
    Deadline,
}

impl Stop {
    /// Its label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Answered => "answered",
            Self::NotIdempotent => "not_idempotent",
            Self::BodyGone => "body_gone",
            Self::Attempts => "attempts",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
        }
    }
}

/// Whether a method's effect is the same once and twice (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether a request is tried again. Takes from the budget if so.
///
/// A try for which there was no connection costs an upstream nothing: as long as another one is there, it counts neither
/// as an attempt nor against the budget, so that one or two dead servers never cost a request that a third could answer.
pub fn decide(
    plan: &RetryPlan,
    failed: &Try,
    budget: &mut RetryBudget,
    random: &mut Random,
    now: Instant,
) -> Decision {
    if plan.attempts == 0 {
        return Decision::Stop(Stop::Disabled);
    }
    if let Some(stop) = forbidden(plan, failed) {
        return Decision::Stop(stop);
    }
    let costs_nothing = failed.failure == Failure::NotConnected && failed.another;
    let allowed = if costs_nothing { MOST_TRIES } else { plan.attempts.saturating_add(1).min(MOST_TRIES) };
    if failed.tries >= allowed {
        return Decision::Stop(Stop::Attempts);
    }
    let after = pause(failed, random);
    if failed.deadline.is_some_and(|deadline| now + after >= deadline) {
        return Decision::Stop(Stop::Deadline);
    }
    if !costs_nothing && !budget.withdraw(now) {
        return Decision::Stop(Stop::Budget);
    }
    Decision::Retry { after }
}

/// What speaks against a retry, whatever is left to spend.
fn forbidden(plan: &RetryPlan, failed: &Try) -> Option<Stop> {
    let unprocessed = match failed.failure {
        Failure::Status(502..=504) if plan.on_status => false,
        Failure::Begun | Failure::Status(_) => return Some(Stop::Answered),
        Failure::NotConnected | Failure::NotProcessed => true,
        Failure::Closed | Failure::Timeout | Failure::WentDown => !failed.sent,
    };
    if !unprocessed && !failed.idempotent {
        return Some(Stop::NotIdempotent);
    }
    (!failed.body_at_hand).then_some(Stop::BodyGone)
}

/// At once on another upstream; otherwise longer and longer, by a random part so that requests do not come back together.
fn pause(failed: &Try, random: &mut Random) -> Duration {
    if failed.another {
        return Duration::ZERO;
    }
    let doublings = failed.tries.saturating_sub(1).min(MOST_TRIES);
    let longest = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + 0.5 * random.unit())
}
