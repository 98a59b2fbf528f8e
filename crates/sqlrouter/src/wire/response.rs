//! Follows a server's answer to a command through a stream of bytes, looking only at the heads of packets.

use super::capability::{DEPRECATE_EOF, STATUS_CURSOR_EXISTS, STATUS_MORE_RESULTS};
use super::packet::{HEADER, LONGEST, Malformed, Reader, header};
use super::reply::{EOF, ERR, LOCAL_INFILE, OK, OkPacket};

/// Bytes of an OK or ERR packet: they are read whole, unlike rows.
const SHORT: usize = 1 << 20;

/// What kind of answer a command gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// OK, ERR, a request for a file, or result sets: queries and executions.
    Results,
    /// Rows without a head: of a cursor, or the columns of a table.
    Rows,
    /// The answer to a preparation.
    Prepared,
    /// One packet, whatever it is.
    One,
}

/// What comes next in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// More bytes must be read first.
    Need,
    /// This many bytes are passed on as they are.
    Pass(usize),
    /// A whole packet of this many bytes, with its header, that ends a result.
    End {
        /// Bytes.
        bytes: usize,
        /// What it is.
        end: End,
        /// Whether another result follows.
        more: bool,
    },
    /// A whole packet that asks for a file; the client's bytes go to the server, then the answer goes on.
    LocalInfile(usize),
    /// The whole first packet of the answer to a preparation.
    Prepared(usize),
}

/// What ends a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// An OK packet.
    Ok,
    /// An EOF packet: warnings and status.
    Eof,
    /// An ERR packet.
    Err,
    /// The one packet of [`Kind::One`], if it is none of the above.
    Other,
    /// The definitions of a prepared statement ended, or there were none; no bytes of its own.
    Definitions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Columns(u64),
    ColumnsEnd,
    Rows,
    PreparedFirst,
    /// Definitions of parameters, then of columns.
    Definitions {
        parameters: u64,
        columns: u64,
    },
    DefinitionsEnd {
        then: u64,
    },
    One,
    Over,
}

/// The place in an answer.
#[derive(Debug)]
pub struct Response {
    state: State,
    deprecate_eof: bool,
    /// Bytes of the packet at hand that are still to be passed on.
    rest: usize,
    /// The packet at hand goes on in the next one.
    continued: bool,
    /// Definitions ended together with the packet that is passed on last.
    ended: bool,
}

impl Response {
    /// The beginning of an answer of a server with these capabilities.
    pub fn new(kind: Kind, capabilities: u64) -> Self {
        let state = match kind {
            Kind::Results => State::First,
            Kind::Rows => State::Rows,
            Kind::Prepared => State::PreparedFirst,
            Kind::One => State::One,
        };
        let deprecate_eof = capabilities & DEPRECATE_EOF != 0;
        Self { state, deprecate_eof, rest: 0, continued: false, ended: false }
    }

    /// Whether the answer is at its end.
    pub fn is_over(&self) -> bool {
        self.state == State::Over && self.rest == 0 && !self.ended
    }

