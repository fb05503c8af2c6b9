//! What clients may send: nothing into usher's own schema, nothing into schemas that are not theirs, and nothing of an
//! administrator's without being one.
#![allow(clippy::unwrap_used)]

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_config::{Config, User};
use usher_integration_tests::{Bed, Login, Proxy, admin, code, make_tables, sign_up, until};
use usher_playground::ServerEndpoint;

const DENIED: u16 = 1044;
const ADMIN_NEEDED: u16 = 1227;
const PASSWORD: &str = "secret";

fn users(config: &mut Config) {
    let user = |name: &str, admin| User {
        name: name.to_owned(),
        password: Some(PASSWORD.to_owned()),
        schemas: vec!["*".to_owned()],
        admin,
        ..User::default()
    };
    let few = User { connections_max: 1, ..user("few", false) };
    config.users.extend([user("all", false), user("root", true), few]);
}

async fn login(proxy: &Proxy, user: &str) -> Conn {
    proxy.login().user(user, PASSWORD).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_stay_within_their_rights() {
    let bed = Bed::up("rights", 1, 0).await;
    let proxy = bed.proxy(1, users).await;
    let mut app = proxy.connect().await;
    make_tables(&mut app).await;
    let user = sign_up(&bed, &mut app, 1).await.into_values().next().unwrap()[0];
    let mut all = login(&proxy, "all").await;
    let mut root = login(&proxy, "root").await;
    for conn in [&mut app, &mut all, &mut root] {
        own_schema_is_closed(&proxy, conn, user).await;
        users_statements_pass(conn, user).await;
    }
    administration(&mut app, &mut all, &mut root).await;
    other_schemas(&bed, &proxy, &mut app, &mut all).await;
    connections_are_counted(&proxy).await;
    let shard = &bed.endpoints.shards[0];
    servers_know_their_place(&bed, &shard.members[0]).await;
    let rows: Option<u64> =
        admin(&shard.members[0]).await.query_first("SELECT COUNT(*) FROM usher.ownership").await.unwrap();
    assert_eq!(rows, Some(1));
    proxy.stop().await;
}

/// Whatever came past the proxy's own checks: its account must not write what the guarantees rest on.
async fn servers_know_their_place(bed: &Bed, server: &ServerEndpoint) {
    let login = Login::new(server.port, "usher_px1", &bed.proxy_password(1));
    let mut conn = login.connect().await.unwrap();
    conn.query_drop("SELECT 1 FROM usher.ownership LOCK IN SHARE MODE").await.unwrap();
    conn.query_drop("UPDATE usher.heartbeat SET ts = ts").await.unwrap();
    for sql in [
        "UPDATE usher.ownership SET own_gen = own_gen + 1",
        "DELETE FROM usher.ownership",
        "TRUNCATE usher.ownership",
        "DROP TABLE usher.heartbeat",
        "DROP DATABASE usher",
        "CREATE TABLE usher.x (a INT)",
        "CREATE USER evil",
        "DELETE FROM mysql.global_priv",
        "DROP DATABASE mysql",
    ] {
        let code = code(&conn.query_drop(sql).await);
        assert!([1044, 1142, 1227].contains(&code), "{sql}: {code}");
    }
}

async fn connections_are_counted(proxy: &Proxy) {
    let first = login(proxy, "few").await;
    assert_eq!(code(&proxy.login().user("few", PASSWORD).connect().await), 1226);
    first.disconnect().await.unwrap();
    until("its place is free again", async || proxy.login().user("few", PASSWORD).connect().await.is_ok())
        .await;
}

async fn refused(conn: &mut Conn, sql: &str, number: u16, id: &str) {
    match conn.query_drop(sql).await {
        Err(mysql_async::Error::Server(error)) => {
            assert!(error.code == number && error.message.contains(id), "{sql}: {error}");
        }
        other => panic!("{sql}: {other:?}"),
    }
}

async fn own_schema_is_closed(proxy: &Proxy, conn: &mut Conn, user: u64) {
    let hinted = [
        format!("/* usher: user={user} */ SELECT * FROM usher.ownership"),
        "/* usher: shard=s1 */ SELECT * FROM usher.ownership".to_owned(),
        "/* usher: shard=s1 */ SELECT * FROM `USHER` . ownership".to_owned(),
    ];
    let plain = [
        "UPDATE usher.control SET version = version + 1",
        "DELETE FROM usher.directory",
        "SELECT * FROM /*!50000 usher*/.directory",
        "SELECT * FROM usher/*!99999 x */.directory",
        "SELECT /*!99999 ' */ * FROM usher.directory -- '",
        "SELECT * FROM `#mysql50#usher`.directory",
        "DROP DATABASE usher",
        "USE usher",
        "SHOW TABLES FROM usher",
        "CREATE VIEW v AS SELECT * FROM usher.directory",
        "CREATE PROCEDURE p() DELETE FROM usher.directory",
        "SET @x = (SELECT COUNT(*) FROM usher.directory)",
        "EXPLAIN ROUTE SELECT * FROM usher.directory",
    ];
    for sql in hinted.iter().map(String::as_str).chain(plain) {
        refused(conn, sql, DENIED, "USHER-0111").await;
    }
    let prepared = conn.prep("SELECT * FROM usher.directory WHERE entity_key = ?").await;
    assert_eq!(code(&prepared), DENIED);
    let schema = proxy.login().database(Some("usher")).connect().await;
    assert_eq!(code(&schema), DENIED);
}

async fn users_statements_pass(conn: &mut Conn, user: u64) {
    for sql in [
        format!("SELECT u.name, usher FROM (SELECT 1 AS usher) x, users u WHERE u.user_id = {user}"),
        format!("SELECT app.users.name FROM app.users WHERE users.user_id = {user}"),
        format!(
            "SELECT p.title FROM users u JOIN photos p ON p.user_id = u.user_id WHERE u.user_id = {user}"
        ),
        "SELECT table_name FROM information_schema.tables t WHERE t.table_schema = 'app'".to_owned(),
        "SHOW TABLES FROM app".to_owned(),
        "SHOW COLUMNS FROM users IN app".to_owned(),
        "USE app".to_owned(),
        "SELECT 'usher.directory'".to_owned(),
    ] {
        if let Err(error) = conn.query_drop(&sql).await {
            // Joins with subqueries of constants are another matter.
            assert!(
                error.to_string().contains("1235") || error.to_string().contains("USHER-03"),
                "{sql}: {error}"
            );
        }
    }
    let name: Option<String> =
        conn.exec_first("SELECT u.name FROM users u WHERE u.user_id = ?", (user,)).await.unwrap();
    assert_eq!(name.as_deref(), Some("user 0"));
}

async fn administration(app: &mut Conn, all: &mut Conn, root: &mut Conn) {
    let statements = [
        "CREATE USER evil",
        "ALTER USER usher_px1 IDENTIFIED BY 'x'",
        "GRANT ALL ON *.* TO usher_px1",
        "SET PASSWORD = PASSWORD('x')",
        "SET GLOBAL max_connections = 1",
        "FLUSH PRIVILEGES",
        "SHUTDOWN",
        "STOP SLAVE",
        "RESET MASTER",
        "INSTALL PLUGIN x SONAME 'x'",
        "SELECT * FROM mysql.global_priv",
        "INSERT INTO mysql.global_priv VALUES ('%', 'evil', '{}')",
        "SHOW CREATE USER usher_admin",
        "CALL sys.execute_prepared_stmt('SELECT 1')",
        "CREATE PROCEDURE p(t TEXT) EXECUTE IMMEDIATE t",
        "BEGIN NOT ATOMIC EXECUTE IMMEDIATE CONCAT('SELECT * FROM ush', 'er.directory'); END",
    ];
    for sql in statements {
        for conn in [&mut *app, &mut *all] {
            refused(conn, sql, ADMIN_NEEDED, "USHER-0803").await;
        }
    }
    assert_eq!(code(&all.query_drop("USE mysql").await), 1044);
    let count: Option<u64> = root.query_first("SELECT COUNT(*) FROM mysql.global_priv").await.unwrap();
    assert!(count > Some(0));
    root.query_drop("USE mysql").await.unwrap();
    root.query_drop("USE app").await.unwrap();
}

async fn other_schemas(bed: &Bed, proxy: &Proxy, app: &mut Conn, all: &mut Conn) {
    let mut servers = admin(&bed.endpoints.global.members[0]).await;
    servers.query_drop("CREATE DATABASE other").await.unwrap();
    servers.query_drop("CREATE TABLE other.t (a INT)").await.unwrap();
    servers.query_drop("INSERT INTO other.t VALUES (7)").await.unwrap();
    // The proxy learns of it by itself; until then only a name that is no alias gives it away.
    until("the schema is known", async || {
        matches!(&app.query_drop("SELECT other.word FROM words AS other").await,
            Err(mysql_async::Error::Server(error)) if error.code == 1044)
    })
    .await;
    for sql in [
        "SELECT * FROM other.t",
        "SELECT * FROM `other`.t",
        "SELECT 1 AS other FROM other.t",
        "SELECT * FROM words AS other, other.t",
        "SELECT a FROM words, other /* x */ . t",
        "SELECT * FROM other/*!99999 x */.t",
        "SELECT (SELECT a FROM other.t) FROM words",
        "INSERT INTO words (word) SELECT a FROM other.t",
        "CREATE TABLE x LIKE other.t",
        "CREATE VIEW v AS SELECT * FROM other.t",
        "CREATE TABLE other.u (a INT)",
        "RENAME TABLE words TO other.words",
        "DROP DATABASE other",
        "CREATE DATABASE third",
        "SHOW TABLES FROM other",
        "SHOW COLUMNS FROM t FROM other",
        "DESCRIBE other.t",
        "USE other",
        "SELECT * FROM performance_schema.threads",
        "SELECT /*!99999 ' */ * FROM other.t -- '",
    ] {
        refused(app, sql, DENIED, "USHER-0104").await;
    }
    assert_eq!(code(&app.prep("SELECT * FROM other.t").await), 1044);
    assert_eq!(code(&proxy.login().database(Some("other")).connect().await), 1044);
    let found: Option<u64> = all.query_first("SELECT a FROM other.t").await.unwrap();
    assert_eq!(found, Some(7));
    app.query_drop("SELECT w.word FROM words AS w").await.unwrap();
    app.query_drop("SELECT words.word, app.words.word FROM words").await.unwrap();
}
