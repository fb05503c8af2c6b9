//! Many sessions open cursors, fetch from them in any order among other statements, transactions and resets, over few
//! connections to servers, each packet in lockstep with a plain connection to one server.
//!
//! `TEST_SEED`, `TEST_CURSOR_SESSIONS`, `TEST_STEPS` and `TEST_BACKENDS` change what is run; the seed of a run is printed.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use usher_config::{Config, User};
use usher_integration_tests::raw::{self, CURSOR_EXISTS, LAST_ROW_SENT, error_code, packet, send};
use usher_integration_tests::{Bed, admin};
use usher_playground::Server;

/// Connections that are left for sessions that hold none.
const SPARE: usize = 3;
/// Prepared statements of a session.
const STATEMENTS: usize = 3;
/// What of the status is compared: a transaction, autocommit, a cursor, its last row.
const COMPARED: u16 = 0x1 | 0x2 | CURSOR_EXISTS | LAST_ROW_SENT;
/// The longest that an answer takes: as long as a connection may be waited for.
const ANSWER_MAX: Duration = Duration::from_secs(150);
const NO_FLAGS: u8 = 0;
const READ_ONLY_CURSOR: u8 = 1;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_are_as_on_one_server_on_mariadb() {
    as_on_one_server(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_are_as_on_one_server_on_mysql() {
    as_on_one_server(Server::Mysql).await;
}

async fn as_on_one_server(kind: Server) {
    let seed = setting("TEST_SEED", rand::random::<u32>().into());
    let (sessions, steps) = (setting("TEST_CURSOR_SESSIONS", 20), setting("TEST_STEPS", 60));
    let backends = usize::try_from(setting("TEST_BACKENDS", 8)).unwrap();
    eprintln!(
        "TEST_SEED={seed} TEST_CURSOR_SESSIONS={sessions} TEST_STEPS={steps} TEST_BACKENDS={backends}, {kind:?}"
    );
    let bed = Bed::up_with(&format!("cursors-{kind:?}").to_lowercase(), 1, 0, kind, false).await;
    let change = |config: &mut Config| {
        config.limits.backends_per_server_max = backends;
        config.limits.backends_per_server_idle_max = 3;
        config.limits.checkout_wait_ms = 120_000;
        config.users[0].schemas = Vec::new();
        let nobody =
            User { name: "nobody".to_owned(), password: Some(String::new()), ..config.users[0].clone() };
        config.users.push(nobody);
    };
    let proxy = bed.proxy(1, change).await;
    let shard = bed.shard("s1");
    let plain = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
    let mut direct = admin(plain).await;
    let plugin = match kind {
        Server::Mysql => "IDENTIFIED WITH caching_sha2_password BY ''",
        Server::Mariadb => "IDENTIFIED BY ''",
    };
    direct.query_drop(format!("CREATE USER nobody@'%' {plugin}")).await.unwrap();
    direct.query_drop("GRANT ALL ON *.* TO nobody@'%'").await.unwrap();
    direct.query_drop("CREATE DATABASE IF NOT EXISTS solo").await.unwrap();
    proxy.connect().await.query_drop("CREATE DATABASE IF NOT EXISTS solo").await.unwrap();
    let may_hold = Arc::new(Semaphore::new(backends - SPARE));
    let mut running = Vec::new();
    for number in 0..sessions {
        let through = raw::logged_in(proxy.port(), "nobody").await;
        let direct = raw::logged_in(plain.port, "nobody").await;
        let pair = Pair {
            streams: [through, direct],
            number,
            kind,
            statements: Vec::new(),
            in_transaction: false,
            permit: None,
            done: String::new(),
        };
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number);
        running.push(tokio::spawn(pair.run(rng, steps, Arc::clone(&may_hold))));
    }
    let mut failed = Vec::new();
    for session in running {
        failed.extend(session.await.unwrap().err());
    }
    assert!(
        failed.is_empty(),
        "seed {seed}: {} of {sessions} sessions\n{}",
        failed.len(),
        failed.iter().take(3).fold(String::new(), |all, one| all + one + "\n")
    );
}

/// A prepared statement: its ids on both sides, whether its cursor may be open, and whether it had one.
struct Prepared {
    ids: [u32; 2],
    open: bool,
    had_cursor: bool,
}

struct Pair {
    /// Through usher, and to the plain server.
    streams: [TcpStream; 2],
    number: u64,
    kind: Server,
    statements: Vec<Prepared>,
    in_transaction: bool,
    permit: Option<OwnedSemaphorePermit>,
    done: String,
}

impl Pair {
    async fn run(mut self, mut rng: StdRng, steps: u64, may_hold: Arc<Semaphore>) -> Result<(), String> {
        self.text("CREATE TABLE solo.c# (id INT AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL, s VARCHAR(400))")
            .await?;
        self.text(
            "INSERT INTO solo.c# (n, s) VALUES (1, 'a'), (2, NULL), (3, REPEAT('c', 300)), (4, ''), (5, 'e')",
        )
        .await?;
        for _ in 0..steps {
            let holds = self.in_transaction || self.statements.iter().any(|statement| statement.open);
            if !holds {
                self.permit = None;
            } else if self.permit.is_none() {
                unreachable!("nothing is held without leave");
            }
            self.step(&mut rng, &may_hold).await?;
        }
        Ok(())
    }

    async fn may_hold(&mut self, may_hold: &Arc<Semaphore>) {
        if self.permit.is_none() {
            self.permit = Some(Arc::clone(may_hold).acquire_owned().await.unwrap());
        }
    }

    async fn step(&mut self, rng: &mut StdRng, may_hold: &Arc<Semaphore>) -> Result<(), String> {
        let at = rng.random_range(0..STATEMENTS);
        if at >= self.statements.len() {
            return self.prepare(QUERIES.choose(rng).unwrap()).await;
        }
        match rng.random_range(0..20) {
            0..=3 => {
                self.may_hold(may_hold).await;
                self.execute(at, READ_ONLY_CURSOR).await
            }
            4..=10 => self.fetch(at, rng.random_range(1..4)).await,
            // A MySQL server itself never answers it once the statement has had a cursor, even one that is closed.
            11 if self.kind == Server::Mysql && self.statements[at].had_cursor => self.close(at).await,
            11 => self.execute(at, NO_FLAGS).await,
            12 => self.reset(at).await,
            13 => self.close(at).await,
            14 => {
                self.may_hold(may_hold).await;
                self.in_transaction = true;
                self.text("BEGIN").await
            }
            15 | 16 => {
                self.in_transaction = false;
                self.text(if rng.random_bool(0.5) { "COMMIT" } else { "ROLLBACK" }).await
            }
            17 if rng.random_bool(0.2) => {
                self.in_transaction = false;
                self.statements.clear();
                self.both("reset the connection", [vec![0x1f], vec![0x1f]]).await
            }
            _ => self.text(TEXTS.choose(rng).unwrap()).await,
        }
    }

    async fn text(&mut self, text: &str) -> Result<(), String> {
        let text = text.replace('#', &self.number.to_string());
        let command = [&[3], text.as_bytes()].concat();
        self.both(&text, [command.clone(), command]).await
    }

    async fn prepare(&mut self, text: &str) -> Result<(), String> {
        let text = text.replace('#', &self.number.to_string());
        let mut ids = [0; 2];
        for (stream, id) in self.streams.iter_mut().zip(&mut ids) {
            *id = raw::prepare(stream, &text).await;
        }
        let _ = writeln!(self.done, "prepare {}: {text}", self.statements.len());
        self.statements.push(Prepared { ids, open: false, had_cursor: false });
        Ok(())
    }

    async fn execute(&mut self, at: usize, flags: u8) -> Result<(), String> {
        let statement = &mut self.statements[at];
        statement.open = flags == READ_ONLY_CURSOR;
        statement.had_cursor |= statement.open;
        let ids = self.statements[at].ids;
        let command = |id: u32| [&[0x17], &id.to_le_bytes()[..], &[flags, 1, 0, 0, 0]].concat();
        self.both(&format!("execute {at}, flags {flags}"), ids.map(command)).await
    }

    async fn reset(&mut self, at: usize) -> Result<(), String> {
        self.statements[at].open = false;
        let ids = self.statements[at].ids;
        self.both(&format!("reset {at}"), ids.map(|id| [&[0x1a], &id.to_le_bytes()[..]].concat())).await
    }

    /// COM_STMT_CLOSE has no answer.
    async fn close(&mut self, at: usize) -> Result<(), String> {
        let closed = self.statements.remove(at);
        for (stream, id) in self.streams.iter_mut().zip(closed.ids) {
            send(stream, 0, &[&[0x19], &id.to_le_bytes()[..]].concat()).await;
        }
        let _ = writeln!(self.done, "close {at}");
        Ok(())
    }

    async fn fetch(&mut self, at: usize, rows: u32) -> Result<(), String> {
        let ids = self.statements[at].ids;
        let what = format!("fetch {rows} of {at}");
        let mut answers = Vec::new();
        for (stream, id) in self.streams.iter_mut().zip(ids) {
            send(stream, 0, &[&[0x1c], &id.to_le_bytes()[..], &rows.to_le_bytes()].concat()).await;
            answers.push(in_time(rows_up_to_end(stream)).await);
        }
        if answers[1].contains("last row") || answers[1].contains("error") {
            self.statements[at].open = false;
        }
        self.compare(&what, &answers)
    }

    async fn both(&mut self, what: &str, commands: [Vec<u8>; 2]) -> Result<(), String> {
        let mut answers = Vec::new();
        for (stream, command) in self.streams.iter_mut().zip(commands) {
            send(stream, 0, &command).await;
            answers.push(in_time(answer(stream)).await);
        }
        self.compare(what, &answers)
    }

    fn compare(&mut self, what: &str, answers: &[String]) -> Result<(), String> {
        let _ = writeln!(self.done, "{what}");
        if answers[0] == answers[1] {
            return Ok(());
        }
        let lines: Vec<&str> = self.done.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n    ");
        Err(format!(
            "session {}, after\n    {tail}\n  through usher: {}\n  plain server:  {}",
            self.number, answers[0], answers[1]
        ))
    }
}

/// A side that goes on waiting is a difference.
async fn in_time(answer: impl Future<Output = String>) -> String {
    timeout(ANSWER_MAX, answer).await.unwrap_or_else(|_| "no answer".to_owned())
}

/// OK, an error, or rows behind the definitions of their columns, if the rows do not wait in a cursor.
async fn answer(stream: &mut TcpStream) -> String {
    let head = packet(stream).await;
    match head[0] {
        0xff => return format!("error {}", error_code(&head)),
        0x00 => return "ok".to_owned(),
        _ => {}
    }
    let columns = usize::from(head[0]);
    for _ in 0..columns {
        packet(stream).await;
    }
    let end = packet(stream).await;
    let status = u16::from_le_bytes([end[3], end[4]]);
    if status & CURSOR_EXISTS != 0 {
        return format!("{columns} columns, status {:x}", status & COMPARED);
    }
    format!("{columns} columns, {}", rows_up_to_end(stream).await)
}

async fn rows_up_to_end(stream: &mut TcpStream) -> String {
    let mut out = String::new();
    loop {
        let payload = packet(stream).await;
        match payload[..] {
            [0xff, ..] => return format!("{out}error {}", error_code(&payload)),
            [0xfe, _, _, low, high] => {
                let status = u16::from_le_bytes([low, high]) & COMPARED;
                let last = if status & LAST_ROW_SENT != 0 { "last row, " } else { "" };
                let _ = write!(out, "{last}status {status:x}");
                return out;
            }
            _ => _ = write!(out, "{}; ", payload.escape_ascii()),
        }
    }
}

const QUERIES: &[&str] = &[
    "SELECT id, n, s FROM solo.c# ORDER BY id",
    "SELECT n FROM solo.c# WHERE n > 3 ORDER BY n DESC",
    "SELECT s, COUNT(*) FROM solo.c# GROUP BY s ORDER BY s",
    "SELECT n FROM solo.c# WHERE n < 0",
    "SELECT a.id, b.id FROM solo.c# a, solo.c# b ORDER BY a.id, b.id",
    "SELECT 7, 'seven'",
];

const TEXTS: &[&str] = &[
    "INSERT INTO solo.c# (n, s) VALUES (9, 'new')",
    "DELETE FROM solo.c# WHERE n = 9 LIMIT 1",
    "UPDATE solo.c# SET s = 'changed' WHERE n = 5",
    "SELECT COUNT(*) FROM solo.c#",
    "SELECT n FROM solo.c# ORDER BY id LIMIT 2",
    "SET sql_mode = ''",
    "SET sql_mode = DEFAULT",
    "SET @a = 5",
    "SELECT @a",
    "SELECT no_such_column FROM solo.c#",
    "SELECT ROW_COUNT()",
];
