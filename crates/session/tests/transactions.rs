//! Answers are kept: no write past the lock of a move, no COMMIT that was not done, no word of a COMMIT that nobody
//! knows, no statement as another client has prepared it.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, OptsBuilder};
use support::{Proxy, Servers};
use usher_config::Config;
use usher_directory::rows::{self, DirectoryChange, MoveMode, NewMove};
use usher_directory::{EntityState, Global};
use usher_playground::ServerEndpoint;
use usher_topology::{Key, ShardId};

const USER: i64 = 5;

#[test]
fn transactions_keep_their_word() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let servers = Servers::up("transactions").await;
        let mut config = servers.config();
        // Sessions take turns on the same connections.
        config.limits.backends_per_server_idle_max = 1;
        let proxy = Proxy::start(&config).await;
        fill(&servers).await;
        let mut failed = Vec::new();
        let mut note = |what: &'static str, outcome: Result<(), String>| {
            eprintln!("{what}: {outcome:?}");
            failed.extend(outcome.err().map(|why| format!("{what}: {why}")));
        };
        note("beside a pinned connection", beside_a_pinned_connection(&servers).await);
        note("a lost commit", a_lost_commit(&servers, &config).await);
        note("keys in case", keys_in_case(&servers).await);
        note("prepared in two character sets", prepared_in_two_character_sets(&servers).await);
        note("prepared again and again", prepared_again_and_again(&servers).await);
        note("what is not read-only", what_is_not_read_only(&servers).await);
        note("hints", hints(&servers).await);
        note("a locked user", a_locked_user(&servers, &config).await);
        proxy.stop().await;
        assert!(failed.is_empty(), "{failed:#?}");
    });
}

fn url(servers: &Servers, database: &str) -> String {
    let proxy = &servers.endpoints.proxy;
    format!("mysql://{}:{}@{}:{}/{database}", proxy.user, proxy.password, proxy.host, proxy.port)
}

async fn connect(servers: &Servers) -> Conn {
    Conn::from_url(url(servers, &servers.endpoints.proxy.database)).await.unwrap()
}

async fn admin(server: &ServerEndpoint) -> Conn {
    let options = OptsBuilder::default()
        .ip_or_hostname(server.host.clone())
        .tcp_port(server.port)
        .user(Some(server.user.clone()))
        .pass(Some(server.password.clone()))
        .prefer_socket(false);
    Conn::new(options).await.unwrap()
}

async fn fill(servers: &Servers) {
    let mut conn = Conn::from_url(url(servers, "information_schema")).await.unwrap();
    let database = &servers.endpoints.proxy.database;
    conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {database}")).await.unwrap();
    conn.query_drop(format!("USE {database}")).await.unwrap();
    let create = "CREATE TABLE notes (user_id BIGINT NOT NULL, id BIGINT NOT NULL, n INT NOT NULL, \
                  PRIMARY KEY (user_id, id)) COMMENT 'usher:sharded key=user_id'";
    conn.query_drop(create).await.unwrap();
    conn.query_drop(format!("INSERT INTO notes VALUES ({USER}, 1, 0)")).await.unwrap();
    conn.disconnect().await.unwrap();
}

fn code(outcome: Result<(), Error>) -> Option<u16> {
    match outcome {
        Ok(()) => None,
        Err(Error::Server(error)) => Some(error.code),
        Err(other) => panic!("{other}"),
    }
}

fn is(found: Option<u16>, expected: u16) -> Result<(), String> {
    if found == Some(expected) { Ok(()) } else { Err(format!("{found:?} instead of {expected}")) }
}

async fn has(servers: &Servers, id: i64) -> bool {
    let query = format!("SELECT id FROM notes WHERE user_id = {USER} AND id = {id}");
    connect(servers).await.query_first::<i64, _>(query).await.unwrap().is_some()
}

