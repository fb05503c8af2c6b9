//! Schema changes of sharded tables: no proxy takes a new one for an unsharded one, and no move begins beside one.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use support::{Proxy, Servers};
use usher_config::Config;
use usher_directory::rows::{self, MoveMode, NewMove};
use usher_directory::{Error, Global};
use usher_playground::ServerEndpoint;
use usher_topology::{Key, ShardId};

#[test]
fn schema_changes_keep_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let servers = Servers::up("schema-changes").await;
        let config = servers.config();
        let proxy = Proxy::start(&config).await;
        let mut conn = Conn::from_url(url(&servers, "information_schema")).await.unwrap();
        let database = &servers.endpoints.proxy.database;
        conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {database}")).await.unwrap();
        conn.disconnect().await.unwrap();
        every_proxy_knows_a_table_before_it_is_there(&servers, &config).await;
        an_unsharded_table_is_not_hidden(&servers).await;
        no_move_begins_beside_a_change(&servers, &config).await;
        proxy.stop().await;
    });
}

fn url(servers: &Servers, database: &str) -> String {
    let proxy = &servers.endpoints.proxy;
    format!("mysql://{}:{}@{}:{}/{database}", proxy.user, proxy.password, proxy.host, proxy.port)
}

async fn connect(servers: &Servers) -> Conn {
    Conn::from_url(url(servers, &servers.endpoints.proxy.database)).await.unwrap()
}

async fn on(servers: &Servers, server: &ServerEndpoint) -> Conn {
    let options = OptsBuilder::default()
        .ip_or_hostname(server.host.clone())
        .tcp_port(server.port)
        .user(Some(server.user.clone()))
        .pass(Some(server.password.clone()))
        .db_name(Some(servers.endpoints.proxy.database.clone()))
        .prefer_socket(false);
    Conn::new(options).await.unwrap()
}

async fn on_global(servers: &Servers) -> Conn {
    let writer = &servers.endpoints.global.writer;
    let server = servers.endpoints.global.members.iter().find(|member| member.name == *writer).unwrap();
    on(servers, server).await
}

