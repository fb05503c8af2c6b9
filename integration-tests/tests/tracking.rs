//! What clients that ask for session tracking are told, packet by packet, is what one server would tell them.
#![allow(clippy::unwrap_used)]

use mysql_async::prelude::Queryable;
use tokio::net::TcpStream;
use usher_config::{Config, User};
use usher_integration_tests::raw::{self, packet, send};
use usher_integration_tests::{Bed, admin};
use usher_playground::{Server, ServerEndpoint};
use usher_wire::packet::{Change, OkPacket};

const SESSION_TRACK: u32 = 1 << 23;
const DEPRECATE_EOF: u32 = 1 << 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_as_a_server_tells_them() {
    on("tracking", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_as_a_server_tells_them_on_mysql() {
    on("tracking-mysql", Server::Mysql).await;
}

fn users(config: &mut Config) {
    config.users[0].schemas.clear();
    config.users.push(User {
        name: "nobody".to_owned(),
        password: Some(String::new()),
        ..config.users[0].clone()
    });
}

async fn on(name: &str, server: Server) {
    let bed = Bed::up_with(name, 1, 0, server, false).await;
    let proxy = bed.proxy(1, users).await;
    let mut conn = proxy.connect().await;
    for text in ["CREATE DATABASE other", "CREATE TABLE t (n INT)", "INSERT INTO t VALUES (1)"] {
        conn.query_drop(text).await.unwrap();
    }
    let plain = bed.shard("s1").members.iter().find(|member| member.name == bed.shard("s1").writer).unwrap();
    make_plain(plain, server).await;
    let mut through = raw::logged_in_with(proxy.port(), "nobody", SESSION_TRACK | DEPRECATE_EOF, &[]).await;
    let mut direct = raw::logged_in_with(plain.port, "nobody", SESSION_TRACK | DEPRECATE_EOF, &[]).await;
    let mut differ = Vec::new();
    let own: &[&str] = if server == Server::Mysql { GTIDS } else { &[] };
    for text in STATEMENTS.iter().chain(own) {
        let told = changes(&mut through, text).await;
        let expected = changes(&mut direct, text).await;
        if told != expected {
            differ.push(format!("{text}: {told:?}, a server: {expected:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    not_asked_not_told(proxy.port()).await;
    let refused = raw::command(&mut through, b"\x03SET session_track_gtids = ALL_GTIDS").await;
    assert_eq!(refused[0], 0xff, "of no single server, or of none");
    proxy.stop().await;
}

/// The same tables on a server of its own, past usher, for an account without a password.
async fn make_plain(plain: &ServerEndpoint, server: Server) {
    let mut conn = admin(plain).await;
    let plugin = match server {
        Server::Mysql => "IDENTIFIED WITH caching_sha2_password BY ''",
        Server::Mariadb => "IDENTIFIED BY ''",
    };
    for text in [
        format!("CREATE USER nobody@'%' {plugin}"),
        "GRANT ALL ON *.* TO nobody@'%'".to_owned(),
        "CREATE TABLE IF NOT EXISTS app.t (n INT)".to_owned(),
        "INSERT INTO app.t VALUES (1)".to_owned(),
    ] {
        conn.query_drop(&text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

const STATEMENTS: &[&str] = &[
    "SET NAMES latin1",
    "SET NAMES utf8mb4",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "SET time_zone = '+01:00'",
    "SET sql_mode = ''",
    "SELECT n FROM t",
    "INSERT INTO t VALUES (2)",
    "USE other",
    "USE app",
    "SET session_track_system_variables = 'sql_mode,sort_buffer_size'",
    "SET sql_mode = 'ANSI_QUOTES'",
    "SET sort_buffer_size = 300032",
    "SET time_zone = '+02:00'",
    "SET sql_mode = DEFAULT",
    "SET session_track_system_variables = ''",
    "SET NAMES latin1",
    "SET session_track_system_variables = DEFAULT",
    "SET NAMES utf8mb4",
    "SET session_track_schema = OFF",
    "USE other",
    "SET session_track_schema = ON",
    "USE app",
    "SET session_track_state_change = ON",
    "USE other",
    "USE app",
    "SET @a = 1",
    "SET sql_notes = 0",
    "SELECT 1",
    "SET session_track_state_change = OFF",
    "SET sql_notes = 1",
    "SET session_track_transaction_info = 'STATE'",
    "BEGIN",
    "SELECT n FROM t",
    "INSERT INTO t VALUES (3)",
    "COMMIT",
    "BEGIN",
    "COMMIT",
    "INSERT INTO t VALUES (4)",
    "SET session_track_transaction_info = 'CHARACTERISTICS'",
    "START TRANSACTION",
    "SELECT n FROM t",
    "COMMIT",
    "START TRANSACTION READ ONLY",
    "SELECT n FROM t",
    "ROLLBACK",
    "SET session_track_transaction_info = OFF",
    "INSERT INTO t VALUES (5)",
];

const GTIDS: &[&str] = &[
    "SET session_track_gtids = OWN_GTID",
    "INSERT INTO t VALUES (6)",
    "SELECT n FROM t",
    "SET session_track_gtids = OFF",
    "INSERT INTO t VALUES (7)",
];

/// The changes that the answer to a statement tells, in order. Of a GTID only that there is one.
async fn changes(stream: &mut TcpStream, text: &str) -> Vec<String> {
    send(stream, 0, &[&[3], text.as_bytes()].concat()).await;
    let first = packet(stream).await;
    let end = match first[0] {
        0xff => panic!("{text}: {}", String::from_utf8_lossy(&first)),
        0 => first,
        _ => loop {
            let payload = packet(stream).await;
            assert_ne!(payload[0], 0xff, "{text}");
            if payload[0] == 0xfe {
                break payload;
            }
        },
    };
    let ok = OkPacket::parse(&end).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut told: Vec<String> = ok
        .changes()
        .map(|change| match change {
            Change::Variable { name, value } => format!("{} = {}", text(name), text(value)),
            Change::Schema(name) => format!("schema {}", text(name)),
            Change::Gtids(_) => "a GTID".to_owned(),
            Change::TransactionState(state) => format!("transaction {}", text(state)),
            Change::TransactionCharacteristics(words) => format!("to begin: {}", text(words)),
            other => format!("{other:?}"),
        })
        .collect();
    told.sort();
    told
}

/// A client that knows nothing of it gets packets without it.
async fn not_asked_not_told(port: u16) {
    let mut stream = raw::logged_in(port, "nobody").await;
    for text in ["SET NAMES latin1", "USE other", "SET session_track_state_change = ON", "USE app"] {
        let answer = raw::command(&mut stream, &[&[3], text.as_bytes()].concat()).await;
        assert_eq!((answer[0], answer.len()), (0, 7), "{text}: {answer:?}");
    }
}
