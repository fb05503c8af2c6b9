//! The console's statements.

use usher_topology::Key;
use usher_wire::sqlerr::{ErrorId, Failure};

use super::accounts::{self, AccountStatement};
use super::courtesy::Item;
use super::words::{Kind, Token, tokens};

/// Rows of moves or history shown unless the statement says otherwise.
pub(super) const ROWS: u32 = 100;
/// The most rows of moves or history that a statement may ask for.
pub(super) const ROWS_MAX: u32 = 1_000;

/// Each statement and what it is for, as `SHOW HELP` shows them.
pub(super) const HELP: &[(&str, &str)] = &[
    ("SHOW SHARDS", "shards: state, epoch, writer, standby, share of new users"),
    ("SHOW SERVERS", "servers: role, health, position, this proxy's connections"),
    ("SHOW MOVES [ALL] [LIMIT n]", "moves that are not finished, or all, the newest first"),
    ("SHOW PROXIES", "proxies: what each has acknowledged, how long it is silent"),
    (
        "SHOW SESSIONS",
        "clients' sessions at all proxies, and where their statements run; also SHOW PROCESSLIST",
    ),
    ("KILL <n>", "end a session, at whatever proxy it is; KILL QUERY only its statement"),
    ("SHOW TABLES", "the catalog of the application's tables"),
    ("SHOW USER '<key>'", "a user's row in the directory, and what this proxy has cached"),
    ("SHOW ROUTE FOR USER '<key>'", "where this proxy sends the user's statements now"),
    ("SHOW SEQUENCES", "sequences: the first id not handed out yet"),
    ("SHOW HISTORY [FOR '<subject>'] [LIMIT n]", "who changed what, the newest first"),
    ("SHOW METRICS [LIKE '<pattern>']", "this proxy's metrics"),
    ("SHOW LIMITS [LIKE '<pattern>']", "the limits in force"),
    ("SHOW ACCOUNTS", "who may log in to this proxy, and from where it knows them"),
    ("SHOW ACCOUNT '<name>'", "one of them"),
    (
        "CREATE ACCOUNT [IF NOT EXISTS] '<name>' IDENTIFIED BY '<password>' [option ..]",
        "add an account for all proxies; also IDENTIFIED [WITH <plugin>] AS '<hash>'; options: SCHEMAS ALL or \
         '<name>', ..; DEFAULT SCHEMA '<name>' or NONE; READ ONLY or READ WRITE; ADMIN or NOT ADMIN; \
         REQUIRE NONE, SSL or X509; \
         MAX_USER_CONNECTIONS <n>; MAX_STATEMENTS_PER_SECOND <n>; ACCOUNT LOCK or UNLOCK",
    ),
    ("ALTER ACCOUNT [IF EXISTS] '<name>' [option ..]", "change what is named of it: options as above"),
    ("DROP ACCOUNT [IF EXISTS] '<name>'", "take it away and end its sessions"),
    (
        "SET SHARD <name> WRITER '<server>' EPOCH <n> [FORCE]",
        "record what another failover controller has done",
    ),
    ("SHOW HELP", "this list"),
];

/// A parsed statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Help,
    Shards,
    Servers,
    Moves {
        all: bool,
        limit: u32,
    },
    Proxies,
    Tables,
    User(Key),
    Route(Key),
    Sequences,
    History {
        subject: Option<String>,
        limit: u32,
    },
    Metrics {
        like: Option<String>,
    },
    Limits {
        like: Option<String>,
    },
    SetWriter {
        shard: String,
        writer: String,
        epoch: u64,
        force: bool,
    },
    Accounts {
        name: Option<String>,
    },
    Sessions {
        full: bool,
    },
    Kill {
        query: bool,
        id: u64,
    },
    Account(AccountStatement),
    /// Something about a session that the console does not have: `SET NAMES`, `BEGIN` ... Answered with OK.
    Courtesy,
    Databases,
    Variables {
        like: Option<String>,
    },
    Warnings,
    /// Variables and functions that drivers ask for when they connect.
    Select(Vec<Item>),
}

