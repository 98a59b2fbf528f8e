//! The keeper's hands on real servers: what each call does, and what it refuses to do.

#![allow(clippy::unwrap_used)]

#[path = "../servers/mod.rs"]
mod servers;

mod changes_of_primary;
mod measures;
mod process;
mod relay_log;
mod seeding;
mod upkeep;
