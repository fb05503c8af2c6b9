//! Random statements on a real MariaDB: what is planned for one user must do on that user's rows alone what it does
//! on everybody's. `cargo test -p usher-sql --test soundness -- --ignored`; `USHER_SEED` and `USHER_STATEMENTS` choose
//! others and more.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use usher_sql::{
    Catalog, Key, KeyType, KeyValue, Literal, Mode, Sharded, Table, Target, canonical_key, digest, plan,
};

/// The user whose rows the small schema has.
const USER: &str = "2";

/// Tables, their key columns and all their columns. The last is none: its rows are the same everywhere.
const TABLES: [(&str, &str, &[&str]); 5] = [
    ("users", "user_id", &["user_id", "name", "n"]),
    ("photos", "user_id", &["id", "user_id", "title", "views"]),
    ("comments", "user_id", &["user_id", "photo_id", "body"]),
    ("followers", "followed_id", &["followed_id", "user_id"]),
    ("(SELECT 2 AS user_id UNION ALL SELECT 3 UNION ALL SELECT NULL)", "user_id", &["user_id"]),
];

/// How many of them are tables.
const REAL: usize = 4;

fn catalog() -> Catalog {
    let mut catalog = Catalog::new(1, false);
    for (name, key, columns) in &TABLES[..REAL] {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        let (key_column, key_type) = ((*key).to_owned(), KeyType::BIGINT);
        catalog.insert(
            "app",
            name,
            Table::Sharded(Sharded { key_column, key_type, sequence: None, columns }),
        );
    }
    catalog
}

/// xorshift64*
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn pick<'p, T: ?Sized>(&mut self, from: &[&'p T]) -> &'p T {
        from[self.roll(from.len())]
    }
}

/// A table in sight: its alias and its place in `TABLES`.
type Alias = (String, usize);

struct Writer {
    dice: Dice,
    aliases: usize,
}

impl Writer {
    fn table(&mut self) -> (String, Alias) {
        let at = self.dice.roll(TABLES.len());
        self.aliases += 1;
        // Few names, so that inner blocks often hide outer ones.
        let alias = format!("t{}", self.dice.roll(4));
        if at == REAL {
            return (format!("{} {alias}", TABLES[at].0), (alias, at));
        }
        let index = self.dice.pick(&["", "", "", " USE INDEX ()", " IGNORE INDEX FOR JOIN (PRIMARY)"]);
        (format!("{} {}{alias}{index}", TABLES[at].0, self.dice.pick(&["", "AS "])), (alias, at))
    }

    fn column(&mut self, sight: &[Alias], key: bool) -> String {
        let (alias, table) = sight[self.dice.roll(sight.len())].clone();
        let (_, key_column, columns) = TABLES[table];
        let column = if key { key_column } else { columns[self.dice.roll(columns.len())] };
        match self.dice.roll(6) {
            0 => column.to_owned(),
            1 => format!("`{alias}`.`{}`", column.to_uppercase()),
            _ => format!("{alias}.{column}"),
        }
    }

    fn literal(&mut self) -> String {
        self.dice
            .pick(&["2", "2", "2", "2", "'2'", "1", "3", "NULL", "'x'", "-2", "2.0", "0x2", "0"])
            .to_owned()
    }

    fn comparison(&mut self, sight: &[Alias], depth: usize) -> String {
        let key = self.column(sight, true);
        match self.dice.roll(22) {
            0..=6 => format!("{key} = {}", self.dice.pick(&["2", "2", "'2'", "2.0", "+2"])),
            7..=9 => format!("{key} = {}", self.column(sight, true)),
            10 => format!(
                "{} {} {}",
                self.column(sight, false),
                self.dice.pick(&["=", "<>", "<", "<=>", "!="]),
                self.literal()
            ),
            11 => format!("{key} IN ({})", self.dice.pick(&["2", "2, 2", "2, 3", "NULL, 2", "1"])),
            12 => format!("{} BETWEEN {} AND {}", self.column(sight, false), self.literal(), self.literal()),
            13 => format!("{} BETWEEN 1 AND {key} = 2", self.column(sight, false)),
            14 => format!(
                "{key} = 2 {} {}",
                self.dice.pick(&["=", "<>", "+", "DIV", "IS NOT NULL AND", "&", "MOD"]),
                self.literal()
            ),
            15 => format!(
                "{key} {}",
                self.dice.pick(&["IS NULL", "IS NOT NULL", "= 2 IS TRUE", "= 2 IS FALSE", "LIKE 2"])
            ),
            16 if depth > 0 => format!(
                "{}EXISTS ({})",
                self.dice.pick(&["", "NOT "]),
                self.select(sight, depth - 1, Some("1"))
            ),
            17 if depth > 0 => {
                let column = self.column(sight, false);
                format!(
                    "{column} {}IN ({})",
                    self.dice.pick(&["", "NOT "]),
                    self.select(sight, depth - 1, None)
                )
            }
            19 => {
                let (other, value) = (self.column(sight, false), self.literal());
                let op = self.dice.pick(&["=", "=", "IN", "IN", "NOT IN", "<>", "<"]);
                match op {
                    "IN" | "NOT IN" => {
                        format!("({other}, {key}) {op} (({value}, 2), (1, {}))", self.dice.pick(&["2", "3"]))
                    }
                    _ => format!("({key}, {other}) {op} (2, {value})"),
                }
            }
            18 => format!("{} {key} = 2", self.dice.pick(&["NOT", "!", "-", "BINARY"])),
            _ => format!("{} = {key}", self.literal()),
        }
    }

