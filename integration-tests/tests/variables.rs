//! What the session's variables are, in whatever way they are asked for and whichever server answers; and what sessions
//! begin with.
#![allow(clippy::unwrap_used)]

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use usher_config::{Config, User};
use usher_integration_tests::{Bed, Proxy, admin, make_tables, sign_up, until};
use usher_playground::Server;

/// Of a variable that no session has one of its own of.
const GLOBAL_VARIABLE: u16 = 1238;
/// Of a write to a table that the session has locked for reading.
const LOCKED_FOR_READ: u16 = 1099;
/// Of what usher does not do.
const UNSUPPORTED: u16 = 1235;
/// Of a write in a read-only transaction.
const READ_ONLY_TRANSACTION: u16 = 1792;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_are_the_sessions() {
    on("variables", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_are_the_sessions_on_mysql() {
    on("variables-mysql", Server::Mysql).await;
}

fn users(config: &mut Config) {
    let root = User {
        name: "root".to_owned(),
        password: Some("secret".to_owned()),
        admin: true,
        default_schema: Some("app".to_owned()),
        ..User::default()
    };
    // performance_schema is no schema of an application's.
    config.users[0].schemas.clear();
    config.users.push(root);
}

async fn on(name: &str, server: Server) {
    let bed = Bed::up_with(name, 2, 1, server, false).await;
    let proxy = bed.proxy(1, users).await;
    let mut conn = proxy.connect().await;
    make_tables(&mut conn).await;
    let homes = sign_up(&bed, &mut conn, 6).await;
    let user = homes["s2"][0];
    as_the_session_has_set_them(&proxy, server, user).await;
    queries_in_set_read_unsharded_tables(&proxy).await;
    what_is_the_sessions_is_in_statements_of_users(&proxy, user).await;
    long_values_are_not_left_on_copies(&proxy, user).await;
    usher_has_its_own(&proxy, server).await;
    what_is_set_for_the_session_holds_for_the_next_transaction(&proxy, user).await;
    sizes_of_joins_decide_whether_they_may_be_big(&proxy).await;
    long_texts_are_prepared(&proxy).await;
    switches_of_the_optimizer_add_up(&proxy).await;
    nulls_have_the_type_of_the_value_before(&proxy).await;
    if server == Server::Mariadb {
        settings_of_one_statement_end_with_it(&proxy, user).await;
        functions_have_out_parameters(&proxy).await;
    }
    sessions_begin_with_the_servers_defaults(&bed, &proxy, user).await;
    if server == Server::Mariadb {
        // MySQL prepares a text anew, in the mode of the moment, for parameters of other types.
        meanings_of_prepared_texts_stay(&proxy).await;
    }
    proxy.stop().await;
}

async fn what_is_the_sessions_is_in_statements_of_users(proxy: &Proxy, user: u64) {
    let mut conn = proxy.connect().await;
    let id = u64::from(conn.id());
    for ask in [
        format!("SELECT CONNECTION_ID() FROM users WHERE user_id = {user}"),
        "SELECT CONNECTION_ID() FROM DUAL".to_owned(),
        format!("SELECT @@pseudo_thread_id + 0 FROM users WHERE user_id = {user}"),
    ] {
        assert_eq!(conn.query_first::<u64, _>(&ask).await.unwrap(), Some(id), "{ask}");
    }
    conn.query_drop("SELECT 1 UNION SELECT 2 UNION SELECT 3").await.unwrap();
    let title = "CONCAT(FOUND_ROWS(), ' ', CONNECTION_ID())";
    conn.query_drop(format!("INSERT INTO photos (user_id, title) VALUES ({user}, {title})")).await.unwrap();
    let photo = conn.last_insert_id().unwrap();
    let ask = format!("SELECT title FROM photos WHERE user_id = {user} AND photo_id = {photo}");
    assert_eq!(conn.query_first::<String, _>(ask).await.unwrap(), Some(format!("3 {id}")));
    let lock = format!("SELECT GET_LOCK('beside', 0) FROM users WHERE user_id = {user}");
    for refused in [conn.query_drop(&lock).await, conn.exec_drop(&lock, ()).await] {
        assert_eq!(code(refused), Some(1235), "{lock}");
    }
}

async fn queries_in_set_read_unsharded_tables(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    conn.query_drop("INSERT INTO words (word) VALUES ('set by a query')").await.unwrap();
    let word = "SELECT word FROM words WHERE word = 'set by a query'";
    // More often than there are shards to try.
    for _ in 0..4 {
        conn.query_drop(format!("SET @a = ({word}), @b := LENGTH(({word}))")).await.unwrap();
        let told: Option<(String, i64)> = conn.query_first("SELECT @a, @b").await.unwrap();
        assert_eq!(told, Some(("set by a query".to_owned(), 14)));
        conn.exec_drop(format!("SET @c = (SELECT COUNT(*) FROM ({word}) found)"), ()).await.unwrap();
        assert_eq!(conn.query_first::<i64, _>("SELECT @c").await.unwrap(), Some(1));
    }
    // It sees what its transaction has written.
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop("DELETE FROM words WHERE word = 'set by a query'").await.unwrap();
    conn.query_drop(format!("SET @a = ({word})")).await.unwrap();
    assert_eq!(conn.query_first::<Option<String>, _>("SELECT @a").await.unwrap(), Some(None));
    conn.query_drop("COMMIT").await.unwrap();
}

/// Values too long to be carried along keep their connection, on which the session writes from then on.
async fn long_values_are_not_left_on_copies(proxy: &Proxy, user: u64) {
    for text in [
        "SET @long = REPEAT('x', 30000)".to_owned(),
        "SELECT REPEAT('x', 30000) INTO @long".to_owned(),
        format!("SELECT @long := REPEAT('x', 30000) FROM users WHERE user_id = {user}"),
    ] {
        for _ in 0..6 {
            let mut conn = proxy.connect().await;
            conn.query_drop(&text).await.unwrap();
            conn.query_drop("SET sort_buffer_size = 300000").await.unwrap();
            conn.query_drop("SET @more = CONCAT('m', 'ore')").await.unwrap();
            let told: Option<(i64, String)> = conn.query_first("SELECT LENGTH(@long), @more").await.unwrap();
            assert_eq!(told, Some((30000, "more".to_owned())), "{text}");
            conn.disconnect().await.unwrap();
        }
    }
}

fn shown(value: Option<Value>) -> String {
    match value {
        None | Some(Value::NULL) => "NULL".to_owned(),
        Some(value) => {
            let text = value.as_sql(true).trim_matches('\'').to_owned();
            match text.as_str() {
                "ON" => "1".to_owned(),
                "OFF" => "0".to_owned(),
                _ => text,
            }
        }
    }
}

/// A variable's value as each way of asking gives it.
async fn ways(conn: &mut Conn, name: &str, server: Server) -> Vec<String> {
    let table = match server {
        Server::Mariadb => "information_schema.session_variables",
        Server::Mysql => "performance_schema.session_variables",
    };
    let select = format!("SELECT @@{name}");
    let listed = format!("SELECT variable_value FROM {table} WHERE variable_name = '{name}'");
    let listed_with_name = listed.replace("variable_value", "variable_name, variable_value");
    let mut values = Vec::new();
    for text in [
        select,
        format!("SHOW VARIABLES LIKE '{name}'"),
        format!("SHOW SESSION VARIABLES WHERE Variable_name = '{name}'"),
        listed_with_name,
    ] {
        for prepared in [false, true] {
            let row: Option<Row> = match prepared {
                true => conn.exec_first(&text, ()).await.unwrap_or_else(|error| panic!("{text}: {error}")),
                false => conn.query_first(&text).await.unwrap_or_else(|error| panic!("{text}: {error}")),
            };
            values.push(shown(row.and_then(|row| row.unwrap().pop())));
        }
    }
    values
}

#[track_caller]
fn all_are(values: &[String], expected: &str, name: &str) {
    assert!(values.iter().all(|value| value == expected), "{name} is {expected:?}, not {values:?}");
}

async fn as_the_session_has_set_them(proxy: &Proxy, server: Server, user: u64) {
    let mut conn = proxy.connect().await;
    let isolation = match server {
        Server::Mariadb => "tx_isolation",
        Server::Mysql => "transaction_isolation",
    };
    for statement in [
        "SET NAMES latin1",
        "SET sql_mode = 'STRICT_ALL_TABLES'",
        "SET time_zone = '+03:00', sort_buffer_size = 300032",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET autocommit = 0",
        "SET foreign_key_checks = 0",
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let expected = [
        ("character_set_client", "latin1"),
        ("sql_mode", "STRICT_ALL_TABLES"),
        ("time_zone", "+03:00"),
        ("sort_buffer_size", "300032"),
        (isolation, "READ-COMMITTED"),
        ("autocommit", "0"),
        ("foreign_key_checks", "0"),
    ];
    for (name, value) in expected {
        all_are(&ways(&mut conn, name, server).await, value, name);
    }
    conn.query_drop(format!("SELECT name FROM users WHERE user_id = {user}")).await.unwrap();
    for (name, value) in expected {
        all_are(&ways(&mut conn, name, server).await, value, &format!("{name} in a transaction"));
    }
    conn.query_drop("ROLLBACK").await.unwrap();
    conn.reset().await.unwrap();
    let modes = ways(&mut conn, "sql_mode", server).await;
    assert!(modes[0] != "STRICT_ALL_TABLES" && modes.iter().all(|mode| *mode == modes[0]), "{modes:?}");
    all_are(&ways(&mut conn, "autocommit", server).await, "1", "autocommit");
}

async fn usher_has_its_own(proxy: &Proxy, server: Server) {
    let mut first = None;
    for _ in 0..6 {
        let mut conn = proxy.connect().await;
        let mut seen = Vec::new();
        for name in [
            "hostname",
            "version",
            "socket",
            "server_id",
            "read_only",
            "port",
            "session_track_schema",
            "session_track_state_change",
            "session_track_system_variables",
            "session_track_transaction_info",
        ] {
            let values = ways(&mut conn, name, server).await;
            assert!(values.iter().all(|value| *value == values[0]), "{name}: {values:?}");
            seen.push((name, values[0].clone()));
        }
        let of = |name: &str| seen.iter().find(|(other, _)| *other == name).unwrap().1.clone();
        assert_eq!(of("port"), proxy.port().to_string());
        assert_eq!((of("socket").as_str(), of("read_only").as_str()), ("", "0"));
        assert_eq!((of("session_track_schema"), of("session_track_state_change")), ("1".into(), "0".into()));
        assert!(of("session_track_system_variables").contains("character_set_results"));
        assert_eq!(*first.get_or_insert_with(|| seen.clone()), seen);
        conn.query_drop("SET session_track_schema = OFF, session_track_system_variables = 'sql_mode'")
            .await
            .unwrap();
        all_are(&ways(&mut conn, "session_track_schema", server).await, "0", "session_track_schema");
        all_are(&ways(&mut conn, "session_track_system_variables", server).await, "sql_mode", "the list");
        for (name, value) in [("Ssl_cipher", ""), ("Compression", "0")] {
            let row: Option<Row> = conn.query_first(format!("SHOW STATUS LIKE '{name}'")).await.unwrap();
            assert_eq!(shown(row.and_then(|row| row.unwrap().pop())), value, "{name}");
        }
        assert!(!of("version").starts_with("5.5.5-"));
        let alias: Row = conn
            .query_first("SELECT @@port, @@socket AS s, CONCAT(@@port, 'x'), LENGTH(@@version) > 0")
            .await
            .unwrap()
            .unwrap();
        let names: Vec<_> = alias.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        assert_eq!(names, ["@@port", "s", "CONCAT(@@port, 'x')", "LENGTH(@@version) > 0"]);
        for global in ["SELECT @@session.port", "SELECT 1, @@LOCAL.version", "SET @port = @@session.port"] {
            assert_eq!(code(conn.query_drop(global).await), Some(GLOBAL_VARIABLE), "{global}");
        }
    }
}

fn code(result: mysql_async::Result<()>) -> Option<u16> {
    match result {
        Err(mysql_async::Error::Server(error)) => Some(error.code),
        other => other.map(|()| None).unwrap(),
    }
}

async fn what_is_set_for_the_session_holds_for_the_next_transaction(proxy: &Proxy, user: u64) {
    let mut conn = proxy.connect().await;
    let write = format!("UPDATE users SET name = 'written' WHERE user_id = {user}");
    for (said, allowed) in [
        (["SET TRANSACTION READ ONLY", "SET SESSION TRANSACTION READ WRITE"], true),
        (["SET TRANSACTION READ ONLY", "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"], false),
        (["SET TRANSACTION READ WRITE", "SET SESSION TRANSACTION READ ONLY"], false),
        (["SET SESSION TRANSACTION READ ONLY", "SET TRANSACTION READ WRITE"], true),
    ] {
        for statement in said {
            conn.query_drop(statement).await.unwrap();
        }
        conn.query_drop("BEGIN").await.unwrap();
        let refused = code(conn.query_drop(&write).await);
        assert_eq!(refused, (!allowed).then_some(READ_ONLY_TRANSACTION), "{said:?}");
        conn.query_drop("ROLLBACK").await.unwrap();
        conn.query_drop("SET SESSION TRANSACTION READ WRITE").await.unwrap();
    }
}

/// A server tells of them as of any change, and takes them back behind the answer.
async fn settings_of_one_statement_end_with_it(proxy: &Proxy, user: u64) {
    let mut conn = proxy.connect().await;
    let before = sql_mode(&mut conn).await;
    let name = format!("SELECT name FROM users WHERE user_id = {user}");
    for statement in [
        "SELECT 1",
        "SELECT COUNT(*) FROM words",
        &name,
        "CREATE PROCEDURE brief() BEGIN SELECT 1; SELECT 2; END",
    ] {
        let set =
            format!("SET STATEMENT sql_mode = 'ANSI_QUOTES', sort_buffer_size = 300032 FOR {statement}");
        for _ in 0..3 {
            conn.query_drop("DROP PROCEDURE IF EXISTS brief").await.unwrap();
            conn.query_drop(&set).await.unwrap();
            assert_eq!(sql_mode(&mut conn).await, before, "{statement}");
            let text: Option<(String, u64)> =
                conn.query_first("SELECT \"text\", @@sort_buffer_size").await.unwrap();
            assert!(text.is_some_and(|(text, size)| text == "text" && size != 300_032), "{statement}");
            assert_eq!(sql_mode(&mut proxy.connect().await).await, before, "another session's");
        }
    }
    conn.query_drop("DROP PROCEDURE brief").await.unwrap();
    // What it takes hold of stays with the session, and goes with it.
    let set = "SET STATEMENT max_statement_time = 30 FOR";
    let mut other = proxy.connect().await;
    conn.query_drop(format!("{set} LOCK TABLES words READ")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            code(conn.query_drop("DELETE FROM words WHERE word = 'none'").await),
            Some(LOCKED_FOR_READ)
        );
        other.query_drop("CREATE TABLE beside (id INT)").await.unwrap();
        other.query_drop("DROP TABLE beside").await.unwrap();
    }
    conn.query_drop(format!("{set} UNLOCK TABLES")).await.unwrap();
    conn.query_drop("DELETE FROM words WHERE word = 'none'").await.unwrap();
    conn.query_drop(format!("{set} CREATE TEMPORARY TABLE brief (id INT)")).await.unwrap();
    conn.query_drop("PREPARE adds FROM 'INSERT INTO brief VALUES (?)'").await.unwrap();
    conn.query_drop("SET @id = 7").await.unwrap();
    conn.query_drop(format!("{set} EXECUTE adds USING @id")).await.unwrap();
    assert_eq!(conn.query_first("SELECT id FROM brief").await.unwrap(), Some(7));
    conn.query_drop("DROP TEMPORARY TABLE brief").await.unwrap();
    let sharded = "CREATE TABLE brief (user_id BIGINT PRIMARY KEY) COMMENT 'usher:sharded key=user_id'";
    assert_eq!(code(conn.query_drop(format!("{set} {sharded}")).await), Some(UNSUPPORTED));
}

/// Each names some of the flags, and what had been said of the others stays.
async fn switches_of_the_optimizer_add_up(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    let mut others = Vec::new();
    for set in ["SET @@optimizer_switch = 'mrr=on'", "SET optimizer_switch = 'index_merge=off'"] {
        conn.query_drop(set).await.unwrap();
        // Whoever takes the connection away leaves another one to the session.
        let mut other = proxy.connect().await;
        other.query_drop("SELECT GET_LOCK(CONCAT(UUID(), 1), 0)").await.unwrap();
        others.push(other);
    }
    for _ in 0..4 {
        let told: Option<String> = conn.query_first("SELECT @@optimizer_switch").await.unwrap();
        let told = told.unwrap();
        assert!(told.contains("mrr=on,") && told.contains("index_merge=off,"), "{told}");
    }
}

async fn functions_have_out_parameters(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    let function = "CREATE FUNCTION adds(a INT, OUT b INT) RETURNS INT BEGIN SET b = a + 1; RETURN a; END";
    conn.query_drop(function).await.unwrap();
    conn.query_drop("SET @b = 0").await.unwrap();
    conn.query_drop("SET @a = adds(5, @b)").await.unwrap();
    for _ in 0..4 {
        let told: Option<(i64, i64)> = conn.query_first("SELECT @a, @b").await.unwrap();
        assert_eq!(told, Some((5, 6)));
    }
    conn.query_drop("DROP FUNCTION adds").await.unwrap();
}

/// By which a table made from them gets its columns.
async fn nulls_have_the_type_of_the_value_before(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    for (set, ty) in [
        ("SET @v = NULL", "longblob"),
        ("SET @v = 5", "bigint"),
        ("SET @v = NULL", "bigint"),
        ("SET @v = 1.5e0", "double"),
        ("SET @v := NULL", "double"),
        ("SET @v = CONCAT('a', 'b')", "longtext"),
        ("SELECT NULL INTO @v", "longtext"),
    ] {
        conn.query_drop(set).await.unwrap();
        proxy.connect().await.query_drop("SELECT 1").await.unwrap();
        conn.query_drop("CREATE TABLE typed AS SELECT @v AS v").await.unwrap();
        let row: (String, String) = conn
            .query_first(
                "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.columns \
            WHERE TABLE_SCHEMA = 'app' AND TABLE_NAME = 'typed'",
            )
            .await
            .unwrap()
            .unwrap();
        assert_eq!(row.1, ty, "{set}");
        conn.query_drop("DROP TABLE typed").await.unwrap();
    }
}

async fn long_texts_are_prepared(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    conn.query_drop("SELECT CONCAT('SELECT \\'', REPEAT('x', 9000), '\\'') INTO @sql").await.unwrap();
    conn.query_drop("PREPARE long_one FROM @sql").await.unwrap();
    let text: Option<String> = conn.query_first("EXECUTE long_one").await.unwrap();
    assert_eq!(text.map(|text| text.len()), Some(9000));
}

async fn sizes_of_joins_decide_whether_they_may_be_big(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    for (set, big) in [
        ("SET max_join_size = 2", 0),
        ("SET sql_big_selects = 1", 1),
        ("SET SESSION max_join_size = 2", 0),
        ("SET max_join_size = DEFAULT", 1),
    ] {
        conn.query_drop(set).await.unwrap();
        for _ in 0..4 {
            let told: Option<u64> = conn.query_first("SELECT @@sql_big_selects").await.unwrap();
            assert_eq!(told, Some(big), "{set}");
        }
        conn.query_drop("SET NAMES utf8mb4").await.unwrap();
    }
}

async fn on_all(bed: &Bed, setting: &str) {
    for server in bed.endpoints.servers() {
        admin(server).await.query_drop(format!("SET GLOBAL {setting}")).await.unwrap();
    }
}

async fn sql_mode(conn: &mut Conn) -> String {
    conn.query_first("SELECT @@sql_mode").await.unwrap().unwrap()
}

async fn sessions_begin_with_the_servers_defaults(bed: &Bed, proxy: &Proxy, user: u64) {
    let mut old = proxy.connect().await;
    let before = sql_mode(&mut old).await;
    on_all(bed, "sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'").await;
    let begins = async |wanted: &str| {
        until("new sessions begin with the new mode", async || {
            let mut conn = proxy.connect().await;
            sql_mode(&mut conn).await == wanted
        })
        .await;
    };
    begins("ANSI_QUOTES,NO_BACKSLASH_ESCAPES").await;
    let mut new = proxy.connect().await;
    for _ in 0..4 {
        // A name in double quotes, and a string that ends with its backslash.
        let text = format!("SELECT \"name\", 'a\\' FROM \"users\" WHERE \"user_id\" = {user}");
        let (_, backslash): (String, String) = new.query_first(text).await.unwrap().unwrap();
        assert_eq!(backslash, "a\\");
        let (text, escaped): (String, String) =
            old.query_first("SELECT \"name\", 'a\\\\'").await.unwrap().unwrap();
        assert_eq!((text.as_str(), escaped.as_str()), ("name", "a\\"), "the old session goes on as it was");
    }
    assert_eq!(sql_mode(&mut old).await, before);
    old.query_drop("SET sql_mode = DEFAULT").await.unwrap();
    assert_eq!(sql_mode(&mut old).await, "ANSI_QUOTES,NO_BACKSLASH_ESCAPES");
    let quoted = format!("SELECT \"name\" FROM users WHERE \"user_id\" = {user}");
    let name: Option<String> = old.query_first(quoted).await.unwrap();
    assert!(name.is_some());
    // Through usher, and for all at once.
    let mut root = proxy.login().user("root", "secret").connect().await.unwrap();
    match root.query_drop(format!("SET GLOBAL sql_mode = '{before}'")).await {
        Ok(()) => {
            let mut next = proxy.connect().await;
            assert_eq!(sql_mode(&mut next).await, before);
        }
        // The playground's accounts may not everywhere.
        Err(_) => on_all(bed, &format!("sql_mode = '{before}'")).await,
    }
    begins(&before).await;
    old.reset().await.unwrap();
    assert_eq!(sql_mode(&mut old).await, before, "a reset begins anew");
    on_all(bed, "time_zone = '+05:00'").await;
    until("new sessions begin with the new time zone", async || {
        let mut all = true;
        for _ in 0..4 {
            let mut conn = proxy.connect().await;
            all &= conn.query_first::<String, _>("SELECT @@time_zone").await.unwrap().unwrap() == "+05:00";
        }
        all
    })
    .await;
    on_all(bed, "time_zone = 'SYSTEM'").await;
    autocommit_may_be_off(bed, proxy, user).await;
}

async fn autocommit_may_be_off(bed: &Bed, proxy: &Proxy, user: u64) {
    on_all(bed, "autocommit = 0").await;
    until("new sessions begin with autocommit off", async || {
        let mut conn = proxy.connect().await;
        conn.query_first::<i64, _>("SELECT @@autocommit").await.unwrap() == Some(0)
    })
    .await;
    let mut conn = proxy.connect().await;
    conn.query_drop(format!("UPDATE users SET visits = 77 WHERE user_id = {user}")).await.unwrap();
    conn.query_drop("ROLLBACK").await.unwrap();
    conn.query_drop("SET autocommit = 1").await.unwrap();
    let read = format!("SELECT visits FROM users WHERE user_id = {user}");
    assert_ne!(conn.query_first::<i64, _>(&read).await.unwrap(), Some(77));
    conn.query_drop("SET autocommit = DEFAULT").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>("SELECT @@autocommit").await.unwrap(), Some(0));
    on_all(bed, "autocommit = 1").await;
    until("autocommit is on again", async || {
        let mut conn = proxy.connect().await;
        conn.query_first::<i64, _>("SELECT @@autocommit").await.unwrap() == Some(1)
    })
    .await;
}

/// What a text means is settled when it is prepared.
async fn meanings_of_prepared_texts_stay(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    conn.query_drop("INSERT INTO words (word) VALUES ('one')").await.unwrap();
    let string = conn.prep("SELECT \"word\", 'x' || 'y', ? FROM words").await.unwrap();
    conn.query_drop("SET sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'").await.unwrap();
    // Another text, as the driver remembers what it has prepared.
    let name = conn.prep("SELECT \"word\", 'x' || 'y', ? FROM words AS w").await.unwrap();
    for mode in ["''", "'ANSI_QUOTES'", "'PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES'"] {
        conn.query_drop(format!("SET sql_mode = {mode}")).await.unwrap();
        for _ in 0..2 {
            let old: (String, i64, i64) = conn.exec_first(&string, (5,)).await.unwrap().unwrap();
            assert_eq!(old, ("word".into(), 0, 5), "under {mode}");
            let new: (String, String, i64) = conn.exec_first(&name, (6,)).await.unwrap().unwrap();
            assert_eq!(new, ("one".into(), "xy".into(), 6), "under {mode}");
        }
    }
}
