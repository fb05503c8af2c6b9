//! Online moves between real servers, of users who write all the while: nothing lost, nothing twice, exact to the byte,
//! killed at every point, broken off when the cutover takes too long.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::Ground;
use usher_directory::rows;
use usher_mover::{FAIL_POINTS, MoveError, ONLINE_FAIL_POINTS, Outcome, Phase};
use usher_playground::Server as Kind;
use usher_topology::{Key, ShardId};

#[test]
#[ignore = "run by the other tests in a process of its own"]
fn child_that_runs_one_move() {
    support::run_child();
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    all(Ground::up("online-mariadb", Kind::Mariadb).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    if let Some(reason) = usher_playground::why_no_mysql() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    all(Ground::up("online-mysql", Kind::Mysql).await).await;
}

async fn all(ground: Ground) {
    let ground = Arc::new(ground);
    what_the_log_does_not_tell_apart_is_refused(&ground).await;
    a_user_who_writes_is_moved_there_and_back(&ground).await;
    text_keys_are_moved(&ground).await;
    a_transaction_that_stays_open_breaks_the_cutover_off(&ground).await;
    an_altered_table_undoes_the_move(&ground).await;
    killed_anywhere_and_resumed(&ground).await;
    killed_anywhere_and_aborted(&ground).await;
}

async fn what_the_log_does_not_tell_apart_is_refused(ground: &Ground) {
    ground
        .add_table(
            "prices",
            false,
            "CREATE TABLE app.prices (user_id BIGINT NOT NULL, price DECIMAL(9,2) NOT NULL, \
         PRIMARY KEY (user_id, price)) ENGINE=InnoDB",
        )
        .await;
    let (key, home) = ground.user(1).await;
    let rows = ground.rows_of(&home, &key).await;
    let id = ground.request_online(&key, ground.other(&home)).await;
    assert_eq!(ground.mover("m1").drive(id).await.unwrap(), Outcome::Aborted);
    let error = ground.row(id).await.error.unwrap();
    assert!(error.contains("price (decimal)") && error.contains("--locked"), "{error}");
    ground.assert_whole(&key, &home, &rows, "refused").await;
    ground.drop_table("prices").await;
}

/// A user's application: transactions that check the ownership row first, as a proxy has them do.
struct Application {
    ground: Arc<Ground>,
    key: Key,
    number: i64,
    conns: BTreeMap<u16, Conn>,
    rng: StdRng,
    /// Numbers of the photos whose insert was acknowledged, unless their delete was.
    photos: Vec<i64>,
    /// Acknowledged transactions, as the user's own row counts them.
    written: u64,
    /// The longest time between two acknowledgements.
    pause: Duration,
}

impl Application {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        let mut last = Instant::now();
        let mut next_photo = self.number * 1_000_000;
        while !stop.load(Ordering::Relaxed) {
            let located =
                rows::directory_row(self.ground.global(), &self.key).await.unwrap().unwrap().located;
            if self.transaction(located.shard, located.own_gen.0, &mut next_photo).await {
                self.written += 1;
                self.pause = self.pause.max(last.elapsed());
                last = Instant::now();
            }
        }
        self
    }

    async fn transaction(&mut self, shard: ShardId, own_gen: u64, next_photo: &mut i64) -> bool {
        if !self.conns.contains_key(&shard.0) {
            let conn = self.ground.writer(&self.ground.shard_name(shard)).await;
            self.conns.insert(shard.0, conn);
        }
        let conn = self.conns.get_mut(&shard.0).unwrap();
        conn.query_drop("BEGIN").await.unwrap();
        let fence: Option<u8> = conn
            .exec_first(
                "SELECT 1 FROM usher.ownership WHERE entity_key = ? AND own_gen = ? AND state = 'owned' \
                 LOCK IN SHARE MODE",
                (self.key.to_string(), own_gen),
            )
            .await
            .unwrap();
        if fence.is_none() {
            conn.query_drop("ROLLBACK").await.unwrap();
            return false;
        }
        let (user, rng) = (self.number, &mut self.rng);
        let mut photos = self.photos.clone();
        for _ in 0..rng.random_range(1..4) {
            match rng.random_range(0..6) {
                0 if !photos.is_empty() => {
                    let photo = photos.swap_remove(rng.random_range(0..photos.len()));
                    // Its comments go with it.
                    conn.query_drop(format!("DELETE FROM app.photos WHERE id = {photo}")).await.unwrap();
                }
                1 => {
                    let set = format!("title = '{}'", "t".repeat(rng.random_range(0..300)));
                    conn.query_drop(format!("UPDATE app.photos SET {set} WHERE user_id = {user} LIMIT 9"))
                        .await
                        .unwrap();
                }
                2 => {
                    let text = "UPDATE app.tags SET note = ?, at = at + INTERVAL 1 SECOND WHERE user_id = ? \
                                ORDER BY at DESC LIMIT 3";
                    conn.exec_drop(text, (rng.random::<u64>().to_string(), user)).await.unwrap();
                }
                3 => {
                    let text = "UPDATE app.kinds SET d = ?, vc = ?, lb = REPEAT(?, 500) WHERE user_id = ? \
                                ORDER BY id LIMIT 4";
                    let (d, vc): (f64, u32) = (rng.random(), rng.random());
                    conn.exec_drop(text, (d, vc.to_string(), vec![0_u8, 255, 39], user)).await.unwrap();
                }
                _ => {
                    *next_photo += 1;
                    photos.push(*next_photo);
                    let text = format!("INSERT INTO app.photos VALUES ({next_photo}, {user}, 'new')");
                    conn.query_drop(text).await.unwrap();
                    let text = format!(
                        "INSERT INTO app.comments VALUES ('c{next_photo}', {next_photo}, {user}, 'x')"
                    );
                    conn.query_drop(text).await.unwrap();
                }
            }
        }
        let count = format!("UPDATE app.profile SET bio = '{}' WHERE user_id = {user}", self.written + 1);
        conn.query_drop(count).await.unwrap();
        conn.query_drop("COMMIT").await.unwrap();
        self.photos = photos;
        true
    }

    /// All that was acknowledged is there, once, and nothing else.
    async fn check(&self, shard: &str) {
        let mut conn = self.ground.writer(shard).await;
        let user = self.number;
        let found: Vec<i64> = conn
            .query(format!(
                "SELECT id FROM app.photos WHERE user_id = {user} AND id > {} ORDER BY id",
                user * 1_000_000
            ))
            .await
            .unwrap();
        let mut expected = self.photos.clone();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let comments: Vec<String> = conn
            .query(format!(
                "SELECT id FROM app.comments WHERE user_id = {user} AND id LIKE 'c%' ORDER BY photo_id"
            ))
            .await
            .unwrap();
        assert_eq!(comments, expected.iter().map(|photo| format!("c{photo}")).collect::<Vec<_>>());
        let written: Option<String> =
            conn.query_first(format!("SELECT bio FROM app.profile WHERE user_id = {user}")).await.unwrap();
        assert_eq!(written, Some(self.written.to_string()));
    }
}

