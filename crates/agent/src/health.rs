//! Own roles that run but no longer answer.
//!
//! Each own role is asked on its admin socket every [`ASK_EVERY`]. One that says that it is not well is left alone: it
//! knows why, and says so. One that does not answer at all for [`HUNG_AFTER`] hangs, and is replaced by a new generation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use mainstay_http::client::{Bounds, Upstream, call};
use mainstay_process::Supervisor;
use mainstay_process::supervise::State;
use mainstay_site::paths;

/// The time between two questions.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(3);
/// A role that does not answer for this long hangs.
pub(crate) const HUNG_AFTER: Duration = Duration::from_secs(15);
/// One answer may take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// More of an answer is of no use.
const ANSWER_BYTES: usize = 4096;

/// What is known of one role.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Watched {
    generation: Option<u64>,
    silent_since: Option<Instant>,
}

/// What to do about a role.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Fine,
    /// It has just fallen silent; worth a line in the log.
    FellSilent,
    /// It hangs: replace it.
    Hangs,
}

impl Watched {
    fn judge(&mut self, generation: Option<u64>, answered: bool, now: Instant) -> Verdict {
        if self.generation != generation || answered {
            *self = Self { generation, silent_since: None };
        }
        if answered {
            return Verdict::Fine;
        }
        match self.silent_since {
            None => {
                self.silent_since = Some(now);
                Verdict::FellSilent
            }
            Some(since) if now.saturating_duration_since(since) >= HUNG_AFTER => {
                // The next generation gets its own time.
                self.silent_since = Some(now);
                Verdict::Hangs
            }
            Some(_) => Verdict::Fine,
        }
    }
}

/// Asks for ever.
pub(crate) async fn watch(supervisor: Arc<Supervisor>, own_roles: &'static [&'static str]) {
    let mut watched: BTreeMap<&str, Watched> = BTreeMap::new();
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let Ok(all) = supervisor.status().await else { return };
        for role in all.iter().filter(|role| role.state == State::Ready) {
            let Some(name) = own_roles.iter().find(|own| **own == role.name) else { continue };
            let answered = answers(name).await;
            match watched.entry(name).or_default().judge(role.generation, answered, Instant::now()) {
                Verdict::Fine => {}
                Verdict::FellSilent => tracing::warn!(child = name, "does not answer on its admin socket"),
                Verdict::Hangs => {
                    tracing::error!(
                        child = name,
                        seconds = HUNG_AFTER.as_secs(),
                        "does not answer any more and is replaced"
                    );
                    if let Err(error) = supervisor.restart(name).await {
                        tracing::error!(child = name, %error, "cannot be replaced");
                    }
                }
            }
        }
    }
}

async fn answers(name: &str) -> bool {
    let upstream = Upstream::Unix(paths::admin_socket(name));
    let bounds = Bounds { timeout: ANSWER_WITHIN, body_bytes: ANSWER_BYTES };
    call(&upstream, &Method::GET, "/health", None, bounds).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_is_silent_for_long_hangs_and_one_that_answers_in_between_does_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut web = Watched::default();
        assert_eq!(web.judge(Some(1), true, at(0)), Verdict::Fine);
        assert_eq!(web.judge(Some(1), false, at(3)), Verdict::FellSilent);
        assert_eq!(web.judge(Some(1), false, at(17)), Verdict::Fine);
        assert_eq!(web.judge(Some(1), true, at(17)), Verdict::Fine);
        assert_eq!(web.judge(Some(1), false, at(20)), Verdict::FellSilent);
        assert_eq!(web.judge(Some(1), false, at(35)), Verdict::Hangs);
        assert_eq!(web.judge(Some(1), false, at(36)), Verdict::Fine, "its successor is on its way");
    }

    #[test]
    fn a_new_generation_does_not_inherit_the_silence_of_the_old_one() {
        let start = Instant::now();
        let mut web = Watched::default();
        web.judge(Some(1), false, start);
        assert_eq!(web.judge(Some(2), false, start + HUNG_AFTER), Verdict::FellSilent);
    }
}
