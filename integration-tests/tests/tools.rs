//! What programs say that people already have: dumps and their restore, clients that ask for columns alone, pools that
//! look at status flags, databases that were there before.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use usher_integration_tests::raw::{error_code, logged_in, packet, send};
use usher_integration_tests::{Bed, Proxy, admin, code, message, until};
use usher_playground::Server;

const NOTES: &str = "CREATE TABLE notes (user_id BIGINT NOT NULL, note_id BIGINT NOT NULL AUTO_INCREMENT, body TEXT, \
                     PRIMARY KEY (user_id, note_id), KEY (note_id)) COMMENT 'usher:sharded key=user_id sequence=note_id'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_work_as_with_one_server_on_mariadb() {
    tools_work(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_work_as_with_one_server_on_mysql() {
    tools_work(Server::Mysql).await;
}

async fn tools_work(kind: Server) {
    let bed = Bed::up_with(&format!("tools-{kind:?}").to_lowercase(), 2, 0, kind, false).await;
    let account = bed.config().proxy.unwrap().backend_user;
    let global = bed.endpoints.servers().find(|server| server.name == bed.endpoints.global.writer).unwrap();
    let mut direct = admin(global).await;
    direct.query_drop(format!("GRANT RELOAD ON *.* TO '{account}'@'%'")).await.unwrap();
    let change = |config: &mut usher_config::Config| {
        config.users[0].schemas.clear();
        config.users[0].admin = true;
        let bare = |name: &str, admin| usher_config::User {
            name: name.to_owned(),
            password: None,
            admin,
            ..config.users[0].clone()
        };
        let users = [bare("plain", false), bare("chief", true)];
        config.users.extend(users);
    };
    let proxy = bed.proxy(1, change).await;
    let mut conn = proxy.connect().await;
    conn.query_drop(NOTES).await.unwrap();
    for user in 1..=6 {
        let text =
            format!("INSERT INTO notes (user_id, body) VALUES ({user}, 'one'), ({user}, 'it''s \\\\ two')");
        conn.query_drop(text).await.unwrap();
    }
    columns_are_told_without_a_user(&mut conn).await;
    what_tables_look_like_binds_no_transaction(&mut conn).await;
    settings_in_comments_are_the_servers(&mut conn, kind).await;
    tracking_may_be_asked_for(&mut conn).await;
    warnings_are_told_with_autocommit_off(&mut conn).await;
    prepared_statements_are_counted_by_session(&proxy).await;
    found_rows_outlive_a_look_at_warnings(&mut conn).await;
    savepoints_come_and_go_before_any_statement(&mut conn).await;
    read_locks_stay_with_their_session(&proxy).await;
    status_tells_of_read_only_transactions(&proxy).await;
    servers_are_refreshed_by_admins_alone(&proxy, kind).await;
    databases_from_before_are_of_use(&proxy, &mut direct).await;
    greets_as_a_server_does(&proxy, global.port).await;
    if kind == Server::Mariadb {
        the_last_prepared_is_executed_at_once(&proxy).await;
        one_users_rows_are_dumped_and_restored(&proxy, &mut conn).await;
    }
    proxy.stop().await;
}

/// LIMIT 0 and WHERE 1 = 0: by these clients learn the columns of any table.
async fn columns_are_told_without_a_user(conn: &mut Conn) {
    for text in [
        "SELECT * FROM notes LIMIT 0",
        "SELECT * FROM notes WHERE 1=0",
        "SELECT * FROM (SELECT * FROM notes) AS x WHERE 1 = 0",
        "SELECT notes.* FROM notes WHERE false = 1",
    ] {
        for prepared in [false, true] {
            let (columns, rows) = match prepared {
                false => told(conn.query_iter(text).await.unwrap()).await,
                true => told(conn.exec_iter(text, ()).await.unwrap()).await,
            };
            assert_eq!((columns, rows), (3, 0), "{text} {prepared}");
        }
    }
    let counted: Option<i64> = conn.query_first("SELECT COUNT(*) FROM notes WHERE 1 = 0").await.unwrap();
    assert_eq!(counted, Some(0));
    for text in ["SELECT * FROM notes LIMIT 1", "SELECT * FROM notes WHERE 1 = 1"] {
        assert_eq!(code(&conn.query_drop(text).await), 1235, "{text}");
        assert_eq!(code(&conn.exec_drop(text, ()).await), 1235, "{text}");
    }
}

/// How many columns and rows.
async fn told<'c, P: mysql_async::prelude::Protocol>(
    mut result: mysql_async::QueryResult<'c, 'static, P>,
) -> (usize, usize) {
    let columns = result.columns_ref().len();
    (columns, result.collect::<Row>().await.unwrap().len())
}

