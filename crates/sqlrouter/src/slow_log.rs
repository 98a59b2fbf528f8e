//! The slow-query log: a line of JSON for each statement that took longer than the limit, written by a thread.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde::Serialize;

/// Lines that wait to be written; more are dropped and counted.
const WAITING: usize = 1024;
/// Bytes of a statement in a line.
const SHOWN: usize = 2048;

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// Seconds since 1970.
    pub(crate) time: u64,
    pub(crate) account: String,
    pub(crate) schema: String,
    pub(crate) server: String,
    pub(crate) why: &'static str,
    pub(crate) seconds: f64,
    pub(crate) error: Option<u16>,
    pub(crate) statement: String,
}

impl Line {
    /// The beginning of a statement's text.
    pub(crate) fn shown(text: &[u8]) -> String {
        String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned()
    }

    pub(crate) fn now() -> u64 {
        // For people only.
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// Where lines go. Clones lead to the same file.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlowLog(Option<SyncSender<Line>>);

impl SlowLog {
    /// Writes a line; whether there was room for it.
    pub(crate) fn write(&self, line: Line) -> bool {
        self.0.as_ref().is_none_or(|sender| sender.try_send(line).is_ok())
    }
}

/// Begins to write to a file. The thread ends when the last clone is dropped.
pub(crate) fn start(path: PathBuf) -> std::io::Result<(SlowLog, JoinHandle<()>)> {
    let (sender, lines) = sync_channel::<Line>(WAITING);
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let thread = std::thread::Builder::new().name("slow-log".to_owned()).spawn(move || {
        for line in lines {
            let written = serde_json::to_vec(&line).map_err(std::io::Error::other).and_then(|mut text| {
                text.push(b'\n');
                file.write_all(&text)
            });
            if let Err(error) = written {
                tracing::warn!(%error, file = %path.display(), "the slow-query log cannot be written");
            }
        }
    })?;
    Ok((SlowLog(Some(sender)), thread))
}
