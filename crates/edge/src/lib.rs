//! The load balancer: what people expect of `HAProxy` in front of several servers.
//!
//! Its decisions are pure state machines, each in a module of its own: which upstream takes a request ([`balance`]),
//! which are fit to ([`health`]), what is tried again ([`retry`]), who comes too often ([`rate`]), how much is taken on
//! at once ([`shed`]), what may be kept and given again ([`cache`]).

pub mod balance;
pub mod cache;
pub mod health;
pub mod rate;
pub mod retry;
pub mod shed;
pub mod sticky;
