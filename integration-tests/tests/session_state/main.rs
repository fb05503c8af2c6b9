//! Many sessions set, change and use every kind of session state over few connections to servers, each statement in
//! lockstep with a plain connection to one server: the answers are the same to the letter.
//!
//! `TEST_SEED`, `TEST_SESSIONS`, `TEST_STEPS` and `TEST_BACKENDS` change what is run; the seed of a run is printed. The
//! long form: `cargo xtask sessions`.
#![allow(clippy::unwrap_used)]

mod scripts;
mod statements;

use std::fmt::Write as _;
use std::sync::Arc;

use mysql_async::prelude::{Protocol, Queryable, StatementLike};
use mysql_async::{ChangeUserOpts, Conn, Error, Params, QueryResult, Row, Statement};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use usher_integration_tests::{Bed, Login, Proxy, admin, code, message, until};
use usher_playground::Server;

use crate::scripts::SCRIPTS;
use crate::statements::{
    AFTERWARDS, CHANGES, DIAGNOSTICS, KEPT, LOCKS, MULTI, PREPARED, READS, ROUTINES, SETTINGS, TEMPORARY,
    TRANSACTIONS, VARIABLES,
};

/// Connections that are left for sessions that hold none.
const SPARE: usize = 3;
/// Prepared statements that a session keeps at once.
const KEPT_MAX: usize = 4;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_of_a_statement_outlives_its_connection() {
    let bed = Bed::up("told", 1, 0).await;
    let change = |config: &mut usher_config::Config| config.limits.backends_per_server_max = 1;
    let proxy = bed.proxy(1, change).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(proxy.login().connect().await.unwrap());
    }
    let ask = async |client: &mut Conn, statement: &str| text(client, statement).await;
    clients[0].query_drop("CREATE TABLE told (n TINYINT)").await.unwrap();
    clients[0].query_drop("SET sql_mode = ''").await.unwrap();
    let warned = ask(&mut clients[0], "INSERT INTO told VALUES (300), (-300)").await;
    assert!(warned.contains("warnings 2"), "{warned}");
    let at_once = ask(&mut clients[0], "SHOW WARNINGS").await;
    assert_eq!(at_once.matches("Out of range").count(), 2, "{at_once}");
    // The others want the only connection. One of them fails and could be asked why.
    let failed = ask(&mut clients[1], "INSERT INTO told VALUES (1, 2)").await;
    assert!(failed.starts_with("error 1136"), "{failed}");
    clients[2].query_drop("INSERT INTO told VALUES (3)").await.unwrap();
    assert_eq!(ask(&mut clients[0], "SHOW WARNINGS").await, at_once);
    let second = ask(&mut clients[0], "SHOW WARNINGS LIMIT 1, 1").await;
    assert_eq!(second.matches("Out of range").count(), 1, "{second}");
    let counts = ask(&mut clients[0], "SELECT @@warning_count, @@error_count").await;
    assert!(counts.contains("[2, 0]") || counts.contains("['2', '0']"), "{counts}");
    let why = ask(&mut clients[1], "SHOW ERRORS").await;
    assert!(why.contains("1136"), "{why}");
    let count = ask(&mut clients[1], "SHOW COUNT(*) ERRORS").await;
    assert!(count.contains("['1']"), "{count}");
    // Some statements fail with more than one error.
    clients[0].query_drop("CREATE TABLE twice (n INT NOT NULL, UNIQUE (n))").await.unwrap();
    let twice = ask(&mut clients[0], "INSERT INTO twice VALUES (NULL)").await;
    assert!(twice.starts_with("error 1048"), "{twice}");
    let both = ask(&mut clients[0], "SELECT @@warning_count, @@error_count").await;
    clients[1].query_drop("SELECT COUNT(*) FROM told").await.unwrap();
    assert_eq!(ask(&mut clients[0], "SELECT @@warning_count, @@error_count").await, both);
    clients[0].query_drop("INSERT INTO told VALUES (300), (-300)").await.unwrap();
    // A statement in between, and there is nothing to be told.
    clients[0].query_drop("SELECT COUNT(*) FROM told").await.unwrap();
    let nothing = ask(&mut clients[0], "SHOW WARNINGS").await;
    assert!(!nothing.contains("Out of range"), "{nothing}");
    what_a_procedure_leaves_outlives_its_connection(&proxy, &mut clients).await;
    a_kill_needs_no_connection_of_the_pool(&proxy, &mut clients[1]).await;
    for client in clients {
        client.disconnect().await.unwrap();
    }
}

