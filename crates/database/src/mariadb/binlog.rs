//! The server's binary and relay log files, read without the server: which transactions are whole, and where each begins.
//!
//! A file is four magic bytes and events; an event is a head of 19 bytes (time, type, server, length, next position, flags)
//! and a body. A transaction is a group: a GTID event, then events up to its commit. In relay logs the `next position` is
//! that of the primary's log, so places are counted by the events' lengths.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::gtid::{Gtid, Position};

const MAGIC: [u8; 4] = *b"\xfebin";
const HEAD_BYTES: u64 = 19;
/// The server's largest packet is 1 GiB, and no event is longer.
const LARGEST_EVENT_BYTES: u32 = 1 << 30;
/// What is read of an event to understand it. A statement's text is looked at for its first word alone.
const BODY_BYTES: usize = 4096;
/// Lines of an index file.
const MOST_FILES: usize = 100_000;

const QUERY_EVENT: u8 = 2;
const XID_EVENT: u8 = 16;
const XA_PREPARE_EVENT: u8 = 38;
const QUERY_COMPRESSED_EVENT: u8 = 165;
const GTID_EVENT: u8 = 162;
const GTID_LIST_EVENT: u8 = 163;
/// `FL_STANDALONE`: the group is one event after the GTID, as a definition is.
const STANDALONE: u8 = 1;

/// Why a log cannot be read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is no log.
    #[error("{} is no log that this version reads, at {position}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The place in it.
        position: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A whole transaction in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its identifier.
    pub gtid: Gtid,
    /// Where its GTID event begins, in bytes from the file's start.
    pub start: u64,
    /// Where the event after it begins.
    pub end: u64,
}

/// An event that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Gtid {
        gtid: Gtid,
        standalone: bool,
    },
    /// The end of a group that is no single event.
    Commit,
    Query {
        ends: bool,
    },
    /// What the file begins after.
    List(Vec<Gtid>),
    Other,
}

/// Reads the whole groups of a log, in order. An event that is cut short ends it: the rest was not written yet, or
/// never will be.
#[derive(Debug)]
pub struct Groups<R> {
    source: R,
    position: u64,
    open: Option<(Gtid, u64, bool)>,
    before: Vec<Gtid>,
    done: bool,
}

impl<R: Read> Groups<R> {
    /// Reads a log's bytes from their start.
    ///
    /// # Errors
    /// An error of kind `InvalidData` if they are no log.
    pub fn new(mut source: R) -> io::Result<Self> {
        let mut magic = [0; 4];
        source.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(invalid("it does not begin as a log does"));
        }
        Ok(Self { source, position: 4, open: None, before: Vec::new(), done: false })
    }

    /// Where the next event begins, in bytes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What the file says it begins after; complete once a group was read.
    pub fn before(&self) -> &[Gtid] {
        &self.before
    }

    fn event(&mut self) -> io::Result<Option<(Event, u64)>> {
        let mut head = [0; HEAD_BYTES as usize];
        if !whole(&mut self.source, &mut head)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes([head[9], head[10], head[11], head[12]]);
        if u64::from(length) < HEAD_BYTES || length > LARGEST_EVENT_BYTES {
            return Err(invalid("an event has an impossible length"));
        }
        let server = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        let body_bytes = u64::from(length) - HEAD_BYTES;
        let mut body = vec![0; body_bytes.min(BODY_BYTES as u64) as usize];
        if !whole(&mut self.source, &mut body)? {
            return Ok(None);
        }
        let rest = body_bytes - body.len() as u64;
        // A list longer than what is read is only read in its beginning; its use is a hint.
        if io::copy(&mut (&mut self.source).take(rest), &mut io::sink())? < rest {
            return Ok(None);
        }
        let start = self.position;
        self.position += u64::from(length);
        event(head[4], server, &body)
            .map(|event| Some((event, start)))
            .ok_or_else(|| invalid("an event is too short"))
    }

    fn next_group(&mut self) -> io::Result<Option<Group>> {
        while let Some((event, start)) = self.event()? {
            let ends = match event {
                Event::Gtid { gtid, standalone } => {
                    // A group that was begun before and has no end was cut off by a restart of the stream.
                    self.open = Some((gtid, start, standalone));
                    continue;
                }
                Event::List(list) => {
                    if self.before.is_empty() {
                        self.before = list;
                    }
                    continue;
                }
                Event::Commit => true,
                Event::Query { ends } => ends || self.open.is_some_and(|(_, _, standalone)| standalone),
                Event::Other => false,
            };
            if ends && let Some((gtid, start, _)) = self.open.take() {
                return Ok(Some(Group { gtid, start, end: self.position }));
            }
        }
        Ok(None)
    }
}

