//! Logins that speak both kinds of server.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use usher_playground::{Endpoints, Server, ServerEndpoint};

/// How long a follower may take to reach a position, in seconds.
const REACH_S: u32 = 20;

/// Runs something and says how long it took.
pub(crate) async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let result = work.await;
    eprintln!("{what}: {:.2} s", start.elapsed().as_secs_f64());
    result
}

/// Every pair with its writer first, then the standby, then the replicas.
pub(crate) fn pairs(endpoints: &Endpoints) -> Vec<Vec<ServerEndpoint>> {
    let global = (&endpoints.global.members, &[][..], &endpoints.global.writer);
    let shards = endpoints.shards.iter().map(|s| (&s.members, &s.replicas[..], &s.writer));
    let ordered = |(members, replicas, writer): (&[ServerEndpoint; 2], &[ServerEndpoint], &String)| {
        let mut pair: Vec<ServerEndpoint> = members.iter().chain(replicas).cloned().collect();
        pair.sort_by_key(|s| s.name != *writer);
        pair
    };
    std::iter::once(global).chain(shards).map(ordered).collect()
}

/// The playground's folder, told from the command line of one of its servers.
pub(crate) fn folder_of(endpoints: &Endpoints) -> PathBuf {
    let raw = std::fs::read(format!("/proc/{}/cmdline", endpoints.global.members[0].pid)).unwrap();
    let raw = String::from_utf8(raw).unwrap();
    let cnf = raw.split('\0').find_map(|a| a.strip_prefix("--defaults-file=")).unwrap();
    Path::new(cnf).ancestors().nth(3).unwrap().to_owned()
}

pub(crate) fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|raw| !raw.is_empty())
}

/// Kills and waits for the end.
pub(crate) async fn kill_9(pid: u32) {
    let target = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(target, rustix::process::Signal::KILL).unwrap();
    let start = Instant::now();
    while runs(pid) {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A login on one server.
pub(crate) struct Db {
    kind: Server,
    pub(crate) conn: Conn,
}

impl Db {
    pub(crate) async fn open(kind: Server, server: &ServerEndpoint) -> Self {
        let options = OptsBuilder::default()
            .ip_or_hostname(server.host.clone())
            .tcp_port(server.port)
            .user(Some(server.user.clone()))
            .pass(Some(server.password.clone()))
            .prefer_socket(Some(false));
        Self { kind, conn: Conn::new(options).await.unwrap() }
    }

    /// As [`Db::open`], but over TLS, with the server's certificate checked.
    pub(crate) async fn open_tls(server: &ServerEndpoint, ca: &Path) -> Self {
        let ssl = mysql_async::SslOpts::default()
            .with_root_certs(vec![ca.to_owned().into()])
            .with_disable_built_in_roots(true);
        let options = OptsBuilder::default()
            .ip_or_hostname(server.host.clone())
            .tcp_port(server.port)
            .user(Some(server.user.clone()))
            .pass(Some(server.password.clone()))
            .prefer_socket(Some(false))
            .ssl_opts(ssl);
        Self { kind: Server::Mariadb, conn: Conn::new(options).await.unwrap() }
    }

    pub(crate) async fn run(&mut self, sql: &str) {
        let done = tokio::time::timeout(Duration::from_secs(20), self.conn.query_drop(sql)).await;
        done.unwrap_or_else(|_| panic!("{sql}: no answer within 20 s"))
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    pub(crate) async fn one<T: FromRow + Send + 'static>(&mut self, sql: &str) -> T {
        self.conn.query_first(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).unwrap()
    }

    /// What is named `Rpl_semi_sync_master_...` here and `..._source_...` there.
    pub(crate) async fn semi_sync(&mut self, name: &str) -> String {
        let role = if self.kind == Server::Mariadb { "master" } else { "source" };
        self.one::<(String, String)>(&format!("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_{role}_{name}'"))
            .await
            .1
    }

    /// All that the server has executed.
    pub(crate) async fn position(&mut self) -> String {
        match self.kind {
            Server::Mariadb => self.one("SELECT @@global.gtid_binlog_pos").await,
            Server::Mysql => self.one("SELECT @@global.gtid_executed").await,
        }
    }

    /// Waits until the server has executed a position.
    pub(crate) async fn reach(&mut self, position: &str) {
        let wait = match self.kind {
            Server::Mariadb => "MASTER_GTID_WAIT",
            Server::Mysql => "WAIT_FOR_EXECUTED_GTID_SET",
        };
        let waited: i64 = self.one(&format!("SELECT {wait}('{position}', {REACH_S})")).await;
        assert_eq!(waited, 0, "{position} was not reached within {REACH_S} s");
    }
}

/// Hands the writer's role over, as the crate's documentation describes it.
pub(crate) async fn flip(kind: Server, from: &ServerEndpoint, to: &ServerEndpoint) {
    let (read_only, semi_sync) = match kind {
        Server::Mariadb => ("read_only", "rpl_semi_sync_master_enabled"),
        Server::Mysql => ("super_read_only", "rpl_semi_sync_source_enabled"),
    };
    let (mut old, mut new) = (Db::open(kind, from).await, Db::open(kind, to).await);
    old.run(&format!("SET GLOBAL {read_only} = ON")).await;
    new.reach(&old.position().await).await;
    old.run(&format!("SET GLOBAL {semi_sync} = OFF")).await;
    new.run(&format!("SET GLOBAL {semi_sync} = ON")).await;
    new.run("SET GLOBAL read_only = OFF").await;
}
