//! Many sessions set, change and use every kind of session state over few connections to servers, each statement in
//! lockstep with a plain connection to one server: the answers are the same to the letter.
//!
//! `TEST_SEED`, `TEST_SESSIONS` and `TEST_STEPS` change what is run; the seed of a run is printed.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use mysql_async::prelude::{Protocol, Queryable};
use mysql_async::{Conn, Error, QueryResult, Row};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use usher_integration_tests::{Bed, Login, admin};
use usher_playground::Server;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_on_one_server_on_mariadb() {
    as_on_one_server(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_on_one_server_on_mysql() {
    as_on_one_server(Server::Mysql).await;
}

async fn as_on_one_server(kind: Server) {
    let seed = setting("TEST_SEED", rand::random::<u32>().into());
    let (sessions, steps) = (setting("TEST_SESSIONS", 40), setting("TEST_STEPS", 80));
    eprintln!("TEST_SEED={seed} TEST_SESSIONS={sessions} TEST_STEPS={steps}");
    let bed = Bed::up_with(&format!("state-{kind:?}").to_lowercase(), 1, 0, kind, false).await;
    let change = |config: &mut usher_config::Config| {
        // Every sixth session holds a connection by temporary tables and locks.
        config.limits.backends_per_server_max = usize::try_from(sessions / 6 + 6).unwrap();
        config.limits.backends_per_server_idle_max = 3;
        config.users[0].schemas = Vec::new();
    };
    let proxy = bed.proxy(1, change).await;
    // The plain server is the writer of the shard, in a schema that usher does not know.
    let shard = bed.shard("s1");
    let plain = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
    let mut both = (proxy.login().database(None).connect().await.unwrap(), admin(plain).await);
    for conn in [&mut both.0, &mut both.1] {
        conn.query_drop("CREATE DATABASE IF NOT EXISTS solo").await.unwrap();
        conn.query_drop("CREATE DATABASE IF NOT EXISTS other").await.unwrap();
    }
    let mut running = Vec::new();
    for number in 0..sessions {
        // Statements prepared anew each time: what an old one means after SET NAMES differs.
        let fresh = |builder: mysql_async::OptsBuilder| builder.stmt_cache_size(0).db_name(Some("solo"));
        let through = proxy.login().with(fresh).connect().await.unwrap();
        let direct =
            Login::new(plain.port, &plain.user, &plain.password).with(fresh).connect().await.unwrap();
        let pair = Pair { through, direct, number, kind, done: String::new() };
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number);
        running.push(tokio::spawn(pair.run(rng, steps)));
    }
    let mut failed = Vec::new();
    for session in running {
        failed.extend(session.await.unwrap().err());
    }
    let few: Vec<&String> = failed.iter().take(3).collect();
    assert!(
        failed.is_empty(),
        "seed {seed}: {} of {sessions} sessions\n{}",
        failed.len(),
        few.iter().fold(String::new(), |all, one| all + one + "\n")
    );
}

/// The same session twice. Left out is what servers themselves get wrong: a transaction that is only to read stays so
/// for the ones behind it, if autocommit is set or BEGIN said in between; and MySQL keeps the type that a parameter of
/// PREPARE had when it was first executed.
struct Pair {
    through: Conn,
    direct: Conn,
    number: u64,
    kind: Server,
    done: String,
}

impl Pair {
    async fn run(mut self, mut rng: StdRng, steps: u64) -> Result<(), String> {
        let number = self.number;
        let ids = "id INT AUTO_INCREMENT PRIMARY KEY";
        for table in ["t", "u"] {
            self.both(&format!(
                "CREATE TABLE {table}{number} ({ids}, n INT NOT NULL, s VARCHAR(5), UNIQUE (n))"
            ))
            .await?;
        }
        let mut holds = Holds::default();
        for _ in 0..steps {
            let statement = holds.statement(&mut rng, number, self.kind);
            self.both(&statement).await?;
        }
        Ok(())
    }

    async fn both(&mut self, statement: &str) -> Result<(), String> {
        let prepared = statement.strip_prefix("prepared: ");
        let (left, right) = match prepared {
            Some(text) => (binary(&mut self.through, text).await, binary(&mut self.direct, text).await),
            None => (text(&mut self.through, statement).await, text(&mut self.direct, statement).await),
        };
        let _ = writeln!(self.done, "{statement}");
        // A variable that is NULL keeps the type it had on its connection; servers differ in the default collation of
        // utf8mb4, which is that of the columns of SHOW WARNINGS.
        let null = statement.contains('@') || statement.starts_with("SHOW ");
        let values = |answer: &str| answer.split_once('[').map(|(_, values)| values.to_owned());
        if left == right || null && values(&left) == values(&right) {
            return Ok(());
        }
        let tail: Vec<&str> = self.done.lines().rev().take(25).collect();
        let tail = tail.into_iter().rev().fold(String::new(), |all, line| all + "    " + line + ";\n");
        Err(format!(
            "session {}, after\n{tail}  through usher: {left}\n  plain server:  {right}",
            self.number
        ))
    }
}

async fn text(conn: &mut Conn, statement: &str) -> String {
    answer(conn.query_iter(statement).await).await
}

async fn binary(conn: &mut Conn, statement: &str) -> String {
    answer(conn.exec_iter(statement, ()).await).await
}

/// All that a driver shows of an answer.
async fn answer<P: Protocol>(result: Result<QueryResult<'_, '_, P>, Error>) -> String {
    let mut result = match result {
        Ok(result) => result,
        Err(error) => return failure(&error),
    };
    let mut out = String::new();
    loop {
        if let Some(columns) = result.columns() {
            for column in columns.iter() {
                let _ = write!(
                    out,
                    "{}:{:?}:{}:{:?}:{} ",
                    column.name_str(),
                    column.column_type(),
                    column.character_set(),
                    column.flags(),
                    column.decimals()
                );
            }
        }
        match result.collect::<Row>().await {
            Ok(rows) => rows.into_iter().for_each(|row| {
                let _ = write!(out, "{:?}", row.unwrap());
            }),
            Err(error) => return out + &failure(&error),
        }
        let _ = write!(
            out,
            " affected {} id {:?} warnings {} info {:?}",
            result.affected_rows(),
            result.last_insert_id(),
            result.warnings(),
            result.info()
        );
        if result.is_empty() {
            return out;
        }
    }
}

fn failure(error: &Error) -> String {
    match error {
        Error::Server(error) => format!("error {} {} {}", error.code, error.state, error.message),
        other => format!("{other}"),
    }
}

/// What a session must not forget to end.
#[derive(Default)]
struct Holds {
    tables_locked: bool,
    /// SET TRANSACTION was said: what uses it up besides a transaction differs between servers.
    begins: bool,
    /// The statement before had rows.
    rows: bool,
    /// The statement before used a table: what else clears its warnings differs between servers.
    table_used: bool,
}

impl Holds {
    fn statement(&mut self, rng: &mut StdRng, number: u64, kind: Server) -> String {
        let small = rng.random_range(0..30);
        if self.tables_locked {
            self.tables_locked = rng.random_bool(0.5);
            let t = format!("t{number}");
            return match self.tables_locked {
                true => format!("INSERT INTO {t} (n) VALUES ({small})"),
                false => "UNLOCK TABLES".to_owned(),
            };
        }
        if std::mem::take(&mut self.begins) {
            return "BEGIN".to_owned();
        }
        let table_used = std::mem::take(&mut self.table_used);
        if std::mem::take(&mut self.rows) && rng.random_bool(0.3) {
            return "SELECT FOUND_ROWS()".to_owned();
        }
        let pins = number.is_multiple_of(6);
        let isolation = match kind {
            Server::Mariadb => "@@tx_isolation",
            Server::Mysql => "@@transaction_isolation",
        };
        let choice = rng.random_range(0..if pins { 12 } else { 9 });
        match choice {
            0 | 1 => pick(rng, VARIABLES).to_owned(),
            2 => {
                let statement = pick(rng, SETTINGS);
                self.begins = statement.starts_with("SET TRANSACTION");
                statement.to_owned()
            }
            3 => pick(rng, READS).replace("@@isolation", isolation),
            4 => pick(rng, TRANSACTIONS).to_owned(),
            7 if table_used => pick(rng, DIAGNOSTICS).to_owned(),
            5 => pick(rng, AFTERWARDS).to_owned(),
            6 | 7 => {
                self.table_used = true;
                let statement = pick(rng, CHANGES);
                self.rows = statement.starts_with("SELECT") && statement.contains("FROM solo.t#");
                statement.replace('#', &number.to_string()).replace('%', &small.to_string())
            }
            8 => {
                let statement = pick(rng, PREPARED);
                statement.replace('#', &number.to_string()).replace('%', &small.to_string())
            }
            9 | 10 => pick(rng, TEMPORARY).to_owned(),
            _ => {
                let statement = pick(rng, LOCKS).replace('#', &number.to_string());
                self.tables_locked = statement.starts_with("LOCK TABLES");
                statement
            }
        }
    }
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).unwrap()
}

