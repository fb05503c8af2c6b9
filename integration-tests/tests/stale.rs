//! A proxy that was stopped in its tracks while a user moved or a writer was flipped, and goes on as if nothing had
//! happened, cannot write where it must not.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::task::JoinHandle;
use usher_integration_tests::{
    Bed, Proxy, admin, count, directory_home, make_tables, resume, sign_up, suspend, until, usher,
};
use usher_playground::ServerEndpoint;

/// How long a statement may take that waits in a proxy which was stopped.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_proxy_cannot_write() {
    let bed = Bed::up("stale", 2, 0).await;
    let stale = bed.proxy(1, |_| {}).await;
    let live = bed.proxy(2, |_| {}).await;
    let mut conn = live.connect().await;
    make_tables(&mut conn).await;
    let homes = sign_up(&bed, &mut conn, 12).await;
    let (on_s1, on_s2) = (&homes["s1"], &homes["s2"]);
    moved_meanwhile(&bed, &stale, &live, on_s1[0], "s1", "s2").await;
    moved_meanwhile(&bed, &stale, &live, on_s2[0], "s2", "s1").await;
    flipped_meanwhile(&bed, &stale, &live, on_s1[1]).await;
    stale.stop().await;
    live.stop().await;
}

/// The member that was the writer when the servers were started.
fn first_writer<'a>(bed: &'a Bed, shard: &str) -> &'a ServerEndpoint {
    let shard = bed.shard(shard);
    shard.members.iter().find(|member| member.name == shard.writer).unwrap()
}

async fn ok(config: &Path, arguments: &[&str]) {
    let output = usher(config, arguments).await;
    assert_eq!(output.code, Some(0), "usher {arguments:?}:\n{}{}", output.stdout, output.stderr);
}

