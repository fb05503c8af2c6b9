//! The example against one plain server: no errors, and a proof that notices what it should.
#![allow(clippy::unwrap_used, missing_docs)]

mod server;

use std::{path::PathBuf, sync::atomic::Ordering::Relaxed, time::Duration};

use mysql_async::prelude::Queryable as _;
use photos::{LoadOptions, Proof, Report, RunOptions, apply_schema, load, run, start, verify};
use server::Server;

/// A server with people on it, and the largest of them.
async fn site(name: &str) -> (Server, i64) {
    let server = Server::start(name).await;
    assert_eq!(apply_schema(&server.target()).await.unwrap(), 14);
    let report =
        load(LoadOptions { users: 60, largest: 150, ..LoadOptions::new(server.target()) }).await.unwrap();
    assert_eq!((report.users, report.users_found), (60, 0));
    (server, report.largest[0].0)
}

fn options(server: &Server, journal: &str, seconds: u64) -> RunOptions {
    let journal: PathBuf = server.folder.join(journal);
    let duration = Duration::from_secs(seconds);
    RunOptions { duration, connections: 8, ..RunOptions::new(server.target(), journal) }
}

async fn proof(server: &Server, journal: &str) -> Proof {
    verify(&server.target(), &server.folder.join(journal)).await.unwrap()
}

