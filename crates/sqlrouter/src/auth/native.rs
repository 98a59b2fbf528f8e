//! `mysql_native_password`: SHA1(password) XOR SHA1(challenge + SHA1(SHA1(password))).

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, digest};

pub(super) fn answer(password: &[u8], challenge: &[u8]) -> [u8; 20] {
    let once = digest(&SHA1_FOR_LEGACY_USE_ONLY, password);
    let twice = digest(&SHA1_FOR_LEGACY_USE_ONLY, once.as_ref());
    let mut mixed = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    mixed.update(challenge);
    mixed.update(twice.as_ref());
    let mixed = mixed.finish();
    std::array::from_fn(|at| once.as_ref()[at] ^ mixed.as_ref()[at])
}
