//! Runs one server: carries out its plan, keeps its roles running, and tells how they are.
//!
//! [`run`] is the whole life of an agent. It takes over what an agent before it left running (the [`Supervisor`] of
//! `process` does that), opens every listening socket of the plan first of all, and then brings the roles up in
//! order: `edge`, `web` and `dns` at once, the database, its accounts and schemas, then the apps ([`apply`]). A changed plan goes
//! the same way; what did not change is not touched. [`control`] answers on the agent's socket, [`health`] restarts own
//! roles that no longer answer.
//!
//! The agent holds nothing that cannot be lost: kill it, and the roles run on; the next one finds them.
//!
//! [`Supervisor`]: mainstay_process::Supervisor

mod apply;
mod backends;
mod control;
mod edge;
mod health;
mod log;
mod metrics;
mod run;
mod server_roles;
mod status;

pub use run::{AgentError, AgentOptions, Ended, run};
pub use status::{AgentInfo, EdgeStatus, GroupStatus, ServerStatus, ServiceStatus, Totals, UpstreamStatus};