async fn a_user_who_writes_is_moved_there_and_back(ground: &Arc<Ground>) {
    let seed: u64 =
        std::env::var("USHER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("USHER_SEED={seed}");
    let (key, mut at) = ground.user(2).await;
    for round in 0..2 {
        let application = Application {
            ground: Arc::clone(ground),
            key: key.clone(),
            number: 2,
            conns: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed + round),
            photos: Vec::new(),
            written: 0,
            pause: Duration::ZERO,
        };
        let mut conn = ground.writer(&at).await;
        conn.query_drop("DELETE FROM app.photos WHERE user_id = 2 AND id > 2000000").await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let running = tokio::spawn(application.run(Arc::clone(&stop)));
        let to = ground.other(&at);
        let id = ground.request_online(&key, to).await;
        let outcome = ground.mover("m1").drive(id).await.unwrap();
        let row = ground.row(id).await;
        assert_eq!(outcome, Outcome::Finished, "{:?}", row.error);
        stop.store(true, Ordering::Relaxed);
        let application = running.await.unwrap();
        eprintln!(
            "online: {} transactions, longest pause {:?}, held {:?} ms, {} rows",
            application.written, application.pause, row.locked_ms, row.rows_done
        );
        assert!(application.written > 20, "{}", application.written);
        application.check(to).await;
        let rows = ground.rows_of(to, &key).await;
        ground.assert_whole(&key, to, &rows, "moved online").await;
        to.clone_into(&mut at);
    }
}

async fn text_keys_are_moved(ground: &Arc<Ground>) {
    let name = "Na-\u{fc}x";
    let key = Key::Text(name.into());
    let located = ground.directory.place(&key).await.unwrap();
    let home = ground.shard_name(located.shard);
    let mut conn = ground.writer(&home).await;
    for n in 0..20 {
        conn.exec_drop("INSERT INTO app.letters VALUES (?, ?, 'x')", (name, n)).await.unwrap();
    }
    let rows = ground.rows_of(&home, &key).await;
    let to = ground.other(&home);
    let id = ground.request_online(&key, to).await;
    assert_eq!(ground.mover("m1").drive(id).await.unwrap(), Outcome::Finished, "{:?}", ground.row(id).await);
    ground.assert_whole(&key, to, &rows, "text").await;
}