/// The only one is kept by who has called it, until somebody else wants it.
async fn what_a_procedure_leaves_outlives_its_connection(proxy: &Proxy, clients: &mut [Conn]) {
    let body = "INSERT INTO counted (n) VALUES (7); SET @left = n + 1, sql_select_limit = 1; SELECT @left";
    clients[0].query_drop("CREATE TABLE counted (id INT AUTO_INCREMENT PRIMARY KEY, n INT)").await.unwrap();
    clients[0].query_drop("INSERT INTO counted (n) VALUES (1), (2), (3)").await.unwrap();
    clients[0].query_drop(format!("CREATE PROCEDURE leaves(n INT) BEGIN {body}; END")).await.unwrap();
    let called = text(&mut clients[0], "CALL leaves(4)").await;
    assert!(called.contains("['5']") || called.contains("[5]"), "{called}");
    let all = text(&mut clients[1], "SELECT COUNT(*) FROM counted UNION ALL SELECT 9").await;
    assert!(all.contains("4") && all.contains("9"), "without its limit: {all}");
    assert_eq!(clients[1].query_first::<Option<u8>, _>("SELECT @left").await.unwrap(), Some(None));
    let left: Vec<(u8, u8)> =
        clients[0].query("SELECT @left, LAST_INSERT_ID() UNION ALL SELECT 0, 0").await.unwrap();
    let id: u8 = clients[1].query_first("SELECT MAX(id) FROM counted").await.unwrap().unwrap();
    assert_eq!(left, [(5, id)], "its variable and its id, and its limit of one row");
    clients[0].query_drop("SET sql_select_limit = DEFAULT").await.unwrap();
    // One of which nothing is known keeps it; it goes with the session.
    clients[0].query_drop("CREATE PROCEDURE keeps() DO RELEASE_LOCK('x')").await.unwrap();
    let mut waits = proxy.connect().await;
    clients[0].query_drop("CALL keeps()").await.unwrap();
    let mut waits = tokio::spawn(async move { waits.query_drop("SELECT COUNT(*) FROM counted").await });
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), &mut waits).await;
    assert!(waited.is_err(), "it was given away");
    clients[0].reset().await.unwrap();
    waits.await.unwrap().unwrap();
}

