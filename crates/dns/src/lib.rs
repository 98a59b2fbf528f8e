//! Authoritative DNS for the site's zone.
//!
//! [`answer`] turns a query into its response: a pure function over [`Zones`], which are built once from the plan
//! and only read from then on. [`Limiter`] decides, without a clock or a socket, which responses a client's network
//! may have. [`run`] is the role around the two: one thread per core, each reading queries from its own share of
//! the UDP and TCP sockets that the agent hands over.
//!
//! A query over UDP: `udp` receives it, `question` reads it, `zone` finds the name, `response` writes what was found
//! within the size that the client can take, `rate` lets it pass, and it is sent. Over TCP the same without `rate`,
//! because a client that completed a connection did not forge its address.
//!
//! The same role serves the lab's root zone: a zone with records below a cut hands out referrals.

mod answer;
mod key;
mod metrics;
mod question;
mod rate;
mod record;
mod response;
mod server;
mod sockets;
mod tcp;
mod udp;
mod zone;

pub use answer::{Answered, Kind, Transport, answer};
pub use rate::{Limiter, Verdict};
pub use server::{Config, Error, Server, run};
pub use zone::{ZoneError, Zones};
