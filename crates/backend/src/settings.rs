//! What a session has set, as a value: connections are interchangeable where their settings are equal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

/// A session's schema, character sets and variables. Immutable; compared by a hash first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    hash: u64,
    /// Of what a statement's meaning depends on when it is prepared: all but user variables.
    meaning: u64,
    /// Of what decides how a text is read.
    reading: u64,
    schema: Option<Box<str>>,
    found_rows: bool,
    names: Box<str>,
    /// Variable as `SET` names it (`time_zone`, `@x`) to its value as SQL.
    variables: BTreeMap<Box<str>, Box<str>>,
}

/// Hashes cannot be foreseen by who chooses the settings.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The character set of a connection just logged in.
const NAMES_AT_LOGIN: &str = "utf8mb4 COLLATE utf8mb4_general_ci";

/// NULL for a user variable, of the type that one has that was never set.
pub const NULL_USER_VARIABLE: &str = "CAST(NULL AS BINARY)";

/// Variables that `SET NAMES` overwrites.
pub const NAMES_VARIABLES: &[&str] =
    &["character_set_client", "character_set_connection", "character_set_results", "collation_connection"];

/// Variables that decide what a text means when it is prepared, besides `SET NAMES`.
pub const TEXT_VARIABLES: &[&str] = &[
    "sql_mode",
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "collation_connection",
];

impl Settings {
    /// Those of a connection just logged in without a schema.
    #[must_use]
    pub fn at_login(found_rows: bool) -> Arc<Self> {
        SettingsBuilder { schema: None, found_rows, names: NAMES_AT_LOGIN.into(), variables: BTreeMap::new() }
            .build()
    }

    /// The default schema.
    #[must_use]
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Whether affected rows count those found; fixed at login.
    #[must_use]
    pub fn found_rows(&self) -> bool {
        self.found_rows
    }

    /// A variable's value as SQL, if the session has set it.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(AsRef::as_ref)
    }

    /// The character set of statements: of SET NAMES, or set by itself since.
    #[must_use]
    pub fn client_charset(&self) -> &str {
        match self.variable("character_set_client") {
            Some(charset) => charset.trim_matches('\''),
            None => self.names().split(' ').next().unwrap_or("utf8mb4"),
        }
    }

    /// The argument of `SET NAMES`.
    #[must_use]
    pub fn names(&self) -> &str {
        &self.names
    }

    /// Equal settings have equal hashes; the reverse is checked by `==`.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A hash of all but user variables: what a statement is prepared under.
    #[must_use]
    pub fn meaning(&self) -> u64 {
        self.meaning
    }

    /// Whether a text means the same when it is prepared under either.
    #[must_use]
    pub fn reads_as(&self, other: &Self) -> bool {
        self.reading == other.reading
    }

    /// Whether a connection with these settings serves a session with those as it is.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || (self.hash == other.hash && self == other)
    }

    /// A changeable copy.
    #[must_use]
    pub fn edit(&self) -> SettingsBuilder {
        SettingsBuilder {
            schema: self.schema.clone(),
            found_rows: self.found_rows,
            names: self.names.clone(),
            variables: self.variables.clone(),
        }
    }

    /// Whether a connection that has `self` can be brought to `target` at all: a schema can't be left again, and
    /// FOUND_ROWS is fixed at login.
    #[must_use]
    pub fn can_become(&self, target: &Self) -> bool {
        self.found_rows == target.found_rows && (self.schema.is_none() || target.schema.is_some())
    }

    /// The one `SET` statement that brings a connection from `self` to `target`, the schema aside; empty if none
    /// is needed. MariaDB and MySQL name some variables differently.
    #[must_use]
    pub fn set_statement(&self, target: &Self, mariadb: bool) -> String {
        let assigned = |name: &str| assigned(name, mariadb);
        let mut parts: Vec<String> = Vec::new();
        let is_names = |name: &str| NAMES_VARIABLES.contains(&name);
        let names_differ = self.names != target.names
            || NAMES_VARIABLES.iter().any(|name| self.variable(name) != target.variable(name));
        if names_differ {
            parts.push(format!("NAMES {}", target.names));
        }
        for name in self.variables.keys().filter(|name| !is_names(name)) {
            if target.variable(name).is_none() {
                parts.push(format!("{}={}", assigned(name), unset(name)));
            }
        }
        for (name, value) in &target.variables {
            let set = if is_names(name) { names_differ } else { self.variable(name) != Some(value) };
            if set {
                parts.push(format!("{}={value}", assigned(name)));
            }
        }
        let mut statement = String::new();
        for (n, part) in parts.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(statement, "{}{part}", if n == 0 { "SET " } else { ", " });
        }
        statement
    }
}

/// `SET NAMES x, y = 1` needs no scope; a user variable must not have one.
fn assigned(name: &str, mariadb: bool) -> String {
    match (name.strip_prefix('@'), name) {
        (Some(user), _) => quoted_user_variable(user),
        // MariaDB knows MySQL's names of these since 11.1 only, MySQL no longer knows the old ones.
        (None, "transaction_isolation") if mariadb => "@@SESSION.tx_isolation".to_owned(),
        (None, "transaction_read_only") if mariadb => "@@SESSION.tx_read_only".to_owned(),
        (None, _) => format!("@@SESSION.{name}"),
    }
}

