//! Keys, SET, schema changes and the points where ids go.
#![allow(clippy::unwrap_used)]

use usher_sql::effects::{self, Assignment, Constant, Set, Value};
use usher_sql::{
    Bound, Catalog, Declaration, Key, KeyError, KeyType, LiteralKind, Mode, Sharded, Table, TextRule,
    asks_for_id, bound_key, canonical_key, ddl, digest, insert_points, plan, splice,
};

fn key(text: &str, key_type: KeyType) -> Result<String, KeyError> {
    let mut literals = Vec::new();
    digest(text.as_bytes(), Mode::default(), &mut literals);
    let literal = literals[0];
    let negative = text.starts_with('-');
    match canonical_key(&text.as_bytes()[literal.span()], literal.kind, negative, key_type, Mode::default())?
    {
        Key::Is(key) => Ok(key),
        Key::Null => Ok("NULL".into()),
    }
}

#[test]
fn integer_keys() {
    let int = KeyType::BIGINT;
    for same in ["623", "'623'", "' 623 '", "0623", "623.0", "'623.00'", "\"623\"", "0x26F", "'+623'"] {
        assert_eq!(key(same, int).as_deref(), Ok("623"), "{same}");
    }
    assert_eq!(key("-5", int).as_deref(), Ok("-5"));
    assert_eq!(key("'-5'", int).as_deref(), Ok("-5"));
    assert_eq!(key("-0", int).as_deref(), Ok("0"));
    assert_eq!(key("9223372036854775807", int).as_deref(), Ok("9223372036854775807"));
    assert_eq!(key("-9223372036854775808", int).as_deref(), Ok("-9223372036854775808"));
    assert_eq!(key("18446744073709551615", KeyType::BIGINT_UNSIGNED).as_deref(), Ok("18446744073709551615"));
    for (bad, error) in [
        ("'abc'", KeyError::NotInteger),
        ("'623abc'", KeyError::NotInteger),
        ("''", KeyError::NotInteger),
        ("623.5", KeyError::NotInteger),
        ("6e2", KeyError::NotInteger),
        (".5", KeyError::NotInteger),
        ("9223372036854775808", KeyError::OutOfRange),
        ("99999999999999999999999999999999999999999999", KeyError::OutOfRange),
        ("x'0F'", KeyError::OddLiteral),
        ("0b11", KeyError::OddLiteral),
        ("_binary'5'", KeyError::OddLiteral),
        ("?", KeyError::Unbound),
        ("0xFFFFFFFFFFFFFFFFFF", KeyError::OutOfRange),
    ] {
        assert_eq!(key(bad, int), Err(error), "{bad}");
    }
    assert_eq!(key("-1", KeyType::BIGINT_UNSIGNED), Err(KeyError::OutOfRange));
    assert_eq!(key("128", KeyType::Int { bits: 8, unsigned: false }), Err(KeyError::OutOfRange));
    assert_eq!(key("200", KeyType::Int { bits: 8, unsigned: true }).as_deref(), Ok("200"));
}

#[test]
fn text_keys() {
    let rule = |name: &str| KeyType::Text(TextRule::from_collation(name).unwrap());
    let folded = rule("utf8mb4_general_ci");
    for same in ["'Bob'", "'bob  '", "'b' 'OB'", "N'bob'", "_utf8mb4'BOB'", r"'b\ob'", "\"bob\""] {
        assert_eq!(key(same, folded).as_deref(), Ok("bob"), "{same}");
    }
    assert_eq!(key("'it''s'", folded).as_deref(), Ok("it's"));
    assert_eq!(key("'bob '", rule("utf8mb4_0900_ai_ci")).as_deref(), Ok("bob "));
    assert_eq!(key("'Bob '", rule("utf8mb4_bin")).as_deref(), Ok("Bob"));
    assert_eq!(key("'Bob '", rule("utf8mb4_0900_bin")).as_deref(), Ok("Bob "));
    assert_eq!(key("'Zoé'", rule("utf8mb4_bin")).as_deref(), Ok("Zoé"));
    assert_eq!(key("'A\n'", rule("binary")).as_deref(), Ok("A\n"));
    assert_eq!(key("_binary'A'", rule("binary")).as_deref(), Ok("A"));
    assert_eq!(key("'Bob'", rule("utf8mb4_0900_as_cs")).as_deref(), Ok("Bob"));
    for (bad, key_type, error) in [
        ("'Zoé'", folded, KeyError::NotAscii),
        ("'a\t'", folded, KeyError::NotAscii),
        (r"'a\0'", folded, KeyError::NotAscii),
        ("5", folded, KeyError::NumberForText),
        ("_binary'bob'", folded, KeyError::OddLiteral),
        ("_latin1'x'", KeyType::BIGINT, KeyError::OddLiteral),
        ("_ucs2'bb'", folded, KeyError::OddLiteral),
        ("x'41'", folded, KeyError::OddLiteral),
        ("'Zoé'", rule("latin1_bin"), KeyError::NotAscii),
    ] {
        assert_eq!(key(bad, key_type), Err(error), "{bad}");
    }
    let long = format!("'{}'", "x".repeat(191));
    assert_eq!(key(&long, folded), Err(KeyError::TooLong));
    for unknown in
        ["utf8mb4_turkish_ci", "utf8mb4_tr_0900_ai_ci", "utf8mb4_latvian_ci", "uca1400_turkish_ai_ci"]
    {
        assert!(TextRule::from_collation(unknown).is_err(), "{unknown}");
    }
    assert!(TextRule::from_collation("utf8mb4_uca1400_ai_ci").unwrap().pad);
    assert!(!TextRule::from_collation("utf8mb4_uca1400_nopad_as_cs").unwrap().pad);
    let foreign = Mode { foreign_charset: true, ..Mode::default() };
    let exact = rule("utf8mb4_bin");
    assert_eq!(
        canonical_key("'é'".as_bytes(), LiteralKind::Text, false, exact, foreign),
        Err(KeyError::ForeignCharset)
    );
}

