//! A proxy that stops: what its sessions are told, and that a successor takes every connection attempt over.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use usher_config::{Config, Successor};
use usher_integration_tests::{Bed, Login, Proxy, admin, code, until};
use usher_playground::Server;

const SHUTDOWN: u16 = 1053;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_every_attempt_over() {
    hand_over_on("handover", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_every_attempt_over_on_mysql() {
    hand_over_on("handover-mysql", Server::Mysql).await;
}

fn succeeded(bed: &Bed, config: &mut Config) {
    let proxy = config.proxy.as_mut().unwrap();
    proxy.run_dir = Some(bed.dir().join("run"));
    proxy.successor = Some(Successor {
        id: "px1b".to_owned(),
        backend_user: "usher_px2".to_owned(),
        backend_password: bed.proxy_password(2),
        number: 0,
    });
}

async fn proxies(bed: &Bed) -> Vec<String> {
    let query = "SELECT proxy_id FROM usher.proxies ORDER BY proxy_id";
    admin(&bed.endpoints.global.members[0]).await.query(query).await.unwrap()
}

async fn make_words(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    conn.query_drop("CREATE TABLE words (word_id INT PRIMARY KEY)").await.unwrap();
}

/// Clients that connect, ask and leave, over and over.
struct Attempts {
    made: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Attempts {
    fn begin(login: &Login) -> Self {
        let (made, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let task = |_| {
            let (login, made, over) = (login.clone(), Arc::clone(&made), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let mut conn = login.connect().await.unwrap();
                    let one: Option<u8> = conn.query_first("SELECT 1").await.unwrap();
                    assert_eq!(one, Some(1));
                    conn.disconnect().await.unwrap();
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let tasks = (0..4).map(task).collect();
        Self { made, over, tasks }
    }

    /// Waits until so many more were made.
    async fn more(&self, count: usize) {
        let before = self.made.load(Ordering::Relaxed);
        until("connections are made", async || {
            assert!(self.tasks.iter().all(|task| !task.is_finished()), "an attempt has failed");
            self.made.load(Ordering::Relaxed) >= before + count
        })
        .await;
    }

    /// None of them has failed.
    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn hand_over_on(name: &str, server: Server) {
    let bed = Bed::up_with(name, 1, 0, server, false).await;
    let mut first = bed.proxy(1, |config| succeeded(&bed, config)).await;
    make_words(&first).await;
    let mut writer = first.connect().await;
    let mut idle = first.connect().await;
    writer.query_drop("BEGIN").await.unwrap();
    writer.query_drop("INSERT INTO words VALUES (1)").await.unwrap();
    // Younger sessions are let do what they came for.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let attempts = Attempts::begin(&first.login());
    attempts.more(20).await;
    let mut second = first.succeed(2).await;
    attempts.more(100).await;
    assert_eq!(proxies(&bed).await, ["px1", "px1b"], "each under its own identity");
    let new = first.connect().await;
    assert_ne!(new.id() >> 24, writer.id() >> 24, "each with its own number");
    assert_eq!(code(&idle.ping().await), SHUTDOWN);
    writer.query_drop("INSERT INTO words VALUES (2)").await.unwrap();
    writer.query_drop("COMMIT").await.unwrap();
    assert_eq!(code(&writer.query_drop("SELECT 1").await), SHUTDOWN);
    assert_eq!(first.ended().await, Some(0));
    until("its row is gone", async || proxies(&bed).await == ["px1b"]).await;
    // And back, under the first identity.
    let third = second.succeed(3).await;
    attempts.more(100).await;
    attempts.end().await;
    drop(new);
    assert_eq!(second.ended().await, Some(0));
    until("its row is gone", async || proxies(&bed).await == ["px1"]).await;
    let mut conn = third.connect().await;
    assert_eq!(conn.query::<i32, _>("SELECT word_id FROM words ORDER BY 1").await.unwrap(), [1, 2]);
    drop(conn);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_second_identity_nobody_takes_over() {
    let bed = Bed::up("handover-alone", 1, 0).await;
    let proxy = bed
        .proxy(1, |config| {
            succeeded(&bed, config);
            config.proxy.as_mut().unwrap().successor = None;
        })
        .await;
    let refused = usher_integration_tests::usher(proxy.config_file(), &["proxy"]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("[proxy.successor]"), "{refused:?}");
    // The one that runs goes on as if nothing had been.
    let mut conn = proxy.connect().await;
    conn.query_drop("SELECT 1").await.unwrap();
    drop(conn);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_told_and_transactions_have_their_time() {
    let bed = Bed::up("drain", 1, 0).await;
    let mut proxy = bed.proxy(1, |config| config.limits.stop_ms = 4_000).await;
    make_words(&proxy).await;
    let mut open = Vec::new();
    for word in [1, 2] {
        let mut conn = proxy.connect().await;
        conn.query_drop("BEGIN").await.unwrap();
        conn.query_drop(format!("INSERT INTO words VALUES ({word})")).await.unwrap();
        open.push(conn);
    }
    let (mut ends, mut stays): (Conn, Conn) = (open.remove(0), open.remove(0));
    let mut asks = proxy.connect().await;
    let mut silent = proxy.connect().await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let began = Instant::now();
    proxy.terminate();
    let address = ("127.0.0.1", proxy.port());
    until("nobody is taken any more", async || TcpStream::connect(address).await.is_err()).await;
    assert_eq!(code(&asks.ping().await), SHUTDOWN);
    stays.query_drop("INSERT INTO words VALUES (3)").await.unwrap();
    ends.query_drop("COMMIT").await.unwrap();
    assert_eq!(code(&ends.query_drop("SELECT 1").await), SHUTDOWN);
    assert_eq!(proxies(&bed).await, ["px1"], "barriers still wait for it");
    assert_eq!(proxy.ended().await, Some(0));
    assert!(began.elapsed() >= Duration::from_millis(3_900), "{:?}", began.elapsed());
    assert!(silent.ping().await.is_err() && stays.query_drop("COMMIT").await.is_err());
    assert!(proxies(&bed).await.is_empty());
    let words = "SELECT word_id FROM app.words";
    let left: Vec<i32> = admin(&bed.endpoints.global.members[0]).await.query(words).await.unwrap();
    assert_eq!(left, [1], "what was not committed is rolled back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_outlast_the_time_are_ended_on_the_servers() {
    let bed = Bed::up("drain-long", 1, 0).await;
    let mut proxy = bed.proxy(1, |config| config.limits.stop_ms = 500).await;
    make_words(&proxy).await;
    let mut conn = proxy.connect().await;
    conn.query_drop("INSERT INTO words VALUES (1)").await.unwrap();
    let update = "UPDATE words SET word_id = 7 + SLEEP(120)";
    let running = tokio::spawn(async move { conn.query_drop(update).await });
    let global = &bed.endpoints.global.members[0];
    let query = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'UPDATE words%'";
    let mut server = admin(global).await;
    until("it runs", async || server.query_first(query).await.unwrap() == Some(1)).await;
    proxy.terminate();
    assert_eq!(proxy.ended().await, Some(0));
    assert!(running.await.unwrap().is_err());
    assert_eq!(server.query_first(query).await.unwrap(), Some(0), "not behind the back of barriers");
    assert!(proxies(&bed).await.is_empty());
    assert_eq!(server.query_first("SELECT word_id FROM app.words").await.unwrap(), Some(1));
}
