//! What a statement costs in allocations: once warm, none for a point select in text or prepared, and none for each
//! row of a long answer.
//!
//! The client is this program once more in a process of its own, so that only the proxy's allocations count. It does
//! the steps below one by one, each when told by a byte on its standard input, and tells by a byte when it has.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, params};
use support::client::Plain;
use support::{Proxy, Servers};
use usher_wire::command::{COM_STMT_EXECUTE, COM_STMT_PREPARE};
use usher_wire::relay::Kind;
use usher_wire::stmt::{Param, write_execute};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Where the client finds the proxy: its URL.
const PROXY: &str = "USHER_TEST_PROXY";
/// Statements of a measured step.
const STATEMENTS: u64 = 1_000;
/// Blocks that a whole step may take, for whatever else lives in the process: timers, probes, pools.
const SPARE: u64 = STATEMENTS / 50;
const USERS: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Text,
    Prepared,
    /// As C drivers do it: the first execution alone tells the types of the values.
    PreparedTypesOnce,
    /// One answer of that many rows.
    Rows(u64),
}

/// All steps in order. Of equal ones the first warms up what the next measures.
const STEPS: &[Step] = &[
    Step::Text,
    Step::Text,
    Step::Prepared,
    Step::Prepared,
    Step::PreparedTypesOnce,
    Step::PreparedTypesOnce,
    Step::Rows(100_000),
    Step::Rows(1_000),
    Step::Rows(100_000),
];

#[test]
fn a_warm_statement_allocates_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let servers = Servers::up("allocations").await;
        let mut config = servers.config();
        let proxy = Proxy::start(&config).await;
        fill(&servers).await;
        proxy.stop().await;

        // As good as never: what runs at intervals is not what is measured.
        (config.limits.poll_ms, config.limits.probe_ms) = (600_000, 600_000);
        let _profiler = dhat::Profiler::builder().testing().build();
        let proxy = Proxy::start(&config).await;
        let counts = tokio::task::spawn_blocking({
            let url = url(&servers);
            move || Client::start(&url).all()
        });
        check(&counts.await.unwrap());
        proxy.stop().await;
    });
}

fn check(counts: &[(Step, u64)]) {
    eprintln!("blocks allocated: {counts:?}");
    let last = |step| counts.iter().rfind(|(which, _)| *which == step).map(|(_, blocks)| *blocks).unwrap();
    for step in STEPS.iter().copied() {
        dhat::assert!(last(step) <= SPARE, "{step:?}: {} blocks", last(step));
    }
}

fn url(servers: &Servers) -> String {
    let proxy = &servers.endpoints.proxy;
    let (user, password, host) = (&proxy.user, &proxy.password, &proxy.host);
    format!("mysql://{user}:{password}@{host}:{}/{}", proxy.port, proxy.database)
}

async fn fill(servers: &Servers) {
    let mut conn = Conn::from_url(url(servers)).await.unwrap();
    let database = &servers.endpoints.proxy.database;
    conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {database}")).await.unwrap();
    let create = "CREATE TABLE posts (user_id BIGINT NOT NULL, id BIGINT NOT NULL AUTO_INCREMENT, title VARCHAR(100), \
                  PRIMARY KEY (user_id, id), KEY (id)) COMMENT 'usher:sharded key=user_id'";
    conn.query_drop(create).await.unwrap();
    for user in 0..USERS {
        let insert = format!("INSERT INTO posts (user_id, title) VALUES ({user}, 'a'), ({user}, 'b')");
        conn.query_drop(insert).await.unwrap();
    }
    conn.disconnect().await.unwrap();
}

/// The client's process.
struct Client {
    child: Child,
    to: ChildStdin,
    from: ChildStderr,
}

impl Client {
    fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "client", "--ignored", "--nocapture"])
            .env(PROXY, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
        Self { child, to, from }
    }

    /// Has it do all steps: how many blocks each took in this process.
    fn all(mut self) -> Vec<(Step, u64)> {
        let mut counts = Vec::with_capacity(STEPS.len());
        for step in STEPS {
            let before = dhat::HeapStats::get().total_blocks;
            self.to.write_all(b".").unwrap();
            let mut byte = [0];
            self.from.read_exact(&mut byte).unwrap();
            let after = dhat::HeapStats::get().total_blocks;
            if byte != *b"." {
                let mut said = String::new();
                self.from.read_to_string(&mut said).unwrap();
                panic!("the client failed: {}{said}", char::from(byte[0]));
            }
            counts.push((*step, after - before));
        }
        assert!(self.child.wait().unwrap().success());
        counts
    }
}

#[test]
#[ignore = "the other side of the test above, which starts it"]
fn client() {
    let Ok(url) = std::env::var(PROXY) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(120);
    runtime.block_on(async { tokio::time::timeout(limit, steps(&url)).await }).unwrap();
}

async fn steps(url: &str) {
    let options = OptsBuilder::from_opts(mysql_async::Opts::from_url(url).unwrap()).stmt_cache_size(10);
    let mut conn = Conn::new(options).await.unwrap();
    let mut plain = Plain::connect(url);
    let id = prepare(&mut plain);
    for step in STEPS {
        std::io::stdin().read_exact(&mut [0]).unwrap();
        match step {
            Step::Text => text(&mut conn).await,
            Step::Prepared => prepared(&mut conn).await,
            Step::PreparedTypesOnce => types_once(&mut plain, id),
            Step::Rows(count) => rows(&mut conn, *count).await,
        }
        std::io::stderr().write_all(b".").unwrap();
    }
    conn.disconnect().await.unwrap();
}

async fn text(conn: &mut Conn) {
    for n in 0..STATEMENTS {
        let select = format!("SELECT id, title FROM posts WHERE user_id = {} AND title = 'b'", n % USERS);
        let row: Option<Row> = conn.query_first(select).await.unwrap();
        assert!(row.is_some());
    }
}

async fn prepared(conn: &mut Conn) {
    let statement =
        conn.prep("SELECT id, title FROM posts WHERE user_id = :user AND title = :title").await.unwrap();
    for n in 0..STATEMENTS {
        let values = params! { "user" => n % USERS, "title" => "b" };
        let row: Option<Row> = conn.exec_first(&statement, values).await.unwrap();
        assert!(row.is_some());
    }
}

fn prepare(plain: &mut Plain) -> u32 {
    plain.command(&[&[COM_STMT_PREPARE], b"SELECT id, title FROM posts WHERE user_id = ? AND title = 'b'"]);
    plain.answer(Kind::Prepare).try_into().unwrap()
}

fn types_once(plain: &mut Plain, id: u32) {
    for n in 0..STATEMENTS {
        let user = n % USERS;
        if n == 0 {
            let mut packet = Vec::new();
            write_execute(&mut packet, &mut 0, id, 0, &[Param::Int(user.cast_signed())]);
            plain.send(&packet);
        } else {
            let (id, once) = (id.to_le_bytes(), 1u32.to_le_bytes());
            // No flags, none is NULL, no types.
            plain.command(&[&[COM_STMT_EXECUTE], &id, &[0], &once, &[0], &[0], &user.to_le_bytes()]);
        }
        assert_eq!(plain.answer(Kind::Query), 1);
    }
}

async fn rows(conn: &mut Conn, count: u64) {
    let select = format!("SELECT seq, REPEAT('x', 50) FROM seq_1_to_{count}");
    let mut answer = conn.query_iter(select).await.unwrap();
    let mut seen = 0;
    while answer.next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, count);
}
