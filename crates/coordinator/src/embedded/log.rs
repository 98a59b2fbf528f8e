//! The file's format: lines of text that can be read with a pager, each with its checksum and number. No I/O.
//!
//! ```text
//! mainstay-coordinator 1 <salt> <id> <checksum>
//! <checksum> <number> [<record>, ...]
//! ```
//!
//! Lines are only ever added at the end, and each is durable before the next is begun. So a crash can damage the last line
//! only, which nobody was told of: it is cut off. A bad line with a good one after it is something else, and an error. The salt is
//! part of each checksum, so that a line cannot be forged by a value that looks like one, and lines of an older file are not
//! taken for ours.

use std::fmt::Write as _;

use super::limits::Limits;
use super::machine::Machine;
use super::record::Record;

const MAGIC: &str = "mainstay-coordinator 1";

/// About how long a line of the beginning is.
const LINE_BYTES: usize = 256 << 10;

/// What a line's writer must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    salt: [u8; 16],
    id: u64,
    next: u64,
}

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) machine: Machine,
    pub(crate) log: Log,
    /// How much of the file is sound. What follows is a line that was being written when the power went.
    pub(crate) sound_bytes: usize,
}

/// A file that cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first line is not that of a coordinator's file.
    #[error("it does not begin as a coordinator's file does")]
    Foreign,
    /// A line was changed or lost after it had been written.
    #[error("line {line} at byte {offset} is damaged: {why}")]
    Damaged {
        /// Which line, counted from 1.
        line: u64,
        /// Where it begins.
        offset: usize,
        /// What is wrong with it.
        why: String,
    },
}

