//! With the global master down, or both memcached, what needs neither goes on as before.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_integration_tests::{
    Bed, Proxy, code, kill_9, make_tables, message, resume, sign_up, suspend, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_users_do_not_need_the_directory() {
    let mut bed = Bed::up("outage", 2, 0).await;
    let proxy = bed.proxy(1, |_| {}).await;
    let mut conn = proxy.connect().await;
    make_tables(&mut conn).await;
    let users: Vec<u64> = sign_up(&bed, &mut conn, 6).await.into_values().flatten().collect();
    without_memcached(&bed, &proxy, &users).await;
    with_a_hanging_global_master(&bed, &proxy, &mut conn, &users).await;
    for member in ["g1", "g2"] {
        kill_9(bed.pid(member)).await;
    }
    without_global_master(&proxy, &mut conn, &users).await;
    bed.up_again().await;
    with_all_again(&bed, &proxy, &mut conn).await;
}

/// The monitor learns that a server is gone only at its next probe, here in a minute. A driver's first questions, and
/// statements that are prepared, do not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_server_can_say_another_says_at_once() {
    let bed = Bed::up("gone", 2, 0).await;
    let blind = |config: &mut usher_config::Config| {
        config.limits.probe_ms = 60_000;
        config.limits.server_lost_ms = 300_000;
    };
    let proxy = bed.proxy(1, blind).await;
    let mut conn = proxy.connect().await;
    make_tables(&mut conn).await;
    let homes = sign_up(&bed, &mut conn, 4).await;
    for writer in ["g1", bed.shard("s1").writer.as_str()] {
        kill_9(bed.pid(writer)).await;
        // In turn, each shard would be asked.
        for _ in 0..4 {
            let start = Instant::now();
            let mut new = proxy.connect().await;
            let one: Option<(u8, u64)> = new.query_first("SELECT 1, @@max_allowed_packet").await.unwrap();
            assert_eq!(one.unwrap().0, 1);
            let shown: Option<(String, String)> =
                new.query_first("SHOW VARIABLES LIKE 'lower_case_table_names'").await.unwrap();
            assert_eq!(shown.unwrap().0, "lower_case_table_names");
            let sql = "SELECT visits FROM users WHERE user_id = ?";
            new.query_drop(format!("PREPARE asked FROM '{sql}'")).await.unwrap();
            new.prep(sql).await.unwrap();
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}: {}", start.elapsed(), proxy.log());
        }
    }
    updates(&mut conn, &homes["s2"], 1).await;
}

async fn without_memcached(bed: &Bed, proxy: &Proxy, users: &[u64]) {
    for pid in bed.memcached_pids() {
        kill_9(pid).await;
    }
    let mut conn = proxy.connect().await;
    reads_and_writes(&mut conn, users, 1).await;
    // This proxy has seen none of the users and has to ask the global master for each.
    let second = bed.proxy(2, |_| {}).await;
    let mut other = second.connect().await;
    let start = Instant::now();
    reads_and_writes(&mut other, users, 2).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}: a dead cache costs no time", start.elapsed());
    other.query_drop("INSERT INTO users (name) VALUES ('without memcached')").await.unwrap();
    second.stop().await;
}

async fn with_a_hanging_global_master(bed: &Bed, proxy: &Proxy, conn: &mut Conn, users: &[u64]) {
    for member in ["g1", "g2"] {
        suspend(bed.pid(member));
    }
    // Longer than the patience of a poll, so that the proxy has noticed.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        // Not one that takes an id: those handed out would be used up.
        updates(conn, users, 3).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut new = proxy.connect().await;
    reads_and_writes(&mut new, users, 4).await;
    for member in ["g1", "g2"] {
        resume(bed.pid(member));
    }
    until("new users after the pause", || async {
        let mut conn = proxy.connect().await;
        conn.query_drop("INSERT INTO users (name) VALUES ('after the pause')").await.is_ok()
    })
    .await;
}

async fn without_global_master(proxy: &Proxy, conn: &mut Conn, users: &[u64]) {
    reads_and_writes(conn, users, 5).await;
    let mut new = proxy.connect().await;
    reads_and_writes(&mut new, users, 6).await;
    conn.query_drop("BEGIN").await.unwrap();
    reads_and_writes(conn, &users[..1], 7).await;
    conn.query_drop("COMMIT").await.unwrap();
    let start = Instant::now();
    for new in [
        "INSERT INTO users (name) VALUES ('nobody')",
        "INSERT INTO photos (user_id, title) VALUES (8000001, 'of nobody')",
    ] {
        let refused = conn.query_drop(new).await;
        assert_eq!(code(&refused), 1429, "{}", message(&refused));
        assert!(message(&refused).contains("USHER-0601"), "{}", message(&refused));
    }
    // An id from outside has to be kept from being handed out, which takes the global master too.
    let refused = conn.query_drop("INSERT INTO users (user_id, name) VALUES (8000001, 'nobody')").await;
    assert_eq!(code(&refused), 1467, "{}", message(&refused));
    assert!(message(&refused).contains("USHER-0602"), "{}", message(&refused));
    let refused = conn.query_drop("SELECT name FROM users WHERE user_id = 8000002").await;
    assert_eq!(code(&refused), 1429, "an unknown user cannot be told from one that was not looked up");
    let refused = conn.exec_drop("SELECT name FROM users WHERE user_id = ?", (8_000_003,)).await;
    assert_eq!(code(&refused), 1429);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let refused = conn.query_drop("SELECT word FROM words").await;
    assert!(matches!(code(&refused), 1429 | 1205), "{}", message(&refused));
    reads_and_writes(conn, users, 8).await;
}

async fn with_all_again(bed: &Bed, proxy: &Proxy, conn: &mut Conn) {
    until("new users, with all servers back", || async {
        let mut conn = proxy.connect().await;
        conn.query_drop("INSERT INTO users (name) VALUES ('at last')").await.is_ok()
    })
    .await;
    let users: Vec<u64> = sign_up(bed, conn, 4).await.into_values().flatten().collect();
    reads_and_writes(conn, &users, 9).await;
    conn.query_drop("INSERT INTO words (word) VALUES ('back')").await.unwrap();
    let mut none: Vec<String> = conn.query("SELECT name FROM users WHERE user_id = 9000002").await.unwrap();
    assert_eq!(none.pop(), None);
}

/// Known users are read and written, in text and prepared, with ids from the sequence.
async fn reads_and_writes(conn: &mut Conn, users: &[u64], value: i64) {
    updates(conn, users, value).await;
    for user in users {
        let sql = "INSERT INTO photos (user_id, title) VALUES (?, 'during an outage')";
        conn.exec_drop(sql, (user,)).await.unwrap();
    }
}

async fn updates(conn: &mut Conn, users: &[u64], value: i64) {
    for user in users {
        conn.query_drop(format!("UPDATE users SET visits = {value} WHERE user_id = {user}")).await.unwrap();
        let sql = "SELECT visits FROM users WHERE user_id = ?";
        assert_eq!(conn.exec_first::<i64, _, _>(sql, (user,)).await.unwrap(), Some(value));
    }
}
