//! `CREATE`, `ALTER` and `DROP ACCOUNT`, worded as servers word theirs, and `SHOW ACCOUNTS`.

use std::time::Duration;

use tokio::time::timeout;
use usher_config::Require;
use usher_directory::rows::{self, AccountChange};
use usher_directory::{Error, Global};
use usher_session::AccountSeen;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use super::Desk;
use super::statement::Cursor;
use super::table::{Cell, Table};
use crate::accounts::{hashes_from, hashes_of};

/// The longest one change may take.
const CHANGE: Duration = Duration::from_secs(30);

/// A change of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccountStatement {
    name: String,
    what: What,
    /// IF EXISTS, IF NOT EXISTS.
    lenient: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Create(AccountChange),
    Alter(AccountChange),
    Drop,
}

/// What follows CREATE, ALTER or DROP.
pub(super) fn parse(verb: &str, cursor: &mut Cursor<'_>) -> Option<AccountStatement> {
    let creates = verb.eq_ignore_ascii_case("create");
    // By habit it will be called USER.
    if !cursor.is_word("account") && !cursor.is_word("user") {
        return None;
    }
    let lenient = cursor.is_word("if");
    if lenient && (creates != cursor.is_word("not") || !cursor.is_word("exists")) {
        return None;
    }
    let name = cursor.name()?;
    // The one host there is.
    if cursor.is_word("@") && cursor.name()? != "%" {
        return None;
    }
    let what = match verb.to_ascii_lowercase().as_str() {
        "drop" => What::Drop,
        "create" => What::Create(options(cursor)?),
        _ => What::Alter(Some(options(cursor)?).filter(|change| *change != AccountChange::default())?),
    };
    Some(AccountStatement { name, what, lenient })
}

fn options(cursor: &mut Cursor<'_>) -> Option<AccountChange> {
    let mut change = AccountChange::default();
    while let Some(token) = cursor.next() {
        match token.text.to_ascii_lowercase().as_str() {
            "identified" => identified(cursor, &mut change)?,
            "with" => {}
            "schemas" if cursor.is_word("all") => change.schemas = Some(Vec::new()),
            "schemas" => change.schemas = Some(names(cursor)?),
            "default" if cursor.is_word("schema") => {
                change.default_schema =
                    Some(if cursor.is_word("none") { None } else { Some(cursor.name()?) });
            }
            "read" => change.read_only = Some(either(cursor, "only", "write")?),
            "admin" => change.admin = Some(true),
            "not" if cursor.is_word("admin") => change.admin = Some(false),
            "max_user_connections" => change.connections_max = Some(cursor.number()?),
            "max_statements_per_second" => change.statements_per_s_max = Some(cursor.number()?),
            "require" => change.require = Some(require(cursor)?),
            "account" => change.locked = Some(either(cursor, "lock", "unlock")?),
            _ => return None,
        }
    }
    Some(change)
}

/// `[WITH plugin] BY 'password'` or `AS 'hash'`.
fn identified(cursor: &mut Cursor<'_>, change: &mut AccountChange) -> Option<()> {
    if cursor.is_word("with") {
        change.plugin = Some(cursor.name()?.to_ascii_lowercase());
    }
    change.hashes = Some(if cursor.is_word("by") {
        hashes_of(&cursor.name()?)
    } else {
        cursor.is_word("as").then(|| cursor.name())?.and_then(|hash| hashes_from(&hash))?
    });
    Some(())
}

fn require(cursor: &mut Cursor<'_>) -> Option<Require> {
    match cursor.name()?.to_ascii_lowercase().as_str() {
        "none" => Some(Require::None),
        "ssl" | "tls" => Some(Require::Tls),
        "x509" => Some(Require::X509),
        _ => None,
    }
}

fn names(cursor: &mut Cursor<'_>) -> Option<Vec<String>> {
    let mut names = vec![cursor.name()?];
    while cursor.is_sign(",") {
        names.push(cursor.name()?);
    }
    Some(names)
}

fn either(cursor: &mut Cursor<'_>, yes: &str, no: &str) -> Option<bool> {
    if cursor.is_word(yes) { Some(true) } else { cursor.is_word(no).then_some(false) }
}

