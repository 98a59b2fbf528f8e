//! TCP services as clients and upstreams see them: everything here goes through real sockets.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on fails")]

#[allow(dead_code, reason = "the engine's stories use more of it")]
#[path = "../../../http/tests/stories/authority.rs"]
mod authority;
mod plain;
mod support;
mod tls;
