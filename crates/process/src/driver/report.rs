//! What the log tells of children.

use super::Driver;
use crate::running::Running;
use crate::supervise::Report;

impl Driver {
    pub(super) fn report(&self, name: &str, report: &Report) {
        match report {
            Report::Ready { generation, after } => {
                tracing::info!(child = name, generation, after_ms = after.as_millis() as u64, "ready");
            }
            Report::Fell { generation, failure, falls, restart_in } => {
                let child = self.children.get(name);
                let said = child.map(|child| child.words.lines()).unwrap_or_default();
                let not_ready = child
                    .and_then(|child| child.running.get(generation))
                    .and_then(Running::not_ready)
                    .unwrap_or_default();
                let restart_in_ms = restart_in.as_millis() as u64;
                tracing::warn!(child = name, generation, %failure, not_ready, falls, restart_in_ms, ?said, "fell");
            }
            Report::Rejected(rejected) => {
                let failure = &rejected.failure;
                tracing::error!(child = name, %failure, "the changed role did not get ready; what ran before runs on");
            }
            Report::Reloaded { generation, after } => {
                let after_ms = after.as_millis() as u64;
                tracing::info!(child = name, generation, after_ms, "has taken the change over");
            }
            Report::ReloadRefused { generation, reason } => {
                tracing::info!(
                    child = name,
                    generation,
                    reason,
                    "does not take the change over; a new process does"
                );
            }
            Report::Killed { generation } => {
                tracing::warn!(child = name, generation, "did not stop when asked and is killed");
            }
            Report::Stopped => tracing::info!(child = name, "stopped"),
        }
    }
}
