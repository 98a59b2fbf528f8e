//! The engine as its peers see it: everything here goes through real sockets.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on fails")]

mod admin;
mod authority;
mod forward;
mod grpc;
mod h1;
mod h2;
mod h2_frames;
mod hazards;
mod per_client;
mod pool;
mod pool_h2;
mod proxy_protocol;
mod support;
mod tls;
mod tls_hazards;
mod tls_reload;
mod tunnels;
mod upstream_tls;
