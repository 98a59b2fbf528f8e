//! What goes wrong with a body.

use thiserror::Error;

/// Why a body ended before its end.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The other side closed or reset the connection.
    #[error("the peer went away in the middle of a body")]
    Closed,
    /// Larger than allowed; a service answers 413.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// No byte came for too long; a service answers 408.
    #[error("no byte of the body came for {seconds} s")]
    TimedOut {
        /// The bound in seconds.
        seconds: u32,
    },
    /// The framing is wrong (RFC 9112, 7.1); a service answers 400.
    #[error("the body's framing is wrong: {0}")]
    Framing(&'static str),
    /// Reading a file or a socket failed.
    #[error("reading the body failed: {0}")]
    Io(#[from] std::io::Error),
}