/// Parses a statement.
///
/// # Errors
/// USHER-0804 with the list of what is known.
pub(super) fn parse(text: &str) -> Result<Statement, Failure> {
    let tokens = tokens(text).ok_or_else(|| unknown(text))?;
    let mut cursor = Cursor { text, rest: &tokens };
    let parsed = statement(&mut cursor);
    parsed.filter(|_| cursor.rest.is_empty()).ok_or_else(|| unknown(text))
}

fn unknown(text: &str) -> Failure {
    let mut near: String = text.trim().chars().take(40).collect();
    if text.to_ascii_lowercase().contains("identified") {
        near = "the rest is not repeated, as it may hold a password".to_owned();
    } else if near.len() < text.trim().len() {
        near.push_str("...");
    }
    Failure::new(ErrorId::AdminSyntax).note(format!("not a statement of the admin console: {near}")).advice(
        "SHOW SHARDS, SERVERS, MOVES [ALL], PROXIES, SESSIONS, TABLES, ACCOUNTS, USER '<key>', ROUTE FOR USER '<key>', \
         SEQUENCES, HISTORY, METRICS, LIMITS, KILL <n>, CREATE, ALTER or DROP ACCOUNT, or SET SHARD <name> WRITER \
         '<server>' EPOCH <n> [FORCE]; SHOW HELP explains",
    )
}

/// Walks over the tokens.
pub(super) struct Cursor<'a> {
    /// The whole statement.
    pub(super) text: &'a str,
    /// What has not been taken yet.
    pub(super) rest: &'a [Token],
}

impl<'a> Cursor<'a> {
    pub(super) fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Takes the next token if it is that keyword.
    pub(super) fn is_word(&mut self, word: &str) -> bool {
        let is = self.rest.first().is_some_and(|token| is_word(token, word));
        if is {
            self.next();
        }
        is
    }

    pub(super) fn is_sign(&mut self, sign: &str) -> bool {
        let is = self.rest.first().is_some_and(|token| token.kind == Kind::Sign && token.text == sign);
        if is {
            self.next();
        }
        is
    }

    /// A name, quoted or not.
    pub(super) fn name(&mut self) -> Option<String> {
        self.next().filter(|token| token.kind != Kind::Sign).map(|token| token.text.clone())
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.next().filter(|token| token.kind == Kind::Word)?.text.parse().ok()
    }

    fn key(&mut self) -> Option<Key> {
        let text = self.name()?;
        (1..=Key::TEXT_BYTES_MAX).contains(&text.len()).then(|| Key::from_stored(&text))
    }

    /// `[LIMIT n]`.
    fn limit(&mut self) -> Option<u32> {
        if self.is_word("limit") { self.number().map(|rows: u32| rows.min(ROWS_MAX)) } else { Some(ROWS) }
    }

    /// `[LIKE 'pattern']`.
    fn like(&mut self) -> Option<Option<String>> {
        if self.is_word("like") { self.name().map(Some) } else { Some(None) }
    }

    /// Takes all that is left.
    pub(super) fn skip(&mut self) -> &'a [Token] {
        std::mem::take(&mut self.rest)
    }
}

pub(super) fn is_word(token: &Token, word: &str) -> bool {
    token.kind == Kind::Word && token.text.eq_ignore_ascii_case(word)
}

fn statement(cursor: &mut Cursor<'_>) -> Option<Statement> {
    let first = cursor.next().filter(|token| token.kind == Kind::Word)?;
    match first.text.to_ascii_lowercase().as_str() {
        "show" => show(cursor),
        "set" => set(cursor),
        "kill" => {
            let query = cursor.is_word("query");
            if !query {
                cursor.is_word("connection");
            }
            Some(Statement::Kill { query, id: cursor.number()? })
        }
        "create" | "alter" | "drop" => accounts::parse(&first.text, cursor).map(Statement::Account),
        "select" => super::courtesy::items(cursor).map(Statement::Select),
        "help" => Some(Statement::Help),
        "use" => cursor.name().map(|_| Statement::Courtesy),
        "begin" | "commit" | "rollback" => Some(Statement::Courtesy),
        "start" => cursor.is_word("transaction").then_some(Statement::Courtesy),
        _ => None,
    }
}