fn assert_clean(report: &Report) {
    assert_eq!((report.errors, report.unknown, report.locked), (0, 0, 0), "{report}");
    assert!(report.acknowledged > 50 && report.checks > 500, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_server_gives_no_error_and_the_proof_holds() {
    let (server, _) = site("clean").await;
    let report = run(options(&server, "first", 3)).await.unwrap();
    assert_clean(&report);
    let first = proof(&server, "first").await;
    assert!(first.holds() && first.present > 30 && first.values > 5, "{first}");
    assert_eq!(first.acknowledged, report.acknowledged);

    // Schema and loader may be called again, and a second life begins where the first one ended.
    apply_schema(&server.target()).await.unwrap();
    let again =
        load(LoadOptions { users: 60, largest: 150, ..LoadOptions::new(server.target()) }).await.unwrap();
    assert_eq!((again.users, again.users_found), (0, 60));
    assert!(start(options(&server, "first", 1)).await.is_err(), "a journal must never be written over");
    let running = start(RunOptions { rate: Some(400.0), ..options(&server, "second", 600) }).await.unwrap();
    let live = running.live();
    while live.acknowledged.load(Relaxed) < 30 {
        live.checks.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop();
    let report = running.finish().await.unwrap();
    assert!(report.errors == 0 && report.seconds < 60.0, "{report}");
    let second = proof(&server, "second").await;
    assert!(second.holds(), "{second}");
}

/// One statement that spoils the data, and what the proof must say of it.
struct Harm {
    harm: String,
    word: &'static str,
    repair: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_notices_every_harm() {
    let (server, _) = site("harm").await;
    assert_clean(&run(options(&server, "journal", 3)).await.unwrap());
    assert!(proof(&server, "journal").await.holds());
    let mut conn = server.connect().await;
    let last: (i64, i64) = conn
        .query_first("SELECT user_id, comment_id FROM comments WHERE request_id LIKE 'r%' LIMIT 1")
        .await
        .unwrap()
        .unwrap();
    let (user, comment) = last;
    conn.query_drop(format!("CREATE TABLE kept AS SELECT * FROM comments WHERE comment_id = {comment}"))
        .await
        .unwrap();
    let here = format!("user_id = {user} AND comment_id = {comment}");
    let loaded: (i64, i64) = conn
        .query_first("SELECT user_id, photo_id FROM photos WHERE request_id LIKE 'L%' AND edits = 0 LIMIT 1")
        .await
        .unwrap()
        .unwrap();
    let photo = format!("user_id = {} AND photo_id = {}", loaded.0, loaded.1);
    let harms = [
        Harm {
            harm: format!("DELETE FROM comments WHERE {here}"),
            word: "is there 0 times",
            repair: "INSERT INTO comments SELECT * FROM kept".into(),
        },
        Harm {
            harm: format!(
                "INSERT INTO comments (user_id, photo_id, author_id, request_id, body, mood, written) \
                 SELECT user_id, photo_id, author_id, request_id, body, mood, written FROM comments WHERE {here}"
            ),
            word: "is there 2 times",
            repair: format!(
                "DELETE FROM comments WHERE user_id = {user} AND comment_id > {comment} ORDER BY comment_id DESC LIMIT 1"
            ),
        },
        Harm {
            harm: format!("UPDATE photos SET thumb = CONCAT(thumb, x'00') WHERE {photo}"),
            word: "photos.thumb",
            repair: format!("UPDATE photos SET thumb = LEFT(thumb, LENGTH(thumb) - 1) WHERE {photo}"),
        },
        Harm {
            harm: format!(
                "UPDATE photos SET edits = edits + 1, title = '✎ x' WHERE {}",
                edited(&mut conn).await
            ),
            word: "should be one of",
            repair: String::new(),
        },
    ];
    for Harm { harm, word, repair } in harms {
        conn.query_drop(&harm).await.unwrap();
        let found = proof(&server, "journal").await;
        assert!(
            !found.holds() && found.problems.iter().any(|problem| problem.contains(word)),
            "{harm}\n{found}"
        );
        if !repair.is_empty() {
            conn.query_drop(repair).await.unwrap();
            let found = proof(&server, "journal").await;
            assert!(found.holds(), "after the repair of {harm}\n{found}");
        }
    }
}

async fn edited(conn: &mut mysql_async::Conn) -> String {
    let (user, photo): (i64, i64) = conn
        .query_first("SELECT user_id, photo_id FROM photos WHERE edits > 0 LIMIT 1")
        .await
        .unwrap()
        .unwrap();
    format!("user_id = {user} AND photo_id = {photo}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_answer_is_noticed_while_it_runs() {
    let (server, _) = site("wrong").await;
    let running = start(options(&server, "journal", 60)).await.unwrap();
    let live = running.live();
    let mut conn = server.connect().await;
    conn.query_drop("UPDATE users SET karma = 0.5, avatar = 'x'").await.unwrap();
    while live.wrong_answers.load(Relaxed) == 0 && live.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop();
    let report = running.finish().await.unwrap();
    assert!(report.wrong_answers > 0 && report.wrong_answers == report.errors, "{report}");
    assert!(report.error_samples.iter().any(|sample| sample.message.contains("users.")), "{report}");
}

/// Triggers answer as a proxy does while this user is being moved, as long as a global variable of no other use is 7.
async fn lock_switch(conn: &mut mysql_async::Conn, user: i64) {
    for table in ["users", "counters", "photos", "tags", "comments", "albums", "favourites", "accounts"] {
        for (event, row) in [("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")] {
            let text = format!("[USHER-0301] user {user} is being moved, about 1 minute; not executed");
            let signal = format!("SIGNAL SQLSTATE '25006' SET MYSQL_ERRNO = 1792, MESSAGE_TEXT = '{text}'");
            let locked = format!("{row}.user_id = {user} AND @@global.default_week_format = 7");
            let body = format!("BEGIN IF {locked} THEN {signal}; END IF; END");
            let trigger =
                format!("CREATE TRIGGER {table}_{event} BEFORE {event} ON {table} FOR EACH ROW {body}");
            conn.query_drop(trigger).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_user_is_waited_for_and_is_no_error() {
    let (server, largest) = site("locked").await;
    let mut conn = server.connect().await;
    lock_switch(&mut conn, largest).await;
    let running = start(options(&server, "journal", 60)).await.unwrap();
    let live = running.live();
    conn.query_drop("SET GLOBAL default_week_format = 7").await.unwrap();
    while live.locked.load(Relaxed) < 5 && live.elapsed() < Duration::from_secs(40) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    conn.query_drop("SET GLOBAL default_week_format = 0").await.unwrap();
    while live.unlocked.load(Relaxed) == 0 && live.elapsed() < Duration::from_secs(50) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop();
    let report = running.finish().await.unwrap();
    assert!(report.errors == 0 && report.locked >= 5 && report.unlocked > 0, "{report}");
    assert!(report.longest_lock_ms > 100.0, "{report}");
    assert!(report.locked_users.iter().all(|(user, _)| *user == largest), "{report}");
    let proof = proof(&server, "journal").await;
    assert!(proof.holds() && proof.absent >= report.locked, "{proof}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_leaves_unknown_outcomes_and_nothing_in_part() {
    let (mut server, _) = site("crash").await;
    let running = start(options(&server, "journal", 60)).await.unwrap();
    let live = running.live();
    while live.acknowledged.load(Relaxed) < 50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.crash_and_restart().await;
    let before = live.acknowledged.load(Relaxed);
    while live.acknowledged.load(Relaxed) < before + 50 && live.elapsed() < Duration::from_secs(50) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop();
    let report = running.finish().await.unwrap();
    assert!(report.errors > 0 && report.wrong_answers == 0, "{report}");
    assert!(report.acknowledged >= before + 50, "{report}");
    let proof = proof(&server, "journal").await;
    assert!(proof.holds(), "{report}\n{proof}");
}
