//! The chunked transfer coding (RFC 9112, 7.1), without I/O.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING};

use super::fields;
use super::lines::{HeadScanner, Scan};

/// Bytes of a chunk-size line, extensions included.
const LINE_BYTES: usize = 128;
/// Bytes of extensions in a whole body: they are paid for and thrown away.
const EXTENSION_BYTES: usize = 4096;
/// Bytes of all trailer fields.
const TRAILER_BYTES: usize = 8 * 1024;
/// Fields that say where a message ends or whom it is for.
const FRAMING: [HeaderName; 4] = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, CONNECTION];
/// Trailer fields.
const TRAILER_FIELDS: usize = 32;

/// Takes a chunked body apart.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    state: State,
    extension_bytes: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data {
        left: u64,
    },
    DataEnd,
    Trailers(HeadScanner),
    Done,
}

/// What the decoder got out of the bytes that it was given.
#[derive(Debug)]
pub enum Decoded {
    /// Data of the body; never empty.
    Data(Bytes),
    /// More bytes are needed.
    NeedMore,
    /// The body is complete.
    End(HeaderMap),
}

impl ChunkDecoder {
    /// Takes what it can from the front of `buffer`. An error is final.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        loop {
            match &mut self.state {
                State::Size => {
                    let Some((size, length, extension)) = size_line(buffer)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.extension_bytes += extension;
                    if self.extension_bytes > EXTENSION_BYTES {
                        return Err("chunk extensions too long");
                    }
                    buffer.advance(length);
                    self.state = if size == 0 {
                        State::Trailers(HeadScanner::default())
                    } else {
                        State::Data { left: size }
                    };
                }
                State::Data { left } => {
                    if buffer.is_empty() {
                        return Ok(Decoded::NeedMore);
                    }
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    *left -= take as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Decoded::Data(buffer.split_to(take).freeze()));
                }
                State::DataEnd => match buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::NeedMore),
                    _ => return Err("no CR LF after a chunk"),
                },
                State::Trailers(scanner) => {
                    let Some((trailers, length)) = trailers(scanner, buffer)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    buffer.advance(length);
                    self.state = State::Done;
                    return Ok(Decoded::End(trailers));
                }
                State::Done => return Ok(Decoded::End(HeaderMap::new())),
            }
        }
    }
}

/// Reads a chunk-size line: the size, the line's length and how much of it is extensions.
fn size_line(bytes: &[u8]) -> Result<Option<(u64, usize, usize)>, &'static str> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > 16 {
        return Err("chunk size too large");
    }
    let visible = &bytes[..bytes.len().min(LINE_BYTES)];
    let end = memchr::memchr(b'\n', visible);
    if digits == 0 && !bytes.is_empty() {
        return Err("chunk size is no hexadecimal number");
    }
    // What follows the digits is known to be wrong as soon as it is seen.
    let line = &visible[digits.min(visible.len())..end.unwrap_or(visible.len())];
    match line.first() {
        None if end.is_some() => return Err("chunk size line ends with a bare LF"),
        None | Some(b';' | b'\r') => {}
        Some(_) => return Err("chunk size is no hexadecimal number"),
    }
    if let Some(at) = memchr::memchr(b'\r', line)
        && at + 1 < line.len()
    {
        return Err("bare CR in a chunk size line");
    }
    let Some(end) = end else {
        return if bytes.len() >= LINE_BYTES { Err("chunk size line too long") } else { Ok(None) };
    };
    let Some((b'\r', extension)) = line.split_last() else {
        return Err("chunk size line ends with a bare LF");
    };
    if extension.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err("control byte in a chunk extension");
    }
    let mut size = 0_u64;
    for digit in &bytes[..digits] {
        // At most 16 digits of 4 bits: 64 bits hold them.
        size = size << 4 | u64::from((*digit as char).to_digit(16).unwrap_or(0));
    }
    if size > i64::MAX as u64 {
        return Err("chunk size too large");
    }
    Ok(Some((size, end + 1, extension.len())))
}

