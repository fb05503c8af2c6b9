//! Triggers, routines and compound statements: what they do to a session goes with it, and what their bodies say is theirs.
#![allow(clippy::unwrap_used)]

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_integration_tests::{Bed, admin, code};
use usher_playground::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_programs_on_mariadb() {
    run(Bed::up("programs", 1, 0).await, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_programs_on_mysql() {
    run(Bed::up_with("programs-mysql", 1, 0, Server::Mysql, false).await, false).await;
}

async fn run(bed: Bed, mariadb: bool) {
    let account = bed.config().proxy.unwrap().backend_user;
    for server in bed.endpoints.servers() {
        let mut conn = admin(server).await;
        // Replicated from the writer.
        if one(&mut conn, "SELECT @@read_only").await == Some(1) {
            continue;
        }
        let rights = if mariadb { "SUPER" } else { "SET_ANY_DEFINER, SHOW_ROUTINE, SYSTEM_VARIABLES_ADMIN" };
        conn.query_drop(format!("GRANT {rights} ON *.* TO '{account}'@'%'")).await.unwrap();
    }
    let proxy = bed.proxy(1, |_| {}).await;
    let (mut conn, mut other) = (proxy.connect().await, proxy.connect().await);
    triggers_and_functions_set_variables(&mut conn, &mut other).await;
    bodies_stay_as_they_are_written(&mut conn).await;
    if mariadb {
        conn.query_drop("SET @a = 0").await.unwrap();
        conn.query_drop("BEGIN NOT ATOMIC SET @a = 6; END").await.unwrap();
        assert_eq!(one(&mut conn, "SELECT @a").await, Some(6));
    }
    if mariadb {
        expressions_are_prepared(&mut conn).await;
    }
    time_stands_still_until_it_is_let_go(&mut conn).await;
    proxy.stop().await;
}

async fn one(conn: &mut Conn, text: &str) -> Option<i64> {
    conn.query_first::<Option<i64>, _>(text).await.unwrap().unwrap()
}

async fn triggers_and_functions_set_variables(conn: &mut Conn, other: &mut Conn) {
    for text in [
        "CREATE TABLE sums (n INT, who VARCHAR(9))",
        "CREATE TRIGGER sums_in BEFORE INSERT ON sums FOR EACH ROW SET @sum = COALESCE(@sum, 0) + NEW.n, NEW.who = @who",
        "CREATE FUNCTION counted(n INT) RETURNS INT NO SQL BEGIN SET @calls = COALESCE(@calls, 0) + n; RETURN n; END",
        "SET @sum = 0, @who = 'joe'",
    ] {
        conn.query_drop(text).await.unwrap();
    }
    for n in 1..=4_i64 {
        conn.query_drop(format!("INSERT INTO sums (n) VALUES ({n})")).await.unwrap();
        // Nobody else sees it, on whichever connection.
        assert_eq!(one(other, "SELECT @sum").await, None);
        assert_eq!(one(conn, "SELECT @sum").await, Some(n * (n + 1) / 2));
        conn.exec_drop("INSERT INTO sums (n) VALUES (?)", (0,)).await.unwrap();
        assert_eq!(one(conn, "SELECT counted(2)").await, Some(2));
        assert_eq!(one(other, "SELECT @calls").await, None);
        assert_eq!(one(conn, "SELECT @calls").await, Some(2 * n));
    }
    assert_eq!(one(conn, "SELECT COUNT(*) FROM sums WHERE who = 'joe'").await, Some(8));
    assert_eq!(other.query_drop("INSERT INTO sums (n) VALUES (7)").await.ok(), Some(()));
    assert_eq!(one(other, "SELECT @sum").await, Some(7));
    assert_eq!(one(conn, "SELECT @sum").await, Some(10));
}

/// A value in place of a call would be there for good.
async fn bodies_stay_as_they_are_written(conn: &mut Conn) {
    conn.query_drop(
        "CREATE PROCEDURE counts() SELECT ROW_COUNT(), FOUND_ROWS(), CONNECTION_ID(), LAST_INSERT_ID()",
    )
    .await
    .unwrap();
    let made: mysql_async::Row = conn.query_first("SHOW CREATE PROCEDURE counts").await.unwrap().unwrap();
    let body: String = made.get(2).unwrap();
    assert!(body.ends_with("SELECT ROW_COUNT(), FOUND_ROWS(), CONNECTION_ID(), LAST_INSERT_ID()"), "{body}");
    conn.query_drop("CREATE VIEW mine AS SELECT CONNECTION_ID() AS id").await.unwrap();
    let made: mysql_async::Row = conn.query_first("SHOW CREATE VIEW mine").await.unwrap().unwrap();
    let body: String = made.get(1).unwrap();
    assert!(body.ends_with("select connection_id() AS `id`"), "{body}");
}

/// MariaDB takes expressions for the text and for the values.
async fn expressions_are_prepared(conn: &mut Conn) {
    conn.query_drop("SET @column = 'n'").await.unwrap();
    let count = one(conn, "SELECT COUNT(*) FROM sums WHERE n > 2").await;
    for text in [
        "EXECUTE IMMEDIATE CONCAT('SELECT COUNT(*) FROM sums WHERE ', @column, ' > 2')",
        "EXECUTE IMMEDIATE CONCAT('SELECT COUNT(*) FROM sums WHERE ', @column, ' > ?') USING 1 + 1",
        "EXECUTE IMMEDIATE 'SELECT COUNT(*) + 0 * ROW_COUNT() FROM sums WHERE n > ?' USING 1 + 1",
    ] {
        assert_eq!(one(conn, text).await, count, "{text}");
    }
    conn.query_drop("PREPARE p FROM CONCAT('SELECT ', '? + ?')").await.unwrap();
    assert_eq!(one(conn, "EXECUTE p USING LENGTH('four'), 5").await, Some(9));
    let refused = conn.query_drop("EXECUTE IMMEDIATE CONCAT('SELECT ', no_such())").await;
    assert_eq!(code(&refused), 1235, "it could leave anything behind");
    let left: Option<i64> = conn.query_first("SELECT @`usher.operand0`").await.unwrap().unwrap();
    assert_eq!(left, None);
}

async fn time_stands_still_until_it_is_let_go(conn: &mut Conn) {
    for still in ["1000000000", "UNIX_TIMESTAMP('2001-09-09 12:00:00')"] {
        conn.query_drop(format!("SET timestamp = {still}")).await.unwrap();
        assert_eq!(one(conn, "SELECT YEAR(NOW())").await, Some(2001));
        conn.query_drop("SET timestamp = DEFAULT").await.unwrap();
        assert_ne!(one(conn, "SELECT YEAR(NOW())").await, Some(2001), "{still}");
    }
}