/// The only one is used by what is to be killed.
async fn a_kill_needs_no_connection_of_the_pool(proxy: &Proxy, client: &mut Conn) {
    let mut long = proxy.connect().await;
    let id = long.id();
    let start = std::time::Instant::now();
    let runs = tokio::spawn(async move { long.query_drop("SELECT SLEEP(60), COUNT(*) FROM told").await });
    until("the statement to run", async || {
        let shown: Vec<Row> = client.query("SHOW PROCESSLIST").await.unwrap();
        let is_it = |row: &Row| {
            row.get::<u32, _>(0) == Some(id)
                && row.as_ref(7).is_some_and(|info| info.as_sql(true).contains("SLEEP"))
        };
        shown.iter().any(is_it)
    })
    .await;
    // It may not have reached the server yet.
    while !runs.is_finished() && start.elapsed().as_secs() < 50 {
        client.query_drop(format!("KILL QUERY {id}")).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let _ = runs.await.unwrap();
    assert!(start.elapsed().as_secs() < 50, "it was not killed");
}

async fn as_on_one_server(kind: Server) {
    let seed = setting("TEST_SEED", u64::from(rand::random::<u32>()));
    let (sessions, steps) = (setting("TEST_SESSIONS", 60), setting("TEST_STEPS", 50));
    let backends = usize::try_from(setting("TEST_BACKENDS", 8)).unwrap();
    eprintln!(
        "TEST_SEED={seed} TEST_SESSIONS={sessions} TEST_STEPS={steps} TEST_BACKENDS={backends}, {kind:?}"
    );
    let bed = Bed::up_with(&format!("state-{kind:?}").to_lowercase(), 1, 0, kind, false).await;
    let change = |config: &mut usher_config::Config| {
        config.limits.backends_per_server_max = backends;
        config.limits.backends_per_server_idle_max = 3;
        // As long as it takes, on a machine with other things to do: what is tested is that a connection comes.
        config.limits.checkout_wait_ms = 120_000;
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
    parameters_of_set_are_the_sessions(&proxy).await;
    statements_are_read_as_servers_read_them(&proxy).await;
    let may_hold = Arc::new(Semaphore::new(backends - SPARE));
    let mut running = Vec::new();
    // To look into one that differs.
    let only: Option<u64> = std::env::var("TEST_ONLY").ok().and_then(|number| number.parse().ok());
    let pair = async |number| {
        // Statements prepared anew each time: what an old one means after SET NAMES differs.
        let fresh = |builder: mysql_async::OptsBuilder| builder.stmt_cache_size(0).db_name(Some("solo"));
        let through = proxy.login().with(fresh).connect().await.unwrap();
        let direct =
            Login::new(plain.port, &plain.user, &plain.password).with(fresh).connect().await.unwrap();
        Pair { through, direct, number, kind, done: String::new(), kept: Vec::new() }
    };
    let mut failed = Vec::new();
    for (number, script) in (sessions..).zip(SCRIPTS) {
        failed.extend(pair(number).await.run_script(script).await.err());
    }
    for number in (0..sessions).filter(|number| only.is_none_or(|only| only == *number)) {
        let pair = pair(number).await;
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number);
        running.push(tokio::spawn(pair.run(rng, steps, Arc::clone(&may_hold))));
    }
    for session in running {
        failed.extend(session.await.unwrap().err());
    }
    let few: Vec<&String> = failed.iter().take(3).collect();
    // Of the others what they differ in.
    for other in failed.iter().skip(3) {
        let lines: Vec<&str> = other.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(3)..].join("\n"));
    }
    assert!(
        failed.is_empty(),
        "seed {seed}: {} of {sessions} sessions\n{}",
        failed.len(),
        few.iter().fold(String::new(), |all, one| all + one + "\n")
    );
}