async fn what_tables_look_like_binds_no_transaction(conn: &mut Conn) {
    conn.query_drop("START TRANSACTION").await.unwrap();
    for text in [
        "SHOW CREATE TABLE notes",
        "DESCRIBE notes",
        "SHOW FULL COLUMNS FROM notes",
        "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'notes'",
        "SELECT c.column_name FROM information_schema.columns c, information_schema.tables t \
         WHERE c.table_name = 'notes' AND t.table_name = c.table_name",
    ] {
        assert!(!conn.query::<Row, _>(text).await.unwrap().is_empty(), "{text}");
        assert!(!conn.exec::<Row, _, _>(text, ()).await.unwrap().is_empty(), "{text}");
    }
    conn.query_drop("INSERT INTO notes (user_id, body) VALUES (3, 'three')").await.unwrap();
    conn.query_drop("SHOW CREATE TABLE notes").await.unwrap();
    let seen = "SELECT COUNT(*) FROM notes WHERE user_id = 3";
    assert_eq!(conn.query_first::<i64, _>(seen).await.unwrap(), Some(3));
    conn.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(seen).await.unwrap(), Some(2));
}

/// A comment that some servers run sets something there alone: dumps are full of them.
async fn settings_in_comments_are_the_servers(conn: &mut Conn, kind: Server) {
    conn.query_drop("/*!100100 SET @@max_statement_time=40 */").await.unwrap();
    conn.query_drop("/*!80000 SET SESSION information_schema_stats_expiry=0 */").await.unwrap();
    for _ in 0..4 {
        conn.query_drop("SELECT 1").await.unwrap();
    }
    if kind == Server::Mariadb {
        let set: Option<f64> = conn.query_first("SELECT @@max_statement_time").await.unwrap();
        assert_eq!(set, Some(40.0));
        conn.query_drop("SET max_statement_time = DEFAULT").await.unwrap();
    }
    // How a dump begins, as its client sends it.
    conn.query_drop("/*M!999999\\- enable the sandbox mode */ \n/*!40101 SET @old=@@character_set_client */")
        .await
        .unwrap();
    let old: Option<String> = conn.query_first("SELECT @old").await.unwrap();
    assert_eq!(old.as_deref(), Some("utf8mb4"));
}

/// Drivers ask to be told of changes when they connect.
async fn tracking_may_be_asked_for(conn: &mut Conn) {
    conn.query_drop("SET session_track_system_variables = 'auto_increment_increment'").await.unwrap();
    let asked = "SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES'), session_track_schema = 1, autocommit = 1, \
                 @@session.session_track_system_variables = 'x', @seen = 5";
    conn.query_drop(asked).await.unwrap();
    let set: Option<(i64, i64)> =
        conn.query_first("SELECT @@sql_mode LIKE '%ANSI_QUOTES%', @seen").await.unwrap();
    assert_eq!(set, Some((1, 5)));
    conn.query_drop("SET sql_mode = DEFAULT").await.unwrap();
    // usher is told as before, also of what MariaDB does not tell by itself.
    conn.query_drop("SET @@sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')").await.unwrap();
    for _ in 0..4 {
        let named: Option<i64> = conn.query_first("SELECT \"x\" FROM (SELECT 7 AS x) AS t").await.unwrap();
        assert_eq!(named, Some(7));
    }
    conn.query_drop("SET @@sql_mode = REPLACE(@@sql_mode, 'ANSI_QUOTES', '')").await.unwrap();
    conn.query_drop("SET @@sort_buffer_size = 100000 + 200000").await.unwrap();
    for _ in 0..4 {
        let size: Option<i64> = conn.query_first("SELECT @@sort_buffer_size").await.unwrap();
        assert_eq!(size, Some(300_000));
    }
    for text in ["SET max_seeks_for_key = 1000 + 24", "SET @@max_seeks_for_key = 512 * 2"] {
        conn.query_drop(text).await.unwrap();
        for _ in 0..4 {
            let seeks: Option<i64> = conn.query_first("SELECT @@max_seeks_for_key").await.unwrap();
            assert_eq!(seeks, Some(1024), "{text}");
        }
        conn.query_drop("SET max_seeks_for_key = DEFAULT").await.unwrap();
    }
}

