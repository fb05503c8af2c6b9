//! Who may log in to the proxy.

use std::collections::HashMap;
use std::sync::Arc;

use usher_config::User;
use usher_wire::auth::Secret;

/// One account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) secret: Secret,
    pub(crate) native: bool,
    pub(crate) default_schema: Option<String>,
    schemas: Vec<String>,
}

impl Account {
    /// Whether it may use this schema.
    pub(crate) fn may_use(&self, schema: &str) -> bool {
        self.schemas.is_empty()
            || schema.eq_ignore_ascii_case("information_schema")
            || self.schemas.iter().any(|allowed| allowed == schema)
    }
}

/// All accounts, by name.
#[derive(Debug, Default)]
pub struct Accounts(HashMap<String, Arc<Account>>);

impl Accounts {
    /// From checked settings.
    #[must_use]
    pub fn new(users: &[User]) -> Self {
        Self(users.iter().map(|user| (user.name.clone(), Arc::new(account(user)))).collect())
    }

    pub(crate) fn named(&self, name: &[u8]) -> Option<Arc<Account>> {
        self.0.get(std::str::from_utf8(name).ok()?).cloned()
    }
}

fn account(user: &User) -> Account {
    let native = user.plugin == "mysql_native_password";
    let secret = match &user.password {
        Some(password) => {
            let both = Secret::from_password(password.as_bytes());
            match native && !password.is_empty() {
                true => Secret::from_hashes(None, both.native),
                false => both,
            }
        }
        None if user.sha256_hash.is_none() && user.native_hash.is_none() => Secret::from_password(b""),
        None => Secret::from_hashes(
            user.sha256_hash.as_deref().and_then(hex),
            user.native_hash.as_deref().and_then(hex),
        ),
    };
    Account {
        name: user.name.clone(),
        secret,
        native,
        default_schema: user.default_schema.clone(),
        schemas: user.schemas.clone(),
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != N * 2 {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(n * 2..n * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_exact() {
        assert_eq!(hex::<2>("0aFF"), Some([0x0a, 0xff]));
        assert_eq!(hex::<2>("0aF"), None);
        assert_eq!(hex::<2>("zz00"), None);
    }
}
