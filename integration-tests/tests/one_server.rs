//! A schema without sharded tables: usher answers as the one server behind it, down to notes, errors and status.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::StreamExt as _;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use usher_integration_tests::{Bed, Proxy, admin, code, message, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsharded_schema_is_as_on_one_server() {
    let bed = Bed::up("one-server", 1, 0).await;
    let account = bed.config().proxy.unwrap().backend_user;
    for server in bed.endpoints.servers() {
        let mut conn = admin(server).await;
        conn.query_drop("SET sql_log_bin = 0").await.unwrap();
        conn.query_drop(format!("GRANT CONNECTION ADMIN ON *.* TO '{account}'@'%'")).await.unwrap();
    }
    let change = |config: &mut usher_config::Config| {
        config.users[0].schemas.clear();
        config.users[0].admin = true;
        let plain = usher_config::User { name: "plain".to_owned(), admin: false, ..config.users[0].clone() };
        config.users.push(plain);
    };
    let proxy = bed.proxy(1, change).await;
    let mut conn = proxy.connect().await;
    databases_give_the_servers_answer(&mut conn).await;
    ushers_own_tables_are_out_of_reach(&mut conn).await;
    statements_of_one_server_pass(&mut conn).await;
    prepared_texts_mean_what_they_meant(&mut conn).await;
    prepared_texts_ask_of_the_statement_before(&proxy).await;
    settings_warn_and_hide_no_way_past(&mut conn).await;
    files_are_loaded(&mut conn).await;
    errors_read_as_a_servers(&proxy, &mut conn).await;
    globals_are_set_beside_sessions(&proxy, &mut conn).await;
    ushers_own_schema_is_not_shown(&mut conn).await;
    let global = bed.endpoints.servers().find(|server| server.name.starts_with('g')).unwrap();
    own_values_are_as_a_servers(&mut conn, &mut admin(global).await).await;
    variables_of_the_server_are_one_writers(&mut conn, &mut admin(global).await).await;
    schema_changes_are_prepared(&mut conn).await;
    the_clients_own_timeout_holds(&proxy).await;
    sessions_are_killed(&proxy, &mut conn).await;
    only_an_admin_sees_and_kills_those_of_others(&proxy, &mut conn).await;
    proxy.stop().await;
}

async fn databases_give_the_servers_answer(conn: &mut Conn) {
    conn.query_drop("CREATE DATABASE theatre").await.unwrap();
    assert_eq!(conn.affected_rows(), 1);
    conn.query_drop("CREATE DATABASE IF NOT EXISTS theatre").await.unwrap();
    let notes: Vec<(String, u16, String)> = conn.query("SHOW WARNINGS").await.unwrap();
    assert_eq!(notes[0].1, 1007, "{notes:?}");
    conn.query_drop("USE theatre").await.unwrap();
    conn.query_drop("DROP DATABASE theatre").await.unwrap();
    assert_eq!(code(&conn.query_drop("SELECT * FROM seats").await), 1046);
    conn.query_drop("USE app").await.unwrap();
}

async fn ushers_own_tables_are_out_of_reach(conn: &mut Conn) {
    for text in ["DROP DATABASE usher", "DELETE FROM usher.directory", "SELECT * FROM `usher`.`moves`"] {
        assert_eq!(code(&conn.query_drop(text).await), 1044, "{text}");
    }
    assert_eq!(code(&conn.query_drop("USE usher").await), 1044);
}

