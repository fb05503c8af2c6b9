//! The arithmetic of mysql_native_password and caching_sha2_password, for both sides.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::handshake::Salt;

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

fn xor<const N: usize>(a: [u8; N], b: &[u8; N]) -> [u8; N] {
    let mut out = a;
    out.iter_mut().zip(b).for_each(|(x, y)| *x ^= y);
    out
}

/// What a server stores of a native password: SHA1(SHA1(password)).
pub fn native_hash(password: &[u8]) -> [u8; 20] {
    sha1(&[&sha1(&[password])])
}

/// What a server keeps to allow fast caching_sha2 logins: SHA256(SHA256(password)).
pub fn sha2_digest(password: &[u8]) -> [u8; 32] {
    sha256(&[&sha256(&[password])])
}

/// A client's native answer to a challenge.
pub fn native_scramble(password: &[u8], salt: &Salt) -> [u8; 20] {
    let hash = sha1(&[password]);
    xor(hash, &sha1(&[&salt.0, &sha1(&[&hash])]))
}

/// A client's caching_sha2 answer to a challenge.
pub fn sha2_scramble(password: &[u8], salt: &Salt) -> [u8; 32] {
    let hash = sha256(&[password]);
    xor(hash, &sha256(&[&sha256(&[&hash]), &salt.0]))
}

/// True if a native answer is that of the password whose hash is stored.
pub fn native_matches(answer: &[u8], salt: &Salt, stored: &[u8; 20]) -> bool {
    let Ok(answer) = <[u8; 20]>::try_from(answer) else { return false };
    let hash = xor(answer, &sha1(&[&salt.0, stored]));
    sha1(&[&hash]).ct_eq(stored).into()
}

/// True if a caching_sha2 answer is that of the password whose digest is stored.
pub fn sha2_matches(answer: &[u8], salt: &Salt, stored: &[u8; 32]) -> bool {
    let Ok(answer) = <[u8; 32]>::try_from(answer) else { return false };
    let hash = xor(answer, &sha256(&[stored, &salt.0]));
    sha256(&[&hash]).ct_eq(stored).into()
}