/// A connection that holds a temporary table on the global master, and a transaction on a shard.
async fn beside_a_pinned_connection(servers: &Servers) -> Result<(), String> {
    let mut conn = connect(servers).await;
    conn.query_drop("CREATE TEMPORARY TABLE held (n INT)").await.unwrap();
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop(format!("INSERT INTO notes VALUES ({USER}, 10, 1)")).await.unwrap();
    conn.query_drop("SELECT 1").await.unwrap();
    is(code(conn.query_drop("INSERT INTO held VALUES (1)").await), 1235)?;
    conn.query_drop("SELECT 1").await.unwrap();
    conn.query_drop("COMMIT").await.unwrap();
    conn.disconnect().await.unwrap();
    if has(servers, 10).await { Ok(()) } else { Err("COMMIT was acknowledged and not done".to_owned()) }
}

/// Whether a server has done a COMMIT on which it was lost, nobody knows.
async fn a_lost_commit(servers: &Servers, config: &Config) -> Result<(), String> {
    let mut conn = connect(servers).await;
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop(format!("INSERT INTO notes VALUES ({USER}, 20, 1)")).await.unwrap();
    let shard = &servers.endpoints.shards[0];
    let writer = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
    let mut admin = admin(writer).await;
    let account = &config.proxy.as_ref().unwrap().backend_user;
    let query = format!(
        "SELECT p.id FROM information_schema.processlist p JOIN information_schema.innodb_trx t \
         ON t.trx_mysql_thread_id = p.id WHERE p.user = '{account}' AND t.trx_rows_modified > 0"
    );
    let thread: u64 = admin.query_first(query).await.unwrap().unwrap();
    admin.query_drop(format!("KILL {thread}")).await.unwrap();
    is(code(conn.query_drop("COMMIT").await), 1158)
}

/// Keys that differ in case only are two users where the column says so; the catalog cannot keep that yet.
async fn keys_in_case(servers: &Servers) -> Result<(), String> {
    let mut conn = connect(servers).await;
    let create = "CREATE TABLE names (name VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
                  PRIMARY KEY (name)) COMMENT 'usher:sharded key=name'";
    is(code(conn.query_drop(create).await), 1235)?;
    let create = "CREATE TABLE names (name VARBINARY(50) NOT NULL, PRIMARY KEY (name)) \
                  COMMENT 'usher:sharded key=name'";
    conn.query_drop(create).await.map_err(|error| error.to_string())
}

/// The same text, prepared by clients of two character sets, is two statements.
async fn prepared_in_two_character_sets(servers: &Servers) -> Result<(), String> {
    let (mut latin, mut utf8) = (connect(servers).await, connect(servers).await);
    latin.query_drop("SET NAMES latin1").await.unwrap();
    let query = "SELECT n, CHAR_LENGTH('é') FROM notes WHERE user_id = ? AND id = 1";
    for _ in 0..3 {
        for (conn, expected) in [(&mut latin, 2), (&mut utf8, 1)] {
            let row: (i64, i64) = conn.exec_first(query, (USER,)).await.unwrap().unwrap();
            if row.1 != expected {
                return Err(format!("{} characters instead of {expected}", row.1));
            }
        }
    }
    Ok(())
}

/// Drivers without a cache prepare, execute and close each statement: servers must not be left with one for each.
async fn prepared_again_and_again(servers: &Servers) -> Result<(), String> {
    let mut conn = connect(servers).await;
    let before = prepared_on(servers).await;
    for _ in 0..50 {
        let statement = conn.prep("SELECT n FROM notes WHERE user_id = ? AND id = 1").await.unwrap();
        let _: Vec<i64> = conn.exec(&statement, (USER,)).await.unwrap();
        conn.close(statement).await.unwrap();
    }
    let left = prepared_on(servers).await - before;
    if left < 5 { Ok(()) } else { Err(format!("{left} statements are left on the servers")) }
}

async fn prepared_on(servers: &Servers) -> i64 {
    let mut sum = 0;
    for member in &servers.endpoints.shards[0].members {
        let query = "SELECT variable_value FROM information_schema.global_status \
                     WHERE variable_name = 'PREPARED_STMT_COUNT'";
        let count: String = admin(member).await.query_first(query).await.unwrap().unwrap();
        sum += count.parse::<i64>().unwrap();
    }
    sum
}

