//! How long each job may take.

use std::time::Duration;

use super::words::Job;

/// The longest that a job may take; the driver ends it then.
pub(super) fn of(job: &Job) -> Duration {
    match job {
        Job::CloseWrites => Duration::from_millis(500),
        Job::OpenWrites | Job::Admit { .. } | Job::SetSemiSync { .. } => Duration::from_secs(2),
        // 1.0 s where the other end is frozen.
        Job::Revoke | Job::Promote { .. } | Job::Follow { .. } | Job::SetAcknowledging { .. } => {
            Duration::from_secs(5)
        }
        Job::Drain { .. } | Job::CatchUp { .. } => Duration::from_mins(1),
        // Crash recovery of a large redo log.
        Job::Start { .. } => Duration::from_mins(30),
        Job::RescueRelay | Job::Initialise | Job::KeepArtifact { .. } => Duration::from_mins(10),
        Job::Seed { .. } => Duration::from_hours(48),
    }
}
