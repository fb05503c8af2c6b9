//! Peers that are silent: servers that vanish, clients that do not read or do not go.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use usher_integration_tests::raw::{error_code, logged_in, packet};
use usher_integration_tests::{
    Bed, Proxy, code, make_tables, message, number, resume, sign_up, suspend, until,
};

/// Far below the time that a proxy may take to stop.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_server_that_is_gone() {
    let bed = Bed::up("silent-server", 1, 0).await;
    let quick = |config: &mut usher_config::Config| {
        (config.limits.connect_ms, config.limits.server_lost_ms) = (500, 1_500);
    };
    let proxy = bed.proxy(1, quick).await;
    let mut writing = proxy.connect().await;
    make_tables(&mut writing).await;
    let users: Vec<u64> = sign_up(&bed, &mut writing, 2).await.into_values().flatten().collect();
    let [user, other] = users[..] else { panic!("{users:?}") };
    let mut open = proxy.connect().await;
    open.query_drop("BEGIN").await.unwrap();
    open.query_drop(format!("UPDATE users SET visits = 1 WHERE user_id = {user}")).await.unwrap();
    let sql = format!("UPDATE users SET visits = SLEEP(60) WHERE user_id = {other}");
    let write = tokio::spawn(async move { writing.query_drop(sql).await });
    let shard = bed.shard("s1");
    let server = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
    let sleeping = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'";
    until("it is under way", async || number(server, sleeping).await == 1).await;
    suspend(server.pid);
    let start = Instant::now();
    let sql = format!("SELECT * FROM users WHERE user_id = {user}");
    let read = async { (open.query_drop(sql).await, write.await.unwrap()) };
    let answered = tokio::time::timeout(Duration::from_secs(20), read).await;
    resume(server.pid);
    let (read, write) = answered.expect("errors instead of waiting");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_eq!(code(&write), 1158, "{}", message(&write));
    assert!(message(&write).contains("outcome unknown"), "{}", message(&write));
    assert_eq!(code(&read), 1213, "{}", message(&read));
    until("the server serves again", async || {
        let mut conn = proxy.connect().await;
        conn.query_drop(format!("UPDATE users SET visits = 2 WHERE user_id = {user}")).await.is_ok()
    })
    .await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_silent_keep_nothing() {
    let bed = Bed::up("silent-client", 1, 0).await;
    let patient = bed
        .proxy(1, |config| {
            config.limits.stop_ms = 1_000;
            nobody(config);
        })
        .await;
    let mut conn = patient.connect().await;
    make_tables(&mut conn).await;
    drop(conn);
    does_not_read(&bed).await;
    idles(&bed).await;
    let tls = patient.login().tls().connect().await.unwrap();
    let mut half = half_a_command(&patient).await;
    let start = Instant::now();
    patient.stop().await;
    // They may say something up to then, and would be told.
    let limit = Duration::from_millis(1_000);
    assert!(start.elapsed() < limit + AT_ONCE, "{:?}: stopping waited for silent clients", start.elapsed());
    assert_eq!(error_code(&packet(&mut half).await), 1053);
    drop(tls);
}

/// A client that does not read holds its server's connection, and its transaction, for a while only.
async fn does_not_read(bed: &Bed) {
    let proxy = bed.proxy(2, |config| config.limits.client_write_ms = 1_000).await;
    for tls in [false, true] {
        let login = if tls { proxy.login().tls() } else { proxy.login() };
        let mut conn = login.connect().await.unwrap();
        conn.query_drop("BEGIN").await.unwrap();
        conn.query_drop("INSERT INTO words (word) VALUES ('unread')").await.unwrap();
        let rows = conn.query_iter("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_1000000").await.unwrap();
        let server = &bed.endpoints.global.members[0];
        let sql = "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
                   ON p.id = t.trx_mysql_thread_id WHERE p.user = 'usher_px2'";
        until("its transaction is rolled back", async || number(server, sql).await == 0).await;
        drop(rows);
    }
    proxy.stop().await;
}

async fn idles(bed: &Bed) {
    let proxy = bed
        .proxy(3, |config| {
            config.limits.idle_client_s = 1;
            nobody(config);
        })
        .await;
    let mut plain = proxy.connect().await;
    let mut tls = proxy.login().tls().connect().await.unwrap();
    let mut half = half_a_command(&proxy).await;
    assert_eq!(error_code(&packet(&mut half).await), 4031);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for conn in [&mut plain, &mut tls] {
        // What it was told last, or that it is closed.
        assert!(conn.query_drop("DO 1").await.is_err());
    }
    proxy.stop().await;
}

/// An account without a password.
fn nobody(config: &mut usher_config::Config) {
    let user = usher_config::User { name: "nobody".to_owned(), ..usher_config::User::default() };
    config.users.push(user);
}

async fn half_a_command(proxy: &Proxy) -> TcpStream {
    let mut stream = logged_in(proxy.port(), "nobody").await;
    stream.write_all(&[200, 0, 0, 0, 3, b'S', b'E']).await.unwrap();
    stream
}