    fn condition(&mut self, sight: &[Alias], depth: usize) -> String {
        let mut text = self.comparison(sight, depth);
        while self.dice.roll(3) > 0 {
            let more = match self.dice.roll(12) {
                0 => format!("({})", self.condition(sight, depth.saturating_sub(1))),
                1 => format!(
                    "CASE WHEN {} THEN {} ELSE {} END",
                    self.comparison(sight, 0),
                    self.comparison(sight, 0),
                    self.comparison(sight, 0)
                ),
                _ => self.comparison(sight, depth),
            };
            let joint = self
                .dice
                .pick(&["AND", "AND", "AND", "AND", "AND", "AND", "&&", "OR", "XOR", "||", "AND NOT"]);
            text = if self.dice.roll(2) == 0 {
                format!("{text} {joint} {more}")
            } else {
                format!("{more} {joint} {text}")
            };
        }
        if self.dice.roll(12) == 0 { format!("({text})") } else { text }
    }

    /// The text behind FROM and what it brings in sight.
    fn from(&mut self, outer: &[Alias], depth: usize) -> (String, Vec<Alias>) {
        let (mut text, first) = self.table();
        let mut own = vec![first];
        while self.dice.roll(5) > 2 && own.len() < 4 {
            let nested = self.dice.roll(8) == 0;
            let (mut right, alias) = self.table();
            let mut added = vec![alias];
            if nested {
                let (more, alias) = self.table();
                added.push(alias);
                let on = self.condition(&added, 0);
                right = format!(
                    "({right} {} {more} ON {on})",
                    self.dice.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN"])
                );
            }
            let sight = [own.clone(), added.clone()].concat();
            let join = self.dice.pick(&[
                "JOIN",
                "JOIN",
                "INNER JOIN",
                "LEFT JOIN",
                "LEFT JOIN",
                "RIGHT OUTER JOIN",
                "STRAIGHT_JOIN",
                ",",
                "NATURAL JOIN",
                "NATURAL LEFT JOIN",
                "CROSS JOIN",
            ]);
            let on_sight =
                if self.dice.roll(6) == 0 { [outer.to_vec(), sight.clone()].concat() } else { sight };
            let constraint = match join {
                "," | "NATURAL JOIN" | "NATURAL LEFT JOIN" => String::new(),
                "CROSS JOIN" | "STRAIGHT_JOIN" if self.dice.roll(2) == 0 => String::new(),
                "STRAIGHT_JOIN" => format!(" ON {}", self.condition(&on_sight, depth.min(1))),
                _ if self.dice.roll(4) == 0 => " USING (user_id)".to_owned(),
                _ => format!(" ON {}", self.condition(&on_sight, depth.min(1))),
            };
            text = format!("{text} {join} {right}{constraint}");
            own.extend(added);
        }
        if depth > 0 && self.dice.roll(6) == 0 {
            let inner = self.select(&[], depth - 1, None);
            self.aliases += 1;
            let join = self.dice.pick(&[",", "LEFT JOIN", "JOIN"]);
            let on = if join == "LEFT JOIN" { " ON 1" } else { "" };
            write!(text, " {join} ({inner}) d{}{on}", self.aliases).unwrap();
        }
        (text, own)
    }