#[test]
fn bound_keys() {
    let (int, mode) = (KeyType::BIGINT, Mode::default());
    let text = KeyType::Text(TextRule::BINARY);
    let is = |key: &str| Ok(Key::Is(key.into()));
    assert_eq!(bound_key(Bound::Int(-5), int, mode), is("-5"));
    assert_eq!(bound_key(Bound::UInt(u64::MAX), KeyType::BIGINT_UNSIGNED, mode), is("18446744073709551615"));
    assert_eq!(bound_key(Bound::UInt(u64::MAX), int, mode), Err(KeyError::OutOfRange));
    assert_eq!(bound_key(Bound::Float(5.0), int, mode), is("5"));
    assert_eq!(bound_key(Bound::Float(5.5), int, mode), Err(KeyError::NotInteger));
    assert_eq!(bound_key(Bound::Float(f64::NAN), int, mode), Err(KeyError::NotInteger));
    assert_eq!(bound_key(Bound::Float(1e300), int, mode), Err(KeyError::NotInteger));
    assert_eq!(bound_key(Bound::Bytes(b"0005"), int, mode), is("5"));
    assert_eq!(bound_key(Bound::Bytes(b"a'b"), text, mode), is("a'b"));
    assert_eq!(bound_key(Bound::Bytes(b"\xff"), text, mode), Err(KeyError::NotUtf8));
    assert_eq!(bound_key(Bound::Int(5), text, mode), Err(KeyError::NumberForText));
    assert_eq!(bound_key(Bound::Null, text, mode), Ok(Key::Null));
    assert!(asks_for_id(b"0", LiteralKind::Int, mode) && asks_for_id(b"'0'", LiteralKind::Text, mode));
    assert!(!asks_for_id(b"7", LiteralKind::Int, mode));
}

fn assignments(text: &str) -> Vec<Assignment> {
    match effects::parse(text.as_bytes(), Mode::default()).unwrap().unwrap() {
        Set::Assignments(list) => list,
        other => panic!("{other:?}"),
    }
}

/// `scope name=constant` for each variable.
fn variables(text: &str) -> String {
    let shown = assignments(text).into_iter().map(|one| match one {
        Assignment::Variable { scope, name, value } => format!("{scope:?} {name}={}", shown(text, &value)),
        Assignment::UserVar { name, value } => format!("@{name}={}", shown(text, &value)),
        Assignment::Names { charset, collation } => format!("names {charset:?} {collation:?}"),
        Assignment::CharacterSet(charset) => format!("charset {charset:?}"),
        Assignment::Transaction { scope, isolation, read_only } => {
            format!("transaction {scope:?} {} {read_only:?}", isolation.unwrap_or("-"))
        }
    });
    shown.collect::<Vec<_>>().join("; ")
}

fn shown(text: &str, value: &Value) -> String {
    match &value.constant {
        Some(Constant::Int(value)) => value.to_string(),
        Some(Constant::Real(value)) => value.clone(),
        Some(Constant::Text(text)) => format!("'{}'", String::from_utf8_lossy(text)),
        Some(Constant::Default) => "default".into(),
        Some(Constant::Null) => "null".into(),
        None => format!("<{}>", &text[value.span.clone()]),
    }
}