/// What takes a variable back to where it was at login.
fn unset(name: &str) -> &str {
    match name {
        // DEFAULT gives their opposite on MySQL.
        // Whatever the server's sessions begin with, its connections here begin with it on.
        "autocommit" => "1",
        "session_track_state_change" | "session_track_transaction_info" => "OFF",
        "foreign_key_checks" => "@@GLOBAL.foreign_key_checks",
        "unique_checks" => "@@GLOBAL.unique_checks",
        _ if name.starts_with('@') => NULL_USER_VARIABLE,
        _ => "DEFAULT",
    }
}

/// One name for a variable that MariaDB and MySQL name differently: MySQL's.
#[must_use]
pub fn canonical_variable(name: &str) -> &str {
    match name {
        "tx_isolation" => "transaction_isolation",
        "tx_read_only" => "transaction_read_only",
        other => other,
    }
}

/// `@name`, quoted where it must be.
#[must_use]
pub fn quoted_user_variable(name: &str) -> String {
    match name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.')) {
        true => format!("@{name}"),
        false => format!("@`{}`", name.replace('`', "``")),
    }
}

/// Settings being changed.
#[derive(Debug, Clone)]
pub struct SettingsBuilder {
    schema: Option<Box<str>>,
    found_rows: bool,
    names: Box<str>,
    variables: BTreeMap<Box<str>, Box<str>>,
}

impl SettingsBuilder {
    /// Sets the default schema.
    pub fn schema(&mut self, schema: &str) -> &mut Self {
        self.schema = Some(schema.into());
        self
    }

    /// No default schema: it was dropped. Only a connection that had none can have these settings.
    pub fn leave_schema(&mut self) -> &mut Self {
        self.schema = None;
        self
    }

    /// Sets what `SET NAMES` is called with, and forgets what it overwrites.
    pub fn names(&mut self, names: &str) -> &mut Self {
        self.names = names.into();
        for name in NAMES_VARIABLES {
            self.variables.remove(*name);
        }
        self
    }

    /// Sets a variable (lower case; a user variable with its `@`) to a value that is SQL.
    pub fn variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.insert(canonical_variable(name).into(), value.into());
        self
    }

    /// Takes a variable back to its default.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.variables.remove(canonical_variable(name));
        self
    }

    /// Takes all variables back to their defaults, keeping schema and character set: COM_RESET_CONNECTION.
    pub fn unset_all(&mut self) -> &mut Self {
        self.variables.clear();
        self
    }

    /// How many variables are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.variables.len()
    }

    /// Whether no variable is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// The finished value.
    #[must_use]
    pub fn build(&self) -> Arc<Settings> {
        let mut reading = KEYS.build_hasher();
        self.names.hash(&mut reading);
        TEXT_VARIABLES.iter().for_each(|name| self.variables.get(*name).hash(&mut reading));
        let mut hasher = KEYS.build_hasher();
        (&self.schema, self.found_rows, &self.names).hash(&mut hasher);
        let is_user = |name: &str| name.starts_with('@');
        self.variables.iter().filter(|(name, _)| !is_user(name)).for_each(|pair| pair.hash(&mut hasher));
        let meaning = hasher.finish();
        self.variables.iter().filter(|(name, _)| is_user(name)).for_each(|pair| pair.hash(&mut hasher));
        Arc::new(Settings {
            hash: hasher.finish(),
            meaning,
            reading: reading.finish(),
            schema: self.schema.clone(),
            found_rows: self.found_rows,
            names: self.names.clone(),
            variables: self.variables.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_statement_goes_from_any_settings_to_any() {
        let base = Settings::at_login(false);
        let a = base.edit().variable("time_zone", "'+00:00'").variable("@x", "5").build();
        let b = base.edit().variable("sql_mode", "''").names("latin1").build();
        assert_eq!(base.set_statement(&a, true), "SET @x=5, @@SESSION.time_zone='+00:00'");
        assert_eq!(
            a.set_statement(&b, true),
            "SET NAMES latin1, @x=CAST(NULL AS BINARY), @@SESSION.time_zone=DEFAULT, @@SESSION.sql_mode=''"
        );
        assert_eq!(a.set_statement(&a, true), "");
        let c = b.edit().variable("character_set_results", "NULL").build();
        assert_eq!(b.set_statement(&c, true), "SET NAMES latin1, @@SESSION.character_set_results=NULL");
        assert_eq!(c.set_statement(&b, true), "SET NAMES latin1");
    }

    #[test]
    fn a_schema_cannot_be_left() {
        let none = Settings::at_login(false);
        let some = none.edit().schema("app").build();
        assert!(none.can_become(&some) && !some.can_become(&none));
        assert!(!none.can_become(&Settings::at_login(true)));
        assert!(some.same(&none.edit().schema("app").build()));
    }
}
