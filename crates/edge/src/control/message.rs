//! What the control thread is told and asked, and what it tells workers.

use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::oneshot;

use crate::balance::UpstreamId;
use crate::config::Config;
use crate::health::{CheckId, Event, Reason};
use crate::in_force::{InForce, SharedGroup};
use crate::status::Status;

/// Hears what became of a change.
pub(crate) type Changed = oneshot::Sender<Result<(), String>>;

/// What the control thread is told.
pub(crate) enum Told {
    /// A worker saw something of an upstream.
    Health(Arc<SharedGroup>, Event),
    /// A check ended.
    Checked(Arc<SharedGroup>, CheckId, Result<(), Reason>),
    /// A worker carries a plan out.
    Adopted { worker: usize, generation: u64 },
}

/// What a worker is told.
#[derive(Clone)]
pub(crate) enum ToWorker {
    /// Carry this out from now on.
    Adopt(Arc<InForce>),
    /// An upstream was found down: requests that wait for it may go elsewhere.
    Down(Arc<str>, UpstreamId),
    /// An upstream takes requests again.
    CameUp(Arc<str>, UpstreamId),
}

/// What the control thread is asked to do.
pub(crate) enum Command {
    /// Take over a new configuration.
    Reload(Box<Config>, Changed),
    /// Note that there was no new configuration to take over.
    NoConfig(String),
    /// Change an upstream without a plan.
    Set(Setting, Changed),
    /// Turn maintenance on or off.
    Maintenance(bool, Changed),
    /// Forget responses; answers how many.
    Purge(Purge, oneshot::Sender<Result<usize, String>>),
    /// Tell everything.
    Status(oneshot::Sender<Status>),
    /// Tell which configuration is in force, and the last refusal.
    Digest(oneshot::Sender<(String, Option<Refusal>)>),
}

/// What the cache is to forget: `{"url": "https://..."}`, `{"prefix": "https://..."}` or `"all"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purge {
    Url(String),
    Prefix(String),
    All,
}

/// A live change of an upstream.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) group: String,
    pub(crate) upstream: String,
    pub(crate) weight: Option<u32>,
    pub(crate) drain: Option<bool>,
}

/// A configuration that was not taken over.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Refusal {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// SHA-256 of the configuration; none if it could not even be read.
    pub(crate) sha256: Option<String>,
    pub(crate) why: String,
}