fn show(cursor: &mut Cursor<'_>) -> Option<Statement> {
    // `SHOW SESSION VARIABLES`, as some drivers say it.
    let scoped = cursor.is_word("session") || cursor.is_word("global");
    let what = cursor.next().filter(|token| token.kind == Kind::Word)?;
    Some(match what.text.to_ascii_lowercase().as_str() {
        "variables" => Statement::Variables { like: cursor.like()? },
        _ if scoped => return None,
        "help" => Statement::Help,
        "shards" => Statement::Shards,
        "servers" => Statement::Servers,
        "moves" => Statement::Moves { all: cursor.is_word("all"), limit: cursor.limit()? },
        "proxies" => Statement::Proxies,
        "tables" => Statement::Tables,
        "sessions" | "processlist" => Statement::Sessions { full: false },
        "full" if cursor.is_word("sessions") || cursor.is_word("processlist") => {
            Statement::Sessions { full: true }
        }
        "accounts" => Statement::Accounts { name: None },
        "account" => Statement::Accounts { name: Some(cursor.name()?) },
        "user" => Statement::User(cursor.key()?),
        "route" if cursor.is_word("for") && cursor.is_word("user") => Statement::Route(cursor.key()?),
        "sequences" => Statement::Sequences,
        "history" => {
            let subject = if cursor.is_word("for") { Some(cursor.name()?) } else { None };
            Statement::History { subject, limit: cursor.limit()? }
        }
        "metrics" => Statement::Metrics { like: cursor.like()? },
        "limits" => Statement::Limits { like: cursor.like()? },
        "databases" | "schemas" => Statement::Databases,
        "warnings" => Statement::Warnings,
        _ => return None,
    })
}

