//! The receiver's side: unpacked beside the data, prepared, and swapped; each step on disk before it is taken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use super::frames::{self, Frame};
use super::{Progress, SILENCE, SeedError, file, last_words, program};
use crate::Place;
use crate::mariadb::gtid::Position;

/// Threads that unpack, and memory for preparing beside the server's own, since the server is stopped by then or small.
const THREADS: u8 = 2;

/// What the disk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No copy is there, none is under way.
    Idle,
    /// A prepared copy lies beside the data; the server may still run on the old ones.
    Ready {
        /// The place in the history that the copy is at.
        position: Position,
    },
    /// The copy is the data; the previous ones are kept.
    Swapped {
        /// The place in the history to begin at.
        position: Position,
    },
}

/// A seeding of one member.
#[derive(Debug)]
pub struct Seeding {
    place: Place,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Record {
    Receiving { donor: String },
    Preparing { donor: String },
    Ready { position: Position },
    Swapping { position: Position },
    Swapped { position: Position },
}

impl Seeding {
    /// Finds out from the disk where a seeding stands. What was interrupted before the copy was prepared is removed; a swap
    /// that was interrupted is finished.
    ///
    /// # Errors
    /// [`SeedError::File`].
    pub fn open(place: &Place) -> Result<Self, SeedError> {
        let mut seeding = Self { place: place.clone(), state: State::Idle };
        match seeding.read()? {
            None => {}
            Some(Record::Receiving { .. } | Record::Preparing { .. }) => seeding.forget()?,
            Some(Record::Ready { position }) => seeding.state = State::Ready { position },
            Some(Record::Swapping { position }) => seeding.exchange(position)?,
            Some(Record::Swapped { position }) => seeding.state = State::Swapped { position },
        }
        Ok(seeding)
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes a copy from `source` and prepares it, beside data and server as they are. Returns the copy's place. It may be
    /// dropped at any time: the next one begins anew. `memory_bytes` is what preparing may use.
    ///
    /// # Errors
    /// [`SeedError`]; nothing is left of the copy then.
    pub async fn receive(
        &mut self,
        donor: &str,
        source: &mut (impl AsyncRead + Unpin),
        memory_bytes: u64,
        mut progress: impl FnMut(Progress),
    ) -> Result<Position, SeedError> {
        if let State::Swapped { .. } = self.state {
            return Err(SeedError::WrongState("receive before the last one is finished"));
        }
        self.forget()?;
        let result = self.take(donor, source, memory_bytes, &mut progress).await;
        match &result {
            Ok(position) => self.state = State::Ready { position: position.clone() },
            // What is left is removed at the next attempt too; the disk's space is wanted now.
            Err(_) => self.forget().unwrap_or_default(),
        }
        result
    }

    async fn take(
        &self,
        donor: &str,
        source: &mut (impl AsyncRead + Unpin),
        memory_bytes: u64,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Position, SeedError> {
        self.write(&Record::Receiving { donor: donor.to_owned() })?;
        let copy = self.copy();
        fs::create_dir(&copy).map_err(file("make", &copy))?;
        set_mode(&copy)?;
        unpack(&copy, source, progress).await?;
        self.write(&Record::Preparing { donor: donor.to_owned() })?;
        prepare(&copy, memory_bytes).await?;
        let position = position_of(&copy)?;
        let open = fs::File::open(&copy).map_err(file("open", &copy))?;
        // One call for the whole file system: the many files one by one would each wait for the disk.
        let synced = tokio::task::spawn_blocking(move || rustix::fs::syncfs(&open)).await;
        synced.map_err(io::Error::other).and_then(|done| Ok(done?)).map_err(file("sync", &copy))?;
        self.write(&Record::Ready { position: position.clone() })?;
        Ok(position)
    }

    /// Makes the copy the data. The server must be stopped. The previous data are kept until [`Self::finish`].
    ///
    /// # Errors
    /// [`SeedError::WrongState`] without a copy; [`SeedError::File`]: open anew, which goes on.
    pub fn swap(&mut self) -> Result<(), SeedError> {
        let State::Ready { position } = self.state.clone() else {
            return Err(SeedError::WrongState("swap"));
        };
        remove(&self.previous())?;
        self.write(&Record::Swapping { position: position.clone() })?;
        self.exchange(position)
    }

    /// Two renames, either of which may have been done before.
    fn exchange(&mut self, position: Position) -> Result<(), SeedError> {
        let (data, copy, previous) = (&self.place.data, self.copy(), self.previous());
        // The copy is there until it has the data's name, so what has that name now is the old.
        if copy.exists() {
            if data.exists() {
                fs::rename(data, &previous).map_err(file("put aside", data))?;
            }
            fs::rename(&copy, data).map_err(file("name", &copy))?;
        }
        self.sync_folder()?;
        self.write(&Record::Swapped { position: position.clone() })?;
        self.state = State::Swapped { position };
        Ok(())
    }

    /// Removes the previous data: the new ones are good. Does nothing if there are none.
    ///
    /// # Errors
    /// [`SeedError::WrongState`] before the swap; [`SeedError::File`].
    pub fn finish(&mut self) -> Result<(), SeedError> {
        match self.state {
            State::Idle => return Ok(()),
            State::Ready { .. } => return Err(SeedError::WrongState("finish")),
            State::Swapped { .. } => {}
        }
        remove(&self.previous())?;
        self.forget()
    }

    /// Puts the previous data back, or gives up a copy that is not swapped. The server must be stopped.
    ///
    /// # Errors
    /// [`SeedError::File`].
    pub fn undo(&mut self) -> Result<(), SeedError> {
        let (data, previous) = (&self.place.data, self.previous());
        if matches!(self.state, State::Swapped { .. }) && previous.exists() {
            remove(data)?;
            fs::rename(&previous, data).map_err(file("put back", &previous))?;
            self.sync_folder()?;
        }
        self.forget()
    }

    /// No copy, no record.
    fn forget(&mut self) -> Result<(), SeedError> {
        remove(&self.copy())?;
        let record = self.record();
        match fs::remove_file(&record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file("remove", &record)(error));
            }
            _ => {}
        }
        self.state = State::Idle;
        Ok(())
    }

