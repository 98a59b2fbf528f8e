//! The thread that writes the access log, and rotates it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::{Batch, QUEUE};

/// A file of this size is put aside.
const FILE_BYTES: u64 = 16 << 20;
/// Files in all: `access.log`, `access.log.1` and so on.
const FILES: u32 = 5;

/// The running thread. It ends when all senders are gone.
pub struct Writer {
    /// Where workers hand over what they wrote.
    pub queue: SyncSender<Batch>,
    thread: JoinHandle<()>,
}

/// Starts the thread. The log's folder must be there and writable; if it is not, that is said once, and lines are lost.
pub fn start(path: PathBuf) -> io::Result<Writer> {
    let (queue, batches) = sync_channel(QUEUE);
    let thread =
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&path, &batches))?;
    Ok(Writer { queue, thread })
}

impl Writer {
    /// Waits until everything is written; to be called when no worker is left.
    pub fn join(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the access log's thread panicked");
        }
    }
}

fn write(path: &Path, batches: &Receiver<Batch>) {
    let mut file: Option<File> = None;
    let mut complained = false;
    while let Ok(batch) = batches.recv() {
        let written = current(path, file.take()).and_then(|mut open| {
            open.write_all(&batch.text)?;
            Ok(open)
        });
        match written {
            Ok(open) => {
                file = Some(open);
                complained = false;
            }
            Err(error) if !complained => {
                complained = true;
                tracing::error!(path = %path.display(), %error, "the access log cannot be written");
            }
            Err(_) => {}
        }
    }
}

/// The file to write to: that which has the name now, for another process of this role may have rotated it.
fn current(path: &Path, open: Option<File>) -> io::Result<File> {
    let there = std::fs::metadata(path);
    let size = match &there {
        Ok(there) => there.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
    };
    if size >= FILE_BYTES {
        rotate(path)?;
    } else if let (Some(open), Ok(there)) = (open, there) {
        let ours = open.metadata()?;
        if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
            return Ok(open);
        }
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn rotate(path: &Path) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        PathBuf::from(name)
    };
    for number in (0..FILES - 1).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Batch, FILE_BYTES, start};

    #[test]
    fn the_log_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = start(path.clone()).unwrap();
        for _ in 0..14 {
            writer.queue.send(Batch { text: vec![b'x'; FILE_BYTES as usize / 2] }).unwrap();
        }
        writer.join();
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["access.log", "access.log.1", "access.log.2", "access.log.3", "access.log.4"]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES);
    }
}
