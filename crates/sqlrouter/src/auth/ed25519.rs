//! `client_ed25519`: Ed25519 (RFC 8032) whose secret is SHA-512 of the password instead of that of 32 random bytes.
//! That is why no ordinary Ed25519 library can sign: they begin with the 32 bytes.

use aws_lc_rs::digest::{Context, SHA512, digest};
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};

pub(super) fn sign(password: &[u8], message: &[u8]) -> [u8; 64] {
    let secret = digest(&SHA512, password);
    let (scalar, prefix) = secret.as_ref().split_at(32);
    // The digest has 64 bytes.
    let scalar = Scalar::from_bytes_mod_order(clamp_integer(scalar.try_into().expect("32 of 64 bytes")));
    let public = EdwardsPoint::mul_base(&scalar).compress();
    let once = hash(&[prefix, message]);
    let point = EdwardsPoint::mul_base(&once).compress();
    let challenge = hash(&[point.as_bytes(), public.as_bytes(), message]);
    let proof = once + challenge * scalar;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(point.as_bytes());
    signature[32..].copy_from_slice(proof.as_bytes());
    signature
}

fn hash(parts: &[&[u8]]) -> Scalar {
    let mut context = Context::new(&SHA512);
    for part in parts {
        context.update(part);
    }
    let hash = context.finish();
    Scalar::from_bytes_mod_order_wide(hash.as_ref().try_into().expect("SHA-512 has 64 bytes"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_signature_is_one_that_others_verify() {
        let secret = digest(&SHA512, b"geheim");
        let scalar = Scalar::from_bytes_mod_order(clamp_integer(secret.as_ref()[..32].try_into().unwrap()));
        let public = EdwardsPoint::mul_base(&scalar).compress();
        let signature = sign(b"geheim", b"a challenge of some thirty bytes");
        UnparsedPublicKey::new(&ED25519, public.as_bytes())
            .verify(b"a challenge of some thirty bytes", &signature)
            .expect("it verifies");
    }
}
