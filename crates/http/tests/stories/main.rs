//! The engine as its peers see it: everything here goes through real sockets.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on fails")]

mod admin;
mod authority;
mod h1;
mod h2;
mod hazards;
mod pool;
mod proxy_protocol;
mod support;
mod tls;
mod tls_reload;
mod upstream_tls;
