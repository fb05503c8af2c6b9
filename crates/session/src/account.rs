//! Who may log in to the proxy, and what each may send to the servers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use usher_backend::Stream;
use usher_config::{Require, User};
use usher_directory::rows::AccountRow;
use usher_sql::{Kind, OWN_SCHEMA, Plan, Reach};
use usher_wire::auth::Secret;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::schemas::Schemas;

/// One account as it stands; a change of its terms makes another one, with the same counts.
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
    read_only: bool,
    /// Nobody may log in.
    pub(crate) locked: bool,
    connections_max: usize,
    /// The terms that this was made from, without the password.
    terms: User,
    is_stored: bool,
    counts: Arc<Counts>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is counted of an account, whatever its terms.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    rate: Rate,
}

/// A connection's place among those of its account; given up when dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Counts>);

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
    pub(crate) fn seat(&self) -> Result<Seat, Failure> {
        let seat = Seat(Arc::clone(&self.counts));
        let others = self.counts.connections.fetch_add(1, Ordering::Relaxed);
        if self.connections_max > 0 && others >= self.connections_max {
            return Err(Failure::new(ErrorId::UserConnections)
                .field("connections_max", self.connections_max)
                .note(format!("user '{}' has its maximum of connections", self.name)));
        }
        Ok(seat)
    }

    /// Whether it may send one more statement within this second.
    #[inline]
    pub(crate) fn charge(&self) -> Result<(), Failure> {
        match self.terms.statements_per_s_max {
            0 => Ok(()),
            max => self.charge_up_to(max),
        }
    }

    #[cold]
    fn charge_up_to(&self, max: usize) -> Result<(), Failure> {
        if self.counts.rate.take(u32::try_from(max).unwrap_or(u32::MAX)) {
            return Ok(());
        }
        Err(Failure::new(ErrorId::RateLimit)
            .field("statements_per_s_max", max)
            .note(format!("user '{}' has sent its statements of this second", self.name))
            .safe_to_retry())
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
        if plan.reach.is_ordinary() && !self.restricted && !self.read_only {
            return Ok(());
        }
        self.check(&plan.reach, schemas)?;
        if self.read_only { self.check_reads(plan) } else { Ok(()) }
    }

    /// Refuses all that is not certain to be a plain read.
    #[cold]
    fn check_reads(&self, plan: &Plan) -> Result<(), Failure> {
        let uses = &plan.uses;
        let locks = matches!(plan.kind, Kind::LockingRead | Kind::LockTables | Kind::Xa)
            || plan.kind == Kind::SetStatement && plan.needs_writer;
        let what = match &uses.unknown_function {
            _ if plan.is_write => "changes something".to_owned(),
            _ if locks => "takes locks".to_owned(),
            _ if uses.outfile => "writes a file".to_owned(),
            Some(function) => format!("calls {function}, which usher does not know to be harmless"),
            None => return Ok(()),
        };
        let note =
            format!("command denied to user '{}', which may only read: the statement {what}", self.name);
        Err(Failure::new(ErrorId::AccountReadOnly).note(note).executed(Executed::No))
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

/// At most so many in a second.
#[derive(Debug, Default)]
struct Rate {
    /// Second since the first statement of all, and how many it has had: two halves.
    window: AtomicU64,
}

impl Rate {
    fn take(&self, max: u32) -> bool {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.take_in(BEGAN.elapsed().as_secs(), max)
    }

    fn take_in(&self, second: u64, max: u32) -> bool {
        let second = second & u64::from(u32::MAX);
        let taken = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            let count = if window >> 32 == second { window & u64::from(u32::MAX) } else { 0 };
            (count < u64::from(max)).then_some(second << 32 | (count + 1))
        });
        taken.is_ok()
    }
}

/// What others may know of an account, as this proxy has it.
#[derive(Debug, Clone)]
pub struct AccountSeen {
    /// Its terms, without password and hashes.
    pub user: User,
    /// Whether it has a password.
    pub has_password: bool,
    /// Whether nobody may log in.
    pub locked: bool,
    /// Whether it stands in the global master rather than in this proxy's file.
    pub is_stored: bool,
    /// Its connections through this proxy.
    pub connections: usize,
}

type ByName = HashMap<String, Arc<Account>>;