    fn select(&mut self, outer: &[Alias], depth: usize, list: Option<&str>) -> String {
        let (from, own) = self.from(outer, depth);
        let sight = if self.dice.roll(2) == 0 { own.clone() } else { [outer.to_vec(), own.clone()].concat() };
        let list = match list {
            Some(list) => list.to_owned(),
            None if depth > 0 && self.dice.roll(8) == 0 => {
                format!("({}) AS s", self.select(&own, depth - 1, Some("COUNT(*)")))
            }
            None => format!("{} AS c", self.column(&own, false)),
        };
        let mut text = format!("SELECT {list} FROM {from}");
        if self.dice.roll(12) > 0 {
            write!(text, " WHERE {}", self.condition(&sight, depth)).unwrap();
        }
        text
    }

    fn statement(&mut self) -> String {
        match self.dice.roll(12) {
            0 => {
                let (from, own) = self.from(&[], 1);
                let alias = &own[self.dice.roll(own.len())].0;
                format!("DELETE {alias} FROM {from} WHERE {}", self.condition(&own, 1))
            }
            1 => {
                let (from, own) = self.from(&[], 1);
                let set = format!("{} = {}", self.column(&own, false), self.dice.pick(&["2", "7", "3"]));
                format!("UPDATE {from} SET {set} WHERE {}", self.condition(&own, 1))
            }
            2 => {
                let op = self.dice.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
                format!("{} {op} {}", self.select(&[], 1, None), self.select(&[], 1, None))
            }
            3 => format!("WITH w AS ({}) SELECT w.c FROM w, {}", self.select(&[], 1, None), {
                let (from, own) = self.from(&[], 1);
                format!("{from} WHERE {}", self.condition(&own, 1))
            }),
            _ => {
                let list = self.dice.pick(&["*", "*", "", "COUNT(*)"]);
                self.select(&[], 2, Some(list).filter(|list| !list.is_empty()))
            }
        }
    }
}

/// Whether the statement is planned for `USER`.
fn is_for_user(text: &str, catalog: &Catalog) -> bool {
    let mut literals = Vec::new();
    digest(text.as_bytes(), Mode::default(), &mut literals);
    let Target::User { sources } = plan(text.as_bytes(), Some("app"), Mode::default(), catalog).target else {
        return false;
    };
    let is_user = |value: &KeyValue, key_type: KeyType, literals: &[Literal]| {
        let KeyValue::Literal { ordinal, negative } = value else { return false };
        let literal = literals[*ordinal as usize];
        let raw = &text.as_bytes()[literal.span()];
        canonical_key(raw, literal.kind, *negative, key_type, Mode::default()) == Ok(Key::Is(USER.into()))
    };
    sources.iter().all(|source| is_user(&source.value, source.key_type, &literals))
}

struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("usher-sql-soundness-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let data = dir.join("data");
        let user = std::env::var("USER").unwrap_or_else(|_| "root".into());
        // A starting MariaDB removes the temporary files of all others that share the folder.
        let installed = Command::new("mariadb-install-db")
            .env("TMPDIR", &dir)
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--user={user}"))
            .output()
            .unwrap();
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let child = Command::new("mariadbd")
            .env("TMPDIR", &dir)
            .args(["--no-defaults", "--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--sql-mode="])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", dir.join("s").display()))
            .arg(format!("--user={user}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, dir };
        let begun = Instant::now();
        while server.run("", "SELECT 1").trim() != "1" {
            assert!(begun.elapsed() < Duration::from_secs(60), "mariadbd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Output and errors of a script, without the errors' line numbers.
    fn run(&self, schema: &str, script: &str) -> String {
        let file = self.dir.join("script.sql");
        let mut out = std::fs::File::create(&file).unwrap();
        out.write_all(script.as_bytes()).unwrap();
        let output = shell(&self.dir, schema, &file);
        let lines = output.lines().map(|line| match line.split_once(" at line ") {
            Some((error, rest)) => {
                format!("{error}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn shell(dir: &Path, schema: &str, script: &Path) -> String {
    let command = format!(
        "exec mariadb --no-defaults -u root --socket={} --batch --force --unbuffered --skip-column-names {schema} < {} 2>&1",
        dir.join("s").display(),
        script.display()
    );
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Both schemas: rows of four users, and the rows of `USER` alone.
fn schemas(dice: &mut Dice) -> String {
    let mut script = String::new();
    for schema in ["app", "alone"] {
        write!(
            script,
            "CREATE DATABASE {schema}; USE {schema};
            CREATE TABLE users (user_id BIGINT PRIMARY KEY, name VARCHAR(9), n INT);
            CREATE TABLE photos (id BIGINT, user_id BIGINT, title VARCHAR(9), views INT);
            CREATE TABLE comments (user_id BIGINT, photo_id BIGINT, body VARCHAR(9));
            CREATE TABLE followers (followed_id BIGINT, user_id BIGINT);\n"
        )
        .unwrap();
    }
    for user in 1..=4 {
        let mut rows = vec![("users", format!("{user}, '{user}', {}", dice.roll(4)))];
        for _ in 0..3 {
            let small = |dice: &mut Dice| dice.roll(4);
            rows.push(("photos", format!("{}, {user}, '{}', {}", small(dice), small(dice), small(dice))));
            rows.push(("comments", format!("{user}, {}, '{}'", small(dice), small(dice))));
            rows.push(("followers", format!("{user}, {}", small(dice) + 1)));
        }
        for (table, row) in rows {
            writeln!(script, "INSERT INTO app.{table} VALUES ({row});").unwrap();
            if user.to_string() == USER {
                writeln!(script, "INSERT INTO alone.{table} VALUES ({row});").unwrap();
            }
        }
    }
    script
}

/// The statement, and for a change the rows that are there then: the user's, and the others'.
fn script(statements: &[String]) -> String {
    let mut script = String::new();
    for (at, statement) in statements.iter().enumerate() {
        writeln!(script, "SELECT '@@@{at}';").unwrap();
        if statement.starts_with("SELECT") || statement.starts_with("WITH") {
            writeln!(script, "{statement};").unwrap();
            continue;
        }
        writeln!(script, "BEGIN;\n{statement};").unwrap();
        for (table, key, _) in &TABLES[..REAL] {
            writeln!(script, "SELECT '{table}', t.* FROM {table} t WHERE {key} = {USER};").unwrap();
            writeln!(
                script,
                "SELECT 'others', '{table}', t.* FROM {table} t WHERE {key} <> {USER} OR {key} IS NULL;"
            )
            .unwrap();
        }
        writeln!(script, "ROLLBACK;").unwrap();
    }
    script
}

/// Sorted lines of each statement's answer, without other users' rows, and those apart.
fn answers(output: &str) -> Vec<(Vec<&str>, Vec<&str>)> {
    output
        .split("@@@")
        .skip(1)
        .map(|part| {
            let mut lines: Vec<&str> = part.lines().skip(1).collect();
            lines.sort_unstable();
            lines.into_iter().partition(|line| !line.starts_with("others"))
        })
        .collect()
}

#[test]
#[ignore = "starts a mariadbd and takes half a minute"]
fn one_users_rows_suffice() {
    let setting = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seed = setting("USHER_SEED", 1);
    let wanted = setting("USHER_STATEMENTS", 5000) as usize;
    let catalog = catalog();
    let mut writer = Writer { dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), aliases: 0 };
    let (mut statements, mut tried) = (Vec::new(), 0);
    while statements.len() < wanted {
        tried += 1;
        let statement = writer.statement();
        if is_for_user(&statement, &catalog) {
            statements.push(statement);
        }
    }
    let server = Server::start();
    let built = server.run("", &schemas(&mut writer.dice));
    assert!(!built.contains("ERROR"), "{built}");
    let script = script(&statements);
    let (whole, alone) = (server.run("app", &script), server.run("alone", &script));
    let (whole, alone) = (answers(&whole), answers(&alone));
    assert_eq!((whole.len(), alone.len()), (wanted, wanted));
    let idle = server.run("app", &self::script(&["DO 1".to_owned()]));
    let untouched = answers(&idle).remove(0).1;
    let (mut failed, mut errors, mut rows) = (0, 0, 0);
    for ((statement, whole), alone) in statements.iter().zip(whole).zip(alone) {
        errors += usize::from(whole.0.iter().any(|line| line.starts_with("ERROR")));
        rows += usize::from(!whole.0.is_empty());
        let others_kept = whole.1.is_empty() || whole.1 == untouched;
        if whole.0 != alone.0 || !others_kept || !alone.1.is_empty() {
            failed += 1;
            if failed <= 5 {
                println!(
                    "{statement}\n  of all: {:?}\n  alone:  {:?}\n  others kept: {others_kept}",
                    whole.0, alone.0
                );
            }
        }
    }
    println!(
        "seed {seed}: {tried} statements, {wanted} for one user, {rows} with rows, {errors} errors, {failed} wrong"
    );
    assert_eq!(failed, 0, "seed {seed}");
}
