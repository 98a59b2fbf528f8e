//! The donor's side: `mariadb-backup` of a running member, as frames.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::process::Command;
use tokio::time::{Instant, sleep_until, timeout};

use super::frames::{self, FRAME_BYTES, Frame};
use super::{Progress, SILENCE, SeedError, file, last_words, program};
use crate::Place;

/// What a donor gives, and how gently.
#[derive(Debug, Clone)]
pub struct Offer<'a> {
    /// The donor's folders.
    pub place: &'a Place,
    /// The donor's configuration file.
    pub settings: &'a Path,
    /// Threads that read.
    pub threads: u8,
    /// Bytes per second at most, so that what the donor serves does not suffer.
    pub bytes_per_sec: Option<u64>,
}

/// Sends a copy of a running server to `sink`. The server goes on; only near the end are commits held for a moment. Its
/// replication threads are never stopped, since the donor may be the one that acknowledges.
///
/// # Errors
/// [`SeedError`]. The receiver is told, if it still listens.
pub async fn donate(
    offer: &Offer<'_>,
    sink: &mut (impl AsyncWrite + Unpin),
    mut progress: impl FnMut(Progress),
) -> Result<Progress, SeedError> {
    let sent = send_copy(offer, sink, &mut progress).await;
    if let Err(error) = &sent
        && !matches!(error, SeedError::Stream(_) | SeedError::Silence)
    {
        // That it could not be told either is no news beside the error itself.
        let _ = frames::send(sink, &Frame::Failed(error.to_string())).await;
    }
    sent
}

async fn send_copy(
    offer: &Offer<'_>,
    sink: &mut (impl AsyncWrite + Unpin),
    progress: &mut impl FnMut(Progress),
) -> Result<Progress, SeedError> {
    const NAME: &str = "mariadb-backup";
    let failed = |words: String| SeedError::Program { program: NAME, words };
    let program = program(NAME)?;
    let mut now = Progress { bytes: 0, about_bytes: data_bytes(&offer.place.data)? };
    frames::send(sink, &Frame::Begin(now.about_bytes)).await?;
    let scratch = Scratch::new(offer.place)?;
    let mut command = Command::new(program);
    command
        .arg(format!("--defaults-file={}", offer.settings.display()))
        .args(["--backup", "--stream=xbstream", "--slave-info"])
        .arg(format!("--parallel={}", offer.threads.max(1)))
        .arg(format!("--user={}", offer.place.user))
        .arg(format!("--socket={}", offer.place.socket().display()))
        .arg(format!("--target-dir={}", scratch.0.display()))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let words = last_words(child.stderr.take());
    let mut output = child.stdout.take().ok_or_else(|| failed("it has no output".to_owned()))?;
    let began = Instant::now();
    loop {
        let mut data = vec![0; FRAME_BYTES];
        let read = timeout(SILENCE, output.read(&mut data)).await.map_err(|_| SeedError::Silence)?;
        let read = read.map_err(|error| failed(error.to_string()))?;
        if read == 0 {
            break;
        }
        data.truncate(read);
        frames::send(sink, &Frame::Data(data)).await?;
        now.bytes += read as u64;
        progress(now);
        if let Some(rate) = offer.bytes_per_sec {
            // It waits in the pipe for this, and so reads no faster.
            sleep_until(began + Duration::from_secs_f64(now.bytes as f64 / rate.max(1) as f64)).await;
        }
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    let words = words.await.unwrap_or_default();
    if !status.success() {
        return Err(failed(words));
    }
    frames::send(sink, &Frame::End(now.bytes)).await?;
    Ok(now)
}

/// A folder for what is not streamed, which goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn new(place: &Place) -> Result<Self, SeedError> {
        let path = place.temporary().join("donor");
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(file("make", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// About how much will be copied: all files but logs of replication.
fn data_bytes(folder: &Path) -> Result<u64, SeedError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(file("read", folder))? {
        let entry = entry.map_err(file("read", folder))?;
        // A file that was removed meanwhile counts for nothing.
        let Ok(metadata) = entry.metadata() else { continue };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if metadata.is_dir() {
            bytes += data_bytes(&entry.path())?;
        } else if !["binlog.", "relay.", "ib_logfile", "ibtmp"].iter().any(|log| name.starts_with(log)) {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}
