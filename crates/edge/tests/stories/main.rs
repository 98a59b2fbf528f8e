//! The load balancer as a whole, between clients and upstreams on real sockets.

mod changes;
mod client;
mod edge;
mod failures;
mod forwarding;
mod limits;
mod origin;
mod smuggling;