const VARIABLES: &[&str] = &[
    "SET @a = 5",
    "SET @a = -7, @b = NULL",
    "SET @a = 1.50",
    "SET @a = 2.5e3",
    "SET @b = 'it''s'",
    "SET @b = _latin1 'caf\\xe9' COLLATE latin1_bin",
    "SET @b = x'00ff'",
    "SET @a = @a + 1",
    "SET @a = (SELECT 18446744073709551615)",
    "SET @b = CONCAT(@b, 'x'), @a = CHAR_LENGTH(@b)",
    "SELECT @a := 41, @a + 1",
    "SELECT 3, 'drei' INTO @a, @b",
    "SELECT @a",
    "SELECT @a, @b, @never",
    "SELECT IFNULL(CONCAT(CHARSET(@b), COLLATION(@b), HEX(@b)), 'none'), @b = 'it''s'",
    "SELECT @a + 1, @a / 3, @b IS NULL",
    "prepared: SELECT @a, @b",
];

const SETTINGS: &[&str] = &[
    "SET sql_mode = ''",
    "SET sql_mode = 'ANSI_QUOTES'",
    "SET sql_mode = DEFAULT",
    "SET sql_mode = \"NO_BACKSLASH_ESCAPES\"",
    "SET sql_mode = CONCAT(@@sql_mode, ',PIPES_AS_CONCAT')",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE'",
    "SET time_zone = '+02:00'",
    "SET time_zone = '-05:30', @a = 9",
    "SET NAMES latin1",
    "SET NAMES utf8mb4",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET character_set_results = NULL",
    "SET sort_buffer_size = 300000",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET SESSION TRANSACTION READ WRITE",
    "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
    "SET foreign_key_checks = 0, unique_checks = OFF",
    "SET sql_select_limit = 2",
    "SET sql_select_limit = DEFAULT",
    "SET lc_time_names = 'de_DE'",
    "SET no_such_variable = 1",
    "SET time_zone = 'Nowhere/City'",
    "SET last_insert_id = 77",
    "SET timestamp = 1000000000",
    "SET timestamp = DEFAULT",
    "USE other",
    "USE solo",
    "USE nowhere",
];

