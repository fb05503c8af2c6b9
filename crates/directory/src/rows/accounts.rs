//! Rows of `accounts`: who may log in to the proxies beside those of their files.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value, params};
use usher_config::{Require, User};

use super::transaction;
use crate::columns::Columns;
use crate::{Error, Global, Result};

/// Characters of a name.
const NAME_CHARS_MAX: usize = 80;

/// One account, as a proxy uses it: of a password there are hashes only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Name, hashes, rights and limits; never a plain password.
    pub user: User,
    /// Nobody may log in.
    pub locked: bool,
    /// When it was last changed, in milliseconds since 1970 by the global master's clock.
    pub changed_at_ms: u64,
}

/// Hashes of a password, in hex. Without any the account has no password.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hashes {
    /// SHA256(SHA256(password)).
    pub sha256: Option<String>,
    /// SHA1(SHA1(password)).
    pub native: Option<String>,
}

/// What is to become another in an account; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountChange {
    /// A new password. Only the hash that the plugin needs is kept.
    pub hashes: Option<Hashes>,
    /// `caching_sha2_password` or `mysql_native_password`.
    pub plugin: Option<String>,
    /// Schema of a session that names none.
    pub default_schema: Option<Option<String>>,
    /// Schemas that it may use; none means all.
    pub schemas: Option<Vec<String>>,
    /// Whether it may only read.
    pub read_only: Option<bool>,
    /// Whether it may send administrators' statements.
    pub admin: Option<bool>,
    /// What its connections must have.
    pub require: Option<Require>,
    /// Whether nobody may log in.
    pub locked: Option<bool>,
    /// Connections at once through one proxy.
    pub connections_max: Option<usize>,
    /// Statements a second through one proxy.
    pub statements_per_s_max: Option<usize>,
}

impl AccountChange {
    /// Changes the row.
    ///
    /// # Errors
    /// [`Error::Data`] says what does not go together.
    pub fn apply(self, row: &mut AccountRow) -> Result<()> {
        let user = &mut row.user;
        let other_plugin = self.plugin.as_ref().is_some_and(|plugin| *plugin != user.plugin);
        let has_password = user.sha256_hash.is_some() || user.native_hash.is_some();
        if other_plugin && self.hashes.is_none() && has_password {
            return Err(Error::data("another plugin needs the password anew: its hash is another one"));
        }
        set(&mut user.plugin, self.plugin);
        if let Some(hashes) = self.hashes {
            let native = user.plugin == "mysql_native_password" || hashes.sha256.is_none();
            (user.sha256_hash, user.native_hash) =
                if native { (None, hashes.native) } else { (hashes.sha256, None) };
        }
        set(&mut user.default_schema, self.default_schema);
        set(&mut user.schemas, self.schemas);
        set(&mut user.read_only, self.read_only);
        set(&mut user.admin, self.admin);
        set(&mut user.require, self.require);
        set(&mut row.locked, self.locked);
        set(&mut user.connections_max, self.connections_max);
        set(&mut user.statements_per_s_max, self.statements_per_s_max);
        if user.has_all_schemas() {
            user.schemas.clear();
        }
        check(user)
    }
}

/// What it changes, without secrets: for the history.
impl std::fmt::Display for AccountChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let yes = |is: Option<bool>| is.map(|is| is.to_string());
        let count = |count: Option<usize>| count.map(|count| count.to_string());
        let schemas = |list: &Vec<String>| if list.is_empty() { "*".to_owned() } else { list.join(",") };
        let parts = [
            ("password", self.hashes.as_ref().map(|_| "changed".to_owned())),
            ("plugin", self.plugin.clone()),
            ("default_schema", self.default_schema.clone().map(Option::unwrap_or_default)),
            ("schemas", self.schemas.as_ref().map(schemas)),
            ("read_only", yes(self.read_only)),
            ("admin", yes(self.admin)),
            ("require", self.require.map(|require| require_text(require).to_owned())),
            ("locked", yes(self.locked)),
            ("connections_max", count(self.connections_max)),
            ("statements_per_s_max", count(self.statements_per_s_max)),
        ];
        let said = parts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        f.write_str(&said.collect::<Vec<_>>().join(" "))
    }
}

fn require_text(require: Require) -> &'static str {
    match require {
        Require::None => "none",
        Require::Tls => "tls",
        Require::X509 => "x509",
    }
}