impl Log {
    /// A new file that begins with all that a machine holds.
    pub(crate) fn begin(salt: [u8; 16], id: u64, machine: &Machine) -> (Self, Vec<u8>) {
        let mut log = Self { salt, id, next: 1 };
        let mut groups: Vec<Vec<Record>> = Vec::new();
        let mut group = Vec::new();
        let mut bytes = 0;
        for record in machine.records() {
            bytes += size(&record);
            group.push(record);
            if bytes > LINE_BYTES {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
        }
        groups.push(group);
        let mut file = log.first_line();
        file.extend(log.line(&[machine.base(groups.len() as u64)]));
        for group in groups {
            file.extend(log.line(&group));
        }
        (log, file)
    }

    /// The next line.
    pub(crate) fn line(&mut self, records: &[Record]) -> Vec<u8> {
        // Our own enums have no map keys but text, and no serializer that fails.
        self.sealed(&serde_json::to_vec(records).unwrap_or_default())
    }

    fn sealed(&mut self, json: &[u8]) -> Vec<u8> {
        let mut text = format!("{} ", self.next).into_bytes();
        text.extend(json);
        self.next += 1;
        let mut line = format!("{:08x} ", self.checksum(&text)).into_bytes();
        line.extend(text);
        line.push(b'\n');
        line
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn first_line(&self) -> Vec<u8> {
        let mut text = MAGIC.to_owned();
        text.push(' ');
        for byte in self.salt {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(text, " {:016x}", self.id);
        let sum = self.checksum(text.as_bytes());
        format!("{text} {sum:08x}\n").into_bytes()
    }

    fn checksum(&self, text: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.salt);
        hasher.update(text);
        hasher.finalize()
    }

    /// Whether a sound line begins anywhere in here: also where the line feed before it was damaged.
    fn is_followed(&self, rest: &[u8]) -> bool {
        // Text that values are written in (base64) has no spaces and no brackets, so this finds little else than lines.
        let marks = rest.windows(2).enumerate().filter(|(_, pair)| pair == b" [").map(|(at, _)| at);
        let mut candidates = marks.filter_map(|mark| {
            let digits = rest[..mark].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            let start = (mark - digits).checked_sub(9)?;
            let end = rest[mark..].iter().position(|byte| *byte == b'\n')? + mark + 1;
            (digits > 0).then(|| &rest[start..end])
        });
        candidates.any(|line| self.sound(line).is_some_and(|(number, _)| number > self.next))
    }

    /// The number and the records' text of a line, if it is sound.
    fn sound<'a>(&self, line: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let line = line.strip_suffix(b"\n")?;
        let (sum, text) = (line.get(..8)?, line.get(9..)?);
        if line[8] != b' '
            || u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()? != self.checksum(text)
        {
            return None;
        }
        let space = text.iter().position(|byte| *byte == b' ')?;
        Some((std::str::from_utf8(&text[..space]).ok()?.parse().ok()?, &text[space + 1..]))
    }
}

/// A file of these lines, whatever they say, with checksums that are right.
pub(crate) fn seal(salt: [u8; 16], lines: &[&[u8]]) -> Vec<u8> {
    let mut log = Log { salt, id: 1, next: 1 };
    let mut file = log.first_line();
    for line in lines {
        file.extend(log.sealed(line));
    }
    file
}

/// Reads a file.
pub(crate) fn read(file: &[u8], limits: Limits) -> Result<Loaded, Damage> {
    let first_end = file.iter().position(|byte| *byte == b'\n').ok_or(Damage::Foreign)? + 1;
    let mut log = first_line(&file[..first_end]).ok_or(Damage::Foreign)?;
    let mut machine = Machine::new(log.id, limits);
    let mut offset = first_end;
    // Until the beginning is complete nothing may be cut off: a file gets its name only when that is durable.
    let mut beginning = None;
    while offset < file.len() {
        let damaged = |why: String| Damage::Damaged { line: log.next + 1, offset, why };
        let rest = &file[offset..];
        let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let Some((number, json)) = log.sound(&rest[..length]) else {
            if beginning.is_none_or(|lines| log.next <= lines + 1) {
                return Err(damaged("its checksum is wrong".to_owned()));
            }
            if log.is_followed(rest) {
                return Err(damaged("its checksum is wrong, and sound lines follow".to_owned()));
            }
            break;
        };
        if number != log.next {
            return Err(damaged(format!(
                "it is line {number} of those written, and {} is missing",
                log.next
            )));
        }
        let records: Vec<Record> =
            serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        for (place, record) in records.into_iter().enumerate() {
            match (&record, beginning) {
                (Record::Base { lines, .. }, None) if number == 1 && place == 0 => beginning = Some(*lines),
                (Record::Base { .. }, _) | (_, None) => {
                    return Err(damaged("the beginning is not where it should be".to_owned()));
                }
                _ => {}
            }
            machine.replay(record).map_err(|error| damaged(error.to_string()))?;
        }
        log.next += 1;
        offset += length;
    }
    match beginning {
        Some(lines) if log.next > lines.saturating_add(1) => Ok(Loaded { machine, log, sound_bytes: offset }),
        _ => {
            Err(Damage::Damaged { line: log.next + 1, offset, why: "the beginning is incomplete".to_owned() })
        }
    }
}

fn first_line(line: &[u8]) -> Option<Log> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (text, sum) = line.rsplit_once(' ')?;
    let (salt_text, id) = text.strip_prefix(MAGIC)?.strip_prefix(' ')?.split_once(' ')?;
    if salt_text.len() != 32 || !salt_text.is_ascii() {
        return None;
    }
    let mut salt = [0; 16];
    for (place, byte) in salt.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&salt_text[place * 2..place * 2 + 2], 16).ok()?;
    }
    let log = Log { salt, id: u64::from_str_radix(id, 16).ok()?, next: 1 };
    (u32::from_str_radix(sum, 16).ok()? == log.checksum(text.as_bytes())).then_some(log)
}

/// About how long a record's text is.
fn size(record: &Record) -> usize {
    64 + match record {
        Record::Key { key, value, .. } => (key.0.len() + value.0.len()) * 4 / 3,
        Record::Past(past) => {
            (past.key.0.len() + past.put.as_ref().map_or(0, |put| put.value.0.len())) * 4 / 3
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