    fn copy(&self) -> PathBuf {
        self.place.data.with_extension("seed")
    }

    fn previous(&self) -> PathBuf {
        self.place.data.with_extension("previous")
    }

    fn record(&self) -> PathBuf {
        self.place.data.with_extension("seed.json")
    }

    fn read(&self) -> Result<Option<Record>, SeedError> {
        let path = self.record();
        match fs::read(&path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text).map_err(io::Error::from);
                record.map(Some).map_err(file("understand", &path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file("read", &path)(error)),
        }
    }

    fn write(&self, record: &Record) -> Result<(), SeedError> {
        let path = self.record();
        let new = path.with_extension("json.new");
        let text = serde_json::to_vec(record).map_err(io::Error::from).map_err(file("write", &path))?;
        let written = fs::File::create(&new).and_then(|mut open| {
            io::Write::write_all(&mut open, &text)?;
            open.sync_all()
        });
        written.map_err(file("write", &new))?;
        fs::rename(&new, &path).map_err(file("name", &path))?;
        self.sync_folder()
    }

    /// Names are on disk only with the folder that holds them.
    fn sync_folder(&self) -> Result<(), SeedError> {
        let folder = self.place.data.parent().unwrap_or(Path::new("/"));
        fs::File::open(folder).and_then(|open| open.sync_all()).map_err(file("sync", folder))
    }
}

async fn unpack(
    copy: &Path,
    source: &mut (impl AsyncRead + Unpin),
    progress: &mut impl FnMut(Progress),
) -> Result<(), SeedError> {
    const NAME: &str = "mbstream";
    let failed = |words: String| SeedError::Program { program: NAME, words };
    let Frame::Begin(about_bytes) = frames::receive(source).await? else {
        return Err(SeedError::Unreadable("it does not begin with its size"));
    };
    let disk = rustix::fs::statvfs(copy).map_err(io::Error::from).map_err(file("ask for space at", copy))?;
    let (needed, free) =
        (about_bytes.saturating_add(about_bytes / 10), disk.f_bavail.saturating_mul(disk.f_frsize));
    if free < needed {
        return Err(SeedError::NoSpace { needed, free });
    }
    let mut now = Progress { bytes: 0, about_bytes };
    progress(now);
    let mut child = Command::new(program(NAME)?)
        .arg("-x")
        .arg(format!("--parallel={THREADS}"))
        .arg("-C")
        .arg(copy)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let words = last_words(child.stderr.take());
    let mut input = child.stdin.take().ok_or_else(|| failed("it has no input".to_owned()))?;
    loop {
        match frames::receive(source).await? {
            Frame::Data(data) => {
                let written =
                    timeout(SILENCE, input.write_all(&data)).await.map_err(|_| SeedError::Silence)?;
                if written.is_err() {
                    // It ended early; its own words say why.
                    break;
                }
                now.bytes += data.len() as u64;
                progress(now);
            }
            Frame::End(bytes) if bytes == now.bytes => break,
            Frame::End(_) => return Err(SeedError::Unreadable("not everything that was sent came")),
            Frame::Failed(words) => return Err(SeedError::Donor(words)),
            Frame::Begin(_) => return Err(SeedError::Unreadable("it begins twice")),
        }
    }
    drop(input);
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    let words = words.await.unwrap_or_default();
    if status.success() { Ok(()) } else { Err(failed(words)) }
}

async fn prepare(copy: &Path, memory_bytes: u64) -> Result<(), SeedError> {
    const NAME: &str = "mariadb-backup";
    let failed = |words: String| SeedError::Program { program: NAME, words };
    let mut child = Command::new(program(NAME)?)
        .args(["--no-defaults", "--prepare"])
        .arg(format!("--use-memory={memory_bytes}"))
        .arg(format!("--target-dir={}", copy.display()))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let words = last_words(child.stderr.take());
    // It reads the redo log that was written while the copy was taken; that has no bound but the disk's speed.
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    let words = words.await.unwrap_or_default();
    if status.success() { Ok(()) } else { Err(failed(words)) }
}

/// The place that a copy is at. A replica's copy tells it in the statement that a new replica begins with, a primary's
/// as the third word beside the binary log's place. Newer versions name the files after MariaDB.
fn position_of(copy: &Path) -> Result<Position, SeedError> {
    let read = |names: [&str; 2]| names.iter().find_map(|name| fs::read_to_string(copy.join(name)).ok());
    let slave = read(["mariadb_backup_slave_info", "xtrabackup_slave_info"]);
    let binlog = read(["mariadb_backup_binlog_info", "xtrabackup_binlog_info"]);
    let (slave, binlog) = (slave.unwrap_or_default(), binlog.unwrap_or_default());
    let found = position_in_slave_info(&slave).or_else(|| position_in_binlog_info(&binlog));
    let text = found.ok_or_else(|| SeedError::NoPosition(format!("{slave:?}, {binlog:?}")))?;
    text.parse().map_err(|_| SeedError::NoPosition(text.to_owned()))
}

fn position_in_slave_info(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("gtid_slave_pos")?;
    let (_, rest) = rest.split_once('\'')?;
    rest.split_once('\'').map(|(position, _)| position).filter(|position| !position.is_empty())
}

/// The donor's `gtid_current_pos`; empty before the first write of all.
fn position_in_binlog_info(text: &str) -> Option<&str> {
    text.lines().next()?.split('\t').nth(2).map(str::trim)
}

fn set_mode(folder: &Path) -> Result<(), SeedError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o750)).map_err(file("set the mode of", folder))
}