#[test]
fn set_statements() {
    let cases = [
        ("SET autocommit = 0", "Session autocommit=0"),
        (
            "SET @@session.autocommit = 1, @@sql_mode = 'ANSI'",
            "Session autocommit=1; Session sql_mode='ANSI'",
        ),
        (
            "SET GLOBAL a = 1, b = 2, SESSION c := -3, d = ON",
            "Global a=1; Global b=2; Session c=-3; Session d='ON'",
        ),
        ("SET LOCAL wait_timeout = DEFAULT", "Session wait_timeout=default"),
        ("SET PERSIST max_connections = 1.5", "Global max_connections=1.5"),
        ("SET @@GLOBAL.x = NULL, @@persist_only.y = 1", "Global x=null; Global y=1"),
        ("SET @A = 1, @`b c` := 'it''s', x = @a", "@a=1; @b c='it's'; Session x=<@a>"),
        (
            "SET sql_mode = CONCAT(@@sql_mode, ',X'), y = 1",
            "Session sql_mode=<CONCAT(@@sql_mode, ',X')>; Session y=1",
        ),
        ("SET NAMES utf8mb4", "names Some(\"utf8mb4\") None"),
        ("SET NAMES 'UTF8MB4' COLLATE utf8mb4_bin", "names Some(\"utf8mb4\") Some(\"utf8mb4_bin\")"),
        ("SET NAMES DEFAULT", "names None None"),
        ("SET time_zone = '+00:00', NAMES utf8", "Session time_zone='+00:00'; names Some(\"utf8\") None"),
        ("SET CHARACTER SET utf8", "charset Some(\"utf8\")"),
        ("SET CHARSET 'latin1'", "charset Some(\"latin1\")"),
        (
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
            "transaction NextTransaction READ-COMMITTED Some(true)",
        ),
        ("SET SESSION TRANSACTION READ WRITE", "transaction Session - Some(false)"),
        ("SET GLOBAL TRANSACTION ISOLATION LEVEL SERIALIZABLE", "transaction Global SERIALIZABLE None"),
        (
            "SET @@transaction_isolation = 'READ-COMMITTED'",
            "NextTransaction transaction_isolation='READ-COMMITTED'",
        ),
        ("SET transaction_isolation = 'READ-COMMITTED'", "Session transaction_isolation='READ-COMMITTED'"),
        (
            "SET `sql_mode` = \"\", hot.key_buffer_size = 1",
            "Session sql_mode=''; Session hot.key_buffer_size=1",
        ),
        ("/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;", "Session sql_mode=<@OLD_SQL_MODE>"),
    ];
    for (text, expected) in cases {
        assert_eq!(variables(text), expected, "{text}");
    }
    for account in
        ["SET PASSWORD = 'x'", "SET PASSWORD FOR 'u'@'%' = 'x'", "SET ROLE ALL", "SET DEFAULT ROLE r TO u"]
    {
        assert_eq!(effects::parse(account.as_bytes(), Mode::default()), Ok(Some(Set::Account)), "{account}");
    }
    let text = "SET STATEMENT max_statement_time = 1 FOR SELECT 1";
    let Ok(Some(Set::Statement { assignments, statement })) =
        effects::parse(text.as_bytes(), Mode::default())
    else {
        panic!("not SET STATEMENT");
    };
    assert_eq!((assignments.len(), &text[statement..]), (1, "SELECT 1"));
    for bad in ["SET", "SET x", "SET x =", "SET 5 = 5", "SET TRANSACTION READ", "SET a = 1,"] {
        assert!(effects::parse(bad.as_bytes(), Mode::default()).is_err(), "{bad}");
    }
    assert_eq!(effects::parse(b"SELECT 1", Mode::default()), Ok(None));
}

fn parsed(text: &str) -> ddl::Ddl {
    ddl::parse(text.as_bytes(), Some("app"), Mode::default()).unwrap().unwrap()
}