const READS: &[&str] = &[
    "SELECT @@sql_mode",
    "SELECT @@isolation",
    "SELECT @@session.time_zone, @@sort_buffer_size, @@foreign_key_checks, @@unique_checks",
    "SELECT @@character_set_client, @@character_set_results, @@collation_connection",
    "SELECT DATABASE(), SCHEMA()",
    "SELECT 'a\\\\b', 'x' || 'y'",
    "SELECT FROM_UNIXTIME(86400), DATE_FORMAT('2024-03-05', '%M')",
    "SELECT @@autocommit, @@sql_select_limit",
    "SELECT @@in_transaction_or_so",
    "SHOW VARIABLES LIKE 'sql\\_mode'",
    "SHOW VARIABLES LIKE 'time_zone'",
    "SELECT COLLATION('x'), CHARSET('x')",
    "SELECT \"x\"",
    "DO 1",
    "SELECT NOW() = SYSDATE() + INTERVAL 1 DAY",
];

const TRANSACTIONS: &[&str] = &[
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK",
    "SAVEPOINT one",
    "ROLLBACK TO one",
    "RELEASE SAVEPOINT one",
    "COMMIT AND CHAIN",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "SET autocommit = 1",
];

const CHANGES: &[&str] = &[
    "INSERT INTO solo.t# (n, s) VALUES (%, 'a')",
    "INSERT INTO solo.t# (n, s) VALUES (% + 100, 'a'), (% + 200, 'b')",
    "INSERT INTO solo.t# (id, n) VALUES (% + 1000, % + 1000)",
    "INSERT IGNORE INTO solo.t# (n, s) VALUES (%, 'much too long')",
    "INSERT INTO solo.u# (n, s) VALUES (%, 'x') ON DUPLICATE KEY UPDATE s = 'y'",
    "REPLACE INTO solo.u# (n, s) VALUES (%, 'z')",
    "UPDATE solo.t# SET s = 'q' WHERE n < %",
    "DELETE FROM solo.t# WHERE n = %",
    "UPDATE IGNORE solo.t# SET s = 'far too long' WHERE n = %",
    "INSERT INTO solo.t# (n) SELECT n + 5000 FROM solo.u# WHERE n = %",
    "SELECT SQL_CALC_FOUND_ROWS n, s FROM solo.t# ORDER BY id LIMIT 2",
    "SELECT COUNT(*), SUM(n) FROM solo.t#",
    "SELECT n FROM solo.t# ORDER BY id LIMIT 1, 2",
    "SELECT n FROM solo.t# ORDER BY id LIMIT 2 OFFSET 40",
    "SELECT n FROM solo.t# ORDER BY s, id LIMIT 3, 4",
    "SELECT DISTINCT s FROM solo.t# ORDER BY s LIMIT 1, 1",
    "SELECT * FROM solo.t# WHERE n = % FOR UPDATE",
    "SELECT id, n, s FROM solo.t# ORDER BY id",
    "INSERT INTO solo.u# (n) VALUES (LAST_INSERT_ID() + 10000)",
    "UPDATE solo.u# SET n = LAST_INSERT_ID(n + 20000) WHERE n = %",
    "SELECT n FROM t# WHERE n = %",
    "SELECT 1 / 0, CAST('x' AS SIGNED)",
    "INSERT INTO solo.t# (n, nope) VALUES (1, 2)",
    "INSERT INTO solo.t# (n) VALUES (NULL)",
    "SELECT * FROM solo.no_such_table",
    "SELEC 1",
];