fn require_of(text: &str) -> Result<Require> {
    match text {
        "none" => Ok(Require::None),
        "tls" => Ok(Require::Tls),
        "x509" => Ok(Require::X509),
        other => Err(Error::data(format!("{other:?} cannot be required"))),
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn check(user: &User) -> Result<()> {
    let (name, schemas) = (&user.name, user.schemas.iter().chain(&user.default_schema));
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Error::data(format!("an account's name has 1 to {NAME_CHARS_MAX} characters")));
    }
    if schemas.into_iter().any(|schema| schema.is_empty() || schema.chars().count() > 64) {
        return Err(Error::data("a schema's name has 1 to 64 characters"));
    }
    if u32::try_from(user.connections_max.max(user.statements_per_s_max)).is_err() {
        return Err(Error::data("a limit is a number up to 4294967295"));
    }
    user.check().map_err(Error::data)
}

const SELECT: &str = "SELECT name, plugin, sha256_hash, native_hash, default_schema, \
    CAST(allowed_schemas AS CHAR), read_only, admin, require_tls, locked, connections_max, \
    statements_per_s_max, CAST(UNIX_TIMESTAMP(changed_at) * 1000 AS UNSIGNED) FROM usher.accounts";

impl AccountRow {
    fn read(row: Row) -> Result<Self> {
        let mut columns = Columns::of(row);
        let mut user = User {
            name: columns.take()?,
            plugin: columns.take()?,
            sha256_hash: columns.take()?,
            native_hash: columns.take()?,
            default_schema: columns.take()?,
            ..User::default()
        };
        let schemas = |text: &str| {
            serde_json::from_str(text).map_err(|error| Error::data(format!("allowed_schemas: {error}")))
        };
        user.schemas = columns.parse(schemas)?;
        user.read_only = columns.take()?;
        user.admin = columns.take()?;
        user.require = columns.parse(require_of)?;
        let locked = columns.take()?;
        user.connections_max = columns.take()?;
        user.statements_per_s_max = columns.take()?;
        check(&user)?;
        Ok(Self { user, locked, changed_at_ms: columns.take()? })
    }

    async fn write(&self, conn: &mut Conn) -> mysql_async::Result<()> {
        let user = &self.user;
        let values = params! {
            "name" => &user.name,
            "plugin" => &user.plugin,
            "sha256" => &user.sha256_hash,
            "native" => &user.native_hash,
            "default_schema" => &user.default_schema,
            "schemas" => serde_json::Value::from(user.schemas.clone()).to_string(),
            "read_only" => user.read_only,
            "admin" => user.admin,
            "require_tls" => require_text(user.require),
            "locked" => self.locked,
            "connections_max" => Value::from(user.connections_max),
            "statements_per_s_max" => Value::from(user.statements_per_s_max),
        };
        conn.exec_drop(
            "REPLACE INTO usher.accounts (name, plugin, sha256_hash, native_hash, default_schema, \
             allowed_schemas, read_only, admin, require_tls, locked, connections_max, statements_per_s_max) VALUES (:name, \
             :plugin, :sha256, :native, :default_schema, :schemas, :read_only, :admin, :require_tls, :locked, \
             :connections_max, :statements_per_s_max)",
            values,
        )
        .await?;
        raise(conn).await
    }
}

/// Within the caller's transaction: every proxy loads the accounts anew.
async fn raise(conn: &mut Conn) -> mysql_async::Result<()> {
    conn.query_drop("UPDATE usher.accounts_version SET version = version + 1 WHERE id = 1").await
}

/// All accounts by name, and the version that they are at least of. A row that makes no sense is left out, and said in
/// the log.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn accounts(global: &Global) -> Result<(u64, Vec<AccountRow>)> {
    let mut conn = global.conn().await?;
    let fetch = async {
        // First, so that a change in between is loaded again.
        let version: Option<u64> =
            conn.query_first("SELECT version FROM usher.accounts_version WHERE id = 1").await?;
        let rows: Vec<Row> = conn.query(format!("{SELECT} ORDER BY name")).await?;
        Ok((version.unwrap_or(0), rows))
    };
    let (version, rows) = global.bounded("listing accounts", fetch).await?;
    let sound = rows.into_iter().filter_map(|row| match AccountRow::read(row) {
        Ok(row) => Some(row),
        Err(error) => {
            tracing::error!(%error, "a row of usher.accounts makes no sense; nobody logs in by it");
            None
        }
    });
    Ok((version, sound.collect()))
}

/// One account.
///
/// # Errors
/// As [`Global::bounded`]; [`Error::Data`] for a row that makes no sense.
pub async fn account(global: &Global, name: &str) -> Result<Option<AccountRow>> {
    let mut conn = global.conn().await?;
    let query = format!("{SELECT} WHERE name = ?");
    let row: Option<Row> = global.bounded("reading an account", conn.exec_first(query, (name,))).await?;
    row.map(AccountRow::read).transpose()
}

