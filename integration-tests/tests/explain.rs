//! EXPLAIN ROUTE says of every kind of statement where it would go and why, or the error that it would get; it runs
//! nothing, and the statement then does what was said.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use usher_config::{Config, User};
use usher_integration_tests::{Bed, Log, Proxy, code, make_tables, message, sign_up, until};
use usher_playground::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_explained() {
    on("explain", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_explained_on_mysql() {
    on("explain-mysql", Server::Mysql).await;
}

fn users(config: &mut Config) {
    let reader = User {
        name: "reader".to_owned(),
        password: Some("secret".to_owned()),
        read_only: true,
        ..User::default()
    };
    config.users.push(reader);
}

struct Ground {
    bed: Bed,
    proxy: Proxy,
    /// Users by the shard they live on.
    homes: BTreeMap<String, Vec<u64>>,
}

async fn on(name: &str, server: Server) {
    let bed = Bed::up_with(name, 2, 1, server, false).await;
    let proxy = bed.proxy(1, users).await;
    let mut conn = proxy.connect().await;
    make_tables(&mut conn).await;
    conn.query_drop("CREATE PROCEDURE noted() SELECT 1").await.unwrap();
    let homes = sign_up(&bed, &mut conn, 8).await;
    let ground = Ground { bed, proxy, homes };
    let mut log = Log::start(ground.bed.endpoints.servers()).await;
    by_user(&ground, &mut conn).await;
    without_user(&ground, &mut conn).await;
    several_statements(&ground).await;
    of_the_session(&ground).await;
    refused(&ground).await;
    hints_and_json(&ground, &mut conn).await;
    let ran = log.seen("explained").await;
    assert!(ran.is_empty(), "nothing of it is run: {ran:?}");
    as_it_was_said(&ground, &mut log).await;
    ground.proxy.stop().await;
}

/// What was said of a statement, by the names of the lines; several of one name in a row.
type Said = BTreeMap<String, String>;

async fn explain(conn: &mut Conn, statement: &str) -> Said {
    let rows: Vec<(String, String)> = conn
        .query(format!("EXPLAIN ROUTE {statement}"))
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
    let mut said = Said::new();
    for (what, value) in rows {
        said.entry(what).and_modify(|text| *text = format!("{text}; {value}")).or_insert(value);
    }
    said
}

#[track_caller]
fn has(said: &Said, what: &str, words: &str) {
    let value = said.get(what).map_or("", String::as_str);
    assert!(value.contains(words), "{what} should say {words:?}: {said:#?}");
}

async fn by_user(ground: &Ground, conn: &mut Conn) {
    for (shard, users) in &ground.homes {
        let user = users[0];
        let writer = &ground.bed.shard(shard).writer;
        let write =
            explain(conn, &format!("UPDATE users SET name = 'explained' WHERE user_id = {user}")).await;
        has(&write, "user", &user.to_string());
        has(&write, "found by", &format!("the literal {user}"));
        has(&write, "shard", shard);
        has(&write, "server", &format!("{writer} (127.0.0.1:"));
        has(&write, "role", "writer");
        has(&write, "why", "it writes");
        has(&write, "transaction", "none");
        has(&write, "holds", "nothing");
        let locking = explain(conn, &format!("SELECT * FROM users WHERE user_id = {user} FOR UPDATE")).await;
        has(&locking, "why", "it locks rows");
        let read =
            format!("SELECT 'explained' FROM users u JOIN photos USING (user_id) WHERE u.user_id = {user}");
        until("reads go to a copy", async || {
            let said = explain(conn, &read).await;
            has(&said, "shard", shard);
            said["role"] == "replica" && said["server"].starts_with(&ground.bed.shard(shard).replicas[0].name)
        })
        .await;
        let insert =
            explain(conn, &format!("INSERT INTO photos (user_id, title) VALUES ({user}, 'explained')")).await;
        has(&insert, "ids", "1 from the sequence of app.photos");
        has(&insert, "found by", &format!("user_id = the literal {user}"));
        has(&insert, "server", writer);
    }
    conn.query_drop(format!("SET @who = {}", ground.homes["s1"][0])).await.unwrap();
    let by_variable = explain(conn, "DELETE FROM photos WHERE user_id = @who AND title = 'explained'").await;
    has(&by_variable, "found by", "the variable @who");
    has(&by_variable, "shard", "s1");
    let new = explain(conn, "INSERT INTO users (name) VALUES ('explained')").await;
    has(&new, "user", "a new one");
    has(&new, "shard", "fewest users");
    let unknown = explain(conn, "SELECT 'explained' FROM users WHERE user_id = 999999").await;
    has(&unknown, "generation", "unknown user");
    let placeholder = explain(conn, "SELECT 'explained' FROM users WHERE user_id = ?").await;
    has(&placeholder, "user", "placeholder 1");
    let nobody = explain(conn, "SELECT 'explained' FROM users WHERE user_id = NULL").await;
    has(&nobody, "user", "none");
}

async fn without_user(ground: &Ground, conn: &mut Conn) {
    let global = &ground.bed.endpoints.global.writer;
    for (statement, shard, why) in [
        ("SELECT 'explained' FROM words", "global", "the global master is read from its writer"),
        ("INSERT INTO words (word) VALUES ('explained')", "global", "it writes"),
        ("SHOW TABLES LIKE 'explained'", "global", "global master"),
        ("SHOW VARIABLES LIKE 'explained'", "global", "global master"),
        ("SELECT GET_LOCK('explained', 1)", "global", "named locks"),
    ] {
        let said = explain(conn, statement).await;
        has(&said, "shard", shard);
        has(&said, "server", global);
        has(&said, "why", why);
    }
    for (statement, words) in [
        ("LOCK TABLES words WRITE", "until UNLOCK TABLES"),
        ("CALL noted()", "what a procedure may leave"),
        ("CREATE TEMPORARY TABLE explained (n INT)", "the temporary table app.explained"),
        ("SELECT GET_LOCK('explained', 1)", "named locks"),
        ("HANDLER words OPEN AS explained", "HANDLER explained CLOSE"),
    ] {
        let said = explain(conn, statement).await;
        has(&said, "holds", words);
        has(&said, "server", global);
    }
    let change = explain(conn, "ALTER TABLE photos ADD COLUMN explained INT").await;
    has(&change, "shard", "every shard: s1, s2");
    let unsharded = explain(conn, "CREATE TABLE explained (n INT)").await;
    has(&unsharded, "shard", "global");
    let anywhere = explain(conn, "SELECT 'explained'").await;
    assert!(anywhere.contains_key("server"), "{anywhere:?}");
}

async fn several_statements(ground: &Ground) {
    let mut conn = ground.proxy.connect().await;
    let user = ground.homes["s2"][0];
    let both =
        format!("DELETE FROM words WHERE word = 'explained'; DELETE FROM photos WHERE user_id = {user}");
    let rows: Vec<(String, String)> = conn.query(format!("EXPLAIN ROUTE {both}")).await.unwrap();
    let shards: Vec<&str> =
        rows.iter().filter(|(what, _)| what == "shard").map(|(_, value)| value.as_str()).collect();
    assert_eq!(shards, ["global", "s2"], "{rows:?}");
    let alone: i64 = conn
        .query_first("SELECT COUNT(*) FROM users WHERE user_id = LAST_INSERT_ID()")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(alone, 0);
}

async fn of_the_session(ground: &Ground) {
    let mut conn = ground.proxy.connect().await;
    let (one, other) = (ground.homes["s1"][0], ground.homes["s2"][0]);
    for (statement, words) in [
        ("BEGIN", "begins the transaction there"),
        ("SET @@session.autocommit = 0", ""),
        ("COMMIT", "no transaction is on a server"),
        ("USE app", "such a schema"),
        ("KILL 12345", "the proxy that has session 12345"),
        ("SHOW PROCESSLIST", "all proxies"),
        ("SELECT CONNECTION_ID()", "which has the value"),
        ("EXPLAIN ROUTE SELECT 1", "usher"),
    ] {
        let said = explain(&mut conn, statement).await;
        if !words.is_empty() {
            has(&said, "answered by", words);
        }
    }
    conn.query_drop("PREPARE mine FROM 'SELECT name FROM users WHERE user_id = ?'").await.unwrap();
    conn.query_drop(format!("SET @who = {one}")).await.unwrap();
    let prepared = explain(&mut conn, "EXECUTE mine USING @who").await;
    has(&prepared, "shard", "s1");
    has(&prepared, "user", &one.to_string());
    conn.query_drop("BEGIN").await.unwrap();
    let read = |user: u64| format!("SELECT 'explained' FROM users WHERE user_id = {user}");
    let first = explain(&mut conn, &read(one)).await;
    has(&first, "transaction", "begins on this server");
    has(&first, "role", "writer");
    has(&first, "holds", "until COMMIT or ROLLBACK");
    conn.query_drop(format!("SELECT name FROM users WHERE user_id = {one}")).await.unwrap();
    has(&explain(&mut conn, &read(one)).await, "why", "the open transaction is there");
    let crossing = explain(&mut conn, &read(other)).await;
    has(&crossing, "error", "USHER-0305 (1235, 42000)");
    has(&crossing, "shard", "s2");
    has(&explain(&mut conn, "COMMIT").await, "transaction", "ends the open one");
    has(&explain(&mut conn, "TRUNCATE TABLE words").await, "commits", "the open transaction on s1");
    has(&explain(&mut conn, "SHOW TABLES").await, "transaction", "outside of the open one");
    conn.query_drop("ROLLBACK").await.unwrap();
    conn.query_drop("SELECT 1 / 0").await.unwrap();
    has(&explain(&mut conn, "SHOW WARNINGS").await, "statement", "SHOW");
}

async fn refused(ground: &Ground) {
    let mut conn = ground.proxy.connect().await;
    let (one, other) = (ground.homes["s1"][0], ground.homes["s2"][0]);
    let several = explain(&mut conn, &format!("SELECT * FROM users WHERE user_id IN ({one}, {other})")).await;
    has(&several, "error", "USHER-0306");
    has(&several, "users", &format!("{one} on s1, {other} on s2"));
    for (statement, error) in [
        ("SELECT 'explained' FROM users", "USHER-0303 (1235, 42000)"),
        ("UPDATE users SET name = 'explained'", "USHER-0303"),
        ("SELECT 'explained' FROM users, words", "1235"),
        ("INSERT INTO photos (user_id, title) SELECT user_id, 'explained' FROM users", "1235"),
        ("LOCK TABLES photos WRITE", "USHER-0301"),
        ("LOAD DATA INFILE 'explained' INTO TABLE photos", "USHER-0301"),
        ("SET sql_log_bin = 0", "USHER-0205"),
        ("SET GLOBAL read_only = 0", "USHER-0803"),
        ("CREATE VIEW explained AS SELECT * FROM users", "USHER-0301"),
        ("EXECUTE nobody", "1243 (HY000)"),
        ("COMMIT RELEASE", "USHER-0301"),
        ("KILL USER explained", "USHER-0301"),
        ("GRANT ALL ON *.* TO explained", "USHER-0803"),
    ] {
        match conn.query_first::<(String, String), _>(format!("EXPLAIN ROUTE {statement}")).await {
            Ok(_) => has(&explain(&mut conn, statement).await, "error", error),
            refused => assert!(message(&refused).contains(error), "{statement}: {refused:?}"),
        }
    }
    let mut reader = ground.proxy.login().user("reader", "secret").connect().await.unwrap();
    let write = explain(&mut reader, &format!("DELETE FROM photos WHERE user_id = {one}")).await;
    has(&write, "error", "USHER-0115 (1142, 42000)");
    let empty = conn.query_drop("EXPLAIN ROUTE").await;
    assert_ne!(code(&empty), 1235, "a table of that name would be described");
}

async fn hints_and_json(ground: &Ground, conn: &mut Conn) {
    let user = ground.homes["s2"][0];
    for statement in [
        format!("EXPLAIN ROUTE /* usher: user={user} */ SELECT 'explained' FROM users"),
        format!("/* usher: user={user} */ EXPLAIN ROUTE SELECT 'explained' FROM users"),
    ] {
        let rows: Vec<(String, String)> = conn.query(&statement).await.unwrap();
        let said: Said = rows.into_iter().collect();
        has(&said, "hint", "user");
        has(&said, "shard", "s2");
        has(&said, "found by", "the hint");
    }
    let document: String = conn
        .query_first(format!(
            "EXPLAIN ROUTE FORMAT=JSON SELECT 'explained' FROM users WHERE user_id = {user}; BEGIN"
        ))
        .await
        .unwrap()
        .unwrap();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let statements = document["statements"].as_array().unwrap();
    assert_eq!(statements.len(), 2);
    assert_eq!(statements[0]["shard"], "s2");
    assert_eq!(statements[0]["found_by"], format!("the literal {user}"));
    assert_eq!(statements[1]["statement"], "BEGIN");
    let single = ground.proxy.login().with(|options: OptsBuilder| options.db_name(None::<String>));
    let mut nowhere = single.connect().await.unwrap();
    has(&explain(&mut nowhere, "SELECT 'explained' FROM app.words").await, "shard", "global");
}

/// The server that is named is the one that gets it.
async fn as_it_was_said(ground: &Ground, log: &mut Log) {
    let mut conn = ground.proxy.connect().await;
    for (shard, users) in &ground.homes {
        for (n, text) in [
            format!("UPDATE /* MARK */ users SET visits = visits + 1 WHERE user_id = {}", users[0]),
            format!("SELECT /* MARK */ name FROM users WHERE user_id = {} FOR UPDATE", users[0]),
            "SELECT /* MARK */ COUNT(*) FROM words".to_owned(),
        ]
        .into_iter()
        .enumerate()
        {
            let mark = format!("as-said-{shard}-{n}");
            let text = text.replace("MARK", &mark);
            let said = explain(&mut conn, &text).await["server"].clone();
            conn.query_drop(&text).await.unwrap();
            let seen = log.seen(&mark).await;
            let servers: Vec<&String> = seen.keys().collect();
            assert!(matches!(servers[..], [one] if said.starts_with(&format!("{one} "))), "{said}: {seen:?}");
        }
    }
}
