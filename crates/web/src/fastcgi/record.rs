//! Records: what goes over a FastCGI connection. All of one request, for one connection carries one at a time.

use bytes::{Buf, Bytes, BytesMut};

const VERSION: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// The only request on a connection.
const REQUEST: u16 = 1;
/// The responder role.
const RESPONDER: u16 = 1;
/// The connection stays open after the request.
const KEEP_CONNECTION: u8 = 1;

const HEADER_BYTES: usize = 8;
/// A record's content is at most this long.
pub const MOST_CONTENT: usize = 65_535;

/// Writes the start of a request and its parameters. `params` is a sequence made by [`put_param`].
pub fn put_begin(out: &mut Vec<u8>, params: &[u8]) {
    put_header(out, BEGIN_REQUEST, 8);
    out.extend_from_slice(&RESPONDER.to_be_bytes());
    out.extend_from_slice(&[KEEP_CONNECTION, 0, 0, 0, 0, 0]);
    for part in params.chunks(MOST_CONTENT) {
        put_header(out, PARAMS, part.len());
        out.extend_from_slice(part);
    }
    put_header(out, PARAMS, 0);
}

/// Writes one parameter. A name or value of 2 GiB or more is left out.
pub fn put_param(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if put_length(out, name.len()) && put_length(out, value.len()) {
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) -> bool {
    match u8::try_from(length) {
        Ok(short) if short < 128 => out.push(short),
        _ => match u32::try_from(length) {
            Ok(long) if long < 1 << 31 => out.extend_from_slice(&(long | 1 << 31).to_be_bytes()),
            _ => return false,
        },
    }
    true
}

/// Writes a piece of the request's body; an empty one is its end.
pub fn put_stdin(out: &mut Vec<u8>, piece: &[u8]) {
    for part in piece.chunks(MOST_CONTENT) {
        put_header(out, STDIN, part.len());
        out.extend_from_slice(part);
    }
    if piece.is_empty() {
        put_header(out, STDIN, 0);
    }
}

fn put_header(out: &mut Vec<u8>, kind: u8, length: usize) {
    let length = (length as u16).to_be_bytes();
    let id = REQUEST.to_be_bytes();
    out.extend_from_slice(&[VERSION, kind, id[0], id[1], length[0], length[1], 0, 0]);
}

/// What an application sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A piece of the response.
    Stdout(Bytes),
    /// A piece of what it has to complain of.
    Stderr(Bytes),
    /// The request is over.
    End {
        /// Whether it was worked on: php-fpm that is overloaded, or does not know the role, says no.
        accepted: bool,
    },
}

/// Why what came is no FastCGI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another version than 1.
    #[error("FastCGI version {0}")]
    Version(u8),
    /// A record for a request that is not ours.
    #[error("a record for request {0}")]
    Request(u16),
    /// An end of the wrong length.
    #[error("a malformed end of the request")]
    End,
}

/// Takes records apart. Content is handed on as it comes, however large its record is.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    padding: usize,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Header,
    Stdout(usize),
    Stderr(usize),
    End,
    Skip(usize),
    Padding,
}

impl Decoder {
    /// The next event; `None` if more bytes are needed.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Event>, RecordError> {
        loop {
            match self.state {
                State::Header => {
                    let Some(header) = input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
                    self.state = self.begin(*header)?;
                    input.advance(HEADER_BYTES);
                }
                State::Padding => {
                    let skipped = self.padding.min(input.len());
                    input.advance(skipped);
                    self.padding -= skipped;
                    if self.padding > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Stdout(0) | State::Stderr(0) | State::Skip(0) => self.state = State::Padding,
                _ if input.is_empty() => return Ok(None),
                State::Stdout(left) => {
                    let piece = input.split_to(left.min(input.len())).freeze();
                    self.state = State::Stdout(left - piece.len());
                    return Ok(Some(Event::Stdout(piece)));
                }
                State::Stderr(left) => {
                    let piece = input.split_to(left.min(input.len())).freeze();
                    self.state = State::Stderr(left - piece.len());
                    return Ok(Some(Event::Stderr(piece)));
                }
                State::Skip(left) => {
                    let skipped = left.min(input.len());
                    input.advance(skipped);
                    self.state = State::Skip(left - skipped);
                }
                State::End => {
                    // Four bytes of the program's exit status, one of the protocol's status, three reserved.
                    let Some(end) = input.first_chunk::<8>() else { return Ok(None) };
                    let accepted = end[4] == 0;
                    input.advance(8);
                    self.state = State::Padding;
                    return Ok(Some(Event::End { accepted }));
                }
            }
        }
    }