const AFTERWARDS: &[&str] = &[
    "SELECT LAST_INSERT_ID()",
    "SELECT LAST_INSERT_ID() + 1 AS next",
    "SELECT LAST_INSERT_ID(99)",
    "SELECT @n",
    "SELECT @@last_insert_id, @@identity",
];

const DIAGNOSTICS: &[&str] = &[
    "SELECT ROW_COUNT()",
    "SELECT ROW_COUNT() AS n, 1",
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SHOW COUNT(*) WARNINGS",
    "SELECT @@warning_count, @@error_count",
    "SHOW WARNINGS LIMIT 1",
    "GET DIAGNOSTICS @n = NUMBER",
];

const PREPARED: &[&str] = &[
    "prepared: SELECT n, s FROM solo.t# WHERE n = % ORDER BY id",
    "prepared: INSERT INTO solo.t# (n, s) VALUES (% + 400, 'p')",
    "prepared: SELECT LAST_INSERT_ID()",
    "prepared: SELECT 'a\\\\b', \"x\"",
    "prepared: SET @a = 12",
    "prepared: UPDATE solo.u# SET s = 'w'",
    "PREPARE one FROM 'SELECT CAST(? AS SIGNED) + 1, ? IS NULL'",
    "PREPARE one FROM 'INSERT INTO solo.t# (n, s) VALUES (? + 600, ?)'",
    "PREPARE two FROM 'SELECT COUNT(*) FROM solo.u#'",
    "EXECUTE one USING @a, @b",
    "EXECUTE one",
    "EXECUTE two",
    "DEALLOCATE PREPARE one",
    "PREPARE bad FROM 'SELEC'",
];

const TEMPORARY: &[&str] = &[
    "CREATE TEMPORARY TABLE IF NOT EXISTS solo.tmp (n INT)",
    "CREATE TEMPORARY TABLE solo.tmp (n INT) SELECT 7 AS n",
    "INSERT INTO solo.tmp VALUES (1), (2)",
    "SELECT COUNT(*) FROM solo.tmp",
    "DROP TEMPORARY TABLE solo.tmp",
    "DROP TEMPORARY TABLE IF EXISTS solo.tmp",
];

const LOCKS: &[&str] = &[
    "SELECT GET_LOCK('lock#', 1)",
    "SELECT RELEASE_LOCK('lock#')",
    "SELECT IS_FREE_LOCK('lock#')",
    "SELECT IS_USED_LOCK('lock#') = CONNECTION_ID()",
    "DO RELEASE_LOCK('lock#')",
    "LOCK TABLES solo.t# WRITE",
];
