//! The same key to the same upstream: weighted rendezvous hashing with bounded load.
//!
//! Every upstream has a score for every key, and the best wins. When an upstream goes, only its own keys move, and they
//! spread over all others; when one comes, it takes only what is its share. Shares follow weights exactly, also while an
//! upstream starts slowly, and there is no table to rebuild or to keep in memory. The price is a pass over the group for
//! each choice, which for the size of groups that sites have is cheaper than the cache misses of a large ring.
//!
//! Loads are bounded as in Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads": an upstream whose
//! requests in flight are over its share of all by more than the bound is passed by, and the key's second best is taken.
//! As the bounds sum up to more than there is, one always has room.

use super::member::{Member, Tier};
use super::random::{mix, unit};

/// So many requests in flight an upstream may always have. Without it a worker with little to do would move a key as soon
/// as it is asked for twice at once.
const ALWAYS: u64 = 4;

/// The hash of what a request is known by. `seed` is the same in all workers and edges that should agree.
pub fn key(bytes: &[u8], seed: u64) -> u64 {
    let mut hash = mix(seed ^ bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    mix(hash)
}

pub(super) fn choose(members: &[Member], tier: Tier, key: u64, bound_percent: u32) -> Option<usize> {
    let candidates = || members.iter().enumerate().filter(|(_, member)| member.tier == tier);
    let (mut shares, mut in_flight) = (0_u128, 1_u128);
    for (_, member) in candidates() {
        shares += u128::from(member.share);
        in_flight += u128::from(member.in_flight);
    }
    let allowed = in_flight * u128::from(bound_percent.max(100));
    let has_room = |member: &Member| {
        let most = (allowed * u128::from(member.share)).div_ceil(shares * 100);
        u128::from(member.in_flight) < most.max(u128::from(ALWAYS))
    };
    let mut best: Option<(usize, f64)> = None;
    for (index, member) in candidates() {
        let score = score(key, member);
        if best.is_none_or(|(_, least)| score < least) && has_room(member) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// The time until the first event of a process whose rate is the weight: the least of several is each one's with a
/// probability of its share of the rates, and does not depend on the others.
fn score(key: u64, member: &Member) -> f64 {
    let random = unit(mix(key ^ mix(member.id.number())));
    -(1.0 - random).ln() / member.share as f64
}
