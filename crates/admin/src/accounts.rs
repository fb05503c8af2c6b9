//! Passwords of accounts, as they are stored.

use usher_directory::rows::Hashes;
use usher_wire::auth::Secret;

/// The hashes of a password. An empty one is none.
#[must_use]
pub fn hashes_of(password: &str) -> Hashes {
    let secret = Secret::from_password(password.as_bytes());
    Hashes {
        sha256: secret.sha256_sha256.map(|hash| hex(&hash)),
        native: secret.native.map(|hash| hex(&hash)),
    }
}

/// From a hash as people copy it: SHA256(SHA256(password)) in 64 digits, or SHA1(SHA1(password)) in 40, perhaps with a
/// `*` in front, as servers show it. `None` if it is neither.
#[must_use]
pub fn hashes_from(text: &str) -> Option<Hashes> {
    let digits = text.strip_prefix('*').unwrap_or(text);
    let hash = digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| digits.to_ascii_lowercase())?;
    match hash.len() {
        64 if digits.len() == text.len() => Some(Hashes { sha256: Some(hash), native: None }),
        40 => Some(Hashes { sha256: None, native: Some(hash) }),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hashes_are_those_of_servers() {
        // SELECT PASSWORD('secret') on MariaDB.
        let shown = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";
        let hashes = hashes_of("secret");
        assert_eq!(hashes.native, hashes_from(shown).unwrap().native);
        assert_eq!(hashes.sha256.as_ref().map(String::len), Some(64));
        assert_eq!(hashes_of(""), Hashes::default());
        assert_eq!(hashes_from(&hashes.sha256.clone().unwrap()).unwrap().sha256, hashes.sha256);
        assert!(hashes_from("secret").is_none() && hashes_from("").is_none());
    }
}