/// All accounts, by name: those of the proxy's file, and those of the global master, which count where a name is in both.
#[derive(Debug, Default)]
pub struct Accounts {
    of_file: Vec<User>,
    by_name: ArcSwap<ByName>,
    /// Grows when an account becomes another.
    version: AtomicU64,
}

impl Accounts {
    /// From checked settings.
    #[must_use]
    pub fn new(users: &[User]) -> Self {
        let by_name =
            users.iter().map(|user| (user.name.clone(), Arc::new(account(user, false, false, None))));
        Self {
            of_file: users.to_vec(),
            by_name: ArcSwap::from_pointee(by_name.collect()),
            version: AtomicU64::default(),
        }
    }

    /// Takes the accounts of the global master over. Those that are as they were keep their place.
    pub(crate) fn install(&self, stored: &[AccountRow]) {
        let old = self.by_name.load_full();
        let mut new = ByName::new();
        let of_file = self.of_file.iter().map(|user| (user, false, false));
        let stored = stored.iter().map(|row| (&row.user, row.locked, true));
        for (user, locked, is_stored) in of_file.chain(stored) {
            let before = old.get(&user.name);
            let made = account(user, locked, is_stored, before.map(|before| Arc::clone(&before.counts)));
            let kept = before.filter(|before| before.is_like(&made));
            new.insert(user.name.clone(), kept.map_or_else(|| Arc::new(made), Arc::clone));
        }
        self.by_name.store(Arc::new(new));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Another number than before means that sessions have to look for their accounts again.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn named(&self, name: &[u8]) -> Option<Arc<Account>> {
        self.by_name.load().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// All of them by name, for those who administer.
    #[must_use]
    pub fn seen(&self) -> Vec<AccountSeen> {
        let mut seen: Vec<_> = self.by_name.load().values().map(|account| account.seen()).collect();
        seen.sort_by(|a, b| a.user.name.cmp(&b.user.name));
        seen
    }
}

impl Account {
    fn is_like(&self, other: &Self) -> bool {
        self.terms == other.terms
            && self.secret == other.secret
            && (self.locked, self.is_stored) == (other.locked, other.is_stored)
    }

    fn seen(&self) -> AccountSeen {
        AccountSeen {
            user: self.terms.clone(),
            has_password: !self.secret.is_empty(),
            locked: self.locked,
            is_stored: self.is_stored,
            connections: self.counts.connections.load(Ordering::Relaxed),
        }
    }
}

fn account(user: &User, locked: bool, is_stored: bool, counts: Option<Arc<Counts>>) -> Account {
    Account {
        name: user.name.clone(),
        secret: secret(user),
        native: is_native(user),
        default_schema: user.default_schema.clone(),
        schemas: user.schemas.clone(),
        restricted: !user.has_all_schemas(),
        admin: user.admin,
        require: user.require,
        read_only: user.read_only,
        locked,
        connections_max: user.connections_max,
        terms: User { password: None, sha256_hash: None, native_hash: None, ..user.clone() },
        is_stored,
        counts: counts.unwrap_or_default(),
    }
}

fn is_native(user: &User) -> bool {
    user.plugin == "mysql_native_password"
}

fn secret(user: &User) -> Secret {
    match &user.password {
        Some(password) => {
            let both = Secret::from_password(password.as_bytes());
            match is_native(user) && !password.is_empty() {
                true => Secret::from_hashes(None, both.native),
                false => both,
            }
        }
        None if user.sha256_hash.is_none() && user.native_hash.is_none() => Secret::from_password(b""),
        None => Secret::from_hashes(
            user.sha256_hash.as_deref().and_then(hex),
            user.native_hash.as_deref().and_then(hex),
        ),
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn seats_are_given_up() {
        let user = User { connections_max: 2, ..User::default() };
        let account = account(&user, false, false, None);
        let (first, second) = (account.seat(), account.seat());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(account.seat().map_err(|failure| failure.id()).err(), Some(ErrorId::UserConnections));
        drop(first);
        assert!(account.seat().is_ok());
    }

    fn stored(user: User, locked: bool) -> AccountRow {
        AccountRow { user, locked, changed_at_ms: 0 }
    }

    #[test]
    fn the_global_master_counts_before_the_file() {
        let named = |name: &str| User { name: name.to_owned(), ..User::default() };
        let accounts = Accounts::new(&[named("both"), named("file")]);
        let (of_both, of_file) = (accounts.named(b"both").unwrap(), accounts.named(b"file").unwrap());
        let seat = of_both.seat().unwrap();
        let stricter = || User { connections_max: 1, ..named("both") };
        accounts.install(&[stored(stricter(), false), stored(named("stored"), true)]);
        assert_eq!(accounts.version(), 1);
        assert!(Arc::ptr_eq(&of_file, &accounts.named(b"file").unwrap()), "as it was");
        assert!(accounts.named(b"stored").unwrap().locked);
        let now = accounts.named(b"both").unwrap();
        assert!(now.seat().is_err(), "the seat taken before counts");
        drop(seat);
        assert!(now.seat().is_ok());
        accounts.install(&[stored(stricter(), false)]);
        assert!(Arc::ptr_eq(&now, &accounts.named(b"both").unwrap()));
        assert!(accounts.named(b"stored").is_none());
        accounts.install(&[]);
        assert_eq!(accounts.named(b"both").unwrap().connections_max, 0, "that of the file again");
    }

    #[test]
    fn another_password_makes_another_account() {
        let with =
            |hash: &str| User { name: "a".into(), sha256_hash: Some(hash.repeat(32)), ..User::default() };
        let accounts = Accounts::default();
        accounts.install(&[stored(with("ab"), false)]);
        let before = accounts.named(b"a").unwrap();
        accounts.install(&[stored(with("cd"), false)]);
        assert!(accounts.named(b"a").unwrap().secret != before.secret);
        assert!(accounts.seen().iter().all(|seen| seen.has_password && seen.user.sha256_hash.is_none()));
    }

    #[test]
    fn so_many_in_a_second() {
        let rate = Rate::default();
        assert!(rate.take_in(0, 2) && rate.take_in(0, 2) && !rate.take_in(0, 2));
        assert!(rate.take_in(1, 2) && rate.take_in(1, 2) && !rate.take_in(1, 2));
        assert!(rate.take_in(1, 3), "more are allowed since");
    }

    #[test]
    fn who_only_reads_sends_reads() {
        let user = User { name: "ro".into(), read_only: true, ..User::default() };
        let account = account(&user, false, false, None);
        let may = |text: &str| {
            let plan = usher_sql::plan(text.as_bytes(), None, Default::default(), &Default::default());
            account.may(&plan, &Schemas::default()).map_err(|failure| failure.id())
        };
        for text in [
            "SELECT * FROM t WHERE a = concat(1, 'x')",
            "SHOW TABLES",
            "EXPLAIN UPDATE t SET a = 1",
            "SET @a = 1",
            "START TRANSACTION",
            "COMMIT",
            "SELECT GET_LOCK('a', 1)",
            "USE app",
            "KILL 5",
            "HANDLER t OPEN",
        ] {
            assert_eq!(may(text), Ok(()), "{text}");
        }
        for text in [
            "INSERT INTO t VALUES (1)",
            "WITH x AS (SELECT 1) DELETE FROM t",
            "CREATE TEMPORARY TABLE t (a INT)",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM t LOCK IN SHARE MODE",
            "SET STATEMENT max_statement_time = 1 FOR SELECT * FROM t FOR UPDATE",
            "SET STATEMENT max_statement_time = 1 FOR DELETE FROM t",
            "ANALYZE DELETE FROM t",
            "LOCK TABLES t READ",
            "CALL p()",
            "DO stored()",
            "SELECT app.stored(1)",
            "SET @a = stored(1)",
            "SELECT NEXTVAL(s)",
            "SELECT NEXT VALUE FOR s",
            "SELECT 1 INTO OUTFILE '/tmp/x'",
            "LOAD DATA INFILE 'x' INTO TABLE t",
            "OPTIMIZE TABLE t",
            "WHATEVER IS NEW",
        ] {
            assert_eq!(may(text), Err(ErrorId::AccountReadOnly), "{text}");
        }
    }

    #[test]
    fn hex_is_exact() {
        assert_eq!(hex::<2>("0aFF"), Some([0x0a, 0xff]));
        assert_eq!(hex::<2>("0aF"), None);
        assert_eq!(hex::<2>("zz00"), None);
    }
}
