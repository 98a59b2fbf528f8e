//! What state an upstream is in, for status, metrics and logs.

use std::fmt;
use std::time::{Duration, Instant};

/// Why a check or a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nobody listens, or the connection was reset while it was made.
    Refused,
    /// No route to the server, or its network is down.
    Unreachable,
    /// Connecting took too long.
    ConnectTimeout,
    /// TLS failed; why.
    Tls(String),
    /// The connection ended without a response.
    Closed,
    /// No response in time.
    Timeout,
    /// A status that does not pass.
    Status(u16),
    /// The body does not contain what it should.
    Body,
    /// What came was no valid response; why.
    Protocol(String),
    /// A gRPC server that says it is not serving.
    NotServing,
    /// The driver never told how the check ended.
    NoResult,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => formatter.write_str("connection refused"),
            Self::Unreachable => formatter.write_str("server unreachable"),
            Self::ConnectTimeout => formatter.write_str("connecting took too long"),
            Self::Tls(why) => write!(formatter, "TLS failed: {why}"),
            Self::Closed => formatter.write_str("connection closed without a response"),
            Self::Timeout => formatter.write_str("no response in time"),
            Self::Status(status) => write!(formatter, "answered {status}"),
            Self::Body => formatter.write_str("the response does not contain the expected text"),
            Self::Protocol(why) => write!(formatter, "no valid response: {why}"),
            Self::NotServing => formatter.write_str("gRPC service is not serving"),
            Self::NoResult => formatter.write_str("the check gave no result"),
        }
    }
}

/// Why passive health put an upstream out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// So many requests failed in a row; the last of them for this reason.
    Failures(u32, Reason),
    /// Its mean latency was over the group's median by this many per cent of it.
    Slow(u32),
    /// Connections were refused, and there are no active checks that could tell more.
    Refused,
    /// The one request that was to show whether it is well again failed.
    Probe,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures(count, reason) => {
                write!(formatter, "{count} failures in a row, the last: {reason}")
            }
            Self::Slow(percent) => write!(formatter, "latency at {percent} % of the group's median"),
            Self::Refused => formatter.write_str("connection refused"),
            Self::Probe => formatter.write_str("the first request after its time out failed"),
        }
    }
}

/// The state of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Takes requests.
    Up,
    /// No check came in yet.
    Unchecked,
    /// Its health checks failed.
    Down(Reason),
    /// A worker's connection was refused; the next check decides.
    Refused(Reason),
    /// Put out by passive health until then.
    Ejected {
        /// Why.
        cause: Cause,
        /// The end of its time out.
        until: Instant,
    },
    /// Its time out is over; one request shows whether it is well again.
    Probation,
    /// The plan says that it gets no new requests.
    Draining,
}

impl Condition {
    /// A word for it, as a label in metrics and status.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unchecked => "unchecked",
            Self::Down(_) | Self::Refused(_) => "down",
            Self::Ejected { .. } => "ejected",
            Self::Probation => "probation",
            Self::Draining => "draining",
        }
    }

    /// A line for people, such as `down for 12 s: connection refused`. `since` is when this condition began.
    pub fn describe(&self, since: Instant, now: Instant) -> String {
        let lasted = Lasted(now.saturating_duration_since(since));
        match self {
            Self::Up => format!("up for {lasted}"),
            Self::Unchecked => "not checked yet".to_owned(),
            Self::Down(reason) => format!("down for {lasted}: {reason}"),
            Self::Refused(reason) => format!("down for {lasted}: {reason}; being checked"),
            Self::Ejected { cause, until } => {
                let left = Lasted(until.saturating_duration_since(now));
                format!("ejected for {left} more: {cause}")
            }
            Self::Probation => format!("on probation for {lasted}"),
            Self::Draining => format!("draining for {lasted}"),
        }
    }
}

/// A time for people, in its largest units.
struct Lasted(Duration);

impl fmt::Display for Lasted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(formatter, "{} ms", self.0.as_millis()),
            seconds @ 1..120 => write!(formatter, "{seconds} s"),
            seconds @ 120..7200 => write!(formatter, "{} min", seconds / 60),
            seconds @ 7200..172_800 => write!(formatter, "{} h", seconds / 3600),
            seconds => write!(formatter, "{} d", seconds / 86_400),
        }
    }
}