async fn ushers_own_schema_is_not_shown(conn: &mut Conn) {
    for (text, shown) in [
        ("SHOW DATABASES", vec!["app", "information_schema"]),
        ("SHOW SCHEMAS LIKE '%s%a%p%' -- x", Vec::new()),
        ("SHOW DATABASES LIKE '%p%' ;", vec!["app"]),
        ("SHOW DATABASES LIKE 'us%'", Vec::new()),
        ("SHOW DATABASES WHERE `Database` LIKE 'u%' OR `Database` = 'app'", vec!["app"]),
    ] {
        let mut names: Vec<String> = conn.query(text).await.unwrap();
        names.retain(|name| !["mysql", "sys", "performance_schema", "test"].contains(&name.as_str()));
        assert_eq!(names, shown, "{text}");
        let prepared: Vec<String> = conn.exec(text, ()).await.unwrap();
        assert!(!prepared.contains(&"usher".to_owned()), "{text}");
    }
    let result = conn.query_iter("SHOW DATABASES LIKE 'ap%'").await.unwrap();
    assert_eq!(result.columns_ref()[0].name_str(), "Database (ap%)");
    result.drop_result().await.unwrap();
    assert_eq!(code(&conn.query_drop("SHOW DATABASES LIKE").await), 1064);
}

/// CONNECTION_ID(), ROW_COUNT() and FOUND_ROWS() have the session's values and the server's types and names.
async fn own_values_are_as_a_servers(conn: &mut Conn, plain: &mut Conn) {
    let id = conn.id();
    for text in [
        "SELECT CONNECTION_ID()",
        "SELECT ROW_COUNT(), FOUND_ROWS(), CONNECTION_ID() AS id, 1",
        "SELECT HEX(CONCAT(ROW_COUNT())), CONCAT(CONNECTION_ID()), FOUND_ROWS() + 1 FROM DUAL",
    ] {
        for prepared in [false, true] {
            let [through, direct] = [shape(conn, text, prepared).await, shape(plain, text, prepared).await];
            assert_eq!(through, direct, "{text} {prepared}");
        }
    }
    let asked: Option<u32> = conn.exec_first("SELECT CONNECTION_ID()", ()).await.unwrap();
    assert_eq!(asked, Some(id));
    let statement = conn.prep("SELECT ROW_COUNT(), FOUND_ROWS(), CONNECTION_ID()").await.unwrap();
    conn.query_drop("SELECT id FROM seats LIMIT 2").await.unwrap();
    let asked: Option<(i64, i64, u32)> = conn.exec_first(&statement, ()).await.unwrap();
    assert_eq!(asked, Some((-1, 2, id)));
    conn.query_drop("UPDATE seats SET name = 'b' WHERE id < 4").await.unwrap();
    let asked: Option<(i64, i64, u32)> = conn.exec_first(&statement, ()).await.unwrap();
    assert_eq!(asked.map(|row| row.0), Some(3));
}

/// Whichever server is asked, it is the writer: copies would say that they are read-only.
async fn variables_of_the_server_are_one_writers(conn: &mut Conn, plain: &mut Conn) {
    let asked = "SELECT @@global.read_only, @@server_id, @@auto_increment_offset";
    let expected: (bool, u32, u32) = plain.query_first(asked).await.unwrap().unwrap();
    assert!(!expected.0);
    for _ in 0..8 {
        let seen: (bool, u32, u32) = conn.query_first(asked).await.unwrap().unwrap();
        assert_eq!(seen, expected);
        let seen: (bool, u32, u32) = conn.exec_first(asked, ()).await.unwrap().unwrap();
        assert_eq!(seen, expected, "prepared");
        conn.query_drop("SET @offset = @@auto_increment_offset").await.unwrap();
        let seen: u32 = conn.query_first("SELECT @offset").await.unwrap().unwrap();
        assert_eq!(seen, expected.2);
    }
}

