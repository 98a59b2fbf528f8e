//! The load balancer as a whole, between clients and upstreams on real sockets.

#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "a story that cannot go on has failed")]

mod changes;
mod client;
mod edge;
mod failures;
mod features;
#[path = "../../src/fixture.rs"]
mod fixture;
mod forwarding;
mod http2;
mod limits;
mod origin;
mod overload;
mod passing;
mod protocols;
mod smuggling;