#[test]
fn create_table() {
    let text = "CREATE TABLE IF NOT EXISTS photos (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
        `user_id` bigint(20) NOT NULL COMMENT 'usher:nothing',
        title VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT 'a,b',
        price DECIMAL(10,2) UNSIGNED,
        g INT GENERATED ALWAYS AS (id + 1) STORED,
        PRIMARY KEY (user_id, id), UNIQUE KEY u (id), CONSTRAINT c FOREIGN KEY (user_id) REFERENCES users (user_id)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_unicode_ci COMMENT = 'photos; usher:sharded key=user_id parent=users'";
    let ddl = parsed(text);
    assert!(ddl.conditional);
    assert_eq!(ddl.tables[0].to_string(), "app.photos");
    let table = ddl.create.unwrap();
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "user_id", "title", "price", "g"]);
    assert_eq!(table.primary_key, ["user_id", "id"]);
    assert_eq!(table.auto_increment(), Some("id"));
    let Some(Declaration::Sharded { key, sequence, parent }) = ddl.declaration else { panic!("not sharded") };
    assert_eq!((key.as_str(), &sequence, parent.as_deref()), ("user_id", &None, Some("users")));
    let entry = table.sharded(&key, sequence.as_deref(), None).unwrap();
    assert_eq!((entry.key_type, entry.sequence.as_deref()), (KeyType::BIGINT, Some("id")));
    let by_title = table.sharded("title", None, None).unwrap();
    assert_eq!(by_title.key_type, KeyType::Text(TextRule::from_collation("utf8mb4_bin").unwrap()));
}

#[test]
fn declarations_that_do_not_fit() {
    let error = |text: &str| match ddl::parse(text.as_bytes(), None, Mode::default()) {
        Err(error) => error.to_string(),
        Ok(Some(ddl)) => {
            let Some(Declaration::Sharded { key, sequence, .. }) = ddl.declaration else {
                return "none".into();
            };
            match ddl.create.unwrap().sharded(&key, sequence.as_deref(), Some("utf8mb4_general_ci")) {
                Ok(_) => "fits".into(),
                Err(error) => error.to_string(),
            }
        }
        Ok(None) => "no ddl".into(),
    };
    let with =
        |columns: &str, comment: &str| error(&format!("CREATE TABLE t ({columns}) COMMENT='{comment}'"));
    let good = "id INT PRIMARY KEY, u BIGINT";
    for (columns, comment, expected) in [
        (good, "usher:sharded key=u sequence=id", "fits"),
        (good, "Usher: sharded  key=`u`", "fits"),
        ("name VARCHAR(20) PRIMARY KEY", "usher:sharded key=name", "fits"),
        (good, "just a table of ushers", "none"),
        (good, "usher:sharde key=u", "usher:sharde is unknown"),
        (good, "usher:sharded", "needs key="),
        (good, "usher:sharded kye=u", "option kye is unknown"),
        (good, "usher:sharded key = u", "key has no value"),
        (good, "usher:sharded key=u key=u", "key is there twice"),
        (good, "usher:reference key=u", "option key=u is unknown"),
        (good, "usher sharded key=u", "with a colon"),
        (good, "usher:sharded key=x", "no such column"),
        (good, "usher:sharded key=u sequence=x", "no such column"),
        ("id INT, u BIGINT", "usher:sharded key=u", "needs a primary key"),
        ("id INT PRIMARY KEY, u DATE", "usher:sharded key=u", "must be an integer or a string"),
        (
            "id INT PRIMARY KEY, u VARCHAR(9) COLLATE utf8mb4_turkish_ci",
            "usher:sharded key=u",
            "rules that usher does not know",
        ),
        ("id VARCHAR(9) PRIMARY KEY, u INT", "usher:sharded key=u sequence=id", "is not an integer"),
        ("id INT, u INT UNIQUE KEY", "usher:sharded key=u", "needs a primary key"),
        ("id SERIAL, u INT, PRIMARY KEY (id)", "usher:sharded key=u", "fits"),
    ] {
        let actual = with(columns, comment);
        assert!(actual.contains(expected), "{columns} {comment}: {actual}");
    }
}

#[test]
fn what_declares_nothing_is_the_servers_to_read() {
    for text in ["CREATE TABLE x ((SELECT 1))", "CREATE TABLE x (((VALUES (1)) LIMIT 1))"] {
        assert!(parsed(text).create.unwrap().from_query, "{text}");
    }
    assert!(parsed("CREATE TABLE x (a INT").create.is_some());
    let declared = b"CREATE TABLE x (a INT COMMENT 'usher:sharded key=a'";
    assert!(matches!(ddl::parse(declared, None, Mode::default()), Err(ddl::DdlError::Unreadable(_))));
}

