//! Which schemas a statement can reach, and whether it is an administrator's: for the check of a client's rights. Names
//! are taken from the tokens alone, wherever they stand, and where a server might read the text in another way than we
//! do, that is said.

use crate::lex::{Lexer, LiteralKind, Token, TokenKind, unquote_name};
use crate::mode::Mode;
use crate::plan::{Kind, Plan, Tokens};

/// usher's own schema, on every server.
pub const OWN_SCHEMA: &str = "usher";

/// The server's own schemas: who writes there changes the server.
const SYSTEM_SCHEMAS: &[&str] = &["mysql", "performance_schema", "sys"];

/// Schema of the accounts, whose passwords are not for reading either.
const ACCOUNTS_SCHEMA: &str = "mysql";

/// Distinct names kept; a statement with more is not read further.
const NAMES_MAX: usize = 256;

/// A name that a server takes for the file it is kept in begins so.
const FILE_NAME_MARK: &[u8] = b"#mysql50#";

/// What a statement can reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    /// Names that stand before a point: schemas, tables, aliases.
    pub qualifiers: Vec<String>,
    /// Names that can only be schemas: `DROP DATABASE x`, `SHOW TABLES FROM x`.
    pub schemas: Vec<String>,
    /// It names usher's own schema, or may do so in a way that usher cannot see.
    pub own: bool,
    /// It is an administrator's statement: what it changes or shows.
    pub admin: Option<&'static str>,
    /// A server may find names in it that usher does not.
    pub opaque: bool,
}

impl Reach {
    /// Whether anybody may send it who may use the schemas that it names.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        !self.own && self.admin.is_none()
    }
}

/// Collects [`Reach`] from a stream of tokens.
pub(crate) struct Collector<'t> {
    text: &'t [u8],
    mode: Mode,
    reach: Reach,
    /// The last three tokens, newest first, without hints and the marks of comments that servers run.
    last: [Option<Token>; 3],
    /// A name of a schema comes next.
    awaits: Awaits,
    /// It is SHOW; of a table's columns or indexes; its FROMs and INs so far.
    show: Option<Show>,
    /// A comment that only some servers run was seen: any name may be one before a point.
    odd: bool,
    dynamic: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Nothing,
    /// Behind DATABASE or SCHEMA, where IF EXISTS may come first.
    Database,
    /// Behind SHOW .. FROM, or USE.
    Schema,
}

#[derive(Clone, Copy)]
struct Show {
    of_table: bool,
    froms: usize,
}

impl<'t> Collector<'t> {
    pub(crate) fn new(text: &'t [u8], mode: Mode) -> Self {
        Self {
            text,
            mode,
            reach: Reach::default(),
            last: [None; 3],
            awaits: Awaits::Nothing,
            show: None,
            odd: false,
            dynamic: false,
        }
    }

    pub(crate) fn see(&mut self, token: Token) {
        match token.kind {
            TokenKind::Hint | TokenKind::CodeClose => return,
            TokenKind::CodeOpen => return self.code(token),
            TokenKind::Bad => self.unseen(token),
            TokenKind::Word => self.word(token),
            TokenKind::Quoted => self.name(token),
            TokenKind::Op if token.bytes(self.text) == b"." => self.point(),
            _ => self.awaits = Awaits::Nothing,
        }
        self.last = [Some(token), self.last[0], self.last[1]];
    }

    /// The start of a comment that servers run, or some do. A server that does not run it looks for its end without
    /// regard to quotes and comments within.
    #[cold]
    fn code(&mut self, mark: Token) {
        if crate::lex::runs_everywhere(mark.bytes(self.text)) {
            return;
        }
        if !std::mem::replace(&mut self.odd, true) {
            // Any two names may be next to each other but for what is a comment to the server.
            let names = Lexer::new(self.text, self.mode).filter(|token| is_name(token.kind));
            names.for_each(|token| self.push_qualifier(token));
        }
        let inner = self.text.get(mark.span().end..).unwrap_or_default();
        match memchr::memmem::find(inner, b"*/") {
            Some(end) => {
                let inner = &inner[..end];
                let mixed = inner.iter().any(|b| matches!(b, b'\'' | b'"' | b'`' | b'#'));
                let comments =
                    ["--", "/*"].iter().any(|mark| memchr::memmem::find(inner, mark.as_bytes()).is_some());
                self.reach.opaque |= mixed || comments;
            }
            None => self.reach.opaque = true,
        }
        self.reach.own |= mentions_own(self.text);
    }

