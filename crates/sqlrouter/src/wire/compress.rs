//! The compressed protocol (zlib): packets travel inside compressed ones, each with a header of seven bytes.

use std::io::{Read as _, Write as _};

use bytes::{Buf as _, BufMut as _, BytesMut};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::packet::Malformed;

const HEADER: usize = 7;
/// Bytes in one compressed packet.
const CHUNK: usize = 1 << 16;
/// Below this, compression costs more than it saves (the protocol's own bound).
const WORTH_BYTES: usize = 50;

/// Both directions of one connection.
#[derive(Debug, Default)]
pub struct Compressed {
    sequence: u8,
}

impl Compressed {
    /// Begins a new command: sequence numbers start anew.
    pub fn restart(&mut self) {
        self.sequence = 0;
    }

    /// Appends plain bytes as compressed packets.
    pub fn put(&mut self, plain: &[u8], out: &mut BytesMut) {
        for chunk in plain.chunks(CHUNK) {
            let mut compressed = Vec::new();
            if chunk.len() >= WORTH_BYTES {
                let mut encoder = ZlibEncoder::new(&mut compressed, Compression::fast());
                // Writing into memory cannot fail.
                let _ = encoder.write_all(chunk);
                let _ = encoder.finish();
            }
            let useful = !compressed.is_empty() && compressed.len() < chunk.len();
            let body = if useful { &compressed[..] } else { chunk };
            out.put_uint_le(body.len() as u64, 3);
            out.put_u8(self.sequence);
            out.put_uint_le(if useful { chunk.len() as u64 } else { 0 }, 3);
            out.put_slice(body);
            self.sequence = self.sequence.wrapping_add(1);
        }
    }

    /// Moves what is whole at the front of `raw` into `plain`; whether anything was.
    pub fn take(&mut self, raw: &mut BytesMut, plain: &mut BytesMut) -> Result<bool, Malformed> {
        let mut any = false;
        while raw.len() >= HEADER {
            let number = |at: usize| {
                usize::from(raw[at]) | usize::from(raw[at + 1]) << 8 | usize::from(raw[at + 2]) << 16
            };
            let (length, full) = (number(0), number(4));
            if raw.len() < HEADER + length {
                break;
            }
            self.sequence = raw[3].wrapping_add(1);
            let body = &raw[HEADER..HEADER + length];
            if full == 0 {
                plain.extend_from_slice(body);
            } else {
                let before = plain.len();
                plain.resize(before + full, 0);
                // No more is unpacked than the header says.
                ZlibDecoder::new(body).read_exact(&mut plain[before..]).map_err(|_| Malformed)?;
            }
            raw.advance(HEADER + length);
            any = true;
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(plain in prop::collection::vec(0..4_u8, 0..200_000)) {
            let mut packed = BytesMut::new();
            Compressed::default().put(&plain, &mut packed);
            let mut back = BytesMut::new();
            Compressed::default().take(&mut packed, &mut back).unwrap();
            prop_assert_eq!(&back[..], &plain[..]);
            prop_assert!(packed.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Compressed::default().take(&mut BytesMut::from(&bytes[..]), &mut BytesMut::new());
        }
    }
}
