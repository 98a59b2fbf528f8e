//! Packets: three bytes of length, one of sequence, then the payload. A payload of 16 MiB - 1 or more goes on in the next packet.

use bytes::{BufMut as _, BytesMut};

/// Bytes before the payload.
pub const HEADER: usize = 4;
/// The longest payload of one packet.
pub const LONGEST: usize = 0xff_ffff;

/// The packet ends before what should be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet is malformed")]
pub struct Malformed;

/// Length of the payload and sequence number at the front of `bytes`, if there is a whole header.
pub fn header(bytes: &[u8]) -> Option<(usize, u8)> {
    let [a, b, c, sequence, ..] = *bytes else { return None };
    Some((usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16, sequence))
}

/// Appends a payload as packets, the first with this sequence number; returns the number after the last.
pub fn frame(payload: &[u8], mut sequence: u8, out: &mut BytesMut) -> u8 {
    let mut rest = payload;
    loop {
        let part = rest.len().min(LONGEST);
        out.reserve(HEADER + part);
        out.put_uint_le(part as u64, 3);
        out.put_u8(sequence);
        out.put_slice(&rest[..part]);
        sequence = sequence.wrapping_add(1);
        rest = &rest[part..];
        if part < LONGEST {
            return sequence;
        }
    }
}

/// Reads a payload from front to back.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    /// Two bytes, the lower first.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(self.uint(2)? as u16)
    }

    /// Four bytes, the lowest first.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(self.uint(4)? as u32)
    }

    fn uint(&mut self, count: usize) -> Result<u64, Malformed> {
        Ok(self.take(count)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A length-encoded integer; the marker of NULL is malformed here.
    pub fn lenenc(&mut self) -> Result<u64, Malformed> {
        match self.u8()? {
            0xfb | 0xff => Err(Malformed),
            0xfc => self.uint(2),
            0xfd => self.uint(3),
            0xfe => self.uint(8),
            small => Ok(u64::from(small)),
        }
    }

    /// A length-encoded string.
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.lenenc()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    /// What is before the next zero byte, which is taken too.
    pub fn until_zero(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.0).ok_or(Malformed)?;
        let taken = self.take(end)?;
        self.0 = &self.0[1..];
        Ok(taken)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc(out: &mut impl bytes::BufMut, value: u64) {
    match value {
        0..=0xfa => out.put_u8(value as u8),
        0xfb..=0xffff => {
            out.put_u8(0xfc);
            out.put_u16_le(value as u16);
        }
        0x1_0000..=0xff_ffff => {
            out.put_u8(0xfd);
            out.put_uint_le(value, 3);
        }
        _ => {
            out.put_u8(0xfe);
            out.put_u64_le(value);
        }
    }
}

/// Appends a length-encoded string.
pub fn put_lenenc_bytes(out: &mut impl bytes::BufMut, bytes: &[u8]) {
    put_lenenc(out, bytes.len() as u64);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_payload_of_exactly_the_longest_packet_is_followed_by_an_empty_one() {
        let mut out = BytesMut::new();
        assert_eq!(frame(&vec![7; LONGEST], 3, &mut out), 5);
        assert_eq!(header(&out), Some((LONGEST, 3)));
        assert_eq!(header(&out[HEADER + LONGEST..]), Some((0, 4)));
        assert_eq!(out.len(), LONGEST + 2 * HEADER);
    }

    proptest! {
        #[test]
        fn integers_and_strings_come_back(value in any::<u64>(), text in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = BytesMut::new();
            put_lenenc(&mut out, value);
            put_lenenc_bytes(&mut out, &text);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.lenenc(), Ok(value));
            prop_assert_eq!(reader.lenenc_bytes(), Ok(&text[..]));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader(&bytes);
            while reader.lenenc_bytes().is_ok() && !reader.is_empty() {}
            let _ = (reader.until_zero(), reader.u32(), reader.lenenc(), reader.rest());
        }
    }
}