/// Schema changes and USE as prepared statements, and what a server says when it prepares.
async fn schema_changes_are_prepared(conn: &mut Conn) {
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop("INSERT INTO seats VALUES (60, 'c')").await.unwrap();
    conn.exec_drop("CREATE TABLE ranks (id INT, mark VARCHAR(9) DEFAULT ?)", ("y",)).await.unwrap();
    conn.query_drop("ROLLBACK").await.unwrap();
    let kept: Option<i64> = conn.query_first("SELECT COUNT(*) FROM seats WHERE id = 60").await.unwrap();
    assert_eq!(kept, Some(1), "a schema change commits");
    let sharded = "CREATE TABLE lost (user_id INT, mark INT DEFAULT ?) COMMENT 'usher:sharded key=user_id'";
    assert_eq!(code(&conn.exec_drop(sharded, (1,)).await), 1235);
    assert_eq!(code(&conn.query_drop("SELECT * FROM lost").await), 1146);
    conn.exec_drop("USE information_schema", ()).await.unwrap();
    let schema: Option<String> = conn.query_first("SELECT DATABASE()").await.unwrap();
    assert_eq!(schema.as_deref(), Some("information_schema"));
    conn.query_drop("USE app").await.unwrap();
    conn.query_drop("DROP TABLE IF EXISTS no_such").await.unwrap();
    let _ = conn.prep("CREATE TABLE years (y YEAR(2))").await.unwrap();
    let notes: Vec<(String, u16, String)> = conn.query("SHOW WARNINGS").await.unwrap();
    assert_eq!(notes.iter().map(|note| note.1).collect::<Vec<_>>(), [1287], "{notes:?}");
}

/// Name, type, length and flags of each column.
async fn shape(conn: &mut Conn, text: &str, prepared: bool) -> Vec<String> {
    let columns = match prepared {
        true => conn.exec_iter(text, ()).await.unwrap().columns(),
        false => conn.query_iter(text).await.unwrap().columns(),
    };
    let shape = |column: &mysql_async::Column| {
        let (ty, length, flags) = (column.column_type(), column.column_length(), column.flags());
        format!("{} {ty:?} {length} {flags:?}", column.name_str())
    };
    columns.unwrap().iter().map(shape).collect()
}

async fn the_clients_own_timeout_holds(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    // Before the statement: the session is idle from when its answer is sent, not from when this task sees it.
    let idle = std::time::Instant::now();
    conn.query_drop("SET wait_timeout = 1").await.unwrap();
    until("the idle session to be ended", || async {
        let mut asking = proxy.connect().await;
        let text = format!("KILL QUERY {}", conn.id());
        let asked = asking.query_drop(text).await;
        asked.is_err() && code(&asked) == 1094
    })
    .await;
    assert!(idle.elapsed().as_millis() >= 1000);
    assert!(conn.query_drop("SELECT 1").await.is_err());
}

async fn statements_of_one_server_pass(conn: &mut Conn) {
    conn.query_drop("CREATE TABLE seats (id INT PRIMARY KEY, name VARCHAR(20))").await.unwrap();
    conn.query_drop("FOR i IN 1..3 DO INSERT INTO seats VALUES (i, 'a'); END FOR").await.unwrap();
    let counted: Option<i64> = conn
        .query_first("SET STATEMENT max_statement_time = 10 FOR SELECT COUNT(*) FROM seats")
        .await
        .unwrap();
    assert_eq!(counted, Some(3));
    conn.query_drop("HANDLER seats OPEN").await.unwrap();
    let row: Option<(i32, String)> = conn.query_first("HANDLER seats READ FIRST").await.unwrap();
    assert_eq!(row, Some((1, "a".to_owned())));
    conn.query_drop("HANDLER seats CLOSE").await.unwrap();
    let variables: Vec<(String, String)> = conn.query("SHOW VARIABLES LIKE 'version'").await.unwrap();
    assert_eq!(variables.len(), 1);
}

