//! Stories of clients, the router and servers: fake ones that fail on demand, and real MariaDB servers.

mod failures;
mod fixture;
mod routing;
mod sessions;
