//! A signed cookie that keeps a client at its upstream.
//!
//! The value is a number for the upstream and a signature: `0123456789abcdef.` and 32 more hexadecimal digits. The number is
//! made from the upstream's name with the site's secret, so that it tells nothing about the site, and stays the same when
//! the upstream moves to another address. The signature is HMAC-SHA256 of the group's name and the number, its first 128
//! bits, so that a cookie of one group is none of another. All edges of a site share the secret, and so each knows the others' cookies.

mod cookie;
#[cfg(test)]
mod tests;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, Tag, sign};
use http::{HeaderMap, HeaderValue};
use mainstay_site::plan::edge::{StickyPlan, UpstreamGroup};

pub use self::cookie::values;

/// Bytes of the signature that are sent.
const SIGNATURE_BYTES: usize = 16;
/// Length of a value: the number, a dot, the signature.
const VALUE_LENGTH: usize = 16 + 1 + 2 * SIGNATURE_BYTES;
/// Cookies of the right name that are looked at; browsers send one, or one for each path that set it.
const MOST_LOOKED_AT: usize = 4;

/// Why a plan's cookie cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no name for a cookie: letters, digits and !#$%&'*+-.^_`|~ make one (RFC 6265)")]
pub struct BadCookieName {
    /// The name.
    pub name: String,
}

/// The cookie of a group.
#[derive(Debug)]
pub struct Sticky {
    name: String,
    /// By the upstream's index in the plan: its number and the whole value of its cookie.
    upstreams: Vec<(u64, String)>,
    max_age_secs: u64,
    group: String,
    key: Key,
}

impl Sticky {
    /// The cookie of a group's plan, signed with the site's secret.
    pub fn new(plan: &StickyPlan, group: &UpstreamGroup, secret: &str) -> Result<Self, BadCookieName> {
        if !cookie::is_token(&plan.cookie) {
            return Err(BadCookieName { name: plan.cookie.clone() });
        }
        let mut sticky = Self {
            name: plan.cookie.clone(),
            upstreams: Vec::new(),
            max_age_secs: plan.max_age_secs,
            group: group.name.clone(),
            key: Key::new(HMAC_SHA256, secret.as_bytes()),
        };
        sticky.upstreams = group.upstreams.iter().map(|upstream| sticky.value_of(&upstream.name)).collect();
        Ok(sticky)
    }

    /// The index of the upstream that a request's cookie names, if it has a genuine one of an upstream that the group
    /// still has. Whether the upstream is fit, the caller knows; a draining one still takes those that stick to it.
    pub fn upstream(&self, fields: &HeaderMap) -> Option<usize> {
        values(fields, &self.name).take(MOST_LOOKED_AT).find_map(|value| self.read(value))
    }

    /// The `Set-Cookie` field that sticks a client to an upstream. `secure` if the client came by TLS.
    pub fn set_cookie(&self, index: usize, secure: bool) -> Option<HeaderValue> {
        let (_, value) = self.upstreams.get(index)?;
        let mut field = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", self.name);
        if secure {
            field.push_str("; Secure");
        }
        if self.max_age_secs > 0 {
            field.push_str(&format!("; Max-Age={}", self.max_age_secs));
        }
        HeaderValue::try_from(field).ok()
    }

    /// The cookie's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The index of the upstream that a value names, if the value is genuine.
    pub fn read(&self, value: &[u8]) -> Option<usize> {
        if value.len() != VALUE_LENGTH || value[16] != b'.' {
            return None;
        }
        let number = u64::from_be_bytes(from_hex(&value[..16])?);
        let signature: [u8; SIGNATURE_BYTES] = from_hex(&value[17..])?;
        let genuine = self.sign(number);
        verify_slices_are_equal(&genuine.as_ref()[..SIGNATURE_BYTES], &signature).ok()?;
        self.upstreams.iter().position(|(known, _)| *known == number)
    }

    fn value_of(&self, upstream: &str) -> (u64, String) {
        let digest = sign(&self.key, format!("mainstay upstream\0{upstream}").as_bytes());
        let number = u64::from_be_bytes(*digest.as_ref().first_chunk().expect("HMAC-SHA256 has 32 bytes"));
        let signature = self.sign(number);
        let signature: String =
            signature.as_ref()[..SIGNATURE_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        (number, format!("{number:016x}.{signature}"))
    }

    fn sign(&self, number: u64) -> Tag {
        sign(&self.key, format!("mainstay sticky\0{}\0{number:016x}", self.group).as_bytes())
    }
}

/// Reads lower-case hexadecimal digits; upper-case ones are not what was given out.
fn from_hex<const LENGTH: usize>(digits: &[u8]) -> Option<[u8; LENGTH]> {
    if digits.len() != 2 * LENGTH {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