impl<R: Read> Iterator for Groups<R> {
    type Item = io::Result<Group>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let group = self.next_group().transpose();
        self.done = !matches!(group, Some(Ok(_)));
        group
    }
}

fn event(kind: u8, server: u32, body: &[u8]) -> Option<Event> {
    Some(match kind {
        GTID_EVENT => {
            let seq = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
            let domain = u32::from_le_bytes(body.get(8..12)?.try_into().ok()?);
            Event::Gtid { gtid: Gtid { domain, server, seq }, standalone: body.get(12)? & STANDALONE != 0 }
        }
        GTID_LIST_EVENT => {
            // The upper four bits of the count are flags.
            let count = u32::from_le_bytes(body.get(..4)?.try_into().ok()?) & 0x0fff_ffff;
            let entries = body[4..].as_chunks::<16>().0.iter().take(count as usize);
            Event::List(entries.filter_map(listed).collect())
        }
        XID_EVENT | XA_PREPARE_EVENT => Event::Commit,
        QUERY_EVENT => Event::Query { ends: ends_a_group(body)? },
        QUERY_COMPRESSED_EVENT => Event::Query { ends: false },
        _ => Event::Other,
    })
}

fn listed(entry: &[u8; 16]) -> Option<Gtid> {
    Some(Gtid {
        domain: u32::from_le_bytes(entry[..4].try_into().ok()?),
        server: u32::from_le_bytes(entry[4..8].try_into().ok()?),
        seq: u64::from_le_bytes(entry[8..].try_into().ok()?),
    })
}