/// Two clients in turns, so that each gets the connection that the other has just given back.
async fn parameters_of_set_are_the_sessions(proxy: &Proxy) {
    let mut a = proxy.login().database(None).connect().await.unwrap();
    let mut b = proxy.login().database(None).connect().await.unwrap();
    let of_variable = async |conn: &mut Conn| {
        conn.query_first::<Option<String>, _>("SELECT @tenant").await.unwrap().unwrap()
    };
    a.exec_drop("SET @tenant = ?", ("it's 7",)).await.unwrap();
    assert_eq!(of_variable(&mut b).await, None);
    b.exec_drop("SET @tenant = ?, @other = ?", (8_u64, -1.5)).await.unwrap();
    assert_eq!(of_variable(&mut a).await.as_deref(), Some("it's 7"));
    assert_eq!(of_variable(&mut b).await.as_deref(), Some("8"));
    a.exec_drop("SET sql_mode = ?", ("ANSI_QUOTES",)).await.unwrap();
    assert_eq!(code(&a.query_drop("SELECT \"x\"").await), 1054);
    assert_eq!(b.query_first::<String, _>("SELECT \"x\"").await.unwrap().unwrap(), "x");
    a.exec_drop("SET autocommit = ?", (0,)).await.unwrap();
    let on = "SELECT @@autocommit";
    assert_eq!(b.query_first::<u8, _>(on).await.unwrap(), Some(1));
    assert_eq!(a.query_first::<u8, _>(on).await.unwrap(), Some(0));
    assert_eq!(code(&a.exec_drop("SET GLOBAL no_such_variable = ?", (1,)).await), 1227);
    assert!(a.exec_drop("SET insert_id = ?", (5,)).await.is_err(), "not to be set through usher");
    // So is what a procedure leaves that fails. Its connection is nobody's as it is.
    let leaves = "CREATE TEMPORARY TABLE left_over (i INT); SIGNAL SQLSTATE '45000'";
    a.query_drop("USE solo").await.unwrap();
    a.query_drop(format!("CREATE PROCEDURE leaves() BEGIN {leaves}; END")).await.unwrap();
    assert_eq!(code(&a.query_drop("CALL leaves()").await), 1644);
    for _ in 0..2 {
        assert_eq!(code(&b.query_drop("SELECT i FROM solo.left_over").await), 1146);
    }
    a.query_drop("DROP PROCEDURE leaves").await.unwrap();
    // What a statement of another schema sets is the session's, too.
    a.query_drop("USE solo").await.unwrap();
    let into = a.prep("SELECT 5, 6 INTO @x, @y").await.unwrap();
    let set = a.prep("SET autocommit = 1").await.unwrap();
    a.query_drop("USE other").await.unwrap();
    a.exec_drop(&into, ()).await.unwrap();
    a.exec_drop(&set, ()).await.unwrap();
    let seen: Option<(u8, u8, u8, String)> =
        a.query_first("SELECT @x, @y, @@autocommit, DATABASE()").await.unwrap();
    assert_eq!(seen, Some((5, 6, 1, "other".to_owned())));
    for conn in [a, b] {
        conn.disconnect().await.unwrap();
    }
}

/// In some character sets a backslash or a quote may be half of a character.
async fn statements_are_read_as_servers_read_them(proxy: &Proxy) {
    let mut conn = proxy.login().database(None).connect().await.unwrap();
    for set in [
        "SET NAMES gbk",
        "SET character_set_client = gbk",
        "SET @@session.character_set_client = 'sjis', @x = 1",
        "SET character_set_client = 28",
        "SET character_set_client = CONCAT('g', 'bk')",
    ] {
        let refused = conn.query_drop(set).await;
        assert!(message(&refused).contains("USHER-0207"), "{set}: {refused:?}");
    }
    assert!(message(&conn.exec_drop("SET character_set_client = ?", ("gbk",)).await).contains("USHER-0207"));
    conn.query_drop("SET @saved = 'latin1', @unsafe = 'gbk'").await.unwrap();
    let client = "SELECT @@character_set_client";
    for (variable, then) in [("@saved", "latin1"), ("@unsafe", "latin1")] {
        let _ = conn.query_drop(format!("SET character_set_client = {variable}")).await;
        assert_eq!(conn.query_first::<String, _>(client).await.unwrap().unwrap(), then);
    }
    conn.disconnect().await.unwrap();
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
    /// Statements prepared once and executed now and then, by both sides.
    kept: Vec<(Statement, Statement)>,
}

