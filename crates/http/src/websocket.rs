//! `WebSocket`'s proof of protocol in HTTP/1.1 (RFC 6455, 4), which h2 does without (RFC 8441, 5).

use aws_lc_rs::digest;
use http::{HeaderName, HeaderValue};

/// The field of a client's challenge.
pub(crate) const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
/// The field of the server's answer to it.
pub(crate) const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// Whether an `Upgrade` asks for `WebSocket`.
pub(crate) fn is_asked_for(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("websocket")
}

/// A challenge of our own, for a client that speaks h2.
pub(crate) fn new_key() -> Option<HeaderValue> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    HeaderValue::from_str(&base64(&bytes)).ok()
}

/// The answer to a challenge.
pub(crate) fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let mut text = key.as_bytes().trim_ascii().to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    // The protocol names SHA-1; nothing rests on its strength.
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    HeaderValue::from_str(&base64(digest.as_ref())).ok()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{accept, base64, new_key};

    #[test]
    fn the_answer_is_that_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(new_key().unwrap().len(), 24);
        assert_ne!(new_key(), new_key());
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