async fn on_shard(servers: &Servers) -> Conn {
    let shard = &servers.endpoints.shards[0];
    on(servers, shard.members.iter().find(|member| member.name == shard.writer).unwrap()).await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Another proxy lives and has not read the catalog anew yet: it would send a row to the global master, unsharded.
async fn every_proxy_knows_a_table_before_it_is_there(servers: &Servers, config: &Config) {
    let global = Global::new(&config.global, &config.backend_tls, &config.limits);
    let mut master = on_global(servers).await;
    let slow = "INSERT INTO usher.proxies (proxy_id, boot_id, account, seen_version, drained_version, alive_at) \
                SELECT 'slow', 1, 'px_slow', version, version, NOW(3) + INTERVAL 1 HOUR FROM usher.control";
    master.query_drop(slow).await.unwrap();
    let mut creating = connect(servers).await;
    let create = tokio::spawn(async move {
        let create = "CREATE TABLE fresh (user_id BIGINT NOT NULL PRIMARY KEY, n INT NOT NULL) \
                      COMMENT 'usher:sharded key=user_id'";
        creating.query_drop(create).await
    });
    until("the table to be announced", async || {
        rows::list_tables(&global).await.unwrap().iter().any(|table| table.name == "fresh")
    })
    .await;
    let known = "SELECT COUNT(*) FROM usher.proxies JOIN usher.control WHERE proxy_id <> 'slow' AND seen_version = version";
    until("this proxy to know of it", async || master.query_first(known).await.unwrap() == Some(1)).await;
    let writes = [None, Some(8)].map(|user| {
        let url = url(servers, &servers.endpoints.proxy.database);
        tokio::spawn(async move {
            let mut conn = Conn::from_url(url).await.unwrap();
            match user {
                None => conn.query_drop("INSERT INTO fresh VALUES (7, 1)").await,
                Some(user) => conn.exec_drop("INSERT INTO fresh VALUES (?, 1)", (user,)).await,
            }
        })
    });
    let there = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'fresh'";
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        assert_eq!(master.query_first(there).await.unwrap(), Some(0), "a proxy does not know of it yet");
        assert!(!create.is_finished() && writes.iter().all(|write| !write.is_finished()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let acknowledge = "UPDATE usher.proxies JOIN usher.control SET seen_version = version, \
                       drained_version = version WHERE proxy_id = 'slow'";
    until("the table to be created", async || {
        master.query_drop(acknowledge).await.unwrap();
        create.is_finished()
    })
    .await;
    create.await.unwrap().unwrap();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let count = "SELECT COUNT(*) FROM fresh";
    assert_eq!(on_shard(servers).await.query_first(count).await.unwrap(), Some(2));
    assert_eq!(master.query_first(count).await.unwrap(), Some(0));
    master.query_drop("DELETE FROM usher.proxies WHERE proxy_id = 'slow'").await.unwrap();
}

async fn an_unsharded_table_is_not_hidden(servers: &Servers) {
    let mut conn = connect(servers).await;
    conn.query_drop("CREATE TABLE plain (user_id BIGINT NOT NULL PRIMARY KEY)").await.unwrap();
    conn.query_drop("INSERT INTO plain VALUES (1)").await.unwrap();
    let again = "CREATE TABLE IF NOT EXISTS plain (user_id BIGINT NOT NULL PRIMARY KEY) \
                 COMMENT 'usher:sharded key=user_id'";
    let refused = conn.query_drop(again).await.unwrap_err();
    assert!(refused.to_string().contains("a table that exists"), "{refused}");
    assert_eq!(conn.query_first("SELECT user_id FROM plain").await.unwrap(), Some(1));
}

/// A change that hangs on one shard, by a client who leaves meanwhile.
async fn no_move_begins_beside_a_change(servers: &Servers, config: &Config) {
    let global = Global::new(&config.global, &config.backend_tls, &config.limits);
    let mut reader = on_shard(servers).await;
    reader.query_drop("BEGIN").await.unwrap();
    reader.query_drop("SELECT * FROM fresh").await.unwrap();
    let mut client = connect(servers).await;
    let alter = tokio::spawn(async move { client.query_drop("ALTER TABLE fresh ADD COLUMN m INT").await });
    let has =
        "SELECT COUNT(*) FROM information_schema.columns WHERE table_name = 'fresh' AND column_name = 'm'";
    let mut master = on_global(servers).await;
    until("the change to begin", async || master.query_first(has).await.unwrap() == Some(1)).await;
    alter.abort();
    let new = NewMove {
        key: Key::Int(7),
        src: rows::directory_row(&global, &Key::Int(7)).await.unwrap().unwrap().located.shard,
        dst: ShardId::GLOBAL,
        mode: MoveMode::Locked,
        phase: "registered".to_owned(),
        started_by: "test".to_owned(),
        reason: String::new(),
    };
    for _ in 0..20 {
        let refused = rows::insert_move(&global, &new).await;
        let Err(Error::SchemaChange { statement }) = &refused else { panic!("{refused:?}") };
        assert!(statement.starts_with("ALTER TABLE fresh"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = connect(servers).await.query_drop("TRUNCATE fresh").await.unwrap_err();
    assert!(second.to_string().contains("under way (ALTER TABLE fresh"), "{second}");
    reader.query_drop("ROLLBACK").await.unwrap();
    until("the change to end", async || rows::schema_change(&global).await.unwrap().is_none()).await;
    let mut conn = connect(servers).await;
    conn.query_drop("INSERT INTO fresh VALUES (7, 1, 2) ON DUPLICATE KEY UPDATE m = 2").await.unwrap();
    rows::insert_move(&global, &new).await.unwrap();
    let refused = conn.query_drop("TRUNCATE fresh").await.unwrap_err();
    assert!(refused.to_string().contains("of user 7 is under way"), "{refused}");
}