async fn warnings_are_told_with_autocommit_off(conn: &mut Conn) {
    conn.query_drop("SET autocommit = 0").await.unwrap();
    conn.query_drop("DROP TABLE IF EXISTS never_was").await.unwrap();
    let warnings: Vec<(String, u16, String)> = conn.query("SHOW WARNINGS").await.unwrap();
    assert_eq!(warnings.iter().map(|warning| warning.1).collect::<Vec<_>>(), [1051]);
    conn.query_drop("DROP TABLE IF EXISTS never_was").await.unwrap();
    conn.query_drop("GET DIAGNOSTICS @told = NUMBER").await.unwrap();
    conn.query_drop("DROP TABLE IF EXISTS never_was").await.unwrap();
    let count: Option<(u16, u16)> = conn.query_first("SELECT @@warning_count, @told").await.unwrap();
    assert_eq!(count, Some((1, 1)));
    conn.query_drop("SET autocommit = 1").await.unwrap();
}

/// What other sessions do on the same connections, and what usher prepares once for all, is not told.
async fn prepared_statements_are_counted_by_session(proxy: &Proxy) {
    let [mut conn, mut other] = [proxy.connect().await, proxy.connect().await];
    for session in [&mut other, &mut conn] {
        for _ in 0..2 {
            let statement = session.prep("SELECT 1").await.unwrap();
            session.exec_drop(&statement, ()).await.unwrap();
            session.exec_drop(&statement, ()).await.unwrap();
            session.close(statement).await.unwrap();
        }
    }
    for text in
        ["PREPARE p FROM 'SELECT 2'", "PREPARE p FROM 'SELECT 3'", "EXECUTE p", "DEALLOCATE PREPARE p"]
    {
        conn.query_drop(text).await.unwrap();
    }
    let counted = async |conn: &mut Conn| {
        let rows: Vec<(String, u32)> = conn.query("SHOW SESSION STATUS LIKE 'Com\\_%'").await.unwrap();
        let of = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| row.1);
        ["Com_stmt_prepare", "Com_stmt_execute", "Com_stmt_close", "Com_prepare_sql", "Com_dealloc_sql"]
            .map(of)
    };
    assert_eq!(counted(&mut conn).await, [4, 5, 4, 2, 1].map(Some));
    assert_eq!(counted(&mut other).await, [2, 4, 2, 0, 0].map(Some));
    conn.reset().await.unwrap();
    assert_eq!(counted(&mut conn).await, [0; 5].map(Some));
    for conn in [conn, other] {
        conn.disconnect().await.unwrap();
    }
}

async fn found_rows_outlive_a_look_at_warnings(conn: &mut Conn) {
    conn.query_drop("SELECT 1 UNION SELECT 2 UNION SELECT 3").await.unwrap();
    conn.query_drop("SHOW WARNINGS").await.unwrap();
    conn.query_drop("SHOW CREATE TABLE notes").await.unwrap();
    let found: Option<i64> = conn.query_first("SELECT FOUND_ROWS()").await.unwrap();
    assert_eq!(found, Some(3));
}

/// As test frameworks make them, around each test of many.
async fn savepoints_come_and_go_before_any_statement(conn: &mut Conn) {
    for begin in ["START TRANSACTION", "SET autocommit = 0"] {
        conn.query_drop(begin).await.unwrap();
        conn.query_drop("SAVEPOINT outer_one").await.unwrap();
        for number in 0..100 {
            conn.query_drop(format!("SAVEPOINT s{number}")).await.unwrap();
            conn.query_drop("SAVEPOINT same").await.unwrap();
            if number % 2 == 0 {
                conn.query_drop(format!("ROLLBACK TO SAVEPOINT s{number}")).await.unwrap();
            }
            conn.query_drop(format!("RELEASE SAVEPOINT s{number}")).await.unwrap();
        }
        conn.query_drop("INSERT INTO notes (user_id, body) VALUES (4, 'gone')").await.unwrap();
        assert_eq!(code(&conn.query_drop("ROLLBACK TO SAVEPOINT same").await), 1305);
        conn.query_drop("ROLLBACK TO SAVEPOINT outer_one").await.unwrap();
        conn.query_drop("COMMIT").await.unwrap();
    }
    conn.query_drop("SET autocommit = 1").await.unwrap();
    let kept = "SELECT COUNT(*) FROM notes WHERE user_id = 4";
    assert_eq!(conn.query_first::<i64, _>(kept).await.unwrap(), Some(2));
}