async fn prepared_texts_mean_what_they_meant(conn: &mut Conn) {
    conn.query_drop("SET sql_mode = ''").await.unwrap();
    conn.query_drop("PREPARE s FROM 'SELECT \"a\", COUNT(*) FROM seats'").await.unwrap();
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop("INSERT INTO seats VALUES (50, 'b')").await.unwrap();
    conn.query_drop("SET sql_mode = 'ANSI_QUOTES'").await.unwrap();
    let row: Option<(String, i64)> = conn.query_first("EXECUTE s").await.unwrap();
    assert_eq!(row, Some(("a".to_owned(), 4)));
    assert_eq!(code(&conn.query_drop("SELECT \"a\"").await), 1054, "only the prepared one is of before");
    conn.query_drop("ROLLBACK").await.unwrap();
    let row: Option<(String, i64)> = conn.query_first("EXECUTE s").await.unwrap();
    assert_eq!(row, Some(("a".to_owned(), 3)));
    conn.query_drop("SET sql_mode = DEFAULT").await.unwrap();
    let create =
        "EXECUTE IMMEDIATE 'CREATE TABLE marks (id INT, mark VARCHAR(9) DEFAULT ?)' USING UPPER('x')";
    conn.query_drop(create).await.unwrap();
    conn.query_drop("INSERT INTO marks (id) VALUES (1)").await.unwrap();
    let mark: Option<String> = conn.query_first("SELECT mark FROM marks").await.unwrap();
    assert_eq!(mark.as_deref(), Some("X"));
}

async fn prepared_texts_ask_of_the_statement_before(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    conn.query_drop("PREPARE asks FROM 'SHOW WARNINGS'").await.unwrap();
    conn.query_drop("CREATE PROCEDURE keeps() SHOW ERRORS").await.unwrap();
    // On a connection that others may have in between, and on one that stays with the session.
    for before in ["DO 0", "CALL keeps()"] {
        conn.query_drop(before).await.unwrap();
        for text in ["EXECUTE asks", "EXECUTE IMMEDIATE 'SHOW WARNINGS'"] {
            conn.query_drop("DROP TABLE IF EXISTS nothing_of_that_name").await.unwrap();
            let told: Vec<(String, u16, String)> = conn.query(text).await.unwrap();
            assert_eq!(told.len(), 1, "{text} behind {before}");
            assert_eq!(told[0].1, 1051);
        }
        assert_eq!(code(&conn.query_drop("SELECT * FROM nothing_of_that_name").await), 1146);
        let told: Vec<(String, u16, String)> = conn.query("EXECUTE asks").await.unwrap();
        assert_eq!(told.iter().map(|told| told.1).collect::<Vec<_>>(), [1146], "behind {before}");
    }
    conn.query_drop("DROP PROCEDURE keeps").await.unwrap();
}

async fn settings_warn_and_hide_no_way_past(conn: &mut Conn) {
    conn.query_drop("SET SESSION tmp_table_size = 10").await.unwrap();
    let warnings: Vec<(String, u16, String)> = conn.query("SHOW WARNINGS").await.unwrap();
    assert_eq!(warnings[0].1, 1292, "{warnings:?}");
    let row: Row = conn.query_first("SELECT @@max_allowed_packet, @@socket").await.unwrap().unwrap();
    assert_eq!((row.get(1), row.columns_ref()[1].name_str()), (Some(String::new()), "@@socket".into()));
}

async fn files_are_loaded(conn: &mut Conn) {
    let rows = [Bytes::from_static(b"10\tx\n11"), Bytes::from_static(b"\ty\n")];
    conn.set_infile_handler(async move { Ok(futures_util::stream::iter(rows.map(Ok)).boxed()) });
    conn.query_drop("LOAD DATA LOCAL INFILE 'names' INTO TABLE seats").await.unwrap();
    assert_eq!(conn.affected_rows(), 2);
    let loaded: Vec<String> = conn.query("SELECT name FROM seats WHERE id > 9 ORDER BY id").await.unwrap();
    assert_eq!(loaded, ["x", "y"]);
}

async fn errors_read_as_a_servers(proxy: &Proxy, conn: &mut Conn) {
    let denied = proxy.login().user("nobody", "x").connect().await;
    assert!(message(&denied).starts_with("Access denied for user 'nobody'@'127.0.0.1'"), "{denied:?}");
    assert_eq!(code(&proxy.login().database(Some("no_such")).connect().await), 1049);
    assert_eq!(code(&conn.query_drop("SET GLOBAL read_only = 0").await), 1227);
    // The account of this proxy on the servers may not.
    assert_eq!(code(&conn.query_drop("SET GLOBAL flush_time = 0").await), 1227);
}

