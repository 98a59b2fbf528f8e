//! A request at an upstream, from the choice until its response's body is complete: what is counted, learnt and told of it.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mainstay_http::BodyError;
use mainstay_http::pool::ClientError;

use crate::balance::{InFlight, Outcome};
use crate::health::{Event, Reason};
use crate::retry::Failure;
use crate::service::Worker;
use crate::upstreams::{Chosen, Group};

/// A request at an upstream. Dropped, it gives back what it holds.
pub(crate) struct Flight {
    worker: Rc<Worker>,
    group: Rc<Group>,
    pub(crate) chosen: Chosen,
    /// Until the balancer was told how it ended.
    token: Option<InFlight>,
    began: Instant,
    /// How long the upstream took until its response's head.
    latency: Option<Duration>,
    /// When it ended, where someone has read the clock just before dropping it.
    pub(crate) ends: Option<Instant>,
}

/// Why a try failed, for each of those who want to know.
pub(crate) struct Failed {
    /// For the decision about a second try.
    pub(crate) failure: Failure,
    /// For health.
    pub(crate) reason: Reason,
    /// For metrics.
    pub(crate) label: &'static str,
}

impl Flight {
    pub(crate) fn begin(worker: &Rc<Worker>, group: &Rc<Group>, chosen: Chosen, now: Instant) -> Self {
        let token = group.balancer.borrow_mut().started(chosen.index);
        chosen.member.shared.in_flight.add(1);
        chosen.member.shared.requests.inc();
        chosen.member.awaited(now);
        let flight = Self {
            worker: Rc::clone(worker),
            group: Rc::clone(group),
            chosen,
            token: Some(token),
            began: now,
            latency: None,
            ends: None,
        };
        if flight.chosen.probe {
            flight.tell(Event::ProbeStarted(flight.chosen.member.shared.id));
        }
        flight
    }

    /// The head of a response came; answers how long it took.
    pub(crate) fn answered(&mut self, now: Instant) -> Duration {
        let latency = now.saturating_duration_since(self.began);
        self.latency = Some(latency);
        self.chosen.member.heard(true, now);
        self.chosen.member.metrics.answered(latency);
        latency
    }

    /// The upstream failed the request.
    pub(crate) fn failed(&mut self, failed: &Failed, now: Instant) {
        let Some(token) = self.token.take() else { return };
        let member = &self.chosen.member;
        member.metrics.failed(failed.label);
        member.shared.failures.inc();
        if self.latency.is_none() {
            member.heard(matches!(failed.failure, Failure::Status(_)), now);
        }
        let streak = self.group.balancer.borrow_mut().finished(token, Outcome::Failed, now);
        let checked = self.chosen.roster.shared.plan.health.is_some();
        let upstream = member.shared.id;
        if failed.failure == Failure::NotConnected {
            member.avoid(checked, now);
            self.tell(Event::Refused(upstream, failed.reason.clone()));
        }
        if self.chosen.probe {
            self.tell(Event::ProbeEnded(upstream, Some(false)));
        } else if failed.failure != Failure::NotConnected || !checked {
            self.tell(Event::Failed { upstream, streak, reason: failed.reason.clone() });
        }
    }

    /// The response's body broke off.
    pub(crate) fn broke(&mut self, error: &BodyError, now: Instant) {
        let (reason, label) = match error {
            BodyError::TimedOut { .. } => (Reason::Timeout, "body_timeout"),
            BodyError::Framing(why) => (Reason::Protocol((*why).to_owned()), "malformed"),
            BodyError::Closed | BodyError::Io(_) | BodyError::TooLarge { .. } => {
                (Reason::Closed, "body_closed")
            }
        };
        self.failed(&Failed { failure: Failure::Begun, reason, label }, now);
    }

    fn tell(&self, event: Event) {
        self.worker.tell(&self.chosen.roster.shared, event);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let member = &self.chosen.member;
        if let Some(token) = self.token.take() {
            let now = self.ends.unwrap_or_else(Instant::now);
            let outcome = if let Some(latency) = self.latency {
                Outcome::Answered(latency)
            } else {
                member.heard(false, now);
                Outcome::Abandoned(now.saturating_duration_since(self.began))
            };
            self.group.balancer.borrow_mut().finished(token, outcome, now);
            if self.chosen.probe {
                self.tell(Event::ProbeEnded(member.shared.id, self.latency.map(|_| true)));
            }
        }
        member.shared.in_flight.add(-1);
        member.shared.leave(self.chosen.place);
        self.chosen.roster.shared.queue.tell();
    }
}

impl Failed {
    /// What a client's error says of the upstream; `None` if it says nothing, for the client's own body broke.
    pub(crate) fn of(error: &ClientError) -> Option<Self> {
        let (failure, reason, label) = match error {
            ClientError::Connect(error) => {
                let reason = match error.kind() {
                    io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::NetworkDown => Reason::Unreachable,
                    _ => Reason::Refused,
                };
                (Failure::NotConnected, reason, "connect")
            }
            ClientError::ConnectTimedOut(_) => {
                (Failure::NotConnected, Reason::ConnectTimeout, "connect_timeout")
            }
            ClientError::Busy | ClientError::WaitTimedOut(_) => {
                (Failure::NotConnected, Reason::ConnectTimeout, "busy")
            }
            ClientError::TimedOut { .. } => (Failure::Timeout, Reason::Timeout, "timeout"),
            ClientError::Closed { .. } => (Failure::Closed, Reason::Closed, "closed"),
            ClientError::Reset { .. } => (Failure::Closed, Reason::Closed, "reset"),
            ClientError::Malformed(why) => (Failure::Begun, Reason::Protocol(why.to_string()), "malformed"),
            ClientError::RequestBody(_) => return None,
        };
        Some(Self { failure, reason, label })
    }

    pub(crate) fn of_status(status: u16) -> Self {
        Self { failure: Failure::Status(status), reason: Reason::Status(status), label: "status" }
    }

    pub(crate) fn went_down() -> Self {
        Self { failure: Failure::WentDown, reason: Reason::Timeout, label: "went_down" }
    }
}