/// Reads the trailer section, up to and with its empty line.
fn trailers(scanner: &mut HeadScanner, bytes: &[u8]) -> Result<Option<(HeaderMap, usize)>, &'static str> {
    // Without any trailer the section is the empty line alone, which the scanner takes for one before a head.
    match bytes {
        [b'\r', b'\n', ..] => return Ok(Some((HeaderMap::new(), 2))),
        [] | [b'\r'] => return Ok(None),
        _ => {}
    }
    let end = match scanner.scan(bytes).map_err(|_| "malformed trailers")? {
        Scan::Complete { end, .. } => end,
        Scan::Partial { .. } if bytes.len() > TRAILER_BYTES => return Err("trailers too large"),
        Scan::Partial { .. } => return Ok(None),
    };
    if end > TRAILER_BYTES {
        return Err("trailers too large");
    }
    let mut slots = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    match httparse::parse_headers(&bytes[..end], &mut slots) {
        Ok(httparse::Status::Complete((length, found))) if length == end => {
            let map = fields::to_map(found.iter(), found.len(), &bytes[..end]).ok_or("malformed trailers")?;
            // What would frame or route the message was put there to deceive; the rest is dropped.
            if map.keys().any(|name| FRAMING.contains(name)) {
                return Err("forbidden field in trailers");
            }
            Ok(Some((fields::allowed_trailers(map), end)))
        }
        Err(httparse::Error::TooManyHeaders) => Err("too many trailers"),
        _ => Err("malformed trailers"),
    }
}

/// Writes the line that begins a chunk of `length` bytes.
pub(crate) fn put_size(out: &mut Vec<u8>, length: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(DIGITS[length >> (digit * 4) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailers.
pub(crate) fn put_end(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if fields::allowed_in_trailers(name) {
            super::respond::put_field(out, name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::{ChunkDecoder, Decoded, put_end, put_size};

    /// Decodes a body that arrives in the given pieces.
    fn decode(pieces: &[&[u8]]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
        let mut decoder = ChunkDecoder::default();
        let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer)? {
                    Decoded::Data(data) => body.extend_from_slice(&data),
                    Decoded::NeedMore => break,
                    Decoded::End(_) => return Ok(Some((body, buffer.len()))),
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn what_is_not_exactly_a_chunk_is_refused() {
        let wrong: [&[u8]; 18] = [
            b"+1\r\na\r\n0\r\n\r\n",
            b"-1\r\na\r\n0\r\n\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b" 1\r\na\r\n0\r\n\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1;a\rb\r\na\r\n0\r\n\r\n",
            b"1;a\0b\r\na\r\n0\r\n\r\n",
            b"\r\n",
            b"g\r\n",
            b"00000000000000001\r\na\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
            b"0\r\nHost: a\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\nA: b\n\r\n",
        ];
        for body in wrong {
            assert!(decode(&[body]).is_err(), "{:?}", String::from_utf8_lossy(body));
        }
        let extension = format!("1;{}\r\n", "a".repeat(200));
        assert!(decode(&[extension.as_bytes()]).is_err());
        let flood = "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\na\r\n".repeat(1000);
        assert!(decode(&[flood.as_bytes()]).is_err());
    }

    #[test]
    fn extensions_and_harmless_trailers_pass() {
        assert_eq!(decode(&[b"1;a=b\r\nx\r\n0\r\nGrpc-Status: 0\r\n\r\nnext"]), Ok(Some((b"x".to_vec(), 4))));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_wherever_it_is_split(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                put_size(&mut wire, chunk.len());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            put_end(&mut wire, None);
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
            places.extend([0, wire.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces), Ok(Some((chunks.concat(), 0))));
        }

        #[test]
        fn arbitrary_bytes_mean_the_same_whole_and_byte_by_byte(
            wire in prop::collection::vec(prop::sample::select(b"0123af;\r\n\tA: \0x".to_vec()), 0..60),
        ) {
            let single: Vec<&[u8]> = wire.chunks(1).collect();
            let (whole, split) = (decode(&[&wire]), decode(&single));
            match (whole, split) {
                (Ok(Some((body, _))), Ok(Some((same, _)))) => prop_assert_eq!(body, same),
                (whole, split) => prop_assert_eq!(whole.map(|_| ()).is_ok(), split.map(|_| ()).is_ok()),
            }
        }
    }
}