/// Adds an account; false if there is one of that name already.
///
/// # Errors
/// As [`AccountChange::apply`] and [`Global::bounded`].
pub async fn add_account(global: &Global, name: &str, change: AccountChange) -> Result<bool> {
    let user = User { name: name.to_owned(), ..User::default() };
    let mut row = AccountRow { user, locked: false, changed_at_ms: 0 };
    change.apply(&mut row)?;
    let added = transaction!(global, "adding an account", |conn| {
        let query = "SELECT 1 FROM usher.accounts WHERE name = ? FOR UPDATE";
        let there: Option<u8> = conn.exec_first(query, (name,)).await?;
        if there.is_some() {
            return Ok(None);
        }
        row.write(conn).await?;
        Ok(Some(()))
    })?;
    Ok(added.is_some())
}

/// Changes an account; the row as it is then, or `None` if there is none of that name.
///
/// # Errors
/// As [`AccountChange::apply`] and [`Global::bounded`].
pub async fn change_account(
    global: &Global,
    name: &str,
    change: AccountChange,
) -> Result<Option<AccountRow>> {
    // What does not go together is known only once the row is; the transaction is then rolled back.
    let mut refused = None;
    let changed = transaction!(global, "changing an account", |conn| {
        let query = format!("{SELECT} WHERE name = ? FOR UPDATE");
        let Some(row) = conn.exec_first::<Row, _, _>(query, (name,)).await? else { return Ok(None) };
        let applied = AccountRow::read(row).and_then(|mut row| change.apply(&mut row).map(|()| row));
        match applied {
            Ok(row) => {
                row.write(conn).await?;
                Ok(Some(row))
            }
            Err(error) => {
                refused = Some(error);
                Ok(None)
            }
        }
    })?;
    refused.map_or(Ok(changed), Err)
}

/// Takes an account away; false if there is none of that name.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn drop_account(global: &Global, name: &str) -> Result<bool> {
    let dropped = transaction!(global, "dropping an account", |conn| {
        conn.exec_drop("DELETE FROM usher.accounts WHERE name = ?", (name,)).await?;
        if conn.affected_rows() == 0 {
            return Ok(None);
        }
        raise(conn).await?;
        Ok(Some(()))
    })?;
    Ok(dropped.is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row() -> AccountRow {
        let user = User { name: "app".into(), sha256_hash: Some("ab".repeat(32)), ..User::default() };
        AccountRow { user, locked: false, changed_at_ms: 0 }
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut row = row();
        let change = AccountChange { read_only: Some(true), connections_max: Some(5), ..Default::default() };
        change.apply(&mut row).unwrap();
        assert!(row.user.read_only && row.user.connections_max == 5 && row.user.sha256_hash.is_some());
        AccountChange { schemas: Some(vec!["a".into()]), ..Default::default() }.apply(&mut row).unwrap();
        AccountChange { locked: Some(true), ..Default::default() }.apply(&mut row).unwrap();
        assert!(row.locked && row.user.read_only && row.user.schemas == ["a"]);
        AccountChange { schemas: Some(vec!["*".into()]), ..Default::default() }.apply(&mut row).unwrap();
        assert!(row.user.schemas.is_empty());
    }

    #[test]
    fn the_plugin_decides_which_hash_is_kept() {
        let both = || Hashes { sha256: Some("cd".repeat(32)), native: Some("ef".repeat(20)) };
        let mut row = row();
        AccountChange { hashes: Some(both()), ..Default::default() }.apply(&mut row).unwrap();
        assert_eq!((row.user.sha256_hash, row.user.native_hash.take()), (Some("cd".repeat(32)), None));
        let native = AccountChange {
            plugin: Some("mysql_native_password".into()),
            hashes: Some(both()),
            ..Default::default()
        };
        let mut row = self::row();
        native.apply(&mut row).unwrap();
        assert_eq!((row.user.sha256_hash, row.user.native_hash), (None, Some("ef".repeat(20))));
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: AccountChange| change.apply(&mut row()).unwrap_err().to_string();
        let plugin = Some("mysql_native_password".to_owned());
        assert!(refused(AccountChange { plugin, ..Default::default() }).contains("password anew"));
        let both = AccountChange { admin: Some(true), read_only: Some(true), ..Default::default() };
        assert!(refused(both).contains("exclude"));
        let own = AccountChange { schemas: Some(vec!["usher".into()]), ..Default::default() };
        assert!(refused(own).contains("usher's own"));
        let long = AccountChange { default_schema: Some(Some("x".repeat(65))), ..Default::default() };
        assert!(refused(long).contains("64"));
    }
}
