//! An old primary that comes back: whether its last write is in the new primary's history, and what is kept if it is not.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::binlog;
use super::error::ActionError;
use super::gtid::{BinlogState, Gtid, Position};
use crate::find;

/// How an old primary's last write stands to the new primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It is in the new primary's history: it can follow as [`super::replica::Was::Primary`].
    InHistory,
    /// It is not, or that cannot be shown: what it has beyond is kept in a file, and it is seeded anew.
    Beyond,
}

/// Judges `last`, the old primary's `gtid_binlog_pos`. `promoted_at` is the place of the first promotion after the epoch that
/// it led, if the coordinator knows it; `state` is the new primary's `gtid_binlog_state`.
///
/// What cannot be shown is taken for beyond: seeding anew costs time, a wrong history costs everything.
pub fn judge(last: &Position, promoted_at: Option<Gtid>, state: &BinlogState) -> Judgement {
    let last = match last.single() {
        Ok(None) => return Judgement::InHistory,
        Ok(Some(last)) => last,
        Err(_) => return Judgement::Beyond,
    };
    // What the new primary itself wrote down of this server. A new primary that was seeded lately may know nothing.
    let known = state.of(last.domain, last.server);
    let in_history = match promoted_at {
        Some(at) if at.domain != last.domain => false,
        Some(at) => {
            let before = last.seq < at.seq || last == at;
            // One that was promoted itself, and did nothing since, ends where a later one began.
            before && known.is_none_or(|known| known.seq >= last.seq)
        }
        None => known.is_some_and(|known| known.seq >= last.seq),
    };
    if in_history { Judgement::InHistory } else { Judgement::Beyond }
}

/// A file with transactions that one server alone had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The file: text that `mariadb` would apply, with each row in words beside it.
    pub file: PathBuf,
    /// The transactions.
    pub transactions: Vec<Gtid>,
}

/// How many transactions a report lists.
const MOST_LISTED: usize = 10_000;

/// Writes the transactions behind `after` in a stopped server's binary logs to a file, and says which they are. To be
/// called after a kill and before the next start, which cuts them off. `None` if there are none.
///
/// # Errors
/// [`ActionError::Log`], [`ActionError::File`] or [`ActionError::Program`].
pub async fn keep(
    binlog_index: &Path,
    after: &Position,
    to: &Path,
    within: Duration,
) -> Result<Option<Kept>, ActionError> {
    let (index, place) = (binlog_index.to_owned(), after.clone());
    let found = tokio::task::spawn_blocking(move || beyond(&index, &place)).await;
    let (files, transactions) = found
        .map_err(|error| ActionError::Program { program: "the log reader", reason: error.to_string() })??;
    if files.is_empty() {
        return Ok(None);
    }
    let file = |doing, source| ActionError::File { doing, path: to.to_owned(), source };
    let output = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| file("write", error))?;
    let failed = |reason: String| ActionError::Program { program: "mariadb-binlog", reason };
    let program = find("mariadb-binlog").ok_or_else(|| failed("it is not installed".to_owned()))?;
    let mut command = Command::new(program);
    command.args(["--no-defaults", "--verbose"]);
    if !after.is_empty() {
        command.arg(format!("--start-position={after}"));
    }
    command
        .args(files)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(|error| file("write", error))?)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // Not by `output`, which would take its output for itself.
    let child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let result = tokio::time::timeout(within, child.wait_with_output())
        .await
        .map_err(|_| failed("it took too long".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if !result.status.success() {
        return Err(failed(String::from_utf8_lossy(&result.stderr).trim().chars().take(2000).collect()));
    }
    output.sync_all().map_err(|error| file("sync", error))?;
    Ok(Some(Kept { file: to.to_owned(), transactions }))
}

fn beyond(index: &Path, after: &Position) -> Result<(Vec<PathBuf>, Vec<Gtid>), binlog::LogError> {
    let (mut files, mut transactions) = (Vec::new(), Vec::new());
    for file in binlog::files(index)? {
        binlog::read(&file, |group| {
            if after.of(group.gtid.domain).is_none_or(|at| group.gtid.seq > at.seq) {
                if files.last() != Some(&file) {
                    files.push(file.clone());
                }
                if transactions.len() < MOST_LISTED {
                    transactions.push(group.gtid);
                }
            }
            true
        })?;
    }
    Ok((files, transactions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_in_the_history_only_where_that_is_shown() {
        let judge = |last: &str, promoted: Option<&str>, state: &str| {
            super::judge(
                &last.parse().unwrap(),
                promoted.map(|gtid| gtid.parse().unwrap()),
                &state.parse().unwrap(),
            )
        };
        // The new primary, 2, was promoted at 0-1-10 and wrote three more.
        let state = "0-1-10,0-2-13";
        assert_eq!(judge("0-1-10", Some("0-1-10"), state), Judgement::InHistory);
        assert_eq!(judge("0-1-9", Some("0-1-10"), state), Judgement::InHistory);
        assert_eq!(judge("0-1-11", Some("0-1-10"), state), Judgement::Beyond);
        assert_eq!(judge("0-3-10", Some("0-1-10"), state), Judgement::Beyond, "one number, two servers");
        assert_eq!(judge("0-1-10", None, state), Judgement::InHistory);
        assert_eq!(judge("0-1-11", None, state), Judgement::Beyond);
        // It was seeded after server 1's last write, and knows it by the promotion alone.
        assert_eq!(judge("0-1-10", Some("0-1-10"), "0-2-13"), Judgement::InHistory);
        assert_eq!(judge("0-1-10", None, "0-2-13"), Judgement::Beyond);
        // The promotion says yes, the new primary's own log says no.
        assert_eq!(judge("0-1-10", Some("0-1-11"), "0-1-8,0-2-13"), Judgement::Beyond);
        assert_eq!(judge("0-1-5,1-1-1", Some("0-1-10"), state), Judgement::Beyond, "somebody else's domain");
        assert_eq!(judge("", None, state), Judgement::InHistory);
    }
}