impl Pair {
    async fn run(mut self, mut rng: StdRng, steps: u64, may_hold: Arc<Semaphore>) -> Result<(), String> {
        let number = self.number;
        self.make_what_it_needs().await?;
        let mut script = Script::default();
        for _ in 0..steps {
            if script.hold.is_none() && rng.random_bool(0.15) {
                // Whoever keeps a connection to itself waits for its turn, else all of them could be kept.
                let permit = Arc::clone(&may_hold).acquire_owned().await.unwrap();
                script.hold = Some(Hold {
                    kind: *KINDS.choose(&mut rng).unwrap(),
                    left: rng.random_range(3..15),
                    permit,
                });
                for statement in script.begin() {
                    self.both(statement).await?;
                }
            }
            let statement = script.statement(&mut rng, number, self.kind);
            self.both(&statement).await?;
            if let Some(hold) = script.over() {
                for statement in script.end(hold.kind, &mut rng) {
                    self.both(&statement.replace('#', &number.to_string())).await?;
                }
                drop(hold.permit);
            }
        }
        Ok(())
    }

    /// One statement after the other.
    async fn run_script(mut self, script: &[&str]) -> Result<(), String> {
        self.make_what_it_needs().await?;
        for statement in script {
            self.both(&statement.replace('#', &self.number.to_string())).await?;
        }
        Ok(())
    }

    async fn make_what_it_needs(&mut self) -> Result<(), String> {
        let ids = "id INT AUTO_INCREMENT PRIMARY KEY";
        for table in ["t", "u"] {
            let number = self.number;
            self.both(&format!(
                "CREATE TABLE {table}{number} ({ids}, n INT NOT NULL, s VARCHAR(5), UNIQUE (n))"
            ))
            .await?;
        }
        for routine in ROUTINES {
            self.both(&routine.replace('#', &self.number.to_string())).await?;
        }
        Ok(())
    }

    async fn both(&mut self, statement: &str) -> Result<(), String> {
        let (left, right) = match statement.split_once(": ") {
            Some(("prepared", text)) => {
                (binary(&mut self.through, text, ()).await, binary(&mut self.direct, text, ()).await)
            }
            Some(("keep", text)) => self.keep(text).await,
            Some(("execute", value)) => self.execute(value).await,
            Some(("connection", "reset")) => {
                self.kept.clear();
                (done(self.through.reset().await), done(self.direct.reset().await))
            }
            Some(("connection", _)) => {
                self.kept.clear();
                let solo = || ChangeUserOpts::default().with_db_name(Some("solo".to_owned()));
                (done(self.through.change_user(solo()).await), done(self.direct.change_user(solo()).await))
            }
            _ => (text(&mut self.through, statement).await, text(&mut self.direct, statement).await),
        };
        let values = left.split_once('[').map_or(left.as_str(), |(_, values)| values);
        let short: String = values.chars().take(100).collect();
        let _ = writeln!(self.done, "{statement}  -- {short}");
        // A variable that is NULL keeps the type it had on its connection; servers differ in the default collation of
        // utf8mb4, which is that of the columns of SHOW WARNINGS.
        let null = statement.contains('@') || statement.starts_with("SHOW ");
        let values = |answer: &str| answer.split_once('[').map(|(_, values)| values.to_owned());
        if left == right || null && values(&left) == values(&right) {
            return Ok(());
        }
        let shown = usize::try_from(setting("TEST_SHOWN", 25)).unwrap();
        let tail: Vec<&str> = self.done.lines().rev().take(shown).collect();
        let tail = tail.into_iter().rev().fold(String::new(), |all, line| all + "    " + line + ";\n");
        Err(format!(
            "session {}, after\n{tail}  through usher: {left}\n  plain server:  {right}",
            self.number
        ))
    }

    /// Prepares a statement for later, in the place of the oldest if there are enough.
    async fn keep(&mut self, text: &str) -> (String, String) {
        let prepared = (self.through.prep(text).await, self.direct.prep(text).await);
        let (Ok(through), Ok(direct)) = prepared else {
            return (done(prepared.0), done(prepared.1));
        };
        let shapes = (shape(&through), shape(&direct));
        if self.kept.len() == KEPT_MAX {
            let (through, direct) = self.kept.remove(0);
            self.through.close(through).await.unwrap();
            self.direct.close(direct).await.unwrap();
        }
        self.kept.push((through, direct));
        shapes
    }

