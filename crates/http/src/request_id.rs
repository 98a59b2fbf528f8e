//! Request ids: 128 bits that no other request has. They are names, not secrets.

use std::cell::Cell;

/// A random place to start at.
pub fn seed() -> Result<u128, getrandom::Error> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed)?;
    Ok(u128::from_ne_bytes(seed))
}

/// Makes the ids of one worker.
pub struct RequestIds {
    state: Cell<u128>,
}

/// 32 hexadecimal digits.
pub type RequestId = [u8; 32];

impl RequestIds {
    /// Starts at this place.
    pub fn from_seed(seed: u128) -> Self {
        Self { state: Cell::new(seed) }
    }

    /// The next one. A counter by an odd step repeats after 2^128 only; the mixing, which can be undone and so keeps
    /// different numbers different, makes them look alike to no one.
    pub fn next(&self) -> RequestId {
        const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let state = self.state.get().wrapping_add(STEP);
        self.state.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 67)).wrapping_mul(0xbf58_476d_1ce4_e5b9_94d0_49bb_1331_11eb);
        mixed = (mixed ^ (mixed >> 59)).wrapping_mul(0x2545_f491_4f6c_dd1d_d6e8_feb8_6659_fd93);
        mixed ^= mixed >> 64;
        let mut id = [0; 32];
        for (pair, byte) in id.chunks_exact_mut(2).zip(mixed.to_be_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::{RequestIds, seed};

    #[test]
    fn no_two_requests_have_one_id() {
        let ids = RequestIds::from_seed(seed().unwrap());
        let mut seen = std::collections::HashSet::new();
        assert!((0..10_000).all(|_| seen.insert(ids.next())));
    }
}
