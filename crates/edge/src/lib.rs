//! The load balancer: what people expect of `HAProxy` in front of several servers.
//!
//! [`run`] is the role's process. It carries an [`EdgePlan`](mainstay_site::plan::EdgePlan) out with one worker per
//! core, each with routes, pools and log of its own, and one control thread, which changes plans and judges upstreams.
//!
//! A request comes in by [`service`]; a usual one goes by [`passing`], where its fields stay bytes. [`route`] finds who
//! takes it, then [`forward`] chooses an upstream, waits for
//! room, sends, and tries another one where that does no harm; [`fields`] says what each side gets to see, and
//! [`record`] tells of it afterwards. What is in force, and what workers share of it, is in [`in_force`]; how a new plan
//! arrives, in [`control`] and [`adopt`].
//!
//! Decisions are pure state machines, each in a module of its own: which upstream takes a request ([`balance`]),
//! which are fit to ([`health`]), what is tried again ([`retry`]), who comes too often ([`rate`]), how much is taken on
//! at once ([`shed`]), what may be kept and given again ([`cache`]).

mod admin;
mod admission;
mod adopt;
pub mod balance;
pub mod cache;
mod certificates;
mod checker;
mod client;
mod config;
mod control;
mod fields;
#[cfg(test)]
mod fixture;
mod flight;
mod forward;
pub mod health;
mod in_force;
mod limited;
mod metrics;
mod pages;
pub mod passing;
mod query;
pub mod rate;
mod record;
mod replay;
pub mod retry;
mod role;
mod route;
mod service;
mod services;
pub mod shed;
mod site;
mod sockets;
mod status;
pub mod sticky;
mod target;
pub mod tcp;
mod trace;
mod trip;
mod upstreams;

pub use config::Config;
pub use role::{Error, Reloader, Server, run};