fn remove(folder: &Path) -> Result<(), SeedError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_place_is_read_from_either_file() {
        let slave = "SET GLOBAL gtid_slave_pos = '0-1-18';\nCHANGE MASTER TO MASTER_USE_GTID = slave_pos\n";
        assert_eq!(position_in_slave_info(slave), Some("0-1-18"));
        assert_eq!(position_in_binlog_info("bin.000006\t569\t0-3-18\n"), Some("0-3-18"));
        assert_eq!(position_in_binlog_info("bin.000006\t569\n"), None);
        assert_eq!(position_in_binlog_info("bin.000001\t325\t\n"), Some(""), "nothing was ever written");
        assert_eq!(position_in_slave_info(""), None);
    }

    /// A folder with data, a copy and a record, as an interruption may leave them.
    fn left(record: &Record, data: Option<&str>, copy: Option<&str>) -> (tempfile::TempDir, Place) {
        let folder = tempfile::Builder::new().prefix("mainstay-test-").tempdir().unwrap();
        let place = Place {
            data: folder.path().join("data"),
            run: folder.path().join("run"),
            user: "root".to_owned(),
        };
        let make = |path: PathBuf, what: &str| {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("what"), what).unwrap();
        };
        let seeding = Seeding { place: place.clone(), state: State::Idle };
        if let Some(what) = data {
            make(place.data.clone(), what);
        }
        if let Some(what) = copy {
            make(seeding.copy(), what);
        }
        seeding.write(record).unwrap();
        (folder, place)
    }

    fn what(place: &Place) -> String {
        fs::read_to_string(place.data.join("what")).unwrap()
    }

    #[test]
    fn a_copy_that_was_interrupted_is_removed_and_the_data_stay() {
        for record in
            [Record::Receiving { donor: "b".to_owned() }, Record::Preparing { donor: "b".to_owned() }]
        {
            let (_folder, place) = left(&record, Some("old"), Some("half"));
            let seeding = Seeding::open(&place).unwrap();
            assert_eq!(*seeding.state(), State::Idle);
            assert_eq!(what(&place), "old");
            assert!(!seeding.copy().exists() && !seeding.record().exists());
        }
    }

    #[test]
    fn a_swap_that_was_interrupted_anywhere_ends_with_the_new_data_and_the_old_ones_kept() {
        let position: Position = "0-1-5".parse().unwrap();
        let swapping = || Record::Swapping { position: position.clone() };
        // Before the first rename, between the two, and after both.
        for (data, copy, previous) in [
            (Some("old"), Some("new"), None),
            (None, Some("new"), Some("old")),
            (Some("new"), None, Some("old")),
        ] {
            let (_folder, place) = left(&swapping(), data, copy);
            if let Some(what) = previous {
                let previous = place.data.with_extension("previous");
                fs::create_dir(&previous).unwrap();
                fs::write(previous.join("what"), what).unwrap();
            }
            let mut seeding = Seeding::open(&place).unwrap();
            assert_eq!(*seeding.state(), State::Swapped { position: position.clone() });
            assert_eq!(what(&place), "new");
            assert_eq!(fs::read_to_string(seeding.previous().join("what")).unwrap(), "old");
            seeding.undo().unwrap();
            assert_eq!(what(&place), "old");
            assert_eq!(*Seeding::open(&place).unwrap().state(), State::Idle);
        }
    }

    #[tokio::test]
    async fn a_copy_that_would_fill_the_disk_is_not_begun() {
        let (_folder, place) = left(&Record::Receiving { donor: "b".to_owned() }, Some("old"), None);
        let mut bytes = Vec::new();
        frames::send(&mut bytes, &Frame::Begin(u64::MAX / 2)).await.unwrap();
        let mut seeding = Seeding::open(&place).unwrap();
        let received = seeding.receive("a donor", &mut &bytes[..], 1, |_| {}).await;
        assert!(matches!(received, Err(SeedError::NoSpace { .. })), "{received:?}");
        assert_eq!(what(&place), "old");
        assert!(!seeding.copy().exists());
    }

    #[test]
    fn the_first_data_of_all_are_swapped_in_where_there_were_none() {
        let position: Position = "0-1-5".parse().unwrap();
        let (_folder, place) = left(&Record::Ready { position: position.clone() }, None, Some("new"));
        let mut seeding = Seeding::open(&place).unwrap();
        seeding.swap().unwrap();
        assert_eq!(what(&place), "new");
        assert_eq!(*Seeding::open(&place).unwrap().state(), State::Swapped { position });
        seeding.finish().unwrap();
        assert_eq!(*Seeding::open(&place).unwrap().state(), State::Idle);
        assert_eq!(what(&place), "new");
    }
}
