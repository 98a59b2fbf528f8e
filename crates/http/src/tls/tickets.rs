//! Session tickets (RFC 5077; RFC 8446, 4.6.1) whose keys follow from a secret and the time.
//!
//! Everyone with the same secret accepts the others' tickets: workers, the process that replaces this one, the other
//! edges of a site. Nothing is sent between them and nothing is stored. Time is cut into periods; each has a key of
//! its own, under which tickets are made; those of the period before are still accepted, and those of the next, because
//! another edge's clock may be a little ahead.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;

use crate::date::wall_seconds;

/// How long tickets are made with one key, in seconds. A client may come back for at least as long.
pub const PERIOD_SECONDS: u64 = 6 * 3600;
/// Bytes that say which key a ticket is made with.
const NAME_BYTES: usize = 8;
/// Bytes that a ticket is longer than what is in it.
const OVERHEAD_BYTES: usize = NAME_BYTES + NONCE_LEN + 16;
/// Tickets that clients bring may be this long; ours hold a client's certificates at most.
const MOST_BYTES: usize = 32 * 1024;

/// Makes and opens tickets; the time is given, in seconds since 1970.
pub struct TicketKeys {
    secret: hmac::Key,
    context: Vec<u8>,
    period_seconds: u64,
    /// Keys that were used last, by period: the lock is held for a look, as keys are derived once in hours.
    recent: Mutex<Vec<(u64, std::sync::Arc<PeriodKey>)>>,
}

struct PeriodKey {
    name: [u8; NAME_BYTES],
    /// Its nonces are random; with this mode even the same nonce twice would not give the key away (RFC 8452).
    key: LessSafeKey,
}

impl TicketKeys {
    /// Keys that follow from `secret`, of at least 16 random bytes, for servers that agree in `context`: what a
    /// ticket must not cross, such as the authorities that a client's certificate was checked against.
    pub fn new(secret: &[u8], context: &[u8], period_seconds: u64) -> Self {
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            context: context.to_vec(),
            period_seconds: period_seconds.max(1),
            recent: Mutex::default(),
        }
    }

    /// Makes a ticket; `None` if the machine has no randomness.
    pub fn seal(&self, now: u64, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.key(now / self.period_seconds)?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = &mut ticket[NAME_BYTES + NONCE_LEN..];
        let tag = key.key.seal_in_place_separate_tag(nonce, Aad::from(key.name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// Opens a ticket; `None` if it is too old, or none of ours.
    pub fn open(&self, now: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MOST_BYTES {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let period = now / self.period_seconds;
        // Names are no secret: comparing them in any time tells nothing.
        let key = [Some(period), period.checked_sub(1), period.checked_add(1)]
            .into_iter()
            .flatten()
            .find_map(|period| self.key(period).filter(|key| key.name == *name))?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.key.open_in_place(nonce, Aad::from(key.name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }

    fn key(&self, period: u64) -> Option<std::sync::Arc<PeriodKey>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = recent.iter().find(|(of, _)| *of == period) {
            return Some(std::sync::Arc::clone(key));
        }
        let derive = |label: &[u8]| {
            let mut context = hmac::Context::with_key(&self.secret);
            context.update(label);
            context.update(&period.to_be_bytes());
            context.update(&self.context);
            context.sign()
        };
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&derive(b"mainstay tls ticket name").as_ref()[..NAME_BYTES]);
        let key = UnboundKey::new(&AES_256_GCM_SIV, derive(b"mainstay tls ticket key").as_ref()).ok()?;
        let key = std::sync::Arc::new(PeriodKey { name, key: LessSafeKey::new(key) });
        // Old keys are forgotten: their tickets are not to be read again.
        recent.retain(|(of, _)| of.abs_diff(period) <= 2);
        recent.push((period, std::sync::Arc::clone(&key)));
        Some(key)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TicketKeys").field("period_seconds", &self.period_seconds).finish_non_exhaustive()
    }
}

impl rustls::server::ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.period_seconds).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(wall_seconds(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(wall_seconds(), ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::TicketKeys;

    const SECRET: &[u8] = b"a secret of all edges of a site!";
    const PERIOD: u64 = 100;

    fn keys() -> TicketKeys {
        TicketKeys::new(SECRET, b"", PERIOD)
    }

    #[test]
    fn a_ticket_is_opened_by_whoever_has_the_secret() {
        let ticket = keys().seal(1_000, b"session").unwrap();
        assert_eq!(keys().open(1_000, &ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(TicketKeys::new(b"another secret..", b"", PERIOD).open(1_000, &ticket), None);
        assert_eq!(TicketKeys::new(SECRET, b"other authorities", PERIOD).open(1_000, &ticket), None);
    }

    #[test]
    fn a_ticket_lives_for_a_period_and_never_for_more_than_two() {
        let keys = keys();
        for made in [1_000, 1_050, 1_099] {
            let ticket = keys.seal(made, b"session").unwrap();
            assert!(keys.open(made + PERIOD, &ticket).is_some());
            assert!(keys.open(1_199, &ticket).is_some());
            assert!(keys.open(1_200, &ticket).is_none());
            assert!(keys.open(5_000, &ticket).is_none());
            // Made by an edge whose clock is ahead.
            assert!(keys.open(made - PERIOD, &ticket).is_some());
            assert!(keys.open(made - 2 * PERIOD, &ticket).is_none());
        }
    }

    #[test]
    fn no_two_tickets_are_alike_and_few_keys_are_kept() {
        let keys = keys();
        assert_ne!(keys.seal(0, b"x"), keys.seal(0, b"x"));
        for now in (0..100_000).step_by(50) {
            let ticket = keys.seal(now, b"x").unwrap();
            assert!(keys.open(now, &ticket).is_some());
        }
        assert!(keys.recent.lock().unwrap().len() <= 5);
    }

    proptest! {
        #[test]
        fn a_ticket_that_was_changed_is_refused(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let keys = keys();
            let mut ticket = keys.seal(7, b"session").unwrap();
            let at = at.index(ticket.len());
            ticket[at] ^= flip;
            prop_assert_eq!(keys.open(7, &ticket), None);
            prop_assert_eq!(keys.open(7, &ticket[..at]), None);
        }
    }
}