    /// What the front of `bytes` is. The caller takes these bytes away before it asks again.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Event, Malformed> {
        if self.rest > 0 {
            if bytes.is_empty() {
                return Ok(Event::Need);
            }
            let now = self.rest.min(bytes.len());
            self.rest -= now;
            return Ok(Event::Pass(now));
        }
        if std::mem::take(&mut self.ended) {
            return Ok(Event::End { bytes: 0, end: End::Definitions, more: false });
        }
        let Some((length, _)) = header(bytes) else { return Ok(Event::Need) };
        if std::mem::take(&mut self.continued) {
            return Ok(self.pass(length, bytes));
        }
        let Some(first) = bytes.get(HEADER).copied() else {
            // An empty packet is no head of anything.
            return if length == 0 { Err(Malformed) } else { Ok(Event::Need) };
        };
        match self.state {
            State::First => self.first(first, length, bytes),
            State::Columns(left) => {
                self.state = match left {
                    1 if self.deprecate_eof => State::Rows,
                    1 => State::ColumnsEnd,
                    _ => State::Columns(left - 1),
                };
                Ok(self.pass(length, bytes))
            }
            State::ColumnsEnd => {
                let Some(payload) = whole(bytes, length)? else { return Ok(Event::Need) };
                if first == ERR {
                    return Ok(self.end(length, End::Err, false));
                }
                let status = eof_status(payload)?;
                if status & STATUS_CURSOR_EXISTS != 0 {
                    return Ok(self.end(length, End::Eof, status & STATUS_MORE_RESULTS != 0));
                }
                self.state = State::Rows;
                Ok(self.pass(length, bytes))
            }
            State::Rows => self.row(first, length, bytes),
            State::PreparedFirst => {
                let Some(payload) = whole(bytes, length)? else { return Ok(Event::Need) };
                if first == ERR {
                    return Ok(self.end(length, End::Err, false));
                }
                let mut reader = Reader(payload);
                if reader.u8()? != OK {
                    return Err(Malformed);
                }
                reader.u32()?;
                let (columns, parameters) = (u64::from(reader.u16()?), u64::from(reader.u16()?));
                self.definitions(parameters, columns);
                Ok(Event::Prepared(HEADER + length))
            }
            State::Definitions { parameters, columns } => {
                if parameters > 0 {
                    self.after_definition(parameters - 1, columns, true);
                } else {
                    self.after_definition(0, columns - 1, false);
                }
                Ok(self.pass(length, bytes))
            }
            State::DefinitionsEnd { then } => {
                self.definitions(0, then);
                Ok(self.pass(length, bytes))
            }
            State::One => {
                let Some(payload) = whole(bytes, length)? else { return Ok(Event::Need) };
                let end = match first {
                    ERR => End::Err,
                    EOF if payload.len() < 9 && !(self.deprecate_eof && payload.len() >= 7) => End::Eof,
                    OK | EOF => End::Ok,
                    _ => End::Other,
                };
                Ok(self.end(length, end, false))
            }
            State::Over => Err(Malformed),
        }
    }

    fn first(&mut self, first: u8, length: usize, bytes: &[u8]) -> Result<Event, Malformed> {
        match first {
            OK | ERR | LOCAL_INFILE => {
                let Some(payload) = whole(bytes, length)? else { return Ok(Event::Need) };
                match first {
                    OK => {
                        let more = ok_status(payload)? & STATUS_MORE_RESULTS != 0;
                        Ok(self.end(length, End::Ok, more))
                    }
                    ERR => Ok(self.end(length, End::Err, false)),
                    // Afterwards comes OK or ERR, as if it were the first packet.
                    _ => Ok(Event::LocalInfile(HEADER + length)),
                }
            }
            _ => {
                let Some(payload) = whole(bytes, length)? else { return Ok(Event::Need) };
                let columns = Reader(payload).lenenc()?;
                self.state = State::Columns(columns.max(1));
                Ok(self.pass(length, bytes))
            }
        }
    }

    fn row(&mut self, first: u8, length: usize, bytes: &[u8]) -> Result<Event, Malformed> {
        // A row that begins with 0xfe has a value of 16 MiB or more, so that its packet is full.
        let ends_rows = first == EOF && if self.deprecate_eof { length < LONGEST } else { length < 9 };
        if first != ERR && !ends_rows {
            return Ok(self.pass(length, bytes));
        }
        let Some(payload) = whole(bytes, length)? else { return Ok(Event::Need) };
        if first == ERR {
            return Ok(self.end(length, End::Err, false));
        }
        let (end, status) = if self.deprecate_eof {
            (End::Ok, ok_status(payload)?)
        } else {
            (End::Eof, eof_status(payload)?)
        };
        Ok(self.end(length, end, status & STATUS_MORE_RESULTS != 0))
    }

    fn definitions(&mut self, parameters: u64, columns: u64) {
        if parameters + columns == 0 {
            self.state = State::Over;
            self.ended = true;
        } else {
            self.state = State::Definitions { parameters, columns };
        }
    }

    /// After one definition: the rest of its kind, the EOF after them, or what follows.
    fn after_definition(&mut self, parameters: u64, columns: u64, was_parameter: bool) {
        let last = if was_parameter { parameters == 0 } else { columns == 0 };
        if last && !self.deprecate_eof {
            self.state = State::DefinitionsEnd { then: columns };
        } else {
            self.definitions(parameters, columns);
        }
    }

    fn end(&mut self, length: usize, end: End, more: bool) -> Event {
        self.state = if more { State::First } else { State::Over };
        Event::End { bytes: HEADER + length, end, more }
    }

    fn pass(&mut self, length: usize, bytes: &[u8]) -> Event {
        self.continued = length == LONGEST;
        let all = HEADER + length;
        let now = all.min(bytes.len());
        self.rest = all - now;
        Event::Pass(now)
    }
}

/// The payload of a short packet, once all of it is there.
fn whole(bytes: &[u8], length: usize) -> Result<Option<&[u8]>, Malformed> {
    if length > SHORT {
        return Err(Malformed);
    }
    Ok(bytes.get(HEADER..HEADER + length))
}

fn ok_status(payload: &[u8]) -> Result<u16, Malformed> {
    Ok(OkPacket::parse(payload)?.status)
}

