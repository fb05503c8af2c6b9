//! A schema without sharded tables: usher answers as the one server behind it, down to notes, errors and status.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::StreamExt as _;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use usher_integration_tests::{Bed, Proxy, code, message, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsharded_schema_is_as_on_one_server() {
    let bed = Bed::up("one-server", 1, 0).await;
    let proxy = bed.proxy(1, |config| config.users[0].schemas.clear()).await;
    let mut conn = proxy.connect().await;
    databases_give_the_servers_answer(&mut conn).await;
    ushers_own_tables_are_out_of_reach(&mut conn).await;
    statements_of_one_server_pass(&mut conn).await;
    settings_warn_and_hide_no_way_past(&mut conn).await;
    files_are_loaded(&mut conn).await;
    errors_read_as_a_servers(&proxy, &mut conn).await;
    sessions_are_killed(&proxy, &mut conn).await;
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
    assert_eq!(code(&conn.query_drop("SET GLOBAL max_connections = 100").await), 1227);
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
        let look = "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(30)%'";
        let at_work: Vec<u64> = looking.query(look).await.unwrap();
        !at_work.is_empty()
    })
    .await;
    conn.query_drop(format!("KILL QUERY {id}")).await.unwrap();
    let (slept, mut other) = sleeping.await.unwrap();
    // MariaDB's SLEEP() tells of it by its value.
    assert!(matches!(slept, Ok(Some(1)) | Err(_)), "{slept:?}");
    conn.query_drop(format!("KILL {id}")).await.unwrap();
    assert!(other.ping().await.is_err());
    until("the session to be gone", || async {
        let mut asking = proxy.connect().await;
        let again = asking.query_drop(format!("KILL {id}")).await;
        again.is_err() && code(&again) == 1094
    })
    .await;
}
