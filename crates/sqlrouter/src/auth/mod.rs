//! What proves that somebody knows an account's password: the answers of three plugins to a challenge.
//!
//! The router knows the passwords, so that it can check an answer by making it itself, and log in to servers as the
//! same account.

mod ed25519;
mod native;
mod sha2;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::wire::handshake::CHALLENGE;

/// Bytes of the challenge of ed25519.
const LONG_CHALLENGE: usize = 32;

/// A way to prove that one knows a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Plugin {
    /// `mysql_native_password`: two rounds of SHA-1.
    #[default]
    #[serde(rename = "mysql_native_password")]
    Native,
    /// `caching_sha2_password`: two rounds of SHA-256, and the password itself over TLS where a server has no copy of them.
    #[serde(rename = "caching_sha2_password")]
    CachingSha2,
    /// `client_ed25519`: a signature.
    #[serde(rename = "client_ed25519", alias = "ed25519")]
    Ed25519,
}

impl Plugin {
    /// The client's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Ed25519 => "client_ed25519",
        }
    }

    /// The plugin of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Native, Self::CachingSha2, Self::Ed25519].into_iter().find(|plugin| plugin.name() == name)
    }

    /// What a client answers to a challenge.
    pub fn answer(self, password: &[u8], challenge: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519 => ed25519::sign(password, challenge).to_vec(),
            _ if password.is_empty() => Vec::new(),
            Self::Native => native::answer(password, challenge).to_vec(),
            Self::CachingSha2 => sha2::answer(password, challenge).to_vec(),
        }
    }

    /// Whether this is the right answer. Takes as long whether it is or not.
    pub fn is_answer(self, password: &[u8], challenge: &[u8], answer: &[u8]) -> bool {
        verify_slices_are_equal(&self.answer(password, challenge), answer).is_ok()
    }

    /// A new challenge.
    pub fn challenge(self) -> Result<Vec<u8>, getrandom::Error> {
        let mut challenge = vec![0; if self == Self::Ed25519 { LONG_CHALLENGE } else { CHALLENGE }];
        getrandom::fill(&mut challenge)?;
        // Clients read the challenge up to the first zero.
        for byte in &mut challenge {
            *byte = *byte % 94 + 33;
        }
        Ok(challenge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_for_one_password_and_one_challenge() {
        for plugin in [Plugin::Native, Plugin::CachingSha2, Plugin::Ed25519] {
            let (one, other) = (plugin.challenge().unwrap(), plugin.challenge().unwrap());
            let answer = plugin.answer(b"geheim", &one);
            assert!(plugin.is_answer(b"geheim", &one, &answer));
            assert!(!plugin.is_answer(b"geheim", &other, &answer));
            assert!(!plugin.is_answer(b"geheim!", &one, &answer));
            assert!(!plugin.is_answer(b"geheim", &one, b""));
        }
    }
}
