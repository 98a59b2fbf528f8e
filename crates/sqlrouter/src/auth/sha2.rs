//! `caching_sha2_password`: SHA256(password) XOR SHA256(SHA256(SHA256(password)) + challenge).

use aws_lc_rs::digest::{Context, SHA256, digest};

pub(super) fn answer(password: &[u8], challenge: &[u8]) -> [u8; 32] {
    let once = digest(&SHA256, password);
    let twice = digest(&SHA256, once.as_ref());
    let mut mixed = Context::new(&SHA256);
    mixed.update(twice.as_ref());
    mixed.update(challenge);
    let mixed = mixed.finish();
    std::array::from_fn(|at| once.as_ref()[at] ^ mixed.as_ref()[at])
}