/// A hint says where to go. It is no leave to write rows of others there, who may be locked or have left.
async fn hints(servers: &Servers) -> Result<(), String> {
    let mut conn = connect(servers).await;
    let hint = format!("/* usher: user={USER} */");
    conn.query_drop("INSERT INTO notes VALUES (6, 1, 0)").await.unwrap();
    is(code(conn.query_drop(format!("{hint} UPDATE notes SET n = 7")).await), 1235)?;
    is(code(conn.query_drop(format!("{hint} UPDATE notes SET n = 7 WHERE user_id = 6")).await), 1235)?;
    is(code(conn.query_drop(format!("{hint} SELECT * FROM notes WHERE n = 7 FOR UPDATE")).await), 1235)?;
    conn.query_drop(format!("{hint} UPDATE notes SET n = 8 WHERE user_id = {USER}")).await.unwrap();
    conn.query_drop(format!("{hint} SELECT * FROM notes WHERE n = 7"))
        .await
        .map_err(|error| error.to_string())
}

/// 1290 says that some option forbids a statement: only --read-only is waited out, and a procedure is called once.
async fn what_is_not_read_only(servers: &Servers) -> Result<(), String> {
    let global = &servers.endpoints.global;
    let mut master = admin(global.members.iter().find(|member| member.name == global.writer).unwrap()).await;
    let database = &servers.endpoints.proxy.database;
    let signal = |option: &str| {
        format!(
            "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290, MESSAGE_TEXT = 'is running with the --{option} option'"
        )
    };
    for statement in [
        format!("USE {database}"),
        "CREATE TABLE counted (n INT)".to_owned(),
        "CREATE TABLE guarded (n INT)".to_owned(),
        format!("CREATE TRIGGER guard BEFORE INSERT ON guarded FOR EACH ROW {}", signal("secure-file-priv")),
        format!(
            "CREATE PROCEDURE count_it() BEGIN INSERT INTO counted VALUES (1); {}; END",
            signal("read-only")
        ),
    ] {
        master.query_drop(statement).await.unwrap();
    }
    let mut conn = connect(servers).await;
    let begun = Instant::now();
    is(code(conn.query_drop("INSERT INTO guarded VALUES (1)").await), 1290)?;
    is(code(conn.query_drop("CALL count_it()").await), 1290)?;
    if begun.elapsed() > Duration::from_secs(5) {
        return Err(format!("held for {:?}", begun.elapsed()));
    }
    let counted: Option<u64> = master.query_first("SELECT COUNT(*) FROM counted").await.unwrap();
    if counted == Some(1) { Ok(()) } else { Err(format!("called {counted:?} times")) }
}

/// A user whose writes are refused may be read, and the transaction that has read it may not write it either.
async fn a_locked_user(servers: &Servers, config: &Config) -> Result<(), String> {
    let global = Global::new(&config.global, &config.backend_tls, &config.limits);
    let key = Key::Int(USER.into());
    let row = rows::directory_row(&global, &key).await.unwrap().unwrap();
    let new = NewMove {
        key: key.clone(),
        src: row.located.shard,
        dst: ShardId::GLOBAL,
        mode: MoveMode::Locked,
        phase: "locked".to_owned(),
        started_by: "test".to_owned(),
        reason: String::new(),
    };
    let (id, _) = rows::insert_move(&global, &new).await.unwrap();
    let change = DirectoryChange {
        state: Some(EntityState::Locked),
        move_id: Some(Some(id)),
        ..DirectoryChange::default()
    };
    rows::cas_directory(&global, &key, row.located.generation, &change, None).await.unwrap().unwrap();
    let mut conn = connect(servers).await;
    let write = format!("UPDATE notes SET n = n + 1 WHERE user_id = {USER}");
    let begun = Instant::now();
    while code(conn.query_drop(&write).await) != Some(1290) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the proxy never learnt of the lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop(format!("SELECT * FROM notes WHERE user_id = {USER}")).await.unwrap();
    is(code(conn.query_drop(&write).await), 1792)?;
    is(code(conn.query_drop(&write).await), 1792)?;
    conn.query_drop("ROLLBACK").await.unwrap();
    Ok(())
}