/// Whether a statement is the end of a group whose tables have no transactions. Its text stands behind 13 bytes, the
/// status variables, the database's name and a zero.
fn ends_a_group(body: &[u8]) -> Option<bool> {
    let name = usize::from(*body.get(8)?);
    let status = usize::from(u16::from_le_bytes(body.get(11..13)?.try_into().ok()?));
    let text = body.get(13 + status + name + 1..).unwrap_or_default();
    Some(text.starts_with(b"COMMIT") || (text.starts_with(b"ROLLBACK") && !text.starts_with(b"ROLLBACK TO")))
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Fills the buffer; false where the source ends first.
fn whole(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match source.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The files that an index lists, in order; empty without an index.
///
/// # Errors
/// [`LogError::File`].
pub fn files(index: &Path) -> Result<Vec<PathBuf>, LogError> {
    let text = match std::fs::read_to_string(index) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(LogError::File { path: index.to_owned(), source }),
    };
    let folder = index.parent().unwrap_or(Path::new("/"));
    // Names may be relative to the data folder, where the index is.
    Ok(text.lines().take(MOST_FILES).filter(|line| !line.is_empty()).map(|line| folder.join(line)).collect())
}

/// Calls `with` for each whole group of a file, until it returns false.
///
/// # Errors
/// [`LogError`].
pub fn read(path: &Path, mut with: impl FnMut(Group) -> bool) -> Result<(), LogError> {
    let error = |position, source: io::Error| match source.get_ref() {
        Some(reason) if source.kind() == io::ErrorKind::InvalidData => LogError::Content {
            path: path.to_owned(),
            position,
            reason: if reason.to_string().contains("length") {
                "an event has an impossible length"
            } else {
                "it is not as a log should be"
            },
        },
        _ => LogError::File { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(|source| error(0, source))?;
    // A file that was begun a moment ago may hold nothing at all.
    if file.metadata().map_err(|source| error(0, source))?.len() < MAGIC.len() as u64 {
        return Ok(());
    }
    let mut groups =
        Groups::new(BufReader::with_capacity(256 * 1024, file)).map_err(|source| error(0, source))?;
    while let Some(group) = groups.next() {
        if !with(group.map_err(|source| error(groups.position(), source))?) {
            break;
        }
    }
    Ok(())
}

/// The place behind the last whole transaction in the files of an index. `from` is where it begins, such as what is applied
/// already.
///
/// # Errors
/// [`LogError`].
pub fn last(index: &Path, from: &Position) -> Result<Position, LogError> {
    let mut position = from.clone();
    for file in files(index)? {
        read(&file, |group| {
            if !position.has(&group.gtid.into()) {
                position.advance(group.gtid);
            }
            true
        })?;
    }
    Ok(position)
}

/// Where in the files of an index the first whole transaction behind `applied` begins, and the last one.
///
/// # Errors
/// [`LogError`].
pub fn first_behind(index: &Path, applied: &Position) -> Result<Option<Unapplied>, LogError> {
    let mut found: Option<Unapplied> = None;
    for file in files(index)? {
        read(&file, |group| {
            let behind = applied.of(group.gtid.domain).is_none_or(|at| group.gtid.seq > at.seq);
            if behind {
                let unapplied = found.get_or_insert_with(|| Unapplied {
                    file: file.clone(),
                    start: group.start,
                    first: group.gtid,
                    last: group.gtid,
                });
                unapplied.last = group.gtid;
            }
            true
        })?;
    }
    Ok(found)
}

/// Received transactions that are not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unapplied {
    /// The file of the first.
    pub file: PathBuf,
    /// Where it begins there, in bytes.
    pub start: u64,
    /// The first.
    pub first: Gtid,
    /// The last.
    pub last: Gtid,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event_bytes(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.push(kind);
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend((HEAD_BYTES as u32 + body.len() as u32).to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(body);
        bytes
    }

    fn gtid_bytes(seq: u64, flags: u8) -> Vec<u8> {
        let mut body = seq.to_le_bytes().to_vec();
        body.extend(0_u32.to_le_bytes());
        body.push(flags);
        body.extend([0; 6]);
        event_bytes(GTID_EVENT, &body)
    }

    fn query_bytes(text: &str) -> Vec<u8> {
        let mut body = vec![0; 13];
        body[8] = 1;
        body.extend(b"d\0");
        body.extend(text.as_bytes());
        event_bytes(QUERY_EVENT, &body)
    }

    fn groups(bytes: &[u8]) -> Vec<(u64, u64)> {
        Groups::new(bytes)
            .unwrap()
            .map(|group| group.map(|group| (group.gtid.seq, group.start)).unwrap())
            .collect()
    }

    #[test]
    fn a_group_counts_once_its_end_is_there() {
        let mut log = MAGIC.to_vec();
        log.extend(gtid_bytes(1, STANDALONE));
        log.extend(query_bytes("CREATE TABLE t (id INT)"));
        let second = log.len() as u64;
        log.extend(gtid_bytes(2, 0));
        log.extend(event_bytes(19, &[0; 9000]));
        let cut = log.len();
        log.extend(event_bytes(XID_EVENT, &[0; 12]));
        let third = log.len() as u64;
        log.extend(gtid_bytes(3, 0));
        log.extend(query_bytes("COMMIT"));
        assert_eq!(groups(&log), [(1, 4), (2, second), (3, third)]);
        assert_eq!(groups(&log[..cut + 5]), [(1, 4)]);
    }

    #[test]
    fn a_group_that_was_begun_anew_counts_from_its_second_beginning() {
        let mut log = MAGIC.to_vec();
        log.extend(gtid_bytes(1, 0));
        log.extend(event_bytes(19, &[0; 20]));
        let again = log.len() as u64;
        log.extend(gtid_bytes(1, 0));
        log.extend(event_bytes(XID_EVENT, &[0; 12]));
        assert_eq!(groups(&log), [(1, again)]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let mut log = MAGIC.to_vec();
            log.extend(&bytes);
            let _ = Groups::new(&log[..]).unwrap().count();
        }

        #[test]
        fn no_event_makes_the_reader_panic(kind: u8, body: Vec<u8>) {
            let _ = event(kind, 1, &body);
        }
    }
}