    /// Executes one of those that are kept, with this value.
    async fn execute(&mut self, value: &str) -> (String, String) {
        let value: usize = value.parse().unwrap();
        let Some((through, direct)) = self.kept.get(value % KEPT_MAX) else { return Default::default() };
        // The driver asks MariaDB to leave out what columns are if that is as when it prepared. The server does not count
        // another character set of answers as a difference; usher never leaves it out.
        let charsets = self.kind == Server::Mysql;
        let executed = self.through.exec_iter(through, (value,)).await;
        let through = answer(executed, charsets).await;
        (through, answer(self.direct.exec_iter(direct, (value,)).await, charsets).await)
    }
}

fn shape(statement: &Statement) -> String {
    format!("{} parameters, {} columns", statement.num_params(), statement.num_columns())
}

fn done<T>(result: Result<T, Error>) -> String {
    result.err().map_or_else(|| "done".to_owned(), |error| failure(&error))
}

async fn text(conn: &mut Conn, statement: &str) -> String {
    answer(conn.query_iter(statement).await, true).await
}

async fn binary(conn: &mut Conn, statement: impl StatementLike, params: impl Into<Params> + Send) -> String {
    answer(conn.exec_iter(statement, params.into()).await, true).await
}

/// All that a driver shows of an answer, the columns' character sets only if asked for.
async fn answer<P: Protocol>(result: Result<QueryResult<'_, '_, P>, Error>, charsets: bool) -> String {
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
                    if charsets { column.character_set() } else { 0 },
                    column.flags(),
                    column.decimals()
                );
            }
        }
        match result.collect::<Row>().await {
            Ok(rows) => rows.into_iter().for_each(|row| {
                // As SQL: shown in another way they are cut.
                let values: Vec<String> = row.unwrap().iter().map(|value| value.as_sql(true)).collect();
                let _ = write!(out, "[{}]", values.join(", "));
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
            // An error in place of the next answer would be the next statement's.
            return match result.drop_result().await {
                Ok(()) => out,
                Err(error) => out + &failure(&error),
            };
        }
    }
}

fn failure(error: &Error) -> String {
    match error {
        Error::Server(error) => format!("error {} {} {}", error.code, error.state, error.message),
        other => format!("{other}"),
    }
}

/// For what a session keeps a connection to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoldKind {
    /// Transactions, savepoints, autocommit off.
    Transactions,
    /// A transaction that is only to read.
    ReadOnly,
    /// All transactions are only to read.
    ReadOnlySession,
    /// Temporary tables, locks, and transactions among them.
    Everything,
}

const KINDS: &[HoldKind] = &[
    HoldKind::Transactions,
    HoldKind::Transactions,
    HoldKind::ReadOnly,
    HoldKind::ReadOnlySession,
    HoldKind::Everything,
    HoldKind::Everything,
];

struct Hold {
    kind: HoldKind,
    /// Statements until it ends.
    left: u32,
    permit: OwnedSemaphorePermit,
}

/// What a session says next, and what it must not forget to end.
#[derive(Default)]
struct Script {
    hold: Option<Hold>,
    tables_locked: bool,
    /// SET TRANSACTION was said: what uses it up besides a transaction differs between servers.
    begins: bool,
    /// The statement before had rows.
    rows: bool,
    /// The statement before used a table: what else clears its warnings differs between servers.
    table_used: bool,
}