/// Changes the account. A client that hangs up does not stop it between the change and its row in the history.
pub(super) async fn run(global: &Global, statement: AccountStatement, by: String) -> Result<(), Failure> {
    let global = global.clone();
    let work = tokio::spawn(async move {
        let AccountStatement { name, what, lenient } = statement;
        let said = match &what {
            What::Create(change) => ("account added", change.to_string()),
            What::Alter(change) => ("account changed", change.to_string()),
            What::Drop => ("account dropped", String::new()),
        };
        let (done, otherwise) = match what {
            What::Create(change) if change.hashes.is_none() => {
                return Err(refused("say IDENTIFIED BY '<password>'; '' for an account without one"));
            }
            What::Create(change) => (rows::add_account(&global, &name, change).await, "there is already"),
            What::Alter(change) => {
                (rows::change_account(&global, &name, change).await.map(|row| row.is_some()), "there is no")
            }
            What::Drop => (rows::drop_account(&global, &name).await, "there is no"),
        };
        match done {
            Ok(true) => {}
            Ok(false) if lenient => return Ok(()),
            Ok(false) => {
                return Err(refused(&format!("{otherwise} account '{name}' in the global master")));
            }
            Err(error) => return Err(not_done(&error)),
        }
        tracing::info!(account = name, by, "{}", said.0);
        rows::record(&global, &by, said.0, &name, &said.1).await.map_err(|error| not_done(&error))
    });
    match timeout(CHANGE, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Failure::new(ErrorId::Bug).executed(Executed::Unknown)),
        Err(_) => Err(Failure::new(ErrorId::DirectoryUnavailable).executed(Executed::Unknown)),
    }
}

fn refused(note: &str) -> Failure {
    Failure::new(ErrorId::AdminRefused).note(note).executed(Executed::No)
}

fn not_done(error: &Error) -> Failure {
    match error {
        Error::Data(note) => refused(note),
        _ => Failure::new(ErrorId::DirectoryUnavailable)
            .note(error.to_string())
            .executed(Executed::Unknown)
            .advice("look with SHOW ACCOUNTS, and say it again if need be"),
    }
}

/// The accounts as this proxy has them, or the one of that name.
pub(super) fn table(desk: &Desk, name: Option<&str>) -> Table {
    let mut table = Table::new(&[
        "account",
        "from",
        "plugin",
        "password",
        "schemas",
        "default_schema",
        "read_only",
        "admin",
        "locked",
        "connections",
        "connections_max",
        "statements_per_s_max",
    ]);
    let seen = desk.shared.accounts.seen();
    for account in seen.into_iter().filter(|seen| name.is_none_or(|name| seen.user.name == name)) {
        table.push(row(account));
    }
    table
}

fn row(seen: AccountSeen) -> Vec<Cell> {
    let user = seen.user;
    let schemas = if user.has_all_schemas() { "*".to_owned() } else { user.schemas.join(", ") };
    vec![
        user.name.into(),
        if seen.is_stored { "the global master" } else { "the proxy's file" }.into(),
        user.plugin.into(),
        Cell::yes(seen.has_password),
        schemas.into(),
        user.default_schema.into(),
        Cell::yes(user.read_only),
        Cell::yes(user.admin),
        Cell::yes(seen.locked),
        Cell::count(seen.connections),
        Cell::count(user.connections_max),
        Cell::count(user.statements_per_s_max),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use usher_directory::rows::Hashes;

    use super::super::statement::{Statement, parse};
    use super::*;

    fn what(text: &str) -> What {
        match parse(text).unwrap() {
            Statement::Account(statement) => statement.what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_in_any_order() {
        let text = "CREATE USER 'app'@'%' IDENTIFIED WITH caching_sha2_password BY 'x' WITH MAX_USER_CONNECTIONS 5 \
                    SCHEMAS app, `other` DEFAULT SCHEMA app READ ONLY REQUIRE SSL ACCOUNT LOCK MAX_STATEMENTS_PER_SECOND 100";
        let expected = AccountChange {
            hashes: Some(hashes_of("x")),
            plugin: Some("caching_sha2_password".to_owned()),
            default_schema: Some(Some("app".to_owned())),
            schemas: Some(vec!["app".to_owned(), "other".to_owned()]),
            read_only: Some(true),
            admin: None,
            require: Some(Require::Tls),
            locked: Some(true),
            connections_max: Some(5),
            statements_per_s_max: Some(100),
        };
        assert_eq!(what(text), What::Create(expected));
        let lifted = "alter account app schemas all default schema none read write not admin account unlock";
        let expected = AccountChange {
            default_schema: Some(None),
            schemas: Some(Vec::new()),
            read_only: Some(false),
            admin: Some(false),
            locked: Some(false),
            ..AccountChange::default()
        };
        assert_eq!(what(lifted), What::Alter(expected));
    }

    #[test]
    fn hashes_instead_of_passwords() {
        let hash = hashes_of("secret").native.unwrap();
        let text = format!("ALTER ACCOUNT a IDENTIFIED WITH mysql_native_password AS '*{hash}'");
        let What::Alter(change) = what(&text) else { panic!("{text}") };
        assert_eq!(change.hashes, Some(Hashes { sha256: None, native: Some(hash) }));
        assert!(parse("ALTER ACCOUNT a IDENTIFIED AS 'secret'").is_err());
    }
}