fn set(cursor: &mut Cursor<'_>) -> Option<Statement> {
    if cursor.is_word("shard") {
        let shard = cursor.name()?;
        let writer = cursor.is_word("writer").then(|| cursor.name())??;
        let epoch = cursor.is_word("epoch").then(|| cursor.number())??;
        return Some(Statement::SetWriter { shard, writer, epoch, force: cursor.is_word("force") });
    }
    let of_session = cursor.is_word("names")
        || cursor.is_word("transaction")
        || (cursor.is_word("character") && cursor.is_word("set"))
        || (cursor.is_word("session") && cursor.is_word("transaction"));
    let rest = cursor.skip();
    let global = rest.iter().any(|token| {
        let text = token.text.to_ascii_lowercase();
        matches!(text.as_str(), "global" | "persist" | "password")
            || text.starts_with("@@global.")
            || text.starts_with("@@persist")
    });
    let assigns = rest.iter().any(|token| token.kind == Kind::Sign && token.text == "=");
    (of_session && !rest.is_empty() || assigns && !global).then_some(Statement::Courtesy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_help_lists_is_understood() {
        for (form, _) in HELP {
            let plain = form.replace("[LIKE '<pattern>']", "LIKE 'a%'").replace("[option ..]", "READ ONLY");
            let plain = plain.replace(['[', ']'], "").replace("LIMIT n", "LIMIT 5").replace("<n>", "12");
            let plain = plain.replace(['<', '>'], "");
            assert!(parse(&plain).is_ok(), "{plain}");
            assert!(parse(&format!("{};", plain.to_lowercase())).is_ok(), "{plain}");
            assert!(parse(&format!("{plain} and more")).is_err(), "{plain}");
        }
    }

    #[test]
    fn arguments() {
        assert_eq!(parse("SHOW USER 623").unwrap(), Statement::User(Key::Int(623)));
        assert_eq!(parse("show user '007'").unwrap(), Statement::User(Key::Text("007".into())));
        assert_eq!(
            parse("show route for user \"bo'b\"").unwrap(),
            Statement::Route(Key::Text("bo'b".into()))
        );
        assert_eq!(parse("show moves").unwrap(), Statement::Moves { all: false, limit: ROWS });
        assert_eq!(
            parse("show moves all limit 9999999").unwrap(),
            Statement::Moves { all: true, limit: ROWS_MAX }
        );
        assert_eq!(
            parse("show history for s1 limit 3").unwrap(),
            Statement::History { subject: Some("s1".to_owned()), limit: 3 }
        );
        let set = |force| Statement::SetWriter {
            shard: "s1".to_owned(),
            writer: "s1b".to_owned(),
            epoch: 12,
            force,
        };
        assert_eq!(parse("SET SHARD s1 WRITER 's1b' EPOCH 12").unwrap(), set(false));
        assert_eq!(parse("/* orchestrator */ set shard `s1` writer s1b epoch 12 force;").unwrap(), set(true));
    }

    #[test]
    fn passwords_are_not_repeated() {
        let failure = parse("ALTER USER a IDENTIFIED BY 'secret' AND MORE").unwrap_err();
        assert!(!failure.message().contains("secret"), "{failure}");
        let statement = parse("ALTER USER a IDENTIFIED BY 'secret'").unwrap();
        assert!(!format!("{statement:?}").contains("secret"));
    }

    #[test]
    fn courtesies() {
        for text in [
            "SET NAMES utf8mb4",
            "set names 'utf8' collate utf8_bin",
            "SET autocommit=1",
            "SET sql_mode='STRICT_TRANS_TABLES', @@session.time_zone = '+00:00'",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET CHARACTER SET utf8",
            "BEGIN",
            "start transaction",
            "commit;",
            "use usher",
        ] {
            assert_eq!(parse(text).unwrap(), Statement::Courtesy, "{text}");
        }
        assert_eq!(parse("show schemas").unwrap(), Statement::Databases);
        assert_eq!(
            parse("SHOW SESSION VARIABLES LIKE 'lower%'").unwrap(),
            Statement::Variables { like: Some("lower%".to_owned()) }
        );
    }

    #[test]
    fn all_else_is_refused_with_the_list() {
        let long = format!("SHOW USER '{}'", "x".repeat(Key::TEXT_BYTES_MAX + 1));
        for text in [
            "",
            ";",
            "DROP TABLE users",
            "SELECT * FROM usher.directory",
            "SHOW",
            "SHOW USER",
            "SHOW USER ''",
            "SHOW USER '623",
            "SHOW ROUTE",
            "SHOW ROUTE FOR",
            "SHOW GLOBAL SHARDS",
            "SHOW MOVES LIMIT -1",
            "SHOW MOVES LIMIT",
            "SET SHARD s1 WRITER s1b",
            "SET SHARD s1 WRITER s1b EPOCH x",
            "SET SHARD s1 WRITER s1b EPOCH -1",
            "SET SHARD s1 EPOCH 3",
            "SET GLOBAL read_only = 1",
            "SET @@global.read_only = 0",
            "SET names",
            "SET",
            "START SLAVE",
            "DROP TABLE t",
            "CREATE ACCOUNT",
            "CREATE ACCOUNT 'a' READ",
            "CREATE ACCOUNT 'a' MAX_USER_CONNECTIONS many",
            "ALTER ACCOUNT IF NOT EXISTS 'a' ADMIN",
            "ALTER ACCOUNT 'a'@'10.0.0.1' ADMIN",
            "ALTER ACCOUNT 'a'",
            "DROP ACCOUNT 'a' ADMIN",
            long.as_str(),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.id(), ErrorId::AdminSyntax, "{text}");
            assert!(failure.message().contains("SHOW SHARDS") && failure.message().len() < 511, "{text}");
        }
    }
}
