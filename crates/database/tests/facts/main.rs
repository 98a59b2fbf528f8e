//! What the installed MariaDB does where it matters, fact by fact: the cluster is built on these, and several of them surprise. A
//! new version that changes one fails here, and the decision that rests on it (docs/decisions/0014-mariadb-facts.md) is to
//! be thought about again before that version is used.

#![allow(clippy::unwrap_used)]

#[path = "../servers/mod.rs"]
mod servers;

mod positions;
mod relay;
mod waiters;
