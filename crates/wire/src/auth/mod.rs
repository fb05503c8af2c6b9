//! Authentication of clients: the account's stored hashes, the plugins' arithmetic, the machine that asks and
//! judges.

mod key;
mod scramble;
mod secret;
mod server;

pub use key::{KeyError, ServerKey, encrypt_password};
pub use scramble::{native_hash, native_matches, native_scramble, sha2_digest, sha2_matches, sha2_scramble};
pub use secret::Secret;
pub use server::{Accepted, AuthTerms, ServerAuth, Step};

/// Name of the plugin by SHA-256.
pub const CACHING_SHA2: &[u8] = b"caching_sha2_password";
/// Name of the plugin by SHA-1.
pub const NATIVE: &[u8] = b"mysql_native_password";
/// Name of the plugin that sends the password as it is.
pub const CLEAR: &[u8] = b"mysql_clear_password";
/// Name of the older plugin by SHA-256 (servers only).
pub const SHA256: &[u8] = b"sha256_password";