impl Script {
    fn begin(&mut self) -> &'static [&'static str] {
        (self.rows, self.table_used) = (false, false);
        match self.hold.as_ref().map(|hold| hold.kind) {
            Some(HoldKind::ReadOnly) => &["START TRANSACTION READ ONLY"],
            Some(HoldKind::ReadOnlySession) => &["SET SESSION TRANSACTION READ ONLY"],
            _ => &[],
        }
    }

    /// The hold, if it is over.
    fn over(&mut self) -> Option<Hold> {
        let hold = self.hold.as_mut().filter(|_| !self.begins)?;
        hold.left = hold.left.saturating_sub(1);
        if hold.left == 0 { self.hold.take() } else { None }
    }

    /// What gives the connection back.
    fn end(&mut self, kind: HoldKind, rng: &mut StdRng) -> Vec<&'static str> {
        (self.rows, self.table_used, self.tables_locked) = (false, false, false);
        // Only so does a temporary table or a lock surely let go of its connection.
        if kind == HoldKind::Everything || rng.random_bool(0.3) && kind != HoldKind::ReadOnly {
            return vec![if rng.random_bool(0.5) { "connection: reset" } else { "connection: changed" }];
        }
        let end = match kind {
            HoldKind::ReadOnlySession => "SET SESSION TRANSACTION READ WRITE",
            _ if rng.random_bool(0.5) => "ROLLBACK",
            _ => "COMMIT",
        };
        let mut statements = vec![end];
        if kind == HoldKind::Transactions {
            statements.push("SET autocommit = 1");
        }
        statements
    }

    fn statement(&mut self, rng: &mut StdRng, number: u64, server: Server) -> String {
        let small: u32 = rng.random_range(0..30);
        let filled =
            |statement: &str| statement.replace('#', &number.to_string()).replace('%', &small.to_string());
        if self.tables_locked {
            self.tables_locked = rng.random_bool(0.5);
            return match self.tables_locked {
                true => filled("INSERT INTO solo.t# (n) VALUES (%)"),
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
        let isolation = match server {
            Server::Mariadb => "@@tx_isolation",
            Server::Mysql => "@@transaction_isolation",
        };
        let kind = self.hold.as_ref().map(|hold| hold.kind);
        match (rng.random_range(0..15), kind) {
            (0..=2, Some(HoldKind::Transactions)) | (0, Some(HoldKind::Everything)) => {
                pick(rng, TRANSACTIONS).to_owned()
            }
            (1, Some(HoldKind::Everything)) => pick(rng, TEMPORARY).to_owned(),
            (2, Some(HoldKind::Everything)) => {
                let statement = pick(rng, LOCKS);
                self.tables_locked = statement.starts_with("LOCK TABLES");
                filled(statement)
            }
            (0..=3, _) => filled(pick(rng, VARIABLES)),
            (4..=5, Some(HoldKind::ReadOnly | HoldKind::ReadOnlySession)) | (6, _) => {
                pick(rng, READS).replace("@@isolation", isolation)
            }
            (4, _) => {
                let statement = pick(rng, SETTINGS);
                // The transaction that uses it up holds a connection.
                if statement.starts_with("SET TRANSACTION") && kind.is_none() {
                    return "SET @a = 6".to_owned();
                }
                self.begins = statement.starts_with("SET TRANSACTION");
                statement.to_owned()
            }
            (5, _) => filled(pick(rng, MULTI)),
            (7 | 8, _) if table_used => pick(rng, DIAGNOSTICS).to_owned(),
            (7, _) => pick(rng, AFTERWARDS).to_owned(),
            // MariaDB refuses to prepare a write there; when a statement is prepared on a server is usher's choice.
            (8 | 13.., Some(HoldKind::ReadOnly | HoldKind::ReadOnlySession)) => filled(KEPT[0]),
            (8, _) => filled(pick(rng, KEPT)),
            (9 | 10, _) => format!("execute: {}", rng.random_range(0..1000)),
            (11 | 12, _) => {
                self.table_used = true;
                let statement = pick(rng, CHANGES);
                // A locking read may be refused: what FOUND_ROWS() gives then differs between servers.
                self.rows = statement.starts_with("SELECT")
                    && statement.contains("FROM solo.t#")
                    && !statement.ends_with("FOR UPDATE");
                filled(statement)
            }
            _ => filled(pick(rng, PREPARED)),
        }
    }
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).unwrap()
}