/// Drivers tell by the version what a server understands.
async fn greets_as_a_server_does(proxy: &Proxy, port: u16) {
    let mut versions = Vec::new();
    for port in [proxy.port(), port] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let greeting = packet(&mut stream).await;
        versions.push(greeting[1..].split(|byte| *byte == 0).next().unwrap().to_vec());
    }
    assert_eq!(versions[0], versions[1], "{versions:?}");
}

async fn read_locks_stay_with_their_session(proxy: &Proxy) {
    let mut other = proxy.connect().await;
    other.query_drop("SET lock_wait_timeout = 1").await.unwrap();
    other.query_drop("CREATE TABLE plain (id INT)").await.unwrap();
    let mut dumping = proxy.connect().await;
    for _ in 0..2 {
        dumping.query_drop("FLUSH TABLES WITH READ LOCK").await.unwrap();
        assert_eq!(code(&other.query_drop("INSERT INTO plain VALUES (1)").await), 1205);
        dumping.query_drop("UNLOCK TABLES").await.unwrap();
        other.query_drop("INSERT INTO plain VALUES (1)").await.unwrap();
    }
    dumping.query_drop("FLUSH TABLES WITH READ LOCK").await.unwrap();
    dumping.disconnect().await.unwrap();
    // What the other one held is for nobody else.
    until("the lock to be gone", async || other.query_drop("INSERT INTO plain VALUES (2)").await.is_ok())
        .await;
    for _ in 0..4 {
        let mut next = proxy.connect().await;
        next.query_drop("INSERT INTO plain VALUES (3)").await.unwrap();
    }
}

async fn status_tells_of_read_only_transactions(proxy: &Proxy) {
    const IN_TRANS_READONLY: u16 = 0x2000;
    let mut stream = logged_in(proxy.port(), "plain").await;
    let mut flags = Vec::new();
    for text in ["START TRANSACTION READ ONLY", "DO 1", "COMMIT", "START TRANSACTION"] {
        send(&mut stream, 0, &[b"\x03", text.as_bytes()].concat()).await;
        let answer = packet(&mut stream).await;
        assert_eq!(answer[0], 0, "{text}: {}", String::from_utf8_lossy(&answer));
        flags.push(u16::from_le_bytes([answer[3], answer[4]]) & IN_TRANS_READONLY != 0);
    }
    assert_eq!(flags, [true, true, false, false]);
}

/// MariaDB's drivers execute the statement prepared last before they know its id.
async fn the_last_prepared_is_executed_at_once(proxy: &Proxy) {
    let mut stream = logged_in(proxy.port(), "plain").await;
    let last = u32::MAX.to_le_bytes();
    let execute = [&b"\x17"[..], &last, b"\0\x01\0\0\0"].concat();
    send(&mut stream, 0, b"\x16SELECT 5").await;
    send(&mut stream, 0, &execute).await;
    // Of the statement: its head, one column and the end; of its rows: how many columns, one, the end, the row, the end.
    let prepared = [packet(&mut stream).await, packet(&mut stream).await, packet(&mut stream).await];
    assert_eq!(prepared[0][0], 0, "{prepared:?}");
    let mut rows = Vec::new();
    for _ in 0..5 {
        rows.push(packet(&mut stream).await);
    }
    assert_eq!((rows[0].as_slice(), rows[3][..3].to_vec()), (&[1][..], vec![0, 0, 5]));
    send(&mut stream, 0, b"\x16SELEC 5").await;
    send(&mut stream, 0, &execute).await;
    assert_eq!(error_code(&packet(&mut stream).await), 1064);
    assert_eq!(error_code(&packet(&mut stream).await), 1243);
}

