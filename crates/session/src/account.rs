//! Who may log in to the proxy, and what each may send to the servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use usher_backend::Stream;
use usher_config::{Require, User};
use usher_sql::{OWN_SCHEMA, Plan, Reach};
use usher_wire::auth::Secret;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::schemas::Schemas;

/// One account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) secret: Secret,
    pub(crate) native: bool,
    pub(crate) default_schema: Option<String>,
    schemas: Vec<String>,
    /// It may use these schemas only.
    pub(crate) restricted: bool,
    admin: bool,
    require: Require,
    connections: AtomicUsize,
    connections_max: usize,
}

/// A connection's place among those of its account; given up when dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Account>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Account {
    /// Whether what concerns all accounts is open to it.
    pub(crate) fn is_admin(&self) -> bool {
        self.admin
    }

    /// What the account's connections must have and this one has not.
    pub(crate) fn lacks(&self, stream: &Stream) -> Option<&'static str> {
        match self.require {
            Require::Tls if !stream.is_tls() => Some("TLS"),
            Require::X509 if !stream.has_peer_certificate() => Some("TLS with a certificate of the client"),
            _ => None,
        }
    }

    /// A place for one more connection.
    pub(crate) fn seat(self: &Arc<Self>) -> Result<Seat, Failure> {
        let seat = Seat(Arc::clone(self));
        let others = self.connections.fetch_add(1, Ordering::Relaxed);
        if self.connections_max > 0 && others >= self.connections_max {
            return Err(Failure::new(ErrorId::UserConnections)
                .field("connections_max", self.connections_max)
                .note(format!("user '{}' has its maximum of connections", self.name)));
        }
        Ok(seat)
    }

    /// Whether it may have this default schema.
    pub(crate) fn may_use(&self, schema: &str) -> Result<(), Failure> {
        if schema.eq_ignore_ascii_case(OWN_SCHEMA) {
            return Err(ErrorId::OwnSchema.into());
        }
        let accounts = schema.eq_ignore_ascii_case("mysql") && !self.admin;
        match !accounts && self.is_open(schema) {
            true => Ok(()),
            false => Err(self.denied(schema)),
        }
    }

    /// Whether it may send a statement: the one place that decides this.
    #[inline]
    pub(crate) fn may(&self, plan: &Plan, schemas: &Schemas) -> Result<(), Failure> {
        if plan.reach.is_ordinary() && !self.restricted {
            return Ok(());
        }
        self.check(&plan.reach, schemas)
    }

    #[cold]
    fn check(&self, reach: &Reach, schemas: &Schemas) -> Result<(), Failure> {
        if reach.own {
            return Err(Failure::new(ErrorId::OwnSchema).executed(Executed::No));
        }
        if let Some(what) = reach.admin.filter(|_| !self.admin) {
            let note = format!("Access denied; {what}: only for users with admin = true in usher's settings");
            return Err(Failure::new(ErrorId::AdminNeeded).note(note).executed(Executed::No));
        }
        if !self.restricted {
            return Ok(());
        }
        if reach.opaque {
            let note =
                "the account may use some schemas only, and the names in the statement cannot be read safely";
            return Err(Failure::new(ErrorId::DatabaseDenied).note(note).executed(Executed::No));
        }
        let closed = reach.schemas.iter().find(|name| !self.is_open(name));
        let closed = closed.or_else(|| {
            // Most of these are tables or aliases.
            let is_closed = |name: &&String| schemas.has_other(name, |schema| self.is_open(schema));
            reach.qualifiers.iter().filter(|name| !self.is_open(name)).find(is_closed)
        });
        closed.map_or(Ok(()), |name| Err(self.denied(name)))
    }

    fn is_open(&self, schema: &str) -> bool {
        !self.restricted
            || schema.eq_ignore_ascii_case("information_schema")
            || self.schemas.iter().any(|allowed| allowed == schema)
    }

    /// The schemas that it may use, if not all.
    pub(crate) fn allowed(&self) -> Option<&[String]> {
        self.restricted.then_some(&self.schemas)
    }

    fn denied(&self, schema: &str) -> Failure {
        let note = format!("Access denied for user '{}' to database '{schema}'", self.name);
        Failure::new(ErrorId::DatabaseDenied).note(note).executed(Executed::No)
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
        restricted: !user.has_all_schemas(),
        admin: user.admin,
        require: user.require,
        connections: AtomicUsize::new(0),
        connections_max: user.connections_max,
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
    fn seats_are_given_up() {
        let user = User { connections_max: 2, ..User::default() };
        let account = Arc::new(account(&user));
        let (first, second) = (account.seat(), account.seat());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(account.seat().map_err(|failure| failure.id()).err(), Some(ErrorId::UserConnections));
        drop(first);
        assert!(account.seat().is_ok());
    }

    #[test]
    fn hex_is_exact() {
        assert_eq!(hex::<2>("0aFF"), Some([0x0a, 0xff]));
        assert_eq!(hex::<2>("0aF"), None);
        assert_eq!(hex::<2>("zz00"), None);
    }
}
