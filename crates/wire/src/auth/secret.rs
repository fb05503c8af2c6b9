//! What is stored of an account's password.

use rand::TryRngCore;
use rand::rngs::OsRng;
use subtle::ConstantTimeEq;

use super::scramble::{native_hash, sha2_digest};
use crate::Error;

/// An account's password, hashed as the plugins need it. Any of the hashes lets a client in that sends the password
/// itself (full authentication); the fast ways need the plugin's own hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// SHA256(SHA256(password)), for caching_sha2_password.
    pub sha256_sha256: Option<[u8; 32]>,
    /// SHA1(SHA1(password)), for mysql_native_password.
    pub native: Option<[u8; 20]>,
    empty: bool,
}

impl Secret {
    /// From stored hashes. With neither, nobody gets in.
    pub fn from_hashes(sha256_sha256: Option<[u8; 32]>, native: Option<[u8; 20]>) -> Self {
        Self { sha256_sha256, native, empty: false }
    }

    /// From a plain password, both hashes. An empty one is an account without a password.
    pub fn from_password(password: &[u8]) -> Self {
        match password {
            [] => Self { sha256_sha256: None, native: None, empty: true },
            _ => Self::from_hashes(Some(sha2_digest(password)), Some(native_hash(password))),
        }
    }

    /// For an unknown account: asks and answers like a known one, and lets nobody in.
    pub fn decoy() -> Result<Self, Error> {
        let (mut sha2, mut native) = ([0; 32], [0; 20]);
        let filled = OsRng.try_fill_bytes(&mut sha2).and_then(|()| OsRng.try_fill_bytes(&mut native));
        filled.map_err(|_| Error::Unsupported("no randomness from the system"))?;
        Ok(Self::from_hashes(Some(sha2), Some(native)))
    }

    /// True for an account without a password.
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// True if this is the password.
    pub fn is_password(&self, password: &[u8]) -> bool {
        if self.empty || password.is_empty() {
            return self.empty && password.is_empty();
        }
        match (&self.sha256_sha256, &self.native) {
            (Some(stored), _) => sha2_digest(password).ct_eq(stored).into(),
            (None, Some(stored)) => native_hash(password).ct_eq(stored).into(),
            (None, None) => false,
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