/// COM_REFRESH: FLUSH without a statement. MySQL has none any more.
async fn servers_are_refreshed_by_admins_alone(proxy: &Proxy, kind: Server) {
    const COM_REFRESH: u8 = 0x07;
    const STATUS: u8 = 0x10;
    const MASTER: u8 = 0x80;
    let mut plain = logged_in(proxy.port(), "plain").await;
    send(&mut plain, 0, &[COM_REFRESH, STATUS]).await;
    assert_eq!(error_code(&packet(&mut plain).await), 1227);
    let mut chief = logged_in(proxy.port(), "chief").await;
    send(&mut chief, 0, &[COM_REFRESH, MASTER]).await;
    assert_eq!(error_code(&packet(&mut chief).await), 1227);
    send(&mut chief, 0, &[COM_REFRESH, STATUS]).await;
    let answer = packet(&mut chief).await;
    match kind {
        Server::Mariadb => assert_eq!(answer[0], 0, "{}", String::from_utf8_lossy(&answer)),
        Server::Mysql => assert_eq!(error_code(&answer), 1047),
    }
}

/// Databases of the global master from before there were shards.
async fn databases_from_before_are_of_use(proxy: &Proxy, direct: &mut Conn) {
    direct.query_drop("CREATE DATABASE attic").await.unwrap();
    direct.query_drop("CREATE TABLE attic.boxes (id INT)").await.unwrap();
    let mut conn = proxy.connect().await;
    conn.query_drop("USE attic").await.unwrap();
    for _ in 0..4 {
        let asked: Option<i64> = conn.query_first("SELECT 5").await.unwrap();
        assert_eq!(asked, Some(5));
    }
    conn.query_drop("SET sort_buffer_size = 300000").await.unwrap();
    conn.query_drop("INSERT INTO boxes VALUES (1)").await.unwrap();
    assert_eq!(code(&conn.query_drop("USE cellar").await), 1049);
    conn.query_drop("CREATE DATABASE IF NOT EXISTS attic").await.unwrap();
    conn.query_drop("DROP DATABASE attic").await.unwrap();
    direct.query_drop("CREATE DATABASE attic").await.unwrap();
    conn.query_drop("DROP DATABASE attic").await.unwrap();
    assert_eq!(code(&conn.query_drop("DROP DATABASE attic").await), 1008);
}

async fn one_users_rows_are_dumped_and_restored(proxy: &Proxy, conn: &mut Conn) {
    let dump = ["--single-transaction", "--skip-add-locks"];
    let whole = client(proxy, "mariadb-dump", &[&dump[..], &["app", "notes"]].concat(), b"").await;
    assert!(whole.2.contains("[USHER-0303]"), "{whole:?}");
    let locked = conn.query_drop("LOCK TABLES notes READ").await;
    assert!(message(&locked).contains("--single-transaction"), "{locked:?}");
    let arguments = [&dump[..], &["--where=user_id=5", "app", "notes"]].concat();
    let (ended_well, dumped, errors) = client(proxy, "mariadb-dump", &arguments, b"").await;
    assert!(ended_well, "{errors}");
    conn.query_drop("CREATE DATABASE restored").await.unwrap();
    let (ended_well, _, errors) = client(proxy, "mariadb", &["restored"], dumped.as_bytes()).await;
    assert!(ended_well, "{errors}");
    let rows = |schema: &str| format!("SELECT * FROM {schema}.notes WHERE user_id = 5 ORDER BY note_id");
    let before: Vec<(i64, i64, String)> = conn.query(rows("app")).await.unwrap();
    let after: Vec<(i64, i64, String)> = conn.query(rows("restored")).await.unwrap();
    assert_eq!((before.len(), &before), (2, &after));
    conn.query_drop("DROP DATABASE restored").await.unwrap();
}

/// Runs a client program to its end: whether it ended well, and what it said.
async fn client(proxy: &Proxy, program: &str, arguments: &[&str], input: &[u8]) -> (bool, String, String) {
    let mut child = Command::new(program)
        .args(["--no-defaults", "--host=127.0.0.1", "--user=chief", "--default-character-set=utf8mb4"])
        .arg(format!("--port={}", proxy.port()))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), output).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}