    /// Text that makes no sense to us.
    #[cold]
    fn unseen(&mut self, token: Token) {
        self.reach.opaque = true;
        self.reach.own |= mentions_own(token.bytes(self.text));
    }

    fn word(&mut self, token: Token) {
        let bytes = token.bytes(self.text);
        let is = |words: &[&str]| words.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(bytes));
        let after_point = self.last[0].is_some_and(|last| last.bytes(self.text) == b".");
        if self.last[0].is_none() {
            self.show = is(&["SHOW"]).then_some(Show { of_table: false, froms: 0 });
            if is(&["USE"]) {
                self.awaits = Awaits::Schema;
            }
            return;
        }
        if self.awaits == Awaits::Database && is(&["IF", "NOT", "EXISTS"]) {
            return;
        }
        if is(&["DATABASE", "SCHEMA"]) && !after_point {
            self.awaits = Awaits::Database;
            return;
        }
        self.dynamic_sql(&is);
        if let Some(show) = &mut self.show {
            if is(&["COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS"]) && show.froms == 0 {
                show.of_table = true;
            } else if is(&["FROM", "IN"]) {
                show.froms += 1;
                self.awaits = if show.of_table && show.froms == 1 { Awaits::Nothing } else { Awaits::Schema };
                return;
            } else if is(&["WHERE", "LIKE"]) && self.awaits == Awaits::Nothing {
                self.show = None;
            }
        }
        // ALTER DATABASE without a name is of the default one.
        if self.awaits == Awaits::Database && is(&["CHARACTER", "COLLATE", "DEFAULT"]) {
            self.awaits = Awaits::Nothing;
        }
        self.name(token);
    }

    /// `PREPARE x FROM` and `EXECUTE IMMEDIATE` behind the statement's first word: in a stored program.
    fn dynamic_sql(&mut self, is: &impl Fn(&[&str]) -> bool) {
        let text = self.text;
        let was = |back: usize, word: &str| {
            self.last[back].is_some_and(|token: Token| {
                token.kind == TokenKind::Word && token.bytes(text).eq_ignore_ascii_case(word.as_bytes())
            })
        };
        let is_first = |back: usize| self.last.get(back + 1).is_none_or(|before| before.is_none());
        self.dynamic |= is(&["IMMEDIATE"]) && was(0, "EXECUTE") && !is_first(0);
        self.dynamic |= is(&["FROM"]) && was(1, "PREPARE") && !is_first(1);
        self.dynamic |= self.odd && is(&["PREPARE", "EXECUTE"]);
    }

    fn name(&mut self, token: Token) {
        if std::mem::replace(&mut self.awaits, Awaits::Nothing) != Awaits::Nothing {
            push(&mut self.reach, self.mode, token.bytes(self.text), true);
        }
        if token.kind == TokenKind::Quoted && has_file_mark(token.bytes(self.text)) {
            self.reach.own = true;
        }
    }

    /// A point: what stands before it may be a schema, unless it has a point and a name before itself.
    fn point(&mut self) {
        self.awaits = Awaits::Nothing;
        let Some(before) = self.last[0] else { return };
        match before.kind {
            TokenKind::Word | TokenKind::Quoted | TokenKind::Dotted => {
                let is_third = self.last[1].is_some_and(|token| token.bytes(self.text) == b".")
                    && self.last[2].is_some_and(|token| is_name(token.kind));
                if !is_third {
                    self.push_qualifier(before);
                }
            }
            // `1..3` of a loop: no name in any sql_mode.
            TokenKind::Literal(LiteralKind::Int | LiteralKind::Real) => {}
            // Only a server with another sql_mode than we know of could read this: as a name.
            TokenKind::Literal(_) => self.reach.own = true,
            _ => {}
        }
    }

    fn push_qualifier(&mut self, token: Token) {
        push(&mut self.reach, self.mode, token.bytes(self.text), false);
    }

    /// What was found, with what the plan says of the statement.
    pub(crate) fn finish(self, tokens: &Tokens<'_>, plan: &Plan, default_schema: Option<&str>) -> Reach {
        let mut reach = self.reach;
        let named = reach.qualifiers.iter().chain(&reach.schemas).map(String::as_str);
        let is = |name: &str, known: &str| name.eq_ignore_ascii_case(known);
        let system = |name: &str| SYSTEM_SCHEMAS.iter().any(|known| is(name, known));
        reach.own |= named.clone().any(|name| is(name, OWN_SCHEMA));
        reach.admin = if self.dynamic {
            Some("statements made while a stored program runs")
        } else if matches!(plan.kind, Kind::Use(_)) {
            // Choosing a schema has its own error.
            None
        } else if named.clone().chain(default_schema).any(|name| is(name, ACCOUNTS_SCHEMA)) {
            Some("the schema mysql")
        } else if plan.is_write && named.chain(default_schema).any(system) {
            Some("the server's own schemas")
        } else {
            admin_statement(tokens, &plan.kind)
        };
        reach
    }
}

