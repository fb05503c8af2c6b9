//! Many clients on few connections to a server.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::sync::Barrier;
use usher_integration_tests::{Bed, Proxy, admin, code, until};

const CLIENTS: usize = 1_000;
const CONNECTIONS: usize = 50;
const STATEMENTS: usize = 4;

/// A metric's value by the proxy's own page.
async fn metric(proxy: &Proxy, name: &str) -> f64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = usher_config::load(proxy.config_file()).unwrap();
    let address = config.proxy.unwrap().http_listen.unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}: {page}")).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_share_fifty_connections() {
    let bed = Bed::up("multiplexing", 1, 0).await;
    let proxy = bed
        .proxy(1, |config| {
            config.limits.backends_per_server_max = CONNECTIONS;
            config.limits.checkout_wait_ms = 60_000;
        })
        .await;
    let mut app = proxy.connect().await;
    app.query_drop("CREATE TABLE words (word_id INT PRIMARY KEY)").await.unwrap();
    app.query_drop("INSERT INTO words VALUES (1)").await.unwrap();
    let ready = Arc::new(Barrier::new(CLIENTS));
    let served_once = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (login, ready, served_once) = (proxy.login(), Arc::clone(&ready), Arc::clone(&served_once));
            tokio::spawn(async move {
                let mut conn = login.connect().await.unwrap();
                ready.wait().await;
                for n in 0..STATEMENTS {
                    let slept: Option<u8> = conn.query_first("SELECT SLEEP(0.02) FROM words").await.unwrap();
                    assert_eq!(slept, Some(0));
                    if n == 0 {
                        served_once.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // How many had been served once when this one was through.
                served_once.load(Ordering::Relaxed)
            })
        })
        .collect();
    let mut server = admin(&bed.endpoints.global.members[0]).await;
    let threads = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'usher_px1' AND info LIKE 'SELECT SLEEP%'";
    let mut most = 0;
    let began = Instant::now();
    while clients.iter().any(|client| !client.is_finished()) {
        most = most.max(server.query_first::<usize, _>(threads).await.unwrap().unwrap());
        assert!(began.elapsed() < Duration::from_secs(120), "they do not come to an end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((2..=CONNECTIONS).contains(&most), "{most} statements at once");
    let mut fewest = CLIENTS;
    for client in clients {
        fewest = fewest.min(client.await.unwrap());
    }
    // First come, first served: nobody is through before nearly all have had their turn.
    assert!(
        fewest > CLIENTS * 8 / 10,
        "one was served {STATEMENTS} times when {fewest} had been served once"
    );
    assert!(metric(&proxy, "usher_backend_wait_seconds_count").await >= CLIENTS as f64);
    assert!(metric(&proxy, "usher_backend_waiting").await == 0.0);
    drop(app);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_has_an_end_and_an_idle_transaction_too() {
    let bed = Bed::up("idle-transactions", 1, 0).await;
    let proxy = bed
        .proxy(1, |config| {
            config.limits.backends_per_server_max = 1;
            config.limits.checkout_wait_ms = 300;
            config.limits.idle_in_transaction_s = 3;
        })
        .await;
    let mut app = proxy.connect().await;
    app.query_drop("CREATE TABLE words (word_id INT PRIMARY KEY)").await.unwrap();
    let mut holds = proxy.connect().await;
    let mut other = proxy.connect().await;
    holds.query_drop("BEGIN").await.unwrap();
    holds.query_drop("INSERT INTO words VALUES (1)").await.unwrap();
    let waited = other.query_drop("SELECT * FROM words").await;
    assert_eq!(code(&waited), 1205);
    assert!(usher_integration_tests::message(&waited).contains("USHER-0506"), "{waited:?}");
    until("the transaction is rolled back", async || {
        other.query::<i32, _>("SELECT * FROM words").await.is_ok_and(|words| words.is_empty())
    })
    .await;
    assert!(holds.query_drop("COMMIT").await.is_err());
    app.query_drop("INSERT INTO words VALUES (1)").await.unwrap();
    drop((app, other));
    proxy.stop().await;
}
