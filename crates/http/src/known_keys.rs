//! Hashing for maps whose keys come from the site's file: whoever asks for a key cannot add one, so there is no flood of
//! equal hashes to fear, and nothing to pay for against it.

use std::hash::{BuildHasherDefault, Hasher};

/// Builds the hashers of such a map.
pub type KnownKeys = BuildHasherDefault<KnownKey>;

/// Hashes one key: eight bytes at a time, multiplied and turned.
#[derive(Debug, Default, Clone, Copy)]
pub struct KnownKey(u64);

/// 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl KnownKey {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for KnownKey {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_right(8));
    }

    fn write_u8(&mut self, value: u8) {
        self.add(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.add(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.add(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }

    fn finish(&self) -> u64 {
        // Maps look at the highest and at the lowest bits.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, Hasher as _};

    use super::KnownKeys;

    #[test]
    fn names_that_differ_little_have_different_hashes() {
        let keys = KnownKeys::default();
        let mut seen = HashSet::new();
        for number in 0..10_000 {
            assert!(seen.insert(keys.hash_one(format!("host-{number}.example.test"))));
        }
        let low: HashSet<u64> = seen.iter().map(|hash| hash & 0xffff).collect();
        assert!(low.len() > 8_000, "{}", low.len());
        let hasher = keys.build_hasher();
        assert_eq!(hasher.finish(), 0);
    }
}
