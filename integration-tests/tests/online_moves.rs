//! Users are moved there and back while clients of two proxies read and write them and others: no client sees an
//! error, no acknowledged write is lost or doubled, every read is right, and both shards are clean afterwards.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, TxOpts};
use photos::{Live, LoadOptions, RunOptions, Target, apply_schema, load, start, verify};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use usher_integration_tests::{Bed, Login, admin, directory_home, until, usher};
use usher_playground::{Server, ServerEndpoint};

/// The longest that one statement may wait on a machine that is busy with other things. What it is elsewhere is in
/// `docs/performance.md`.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the test's own clients write beside the site's load.
const TABLES: [&str; 2] = [
    "CREATE TABLE diary (entry_id BIGINT NOT NULL AUTO_INCREMENT, user_id BIGINT NOT NULL, writer INT NOT NULL, \
     n BIGINT NOT NULL, body VARCHAR(200) NOT NULL, PRIMARY KEY (user_id, entry_id), KEY (entry_id)) \
     COMMENT 'usher:sharded key=user_id sequence=entry_id'",
    "CREATE TABLE diary_ends (user_id BIGINT NOT NULL, writer INT NOT NULL, n BIGINT NOT NULL, \
     PRIMARY KEY (user_id, writer)) COMMENT 'usher:sharded key=user_id'",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_on_mariadb() {
    nobody_notices("online", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_on_mysql() {
    if let Some(reason) = usher_playground::why_no_mysql() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    nobody_notices("online-mysql", Server::Mysql).await;
}

async fn nobody_notices(name: &str, server: Server) {
    let bed = Bed::up_with(name, 2, 1, server, true).await;
    let second = bed.proxy(2, |_| {}).await;
    let app = &bed.endpoints.proxy;
    let logins = [Login::new(app.port, &app.user, &app.password), second.login()];
    // What it reads on other connections than those that have written may be older through another proxy.
    let target = Target::new("127.0.0.1", app.port, &app.user, &app.password, &app.database);
    apply_schema(&target).await.unwrap();
    let mut conn = logins[0].connect().await.unwrap();
    for table in TABLES {
        conn.query_drop(table).await.unwrap();
    }
    let people = LoadOptions { users: 30, largest: 150, ..LoadOptions::new(target.clone()) };
    let loaded = load(people).await.unwrap();
    let users: Vec<i64> = loaded.largest.iter().map(|(user, _)| *user).collect();
    let (moved, others) = users.split_at(2);

    let journal = bed.dir().join("journal");
    let options = RunOptions {
        duration: Duration::from_secs(300),
        connections: 8,
        rate: Some(80.0),
        ..RunOptions::new(target.clone(), &journal)
    };
    let running = start(options).await.unwrap();
    let live = running.live();
    let stop = Arc::new(AtomicBool::new(false));
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let writers: Vec<JoinHandle<Writer>> = (0..6u64)
        .map(|number| {
            let login = logins[usize::try_from(number % 2).unwrap()].clone();
            let users = vec![moved[0], moved[1], others[0]];
            let rng = StdRng::seed_from_u64(seed.wrapping_add(number));
            tokio::spawn(Writer::new(login, number, users, rng).write(Arc::clone(&stop)))
        })
        .collect();

    busy(&live, 200).await;
    for _there_and_back in 0..2 {
        for user in moved {
            move_online(&bed, *user).await;
            busy(&live, 50).await;
        }
    }
    busy(&live, 100).await;
    stop.store(true, Relaxed);
    let mut written: BTreeMap<i64, Vec<(u64, i64)>> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for writer in writers {
        let writer = writer.await.unwrap();
        longest = longest.max(writer.longest);
        for (user, entries) in writer.entries {
            written.entry(user).or_default().extend((1..=entries).map(|n| (writer.number, n)));
        }
    }
    running.stop();
    let report = running.finish().await.unwrap();
    eprintln!("{report}\nlongest write of the moved users' diaries: {longest:?}");
    assert_eq!(report.errors, 0, "{:#?}", report.error_samples);
    assert_eq!((report.unknown, report.locked), (0, 0), "{:?}", report.locked_users);
    assert!(longest < PAUSE_MAX, "{longest:?}");
    let proof = verify(&target, &journal).await.unwrap();
    assert!(proof.holds(), "{proof}");
    for (user, entries) in &mut written {
        entries.sort_unstable();
        assert!(entries.len() > 20, "user {user} was written {} times", entries.len());
        assert_eq!(diary(&bed, *user).await, *entries, "user {user}");
    }
    second.stop().await;
}

/// Waits until the load has had so many more statements answered.
async fn busy(live: &Live, more: u64) {
    let before = live.statements.load(Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    while live.statements.load(Relaxed) < before + more {
        assert!(Instant::now() < deadline, "the load stands still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Moves a user to the other shard and has its old rows purged; nothing is left there then.
async fn move_online(bed: &Bed, user: i64) {
    let key = u64::try_from(user).unwrap();
    let from = directory_home(bed, key).await;
    let to = if from == "s1" { "s2" } else { "s1" };
    let name = user.to_string();
    let start = ["--json", "move", "start", "--user", &name, "--to", to, "--online"];
    let output = usher(&bed.config_file(), &start).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let moved: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    eprintln!(
        "user {user} moved from {from} to {to}: {} rows, writes held for {} ms",
        moved["rows_done"], moved["locked_ms"]
    );
    assert_eq!(directory_home(bed, key).await, to);
    let purge = ["--json", "move", "purge", &moved["id"].to_string()];
    let output = usher(&bed.config_file(), &purge).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    for server in &bed.shard(&from).members {
        until(&format!("nothing is left on {}", server.name), async || {
            left_on(server, user).await.is_empty()
        })
        .await;
    }
}

/// Tables of the application that have rows of this user on a server.
async fn left_on(server: &ServerEndpoint, user: i64) -> Vec<String> {
    let mut conn = admin(server).await;
    let tables: Vec<String> = conn
        .query(
            "SELECT table_name AS name FROM information_schema.columns \
             WHERE table_schema = 'app' AND column_name = 'user_id' ORDER BY table_name",
        )
        .await
        .unwrap();
    let mut left = Vec::new();
    for table in tables {
        let sql = format!("SELECT COUNT(*) FROM app.{table} WHERE user_id = {user}");
        let rows: Option<i64> = conn.query_first(sql).await.unwrap();
        if rows != Some(0) {
            left.push(table);
        }
    }
    left
}

/// Who wrote which entries of a user, by the one writer that has them; the standby has the same.
async fn diary(bed: &Bed, user: i64) -> Vec<(u64, i64)> {
    let home = directory_home(bed, u64::try_from(user).unwrap()).await;
    let shard = bed.shard(&home);
    let writer = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
    let sql = format!("SELECT writer, n FROM app.diary WHERE user_id = {user} ORDER BY writer, n");
    admin(writer).await.query(sql).await.unwrap()
}

/// A client that keeps diaries: each entry has the number after the last one, and it knows them all.
struct Writer {
    login: Login,
    number: u64,
    users: Vec<i64>,
    rng: StdRng,
    /// Entries acknowledged, by user.
    entries: BTreeMap<i64, i64>,
    /// The longest that a write took.
    longest: Duration,
}

impl Writer {
    fn new(login: Login, number: u64, users: Vec<i64>, rng: StdRng) -> Self {
        Self { login, number, users, rng, entries: BTreeMap::new(), longest: Duration::ZERO }
    }

    async fn write(mut self, stop: Arc<AtomicBool>) -> Self {
        let mut conn = self.login.connect().await.unwrap();
        while !stop.load(Relaxed) {
            let user = self.users[self.rng.random_range(0..self.users.len())];
            let last = self.entries.get(&user).copied().unwrap_or(0);
            let began = Instant::now();
            let added = match self.rng.random_range(0..4) {
                0 => self.in_text(&mut conn, user, last).await,
                1 => self.prepared(&mut conn, user, last).await,
                2 => self.many_rows(&mut conn, user, last).await,
                _ => self.in_transaction(&mut conn, user, last).await,
            };
            self.longest = self.longest.max(began.elapsed());
            self.entries.insert(user, last + added);
            self.read(&mut conn, user).await;
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..30))).await;
        }
        conn.disconnect().await.unwrap();
        self
    }

    async fn in_text(&self, conn: &mut Conn, user: i64, last: i64) -> i64 {
        let values = format!("({user}, {}, {}, 'text')", self.number, last + 1);
        conn.query_drop(format!("INSERT INTO diary (user_id, writer, n, body) VALUES {values}"))
            .await
            .unwrap();
        assert_eq!(conn.affected_rows(), 1);
        1
    }

    async fn prepared(&self, conn: &mut Conn, user: i64, last: i64) -> i64 {
        let sql = "INSERT INTO diary (user_id, writer, n, body) VALUES (?, ?, ?, ?)";
        conn.exec_drop(sql, (user, self.number, last + 1, "prepared")).await.unwrap();
        assert_eq!(conn.affected_rows(), 1);
        1
    }

    async fn many_rows(&mut self, conn: &mut Conn, user: i64, last: i64) -> i64 {
        let rows = self.rng.random_range(2..6);
        let row = |n: i64| format!("({user}, {}, {n}, 'one of {rows}')", self.number);
        let rows_text = (1..=rows).map(|more| row(last + more)).collect::<Vec<_>>().join(", ");
        conn.query_drop(format!("INSERT INTO diary (user_id, writer, n, body) VALUES {rows_text}"))
            .await
            .unwrap();
        assert_eq!(conn.affected_rows(), u64::try_from(rows).unwrap());
        rows
    }

    /// Reads what it wrote before, within the transaction, and now and then thinks better of it.
    async fn in_transaction(&mut self, conn: &mut Conn, user: i64, last: i64) -> i64 {
        let number = self.number;
        let (think, back) = (self.rng.random_range(0..40), self.rng.random_bool(0.2));
        let mut transaction = conn.start_transaction(TxOpts::default()).await.unwrap();
        let sql = "SELECT COALESCE(MAX(n), 0), COUNT(*) FROM diary WHERE user_id = ? AND writer = ?";
        let seen: Option<(i64, i64)> = transaction.exec_first(sql, (user, number)).await.unwrap();
        assert_eq!(seen, Some((last, last)), "user {user}, writer {number}, before");
        let insert = "INSERT INTO diary (user_id, writer, n, body) VALUES (?, ?, ?, 'transaction')";
        transaction.exec_drop(insert, (user, number, last + 1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(think)).await;
        let end = format!(
            "INSERT INTO diary_ends VALUES ({user}, {number}, {0}) ON DUPLICATE KEY UPDATE n = {0}",
            last + 1
        );
        transaction.query_drop(end).await.unwrap();
        let seen: Option<(i64, i64)> = transaction.exec_first(sql, (user, number)).await.unwrap();
        assert_eq!(seen, Some((last + 1, last + 1)), "user {user}, writer {number}, within");
        if back {
            transaction.rollback().await.unwrap();
            return 0;
        }
        transaction.commit().await.unwrap();
        1
    }

    /// What this client has written it reads, wherever the user lives by now.
    async fn read(&self, conn: &mut Conn, user: i64) {
        let expected = self.entries.get(&user).copied().unwrap_or(0);
        let number = self.number;
        let sql = format!(
            "SELECT COALESCE(MAX(n), 0), COUNT(*) FROM diary WHERE user_id = {user} AND writer = {number}"
        );
        let seen: Option<(i64, i64)> = conn.query_first(sql).await.unwrap();
        assert_eq!(seen, Some((expected, expected)), "user {user}, writer {number}");
        let sql = "SELECT n FROM diary_ends WHERE user_id = ? AND writer = ?";
        let end: Option<i64> = conn.exec_first(sql, (user, number)).await.unwrap();
        assert!(end.unwrap_or(0) <= expected, "user {user}, writer {number}: {end:?} of {expected}");
    }
}