/// Statements on their way to a proxy that is stopped: they wait in its socket and are the first thing that it sees.
struct Waiting(Vec<(&'static str, JoinHandle<Result<(), Error>>)>);

impl Waiting {
    async fn prepare(proxy: &Proxy, user: u64) -> (Vec<Conn>, Conn, Conn) {
        let mut plain = Vec::new();
        for _ in 0..4 {
            let mut conn = proxy.connect().await;
            conn.query_drop(format!("UPDATE users SET visits = 1 WHERE user_id = {user}")).await.unwrap();
            conn.exec_drop("UPDATE users SET visits = 2 WHERE user_id = ?", (user,)).await.unwrap();
            plain.push(conn);
        }
        let mut open = proxy.connect().await;
        open.query_drop("BEGIN").await.unwrap();
        let insert = format!("INSERT INTO photos (user_id, title) VALUES ({user}, 'open')");
        open.query_drop(&insert).await.unwrap();
        let mut begun = proxy.connect().await;
        begun.query_drop("BEGIN").await.unwrap();
        (plain, open, begun)
    }

    fn send((plain, mut open, mut begun): (Vec<Conn>, Conn, Conn), user: u64) -> Self {
        let mut tasks: Vec<(&'static str, JoinHandle<Result<(), Error>>)> = Vec::new();
        for (n, mut conn) in plain.into_iter().enumerate() {
            tasks.push(match n % 2 {
                0 => (
                    "text",
                    tokio::spawn(async move {
                        let sql = format!("UPDATE users SET name = 'stale' WHERE user_id = {user}");
                        conn.query_drop(sql).await
                    }),
                ),
                _ => (
                    "prepared",
                    tokio::spawn(async move {
                        conn.exec_drop("INSERT INTO photos (user_id, title) VALUES (?, 'stale')", (user,))
                            .await
                    }),
                ),
            });
        }
        tasks.push(("commit", tokio::spawn(async move { open.query_drop("COMMIT").await })));
        tasks.push((
            "begun",
            tokio::spawn(async move {
                begun.query_drop(format!("UPDATE users SET name = 'stale' WHERE user_id = {user}")).await?;
                begun.query_drop("COMMIT").await
            }),
        ));
        Self(tasks)
    }

    /// What became of each: whether it was acknowledged.
    async fn outcomes(self) -> Vec<(&'static str, bool)> {
        let mut outcomes = Vec::new();
        for (what, task) in self.0 {
            let outcome = tokio::time::timeout(PATIENCE, task).await.expect("an answer").unwrap();
            eprintln!("  {what}: {outcome:?}");
            outcomes.push((what, outcome.is_ok()));
        }
        outcomes
    }
}

async fn moved_meanwhile(bed: &Bed, stale: &Proxy, live: &Proxy, user: u64, from: &str, to: &str) {
    let (old, new) = (first_writer(bed, from), first_writer(bed, to));
    let of_user = format!("user_id = {user}");
    let prepared = Waiting::prepare(stale, user).await;
    suspend(stale.pid());
    ok(live.config_file(), &["move", "start", "--user", &user.to_string(), "--to", to, "--locked"]).await;
    assert_eq!(directory_home(bed, user).await, to);
    let mut conn = live.connect().await;
    conn.query_drop(format!("UPDATE users SET visits = 77 WHERE {of_user}")).await.unwrap();
    let left = count(old, "photos", &of_user).await;
    let waiting = Waiting::send(prepared, user);
    resume(stale.pid());
    let outcomes = waiting.outcomes().await;
    assert!(!outcomes.contains(&("commit", true)), "a transaction from before the move was committed");
    let stale_rows = "title IN ('stale', 'open') AND ";
    assert_eq!(count(old, "users", &format!("name = 'stale' AND {of_user}")).await, 0, "written on {from}");
    assert_eq!(count(old, "photos", &format!("{stale_rows}{of_user}")).await, 0, "inserted on {from}");
    assert_eq!(count(old, "photos", &of_user).await, left);
    let inserted = outcomes.iter().filter(|(what, done)| *what == "prepared" && *done).count();
    let found = count(new, "photos", &format!("{stale_rows}{of_user}")).await;
    assert_eq!(found, i64::try_from(inserted).unwrap(), "what was acknowledged is on {to}");
    serves_again(stale, user).await;
    assert_eq!(count(new, "users", &format!("name = 'again' AND {of_user}")).await, 1);
    assert_eq!(count(old, "users", &format!("name = 'again' AND {of_user}")).await, 0);
    let visits: Option<i64> =
        stale.connect().await.query_first(format!("SELECT visits FROM users WHERE {of_user}")).await.unwrap();
    assert_eq!(visits, Some(77), "reads see what the other proxy wrote");
}

async fn serves_again(proxy: &Proxy, user: u64) {
    until("the proxy serves the user again", || async {
        let mut conn = proxy.connect().await;
        conn.query_drop(format!("UPDATE users SET name = 'again' WHERE user_id = {user}")).await.is_ok()
    })
    .await;
}

/// The transactions that a server itself has put in its binary log, not those that it has applied.
async fn own_position(server: &ServerEndpoint) -> Option<String> {
    let mut conn = admin(server).await;
    let id: u64 = conn.query_first("SELECT @@server_id").await.unwrap().unwrap();
    let state: String = conn.query_first("SELECT @@gtid_binlog_state").await.unwrap().unwrap();
    state.split(',').find(|gtid| gtid.split('-').nth(1) == Some(&id.to_string())).map(str::to_owned)
}

async fn flipped_meanwhile(bed: &Bed, stale: &Proxy, live: &Proxy, user: u64) {
    let old = first_writer(bed, "s1");
    let new = bed.shard("s1").members.iter().find(|member| member.name != old.name).unwrap();
    let prepared = Waiting::prepare(stale, user).await;
    suspend(stale.pid());
    ok(live.config_file(), &["shard", "flip", "s1"]).await;
    let mut conn = live.connect().await;
    conn.query_drop(format!("UPDATE users SET visits = 78 WHERE user_id = {user}")).await.unwrap();
    let before = own_position(old).await;
    let waiting = Waiting::send(prepared, user);
    resume(stale.pid());
    let outcomes = waiting.outcomes().await;
    assert!(!outcomes.contains(&("commit", true)), "a transaction from before the flip was committed");
    serves_again(stale, user).await;
    assert_eq!(own_position(old).await, before, "{} has written itself", old.name);
    let inserted = outcomes.iter().filter(|(what, done)| *what == "prepared" && *done).count();
    let found = count(new, "photos", &format!("title = 'stale' AND user_id = {user}")).await;
    assert_eq!(found, i64::try_from(inserted).unwrap(), "what was acknowledged is on the new writer");
    assert_eq!(count(new, "users", &format!("name = 'again' AND user_id = {user}")).await, 1);
}
