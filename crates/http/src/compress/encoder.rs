//! One compressor for each content coding, behind one face.

use std::io::{self, Write as _};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::raw::CParameter;

use crate::encoding::Coding;

/// How much work a body is worth; what the levels were chosen by is in `docs/decisions/0011-compression-levels.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For what is sent once.
    Once,
    /// For what is kept and sent many times.
    Kept,
}

impl Effort {
    /// The level of a coding, in that coding's own scale.
    pub fn level(self, coding: Coding) -> u32 {
        let (once, kept) = match coding {
            Coding::Brotli => (3, 6),
            Coding::Zstandard => (3, 7),
            Coding::Gzip => (4, 7),
        };
        match self {
            Self::Once => once,
            Self::Kept => kept,
        }
    }
}

/// What a compressor may look back on, as a power of two in bytes. It bounds the memory of a stream; pages are rarely
/// larger. gzip has 15 always.
const WINDOW_BITS: u32 = 18;
/// Bytes that brotli collects before it writes them to the vector.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// A compressor that writes into memory.
pub struct Encoder(Kind);

enum Kind {
    // The state is some kilobytes large.
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstandard(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    /// A compressor at a level of the coding's own scale, for `length` bytes where that is known.
    pub fn new(coding: Coding, level: u32, length: Option<u64>) -> io::Result<Self> {
        let room = Vec::with_capacity(length.map_or(0, |length| (length / 3).min(64 * 1024) as usize));
        Ok(Self(match coding {
            Coding::Brotli => {
                // A window beyond the content costs memory and buys nothing.
                let content = length.map_or(64, |length| u64::BITS - length.leading_zeros());
                let window = content.clamp(10, WINDOW_BITS);
                Kind::Brotli(Box::new(CompressorWriter::new(room, BROTLI_BUFFER_BYTES, level, window)))
            }
            Coding::Zstandard => {
                let mut encoder = zstd::stream::write::Encoder::new(room, level.cast_signed())?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW_BITS))?;
                // Its tables fit the content then. It must be exact, or finishing fails.
                encoder.set_pledged_src_size(length)?;
                Kind::Zstandard(encoder)
            }
            Coding::Gzip => Kind::Gzip(GzEncoder::new(room, Compression::new(level))),
        }))
    }

    /// Takes bytes in.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Kind::Brotli(encoder) => encoder.write_all(bytes),
            Kind::Zstandard(encoder) => encoder.write_all(bytes),
            Kind::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    /// Makes all that was taken in readable from what was put out.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Brotli(encoder) => encoder.flush(),
            Kind::Zstandard(encoder) => encoder.flush(),
            Kind::Gzip(encoder) => encoder.flush(),
        }
    }

    /// Compressed bytes that wait to be taken.
    pub fn waiting_bytes(&self) -> usize {
        match &self.0 {
            Kind::Brotli(encoder) => encoder.get_ref().len(),
            Kind::Zstandard(encoder) => encoder.get_ref().len(),
            Kind::Gzip(encoder) => encoder.get_ref().len(),
        }
    }

    /// Takes the compressed bytes out.
    pub fn take(&mut self) -> Bytes {
        let bytes = match &mut self.0 {
            Kind::Brotli(encoder) => encoder.get_mut(),
            Kind::Zstandard(encoder) => encoder.get_mut(),
            Kind::Gzip(encoder) => encoder.get_mut(),
        };
        std::mem::take(bytes).into()
    }

    /// Ends the content and takes the last bytes out.
    pub fn finish(self) -> io::Result<Bytes> {
        match self.0 {
            Kind::Brotli(encoder) => Ok(encoder.into_inner()),
            Kind::Zstandard(encoder) => encoder.finish(),
            Kind::Gzip(encoder) => encoder.finish(),
        }
        .map(Bytes::from)
    }
}