/// The status flags of an EOF packet.
pub fn eof_status(payload: &[u8]) -> Result<u16, Malformed> {
    let mut reader = Reader(payload);
    reader.take(3)?;
    reader.u16()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::packet::frame;

    fn stream(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        let mut sequence = 1;
        for payload in payloads {
            sequence = frame(payload, sequence, &mut out);
        }
        out.to_vec()
    }

    /// Feeds the bytes in pieces; returns what was passed on and the ends.
    fn follow(kind: Kind, capabilities: u64, bytes: &[u8], piece: usize) -> (usize, Vec<(End, bool)>, bool) {
        let mut response = Response::new(kind, capabilities);
        let (mut passed, mut ends, mut at, mut seen) = (0, Vec::new(), 0, 0);
        loop {
            if response.is_over() {
                return (passed, ends, at == bytes.len());
            }
            match response.next(&bytes[at..seen]).expect("a well-formed answer") {
                Event::Need if seen == bytes.len() => return (passed, ends, false),
                Event::Need => seen = (seen + piece).min(bytes.len()),
                Event::Pass(count) => {
                    (at, passed) = (at + count, passed + count);
                }
                Event::End { bytes, end, more } => {
                    at += bytes;
                    ends.push((end, more));
                }
                Event::LocalInfile(count) | Event::Prepared(count) => at += count,
            }
        }
    }

    const EOF_PACKET: &[u8] = b"\xfe\x00\x00\x02\x00";
    const EOF_MORE: &[u8] = b"\xfe\x00\x00\x0a\x00";
    const OK_END: &[u8] = b"\xfe\x00\x00\x02\x00\x00\x00";

    #[test]
    fn results_end_where_they_end_however_the_bytes_arrive() {
        let old = stream(&[
            b"\x01",
            b"def",
            EOF_PACKET,
            b"\x01a",
            b"\xfb",
            EOF_MORE,
            b"\x00\x00\x00\x02\x00\x00\x00",
        ]);
        let new = stream(&[b"\x01", b"def", b"\x01a", OK_END]);
        for piece in [1, 2, 3, 5, 7, 64] {
            let (_, ends, all) = follow(Kind::Results, 0, &old, piece);
            assert_eq!((ends, all), (vec![(End::Eof, true), (End::Ok, false)], true));
            let (_, ends, all) = follow(Kind::Results, DEPRECATE_EOF, &new, piece);
            assert_eq!((ends, all), (vec![(End::Ok, false)], true));
        }
    }

    #[test]
    fn a_row_in_several_packets_may_contain_what_looks_like_an_end() {
        let mut row = vec![0xfe];
        row.extend_from_slice(&(LONGEST as u64 + 5).to_le_bytes());
        row.resize(LONGEST, b'x');
        row.extend_from_slice(b"\xfe\x00\x00\x02\x00");
        let bytes = stream(&[b"\x01", b"def", EOF_PACKET, &row, EOF_PACKET]);
        let (_, ends, all) = follow(Kind::Results, 0, &bytes, 1 << 16);
        assert_eq!((ends, all), (vec![(End::Eof, false)], true));
    }

    #[test]
    fn definitions_of_prepared_statements_are_counted() {
        let head = b"\x00\x01\x00\x00\x00\x01\x00\x02\x00\x00\x00\x00";
        let old = stream(&[head, b"p1", b"p2", EOF_PACKET, b"c1", EOF_PACKET]);
        let new = stream(&[head, b"p1", b"p2", b"c1"]);
        let none = stream(&[b"\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"]);
        for piece in [1, 4, 9, 100] {
            for (bytes, capabilities) in [(&old, 0), (&new, DEPRECATE_EOF), (&none, 0)] {
                let (_, ends, all) = follow(Kind::Prepared, capabilities, bytes, piece);
                assert_eq!((ends, all), (vec![(End::Definitions, false)], true));
            }
        }
    }

    #[test]
    fn a_cursor_ends_the_answer_after_the_columns() {
        let bytes = stream(&[b"\x01", b"def", b"\xfe\x00\x00\x42\x00"]);
        assert_eq!(follow(Kind::Results, 0, &bytes, 4).1, [(End::Eof, false)]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_stand_still(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..4_u8, eof: bool) {
            let kind = [Kind::Results, Kind::Rows, Kind::Prepared, Kind::One][usize::from(kind)];
            let mut response = Response::new(kind, if eof { DEPRECATE_EOF } else { 0 });
            let (mut at, mut idle) = (0, 0);
            while !response.is_over() && idle < 3 {
                let count = match response.next(&bytes[at..]) {
                    Err(_) | Ok(Event::Need) => break,
                    Ok(Event::Pass(count) | Event::LocalInfile(count) | Event::Prepared(count)) => count,
                    Ok(Event::End { bytes, .. }) => bytes,
                };
                at += count;
                idle = if count == 0 { idle + 1 } else { 0 };
                prop_assert!(at <= bytes.len());
            }
            prop_assert!(idle < 3);
        }
    }
}