async fn globals_are_set_beside_sessions(proxy: &Proxy, conn: &mut Conn) {
    let mut other = proxy.connect().await;
    other.query_drop("CREATE TEMPORARY TABLE own SELECT 5 AS n").await.unwrap();
    conn.query_drop("SET GLOBAL max_connect_errors = 77").await.unwrap();
    let set: Option<u32> = conn.query_first("SELECT @@max_connect_errors").await.unwrap();
    assert_eq!(set, Some(77));
    let kept: Option<u32> = other.query_first("SELECT n FROM own").await.unwrap();
    assert_eq!(kept, Some(5), "what a session holds stays");
}

/// Id, command, state and statement of the sessions that are shown.
async fn processes(conn: &mut Conn) -> Vec<(u64, String, String, Option<String>)> {
    let rows: Vec<Row> = conn.query("SHOW FULL PROCESSLIST").await.unwrap();
    rows.into_iter()
        .map(|row| (row.get(0), row.get(4), row.get(6), row.get(7)))
        .map(|(id, command, state, info)| (id.unwrap(), command.unwrap(), state.unwrap(), info.unwrap()))
        .collect()
}

async fn only_an_admin_sees_and_kills_those_of_others(proxy: &Proxy, admin: &mut Conn) {
    let login = proxy.login().with(|builder| builder.user(Some("plain")));
    let mut plain = login.connect().await.unwrap();
    let id = u64::from(plain.id());
    assert_eq!(processes(&mut plain).await.iter().map(|process| process.0).collect::<Vec<_>>(), [id]);
    let denied = plain.query_drop(format!("KILL {}", admin.id())).await;
    assert_eq!(code(&denied), 1095);
    assert!(processes(admin).await.iter().any(|process| process.0 == id));
    admin.query_drop(format!("KILL {id}")).await.unwrap();
    assert!(plain.ping().await.is_err());
}

async fn sessions_are_killed(proxy: &Proxy, conn: &mut Conn) {
    let mut other = proxy.connect().await;
    let id = other.id();
    let sleeping = tokio::spawn(async move {
        let slept: Result<Option<i64>, _> = other.query_first("SELECT SLEEP(30) FROM seats LIMIT 1").await;
        (slept, other)
    });
    until("the statement to be at work", || async {
        let mut looking = proxy.connect().await;
        let at_work = processes(&mut looking).await.into_iter().find(|process| process.0 == u64::from(id));
        let (_, command, state, info) = at_work.unwrap();
        let sleeps = info.is_some_and(|info| info == "SELECT SLEEP(30) FROM seats LIMIT 1");
        sleeps && command == "Query" && state.starts_with("on global, server g")
    })
    .await;
    let own = processes(conn).await.into_iter().find(|process| process.0 == u64::from(conn.id())).unwrap();
    assert_eq!((own.1.as_str(), own.2.as_str()), ("Query", "in usher"));
    assert_eq!(own.3.as_deref(), Some("SHOW FULL PROCESSLIST"));
    conn.query_drop(format!("KILL QUERY {id}")).await.unwrap();
    let (slept, mut other) = sleeping.await.unwrap();
    // MariaDB's SLEEP() tells of it by its value.
    assert!(matches!(slept, Ok(Some(1)) | Err(_)), "{slept:?}");
    let mut looking = proxy.connect().await;
    let listed =
        processes(&mut looking).await.into_iter().find(|process| process.0 == u64::from(id)).unwrap();
    assert_eq!((listed.1.as_str(), listed.2.as_str(), listed.3), ("Sleep", "", None));
    conn.query_drop(format!("KILL {id}")).await.unwrap();
    assert!(other.ping().await.is_err());
    until("the session to be gone", || async {
        let mut asking = proxy.connect().await;
        let again = asking.query_drop(format!("KILL {id}")).await;
        again.is_err() && code(&again) == 1094
    })
    .await;
}