    /// Whether it stands between two records.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Header) || (matches!(self.state, State::Padding) && self.padding == 0)
    }

    fn begin(&mut self, header: [u8; HEADER_BYTES]) -> Result<State, RecordError> {
        let [version, kind, id_high, id_low, length_high, length_low, padding, _] = header;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let (id, length) = (
            u16::from_be_bytes([id_high, id_low]),
            usize::from(u16::from_be_bytes([length_high, length_low])),
        );
        self.padding = usize::from(padding);
        match kind {
            STDOUT | STDERR | END_REQUEST if id != REQUEST => Err(RecordError::Request(id)),
            STDOUT => Ok(State::Stdout(length)),
            STDERR => Ok(State::Stderr(length)),
            END_REQUEST if length != 8 => Err(RecordError::End),
            END_REQUEST => Ok(State::End),
            // Management records and whatever a later version adds.
            _ => Ok(State::Skip(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Event, HEADER_BYTES, RecordError, put_begin, put_param, put_stdin};
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
        let length = (content.len() as u16).to_be_bytes();
        let mut out = vec![1, kind, 0, 1, length[0], length[1], padding, 0];
        out.extend_from_slice(content);
        out.extend(std::iter::repeat_n(0xff, usize::from(padding)));
        out
    }

    fn decode(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Option<bool>) {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        let (mut out, mut err, mut end) = (Vec::new(), Vec::new(), None);
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some(event) = decoder.decode(&mut input).unwrap() {
                match event {
                    Event::Stdout(piece) => out.extend_from_slice(&piece),
                    Event::Stderr(piece) => err.extend_from_slice(&piece),
                    Event::End { accepted } => end = Some(accepted),
                }
            }
        }
        (out, err, end)
    }

    #[test]
    fn lengths_of_parameters_are_short_or_long() {
        let mut out = Vec::new();
        put_param(&mut out, b"A", &[b'x'; 200]);
        assert_eq!(&out[..6], &[1, 0x80, 0, 0, 200, b'A']);
        assert_eq!(out.len(), 6 + 200);
    }

    #[test]
    fn large_parameters_and_bodies_are_split_into_records() {
        let mut out = Vec::new();
        put_begin(&mut out, &vec![b'p'; 70_000]);
        assert_eq!(out.len(), 16 + 70_000 + 3 * HEADER_BYTES);
        out.clear();
        put_stdin(&mut out, &vec![b'b'; 70_000]);
        put_stdin(&mut out, b"");
        assert_eq!(out.len(), 70_000 + 3 * HEADER_BYTES);
        assert_eq!(&out[out.len() - 8..], &[1, 5, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_not_fastcgi_is_refused() {
        let decode = |bytes: &[u8]| Decoder::default().decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(b"HTTP/1.1 200 OK"), Err(RecordError::Version(b'H')));
        assert_eq!(decode(&[1, 6, 0, 2, 0, 0, 0, 0]), Err(RecordError::Request(2)));
        assert_eq!(decode(&[1, 3, 0, 1, 0, 0, 0, 0]), Err(RecordError::End));
        assert_eq!(decode(&[1, 10, 0, 0, 0, 0, 0, 0]), Ok(None));
    }

    proptest! {
        #[test]
        fn records_may_be_split_anywhere(
            contents in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40), any::<u8>()), 0..8),
            cuts in proptest::collection::vec(0usize..400, 0..10),
        ) {
            let (mut bytes, mut out, mut err) = (Vec::new(), Vec::new(), Vec::new());
            for (is_error, content, padding) in &contents {
                bytes.extend(record(if *is_error { 7 } else { 6 }, content, *padding));
                if *is_error { err.extend_from_slice(content) } else { out.extend_from_slice(content) }
            }
            bytes.extend(record(3, &[0; 8], 3));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(decode(&pieces), (out, err, Some(true)));
        }
    }
}
