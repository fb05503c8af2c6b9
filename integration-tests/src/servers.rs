//! Looking at the servers themselves, past any proxy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use usher_playground::ServerEndpoint;

/// How long something that must come about may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A login with all rights on one server.
pub async fn admin(server: &ServerEndpoint) -> Conn {
    let options = OptsBuilder::default()
        .ip_or_hostname(server.host.clone())
        .tcp_port(server.port)
        .user(Some(server.user.clone()))
        .pass(Some(server.password.clone()))
        .prefer_socket(false);
    Conn::new(options).await.unwrap()
}

/// One number that a query on a server gives.
pub async fn number(server: &ServerEndpoint, sql: &str) -> i64 {
    admin(server).await.query_first(sql).await.unwrap().unwrap()
}

/// How many rows of a table of `app` fulfil a condition on a server.
pub async fn count(server: &ServerEndpoint, table: &str, condition: &str) -> i64 {
    number(server, &format!("SELECT COUNT(*) FROM app.{table} WHERE {condition}")).await
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "it never came about: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// What proxies had each server do, by its general log. (A server's `Com_insert` and the like also count what
/// replication applies.)
#[derive(Debug)]
pub struct Log {
    servers: Vec<(String, Conn)>,
}

impl Log {
    /// Begins to log.
    pub async fn start<'a>(servers: impl Iterator<Item = &'a ServerEndpoint>) -> Self {
        let mut log = Self { servers: Vec::new() };
        for server in servers {
            let mut conn = admin(server).await;
            for setting in ["log_output = 'TABLE'", "general_log = 1"] {
                conn.query_drop(format!("SET GLOBAL {setting}")).await.unwrap();
            }
            log.servers.push((server.name.clone(), conn));
        }
        log
    }

    /// The servers that have been sent a text with this mark, with how often it was run there. The proxies' own
    /// statements carry none.
    pub async fn seen(&mut self, mark: &str) -> BTreeMap<String, i64> {
        self.count(&format!("CONVERT(argument USING utf8mb4) LIKE '%{mark}%'")).await
    }

    /// How many writes of the application each server has been sent.
    pub async fn writes(&mut self) -> BTreeMap<String, i64> {
        let verbs = "CONVERT(argument USING utf8mb4) REGEXP '^ *(INSERT|UPDATE|DELETE|REPLACE)'";
        self.count(&format!("{verbs} AND CONVERT(argument USING utf8mb4) NOT LIKE '%usher.%'")).await
    }

    async fn count(&mut self, condition: &str) -> BTreeMap<String, i64> {
        let sql = format!(
            "SELECT COUNT(*) FROM mysql.general_log WHERE user_host LIKE '%usher\\_px%' \
             AND command_type IN ('Query', 'Execute') AND {condition}"
        );
        let mut counts = BTreeMap::new();
        for (name, conn) in &mut self.servers {
            let times: i64 = conn.query_first(&sql).await.unwrap().unwrap();
            if times > 0 {
                counts.insert(name.clone(), times);
            }
        }
        counts
    }
}
