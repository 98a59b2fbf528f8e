//! Why there is no response, and whether the request may be sent again.

use std::time::Duration;

use http::Method;

use crate::BodyError;
use crate::h1::answer::Malformed;

/// How much of a request an upstream can have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    /// Nothing that it can have worked on: no byte left this machine, or the upstream itself said that it did not
    /// begin (h2: `REFUSED_STREAM`, or a `GOAWAY` that leaves the request out).
    Nothing,
    /// Some bytes, but not the request's end.
    Part,
    /// All of it.
    Whole,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The upstream cannot be reached: 502, or 503 while it is known to start.
    #[error("cannot connect to the upstream: {0}")]
    Connect(std::io::Error),
    /// It was not reached in time: 504.
    #[error("the upstream took no connection within {0:?}")]
    ConnectTimedOut(Duration),
    /// All connections are busy and too many requests wait: 503.
    #[error("too many requests wait for the upstream")]
    Busy,
    /// All connections stayed busy: 503.
    #[error("no connection to the upstream became free within {0:?}")]
    WaitTimedOut(Duration),
    /// No response in time: 504.
    #[error("no response within {after:?}")]
    TimedOut {
        /// The bound.
        after: Duration,
        /// What was sent until then.
        sent: Sent,
    },
    /// The upstream closed the connection, or the h2 stream, without a response: 502.
    #[error("the upstream closed the connection without a response")]
    Closed {
        /// What was sent until then.
        sent: Sent,
    },
    /// What came is no valid response: 502.
    #[error("the upstream's response is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The client's own body broke; see [`BodyError::status`].
    #[error("the request's body broke: {0}")]
    RequestBody(BodyError),
}

impl ClientError {
    /// The status that a proxy answers with.
    pub fn status(&self) -> http::StatusCode {
        match self {
            Self::Connect(_) | Self::Closed { .. } | Self::Malformed(_) => http::StatusCode::BAD_GATEWAY,
            Self::ConnectTimedOut(_) | Self::TimedOut { .. } => http::StatusCode::GATEWAY_TIMEOUT,
            Self::Busy | Self::WaitTimedOut(_) => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestBody(error) => error.status(),
        }
    }

    /// How much of the request the upstream can have seen. Where that is not known exactly, the larger answer.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Connect(_) | Self::ConnectTimedOut(_) | Self::Busy | Self::WaitTimedOut(_) => Sent::Nothing,
            Self::TimedOut { sent, .. } | Self::Closed { sent } => *sent,
            Self::Malformed(_) => Sent::Whole,
            Self::RequestBody(_) => Sent::Part,
        }
    }

    /// Whether sending the request once more can at most repeat what may be repeated: nothing was sent, or the method
    /// is idempotent (RFC 9110, 9.2.2). Whether its body is still at hand is for the caller to know. A request whose
    /// own body broke is never sent again.
    pub fn may_retry(&self, method: &Method) -> bool {
        match self {
            Self::RequestBody(_) => false,
            error => error.sent() == Sent::Nothing || is_idempotent(method),
        }
    }
}

/// Whether a method may be repeated without harm (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::{ClientError, Sent};
    use crate::BodyError;

    #[test]
    fn only_what_can_do_no_harm_is_sent_again() {
        let refused = ClientError::Closed { sent: Sent::Nothing };
        let lost = ClientError::Closed { sent: Sent::Part };
        assert!(refused.may_retry(&Method::POST) && refused.may_retry(&Method::GET));
        assert!(
            !lost.may_retry(&Method::POST) && !lost.may_retry(&Method::PATCH) && lost.may_retry(&Method::PUT)
        );
        assert!(ClientError::Busy.may_retry(&Method::POST));
        assert!(!ClientError::RequestBody(BodyError::Closed).may_retry(&Method::GET));
    }
}