#[test]
fn other_schema_changes() {
    let ddl = parsed(
        "ALTER TABLE x.photos ADD COLUMN c INT COMMENT 'usher:sharded key=c', COMMENT 'usher:sharded key=user_id'",
    );
    assert_eq!(ddl.tables[0].to_string(), "x.photos");
    assert!(matches!(ddl.declaration, Some(Declaration::Sharded { key, .. }) if key == "user_id"));
    assert_eq!(parsed("CREATE TABLE a (LIKE b.c)").like.unwrap().to_string(), "b.c");
    assert_eq!(parsed("DROP DATABASE IF EXISTS `my db`").database.as_deref(), Some("my db"));
    let names = |text: &str| parsed(text).tables.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names("RENAME TABLE a TO b, x.c TO x.d"), ["app.a", "app.b", "x.c", "x.d"]);
    assert_eq!(names("DROP TABLE IF EXISTS a, `b`, c.d CASCADE"), ["app.a", "app.b", "c.d"]);
    assert_eq!(names("CREATE UNIQUE INDEX i USING BTREE ON t (a)"), ["app.t"]);
    assert!(parsed("CREATE TABLE t (id INT) AS SELECT 1").create.unwrap().from_query);
    assert_eq!(ddl::parse(b"CREATE USER x", None, Mode::default()), Ok(None));
    assert_eq!(ddl::parse(b"SELECT 1", None, Mode::default()), Ok(None));
}

/// The text with ids 101, 102 .. where they belong.
fn with_ids(text: &str) -> String {
    let mut catalog = Catalog::new(1, false);
    let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let table = |key: &str, sequence: &str, names: &[&str]| {
        let (key_column, sequence) = (key.to_owned(), Some(sequence.to_owned()));
        Table::Sharded(Sharded { key_column, key_type: KeyType::BIGINT, sequence, columns: columns(names) })
    };
    catalog.insert("app", "photos", table("user_id", "id", &["id", "user_id", "title"]));
    catalog.insert("app", "users", table("user_id", "user_id", &["user_id", "name"]));
    let planned = plan(text.as_bytes(), Some("app"), Mode::default(), &catalog);
    let shape = planned.insert.unwrap_or_else(|| panic!("{text}: {}", planned.target));
    let points = insert_points(text.as_bytes(), Mode::default(), &shape).unwrap();
    let mut changes: Vec<_> = points.column.into_iter().map(|(at, name)| (at..at, name)).collect();
    for (i, point) in points.values.into_iter().enumerate() {
        changes.push((point.span, format!("{}{}{}", point.before, 101 + i, point.after)));
    }
    let mut out = Vec::new();
    splice(text.as_bytes(), &changes, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn ids_are_written_where_they_belong() {
    let cases = [
        (
            "INSERT INTO photos (user_id, title) VALUES (5, 'x'), (5,'(y')",
            "INSERT INTO photos (`id`, user_id, title) VALUES (101, 5, 'x'), (102, 5,'(y')",
        ),
        (
            "INSERT photos VALUES (NULL, 5, 'x'), ( DEFAULT ,5,''), (0, 5, '')",
            "INSERT photos VALUES (101, 5, 'x'), ( 102 ,5,''), (103, 5, '')",
        ),
        (
            "REPLACE INTO photos (title, id, user_id) VALUE ('x', NULL, 5)",
            "REPLACE INTO photos (title, id, user_id) VALUE ('x', 101, 5)",
        ),
        ("INSERT INTO photos SET user_id = 5", "INSERT INTO photos SET `id` = 101, user_id = 5"),
        (
            "INSERT INTO photos SET user_id = 5, id = NULL, title = ''",
            "INSERT INTO photos SET user_id = 5, id = 101, title = ''",
        ),
        ("INSERT INTO users VALUES ()", "INSERT INTO users (`user_id`) VALUES (101)"),
        ("INSERT INTO users () VALUES ()", "INSERT INTO users (`user_id`) VALUES (101)"),
        (
            "/* x */ INSERT INTO users (name) VALUES ('bob') ON DUPLICATE KEY UPDATE name = ''",
            "/* x */ INSERT INTO users (`user_id`, name) VALUES (101, 'bob') ON DUPLICATE KEY UPDATE name = ''",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(with_ids(text), expected);
    }
}

#[test]
fn the_example_applications_tables_fit() {
    let schema = include_str!("../../../examples/photos/schema.sql");
    let (mut sharded, mut plain) = (0, 0);
    let mut rest = schema.as_bytes();
    loop {
        let second = digest(rest, Mode::default(), &mut Vec::new()).second_statement;
        let statement = &rest[..second.unwrap_or(rest.len())];
        if let Some(ddl) = ddl::parse(statement, Some("app"), Mode::default()).unwrap() {
            match ddl.declaration {
                Some(Declaration::Sharded { key, sequence, .. }) => {
                    let table = ddl.create.unwrap().sharded(&key, sequence.as_deref(), None).unwrap();
                    assert_eq!(table.key_type, KeyType::BIGINT);
                    sharded += 1;
                }
                _ => plain += 1,
            }
        }
        let Some(next) = second else { break };
        rest = &rest[next..];
    }
    assert_eq!(sharded, schema.matches("usher:sharded").count());
    assert!(plain > 0);
}
