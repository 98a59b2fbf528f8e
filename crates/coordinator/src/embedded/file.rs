//! The file itself: opened by one process at a time, added to durably, and begun anew when the old changes outgrow what is held.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::limits::Limits;
use super::log::{self, Damage, Log};
use super::machine::Machine;
use super::record::Record;

/// The file is not begun anew before it has grown by this much.
const GROWTH_LEAST_BYTES: u64 = 4 << 20;

/// The largest file that is read. Far more than twice of what the limits allow a store to hold.
const FILE_MOST_BYTES: u64 = 1 << 30;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged. What it still holds is not used, for what is missing could be the newest.
    #[error(
        "the coordinator's store {path} cannot be relied on: {damage}. Restore it from a copy, or move it away to begin anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The file system refused.
    #[error("the coordinator's store {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        error: io::Error,
    },
}

/// A store's file.
#[derive(Debug)]
pub(super) struct StoreFile {
    path: PathBuf,
    limits: Limits,
    file: File,
    log: Log,
    bytes: u64,
    /// How long the file was when it was begun.
    begun_bytes: u64,
    /// Whether a sync has failed since the file was begun.
    distrusted: bool,
    /// Held for as long as the store is open.
    _lock: File,
}

impl StoreFile {
    /// Opens a store, or makes an empty one.
    pub(super) fn open(path: &Path, limits: Limits) -> Result<(Self, Machine), OpenError> {
        let failed = |error: io::Error| OpenError::Io { path: path.to_owned(), error };
        let lock = owned(&with_suffix(path, ".lock"), OpenOptions::new().write(true).create(true))
            .map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse { path: path.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
        if !path.try_exists().map_err(failed)? {
            let mut random = [0; 24];
            getrandom::fill(&mut random).map_err(|error| failed(io::Error::other(error.to_string())))?;
            let (mut salt, mut id) = ([0; 16], [0; 8]);
            salt.copy_from_slice(&random[..16]);
            id.copy_from_slice(&random[16..]);
            let id = u64::from_le_bytes(id).max(1);
            let (_, text) = Log::begin(salt, id, &Machine::new(id, limits));
            write_new(path, &text).and_then(|()| put_in_place(path)).map_err(failed)?;
        }
        let (file, log, machine, bytes) = load(path, limits)?;
        Ok((
            Self {
                path: path.to_owned(),
                limits,
                file,
                log,
                bytes,
                begun_bytes: bytes,
                distrusted: false,
                _lock: lock,
            },
            machine,
        ))
    }

    /// Makes records durable. After an error nothing is known but that nobody was told: [`StoreFile::reload`] comes next.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let line = self.log.line(records);
        self.file.write_all(&line)?;
        // After a sync that failed the kernel may take for written what is not: the file is not to be trusted any more.
        self.file.sync_data().inspect_err(|_| self.distrusted = true)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Reads what is durable, without what an append that failed may have left of a line. A whole line that it left stays.
    pub(super) fn reload(&mut self) -> Result<Machine, OpenError> {
        let (file, log, machine, bytes) = load(&self.path, self.limits)?;
        (self.file, self.log, self.bytes, self.begun_bytes) = (file, log, bytes, bytes);
        if self.distrusted {
            let path = self.path.clone();
            let failed = |error: io::Error| OpenError::Io { path: path.clone(), error };
            let (log, text) = self.anew(&machine).map_err(failed)?;
            write_new(&path, &text).map_err(failed)?;
            self.take_up(log, text.len() as u64).map_err(failed)?;
            self.distrusted = false;
        }
        Ok(machine)
    }

    /// Begins the file anew if most of it is past. An error says that [`StoreFile::reload`] must come next.
    pub(super) fn rewrite_if_due(&mut self, machine: &Machine) -> io::Result<()> {
        if self.bytes - self.begun_bytes < self.begun_bytes.max(GROWTH_LEAST_BYTES) {
            return Ok(());
        }
        let (log, text) = self.anew(machine)?;
        if let Err(error) = write_new(&self.path, &text) {
            // The old file goes on as it is. The next attempt is after as much growth again.
            tracing::warn!(%error, path = %self.path.display(), "the coordinator's store cannot be begun anew, and grows on");
            self.begun_bytes = self.bytes;
            return Ok(());
        }
        self.take_up(log, text.len() as u64)
    }

    /// A new file's text.
    fn anew(&self, machine: &Machine) -> io::Result<(Log, Vec<u8>)> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Log::begin(salt, self.log.id(), machine))
    }

    /// Goes on in the new file.
    fn take_up(&mut self, log: Log, bytes: u64) -> io::Result<()> {
        put_in_place(&self.path)?;
        // The old file has no name any more: what is not written to the new one is lost.
        self.file = owned(&self.path, OpenOptions::new().append(true))?;
        (self.log, self.bytes, self.begun_bytes) = (log, bytes, bytes);
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn load(path: &Path, limits: Limits) -> Result<(File, Log, Machine, u64), OpenError> {
    let failed = |error: io::Error| OpenError::Io { path: path.to_owned(), error };
    let mut file = owned(path, OpenOptions::new().read(true).append(true)).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > FILE_MOST_BYTES {
        let why = format!("it has {length} bytes, and {FILE_MOST_BYTES} are the most that is read");
        return Err(failed(io::Error::other(why)));
    }
    let mut text = Vec::with_capacity(length as usize);
    file.read_to_end(&mut text).map_err(failed)?;
    let loaded =
        log::read(&text, limits).map_err(|damage| OpenError::Damaged { path: path.to_owned(), damage })?;
    if loaded.sound_bytes < text.len() {
        let cut = text.len() - loaded.sound_bytes;
        tracing::warn!(path = %path.display(), cut_bytes = cut, "the last line of the coordinator's store was incomplete, and was cut off");
        file.set_len(loaded.sound_bytes as u64).map_err(failed)?;
    }
    // What is read may be in memory only, left by a process that died before it had synced; so may the file's name.
    file.sync_all().and_then(|()| sync_folder(path)).map_err(failed)?;
    Ok((file, loaded.log, loaded.machine, loaded.sound_bytes as u64))
}

/// Writes a complete file beside the one that it is to replace.
fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let write = || {
        let mut file = owned(&new, OpenOptions::new().write(true).create(true).truncate(true))?;
        file.write_all(text)?;
        file.sync_all()
    };
    write().inspect_err(|_| {
        // On a full disk it would only be in the way.
        let _ = std::fs::remove_file(&new);
    })
}

/// Gives it the name.
fn put_in_place(path: &Path) -> io::Result<()> {
    std::fs::rename(with_suffix(path, ".new"), path)?;
    sync_folder(path)
}

/// Makes the file's name durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The site's secrets may be in it: for its owner only.
fn owned(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).open(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