/// What an administrator's statement is about.
fn admin_statement(tokens: &Tokens<'_>, kind: &Kind) -> Option<&'static str> {
    let is = |at: usize, words: &[&str]| tokens.is_any(at, words);
    match kind {
        Kind::Admin if is(0, &["CREATE", "ALTER", "DROP", "RENAME", "GRANT", "REVOKE"]) => {
            Some("accounts and the server's own objects")
        }
        Kind::Admin if !is(0, &["ANALYZE", "OPTIMIZE", "CHECK", "CHECKSUM", "REPAIR", "CACHE"]) => {
            Some("the server itself")
        }
        Kind::Ddl(_) if (0..tokens.len()).any(|at| is(at, &["SONAME"])) => Some("code of libraries"),
        Kind::LockTables | Kind::UnlockTables if is(0, &["FLUSH", "BACKUP"]) || is(1, &["INSTANCE"]) => {
            Some("the server itself")
        }
        Kind::Set
            if is(1, &["PASSWORD", "ROLE", "RESOURCE"]) || tokens.are_words(1, &["DEFAULT", "ROLE"]) =>
        {
            Some("accounts")
        }
        Kind::Set if is(1, &["GLOBAL", "PERSIST", "PERSIST_ONLY"]) => Some("the server's settings"),
        Kind::Show(_) => admin_show(tokens),
        Kind::Describe | Kind::Explain
            if (1..tokens.len()).any(|at| tokens.are_words(at, &["FOR", "CONNECTION"])) =>
        {
            Some("statements of others")
        }
        _ => None,
    }
}

fn admin_show(tokens: &Tokens<'_>) -> Option<&'static str> {
    let what = 1 + usize::from(tokens.is_any(1, &["ALL"]));
    if tokens.is_word(1, "GRANTS") || tokens.are_words(1, &["CREATE", "USER"]) {
        return Some("accounts");
    }
    let of_server =
        ["BINARY", "BINLOG", "MASTER", "SLAVE", "SLAVES", "REPLICA", "REPLICAS", "RELAYLOG", "ENGINE"];
    tokens.is_any(what, &of_server).then_some("the server itself")
}

fn push(reach: &mut Reach, mode: Mode, raw: &[u8], is_schema: bool) {
    let name = match String::from_utf8(unquote_name(raw)) {
        Ok(name) if name.is_ascii() || !mode.foreign_charset => name,
        // In the client's character set it is some other name.
        _ => {
            reach.opaque = true;
            return;
        }
    };
    let names = if is_schema { &mut reach.schemas } else { &mut reach.qualifiers };
    if names.len() >= NAMES_MAX {
        reach.opaque = true;
        reach.own |= name.eq_ignore_ascii_case(OWN_SCHEMA);
    } else if !names.contains(&name) {
        names.push(name);
    }
}

fn is_name(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Word | TokenKind::Quoted | TokenKind::Dotted)
}

/// Whether a name behind the mark of file names may be a schema that has rules of its own: written plainly it is not, but
/// `@` stands for characters.
fn has_file_mark(quoted: &[u8]) -> bool {
    const WITH_RULES: [&str; 5] = [OWN_SCHEMA, "mysql", "sys", "performance_schema", "information_schema"];
    let Some((mark, name)) = quoted.get(1..).and_then(|inner| inner.split_at_checked(FILE_NAME_MARK.len()))
    else {
        return false;
    };
    let name = name.strip_suffix(b"`").unwrap_or(name);
    let plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let has_rules = WITH_RULES.iter().any(|schema| name.eq_ignore_ascii_case(schema.as_bytes()));
    mark.eq_ignore_ascii_case(FILE_NAME_MARK) && (!plain || has_rules)
}

/// Whether the own schema's name is anywhere in these bytes.
fn mentions_own(text: &[u8]) -> bool {
    text.windows(OWN_SCHEMA.len()).any(|word| word.eq_ignore_ascii_case(OWN_SCHEMA.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;

    fn reach_in(text: &str, mode: Mode, schema: &str) -> Reach {
        crate::plan(text.as_bytes(), Some(schema), mode, &Catalog::default()).reach
    }

    fn reach(text: &str) -> Reach {
        reach_in(text, Mode::default(), "app")
    }

    #[test]
    fn the_own_schema_is_seen_wherever_it_stands() {
        for text in [
            "SELECT * FROM usher.directory",
            "SELECT * FROM USHER.directory",
            "SELECT * FROM `usher`.`directory`",
            "SELECT * FROM usher . directory",
            "SELECT * FROM usher/**/./**/directory",
            "SELECT * FROM usher -- x\n.directory",
            "SELECT * FROM /*!usher*/.directory",
            "SELECT * FROM /*!50000 usher.*/directory",
            "SELECT * FROM usher/*!99999 x */.directory",
            "SELECT * FROM /*!99999 app.t, */ usher /*M!100000 */ .directory",
            "SELECT /*!99999 ' */ * FROM usher.directory -- '",
            "SELECT /*!99999 -- */ * FROM usher.directory",
            "SELECT /*!99999 /* */ * FROM usher.directory",
            "SELECT (SELECT 1 FROM t, usher.moves LIMIT 1)",
            "SELECT usher.directory.shard FROM t",
            "SELECT usher.f(1)",
            "WITH x AS (SELECT * FROM usher.moves) SELECT * FROM x",
            "INSERT INTO usher.moves VALUES (1)",
            "INSERT INTO t SELECT * FROM usher.moves",
            "REPLACE usher.moves VALUES (1)",
            "UPDATE usher.control SET version = 0",
            "UPDATE t, usher.control SET t.a = 0",
            "DELETE FROM usher.ownership",
            "DELETE o FROM usher.ownership o",
            "TRUNCATE usher.moves",
            "CREATE TABLE usher.x (id INT)",
            "CREATE TABLE t LIKE usher.moves",
            "CREATE TABLE t (id INT) ENGINE=MERGE UNION=(usher.moves)",
            "CREATE TABLE t (id INT, FOREIGN KEY (id) REFERENCES usher.moves (id))",
            "ALTER TABLE t RENAME TO usher.t",
            "RENAME TABLE t TO usher.t",
            "DROP TABLE t, usher.moves",
            "CREATE VIEW v AS SELECT * FROM usher.moves",
            "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW UPDATE usher.control SET version = 0",
            "CREATE PROCEDURE p() BEGIN SELECT 1; DELETE FROM usher.moves; END",
            "CREATE PROCEDURE p() BEGIN DROP DATABASE usher; END",
            "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO DELETE FROM usher.moves",
            "BEGIN NOT ATOMIC DELETE FROM usher.moves; END",
            "DROP DATABASE usher",
            "DROP DATABASE IF EXISTS `usher`",
            "DROP SCHEMA /*!50000 usher */",
            "ALTER DATABASE usher CHARACTER SET latin1",
            "CREATE SCHEMA IF NOT EXISTS usher",
            "USE usher",
            "USE `Usher`",
            "SHOW TABLES FROM usher",
            "SHOW FULL TABLES IN `usher` LIKE 'm%'",
            "SHOW TABLE STATUS FROM usher",
            "SHOW TRIGGERS FROM usher",
            "SHOW COLUMNS FROM moves FROM usher",
            "SHOW INDEX FROM moves IN usher",
            "SHOW CREATE TABLE usher.moves",
            "SHOW CREATE DATABASE usher",
            "DESCRIBE usher.moves",
            "EXPLAIN SELECT * FROM usher.moves",
            "EXPLAIN ROUTE SELECT * FROM usher.moves",
            "ANALYZE TABLE usher.moves",
            "LOCK TABLES usher.moves WRITE",
            "HANDLER usher.moves OPEN",
            "CALL usher.p()",
            "GRANT ALL ON usher.* TO app",
            "GRANT ALL ON `usher`.moves TO app",
            "LOAD DATA LOCAL INFILE 'x' INTO TABLE usher.moves",
            "SET @x = (SELECT 1 FROM usher.moves)",
            "DO (SELECT 1 FROM usher.moves)",
            "SELECT * FROM \"usher\".moves",
            "SELECT * FROM `#mysql50#usher`.moves",
            "SELECT * FROM `#mysql50#@0075sher`.moves",
            "SELECT * FROM `#mysql50#mysql`.user",
            "SELECT * FROM t WHERE 'usher.moves",
        ] {
            assert!(reach(text).own, "{text}");
        }
        let ansi = Mode { ansi_quotes: true, ..Mode::default() };
        assert!(reach_in("SELECT * FROM \"usher\".moves", ansi, "app").own);
    }

    #[test]
    fn other_things_may_be_called_usher() {
        for text in [
            "ALTER DATABASE `#mysql50#upgrade-me` UPGRADE DATA DIRECTORY NAME",
            "SELECT usher FROM theatres",
            "SELECT 'usher.moves'",
            "SELECT * FROM usher",
            "SELECT app.usher.name FROM app.usher",
            "SELECT t.usher FROM t",
            "CREATE TABLE usher (usher INT)",
            "SELECT DATABASE(), usher FROM usher",
            "SHOW COLUMNS FROM usher",
            "SHOW TABLES WHERE Tables_in_app IN ('usher')",
            "/* usher: user=5 */ SELECT 1",
            "SELECT 1 -- usher.moves",
            "SELECT * FROM t WHERE a = 1.5 AND b = .5",
            "/*!50000 SELECT */ usher FROM t",
        ] {
            assert!(!reach(text).own, "{text}");
        }
    }

    #[test]
    fn administrators_statements_are_told() {
        for text in [
            "CREATE USER evil",
            "CREATE OR REPLACE USER evil",
            "ALTER USER app IDENTIFIED BY 'x'",
            "DROP USER app",
            "RENAME USER a TO b",
            "CREATE ROLE r",
            "GRANT ALL ON *.* TO app",
            "REVOKE ALL ON *.* FROM app",
            "SET PASSWORD = 'x'",
            "SET PASSWORD FOR app = 'x'",
            "SET ROLE r",
            "SET DEFAULT ROLE r",
            "SET GLOBAL read_only = 0",
            "SHUTDOWN",
            "RESTART",
            "CHANGE MASTER TO MASTER_HOST='x'",
            "STOP SLAVE",
            "START REPLICA",
            "RESET MASTER",
            "PURGE BINARY LOGS TO 'x'",
            "FLUSH PRIVILEGES",
            "INSTALL PLUGIN x SONAME 'x'",
            "CREATE FUNCTION f RETURNS STRING SONAME 'x.so'",
            "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')",
            "ALTER INSTANCE ROTATE INNODB MASTER KEY",
            "LOCK INSTANCE FOR BACKUP",
            "INSERT INTO mysql.user VALUES (1)",
            "SELECT * FROM mysql.global_priv",
            "UPDATE performance_schema.setup_consumers SET enabled = 'NO'",
            "CALL sys.execute_prepared_stmt('x')",
            "SHOW GRANTS FOR root",
            "SHOW CREATE USER root",
            "SHOW MASTER STATUS",
            "SHOW ALL SLAVES STATUS",
            "SHOW ENGINE INNODB STATUS",
            "EXPLAIN FOR CONNECTION 5",
            "CREATE PROCEDURE p(x TEXT) EXECUTE IMMEDIATE x",
            "CREATE DEFINER=user@localhost PROCEDURE p(x TEXT) EXECUTE IMMEDIATE x",
            "CREATE PROCEDURE p() BEGIN PREPARE s FROM @x; EXECUTE s; END",
            "BEGIN NOT ATOMIC EXECUTE IMMEDIATE @x; END",
        ] {
            assert!(reach(text).admin.is_some(), "{text}");
        }
        assert!(reach_in("CALL execute_prepared_stmt('x')", Mode::default(), "sys").admin.is_some());
        assert!(reach_in("SELECT * FROM user", Mode::default(), "mysql").admin.is_some());
    }

    #[test]
    fn users_statements_are_no_administrators() {
        for text in [
            "SELECT 1",
            "SELECT * FROM performance_schema.session_variables",
            "CREATE TABLE t (id INT)",
            "CREATE TABLE user (id INT)",
            "ALTER TABLE t ADD x INT",
            "CREATE INDEX i ON t (a)",
            "ANALYZE TABLE t",
            "CHECKSUM TABLE t",
            "OPTIMIZE TABLE t",
            "START TRANSACTION",
            "SET NAMES utf8mb4",
            "SET autocommit = 0",
            "SHOW TABLES",
            "SHOW ENGINES",
            "SHOW VARIABLES",
            "SHOW CREATE TABLE t",
            "PREPARE s FROM 'SELECT 1'",
            "EXECUTE IMMEDIATE 'SELECT 1'",
            "CREATE PROCEDURE p() SELECT 1",
            "CALL p(1)",
            "LOCK TABLES t READ",
            "SELECT prepare FROM t",
        ] {
            assert_eq!(reach(text).admin, None, "{text}");
        }
    }

    #[test]
    fn qualifiers_and_schemas_are_listed_once() {
        let found =
            reach("SELECT a.x, a.y, app.b.z FROM app.a, `other` . b AS b WHERE b.`n` = 1.5 AND c . d");
        assert_eq!(found.qualifiers, ["a", "app", "other", "b", "c"]);
        assert!(found.schemas.is_empty() && !found.opaque);
        assert_eq!(reach("SHOW COLUMNS FROM app.t FROM other").schemas, ["other"]);
        assert_eq!(reach("DROP DATABASE IF EXISTS other").schemas, ["other"]);
        assert!(reach("ALTER DATABASE CHARACTER SET latin1").schemas.is_empty());
        assert_eq!(reach("SELECT /*!99999 1, */ other FROM t").qualifiers, ["SELECT", "other", "FROM", "t"]);
        assert_eq!(reach("SELECT 1 FROM other/*!99999 1 */.t").qualifiers, ["SELECT", "FROM", "other", "t"]);
    }

    #[test]
    fn what_a_server_may_read_differently_is_opaque() {
        let foreign = Mode { foreign_charset: true, ..Mode::default() };
        assert!(reach_in("SELECT * FROM \u{e9}.t", foreign, "app").opaque);
        assert!(!reach("SELECT * FROM \u{e9}.t").opaque);
        for text in ["SELECT /*!99999 ' */ 1", "SELECT /*!99999 -- */ 1", "SELECT 'x", "SELECT /*!99999 1"] {
            assert!(reach(text).opaque, "{text}");
        }
        assert!(!reach("/*!999999\\- enable the sandbox mode */").opaque);
        let many: String = (0..300).map(|n| format!("a{n}.x,")).collect();
        assert!(reach(&format!("SELECT {many} 1")).opaque);
        assert!(reach(&format!("SELECT {many} usher.x")).own);
    }

    #[test]
    fn statements_with_comments_for_some_servers_have_digests_of_their_own() {
        let hash = |text: &str| crate::digest(text.as_bytes(), Mode::default(), &mut Vec::new()).hash;
        assert_ne!(hash("SELECT /*!99999 ' */ a -- '"), hash("SELECT /*!99999 ' */ b -- '"));
        assert_ne!(hash("SELECT /*!99999 -- */ a"), hash("SELECT /*!99999 -- */ b"));
        assert_eq!(hash("/*!40101 SET NAMES 'a' */"), hash("/*!40101 SET NAMES 'b' */"));
    }
}
