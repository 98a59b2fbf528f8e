//! Stories of clients, the router and servers: fake ones that fail on demand, and real MariaDB servers.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod failures;
mod fixture;
mod routing;
mod sessions;