async fn a_transaction_that_stays_open_breaks_the_cutover_off(ground: &Arc<Ground>) {
    let (key, home) = ground.user(3).await;
    let mut app = ground.writer(&home).await;
    app.query_drop("BEGIN").await.unwrap();
    let fence = "SELECT state FROM usher.ownership WHERE entity_key = '3' LOCK IN SHARE MODE";
    app.query_drop(fence).await.unwrap();
    app.query_drop("UPDATE app.profile SET bio = 'the last write' WHERE user_id = 3").await.unwrap();
    let to = ground.other(&home);
    let id = ground.request_online(&key, to).await;
    let mover = ground.mover("m1");
    let run = tokio::spawn(async move { mover.drive(id).await });
    // Locked, and let go again.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut was_locked = false;
    loop {
        let row = rows::directory_row(ground.global(), &key).await.unwrap().unwrap();
        let locked = row.located.state == usher_directory::EntityState::Locked;
        if was_locked && !locked {
            break;
        }
        was_locked |= locked;
        assert!(tokio::time::Instant::now() < deadline, "{:?}", ground.row(id).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.query_drop("COMMIT").await.unwrap();
    let rows = ground.rows_of(&home, &key).await;
    assert_eq!(run.await.unwrap().unwrap(), Outcome::Finished, "{:?}", ground.row(id).await);
    ground.assert_whole(&key, to, &rows, "after a second cutover").await;
}

async fn an_altered_table_undoes_the_move(ground: &Arc<Ground>) {
    let (key, home) = ground.user(4).await;
    let id = ground.request_online(&key, ground.other(&home)).await;
    ground.killed_at(id, "caught_up").await;
    for shard in ["s1", "s2"] {
        let mut conn = ground.writer(shard).await;
        conn.query_drop("ALTER TABLE app.profile ADD COLUMN more INT").await.unwrap();
    }
    let rows = ground.rows_of(&home, &key).await;
    assert_eq!(ground.mover("child").drive(id).await.unwrap(), Outcome::Aborted);
    let error = ground.row(id).await.error.unwrap();
    assert!(error.contains("binlog") && error.contains("app.profile"), "{error}");
    ground.assert_whole(&key, &home, &rows, "altered").await;
    for shard in ["s1", "s2"] {
        let mut conn = ground.writer(shard).await;
        conn.query_drop("ALTER TABLE app.profile DROP COLUMN more").await.unwrap();
    }
}

fn points() -> impl Iterator<Item = (usize, &'static str)> {
    const NOT_PASSED: [&str; 3] = ["chunk.before_commit", "copied", "cut.unlocked"];
    let all = FAIL_POINTS.iter().chain(ONLINE_FAIL_POINTS).copied();
    all.filter(|point| !point.starts_with("abort.") && !NOT_PASSED.contains(point)).enumerate()
}

async fn killed_anywhere_and_resumed(ground: &Arc<Ground>) {
    for (at, point) in points() {
        let (key, home) = ground.user(100 + at as i64).await;
        let rows = ground.rows_of(&home, &key).await;
        let to = ground.other(&home);
        let id = ground.request_online(&key, to).await;
        ground.killed_at(id, point).await;
        let outcome = ground.mover("child").drive(id).await.unwrap();
        assert_eq!(outcome, Outcome::Finished, "{point}: {:?}", ground.row(id).await);
        ground.assert_whole(&key, to, &rows, point).await;
    }
}

async fn killed_anywhere_and_aborted(ground: &Arc<Ground>) {
    for (at, point) in points() {
        let (key, home) = ground.user(200 + at as i64).await;
        let rows = ground.rows_of(&home, &key).await;
        let to = ground.other(&home);
        let id = ground.request_online(&key, to).await;
        ground.killed_at(id, point).await;
        let mover = ground.mover("child");
        let committed = Phase::parse(&ground.row(id).await.phase).unwrap().is_committed();
        match mover.abort(id).await {
            Ok(()) => assert!(!committed, "{point}"),
            Err(MoveError::Committed { .. }) => assert!(committed, "{point}"),
            Err(error) => panic!("{point}: {error}"),
        }
        let outcome = mover.drive(id).await.unwrap();
        let (expected, shard) =
            if committed { (Outcome::Finished, to) } else { (Outcome::Aborted, home.as_str()) };
        assert_eq!(outcome, expected, "{point}: {:?}", ground.row(id).await);
        ground.assert_whole(&key, shard, &rows, point).await;
    }
}
