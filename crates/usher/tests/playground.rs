//! The commands on a real playground with its proxy and controller.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use serde_json::Value;

struct Playground(PathBuf);

impl Drop for Playground {
    fn drop(&mut self) {
        let _ = self.usher(&["playground", "down", "--dir", &self.dir()]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Playground {
    fn dir(&self) -> String {
        self.0.display().to_string()
    }

    fn usher(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(arguments)
            .env("USHER_CONFIG", self.0.join("usher.toml"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// The answer as JSON, of a command that must succeed.
    fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, error) = self.usher(&[&["--json"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {error}");
        serde_json::from_str(&out).unwrap()
    }

    async fn client(&self) -> Conn {
        self.conn("proxy").await
    }

    async fn conn(&self, door: &str) -> Conn {
        let text = std::fs::read_to_string(self.0.join("endpoints.json")).unwrap();
        let endpoints: Value = serde_json::from_str(&text).unwrap();
        let text = |name: &str| endpoints[door][name].as_str().unwrap().to_owned();
        let opts = OptsBuilder::default()
            .ip_or_hostname(text("host"))
            .tcp_port(u16::try_from(endpoints[door]["port"].as_u64().unwrap()).unwrap())
            .user(Some(text("user")))
            .pass(Some(text("password")))
            .db_name(endpoints[door]["database"].as_str())
            .prefer_socket(false);
        Conn::new(opts).await.unwrap()
    }

    fn pid(&self, name: &str) -> String {
        let status = self.json(&["playground", "status", "--dir", &self.dir()]);
        let process = status["processes"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap();
        process["pid"].to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_in_the_life() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("day-{}", std::process::id()));
    let pg = Playground(path);
    let (code, out, error) = pg.usher(&["playground", "up", "--dir", &pg.dir()]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("usher playground down"), "{out}");
    let mut client = pg.client().await;
    client
        .query_drop(
            "CREATE TABLE notes (id BIGINT NOT NULL AUTO_INCREMENT, user_id BIGINT NOT NULL, text VARCHAR(50), \
             PRIMARY KEY (id), KEY (user_id)) COMMENT 'usher:sharded key=user_id'",
        )
        .await
        .unwrap();
    client.query_drop("INSERT INTO notes (user_id, text) VALUES (623, 'one'), (623, 'two')").await.unwrap();

    look_around(&pg);
    ask_the_console(&pg, &mut client).await;
    flip_under_writes(&pg).await;
    move_there_and_back(&pg, &mut client).await;
    interrupted_controller(&pg);
    drop(client);
    let (code, _, error) = pg.usher(&["playground", "down", "--dir", &pg.dir()]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(pg.usher(&["playground", "status", "--dir", &pg.dir()]).0, 1, "nothing runs");
}

fn look_around(pg: &Playground) {
    let (code, out, _) = pg.usher(&["check"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("USHER OK - 2 shards writable"), "{out}");
    let shards = pg.json(&["shard", "list"]);
    assert_eq!(shards["shards"].as_array().unwrap().len(), 3);
    let (_, text, _) = pg.usher(&["shard", "list"]);
    assert!(text.starts_with("SHARD") && text.contains("s1a"), "{text}");
    assert!(pg.json(&["schema", "apply"])["applied"].as_array().unwrap().is_empty(), "applied already");
    let (code, _, error) = pg.usher(&["user", "where", "999"]);
    assert_eq!(code, 1);
    assert!(error.contains("user 999 is not in the directory"), "{error}");
    let placed = pg.json(&["user", "place", "999"]);
    assert_eq!(pg.json(&["user", "where", "999"])["shard"], placed["shard"]);
    assert_eq!(pg.json(&["user", "list"])["users"].as_array().unwrap().len(), 2);
    assert_eq!(pg.json(&["table", "list"])["tables"][0]["key"], "user_id");
    let (code, out, error) = pg.usher(&["explain", "SELECT * FROM notes WHERE user_id = 623"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("623"), "{out}");
}

async fn ask_the_console(pg: &Playground, client: &mut Conn) {
    let texts: Vec<String> = client.query("SELECT text FROM notes WHERE user_id = 623").await.unwrap();
    assert_eq!(texts.len(), 2, "so this proxy knows user 623");
    let home = pg.json(&["user", "where", "623"])["shard"].as_str().unwrap().to_owned();
    let mut console = pg.conn("admin").await;
    // All columns of a statement's rows as text, by name.
    async fn rows(console: &mut Conn, statement: &str) -> Vec<std::collections::HashMap<String, String>> {
        let rows: Vec<mysql_async::Row> = console.query(statement).await.unwrap();
        let cell = |row: &mysql_async::Row, at: usize| match &row[at] {
            mysql_async::Value::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            mysql_async::Value::NULL => String::new(),
            other => panic!("{other:?} in text"),
        };
        let name = |row: &mysql_async::Row, at: usize| row.columns_ref()[at].name_str().into_owned();
        rows.iter().map(|row| (0..row.len()).map(|at| (name(row, at), cell(row, at))).collect()).collect()
    }
    let shards = rows(&mut console, "SHOW SHARDS").await;
    assert_eq!(shards.len(), 3);
    assert!(shards.iter().all(|shard| shard["state"] == "rw"), "{shards:?}");
    let servers = rows(&mut console, "SHOW SERVERS").await;
    assert_eq!(servers.len(), 8, "three pairs, two replicas");
    assert_eq!(servers.iter().filter(|server| server["role"] == "writer").count(), 3);
    assert!(
        servers.iter().all(|server| server["up"] == "yes" && !server["position"].is_empty()),
        "{servers:?}"
    );
    let user = &rows(&mut console, "SHOW USER '623'").await[0];
    assert_eq!((&*user["shard"], &*user["state"], &*user["cached_shard"]), (&*home, "active", &*home));
    assert!(rows(&mut console, "SHOW USER 'nobody'").await.is_empty());
    let route = rows(&mut console, "SHOW ROUTE FOR USER 623").await;
    let of = |what: &str| &*route.iter().find(|row| row["what"] == what).unwrap()["value"];
    assert_eq!((of("shard"), of("known from")), (&*home, "this proxy's cache"));
    assert!(of("writes go to").starts_with(&format!("{home}a (")), "{route:?}");
    assert_eq!(rows(&mut console, "SHOW PROXIES").await[0]["proxy"], "px1");
    assert_eq!(rows(&mut console, "SHOW TABLES").await[0]["key_column"], "user_id");
    assert_eq!(rows(&mut console, "SHOW SEQUENCES").await[0]["sequence"], "app.notes");
    assert!(rows(&mut console, "SHOW MOVES ALL").await.is_empty());
    assert!(rows(&mut console, "SHOW METRICS LIKE 'usher%'").await.len() > 10);
    // What is so already is no change; what contradicts the servers is refused.
    let epoch = &shards.iter().find(|shard| shard["shard"] == home).unwrap()["epoch"];
    let same = rows(&mut console, &format!("SET SHARD {home} WRITER '{home}a' EPOCH {epoch}")).await;
    assert_eq!(same[0]["changed"], "no");
    for (writer, epoch, why) in
        [("b", 99, "still takes writes"), ("x", 99, "not a member"), ("b", 0, "older")]
    {
        let claim = format!("SET SHARD {home} WRITER '{home}{writer}' EPOCH {epoch}");
        let error = console.query_drop(&claim).await.unwrap_err().to_string();
        assert!(error.contains("[USHER-0805]") && error.contains(why), "{claim}: {error}");
    }
    console.ping().await.unwrap();
    console.disconnect().await.unwrap();
}

/// Rows written one by one through the proxy all the while: no error, and each is there once.
async fn flip_under_writes(pg: &Playground) {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writing = tokio::spawn({
        let mut client = pg.client().await;
        let stop = std::sync::Arc::clone(&stop);
        async move {
            let mut written = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client
                    .exec_drop("INSERT INTO notes (user_id, text) VALUES (7, ?)", (written,))
                    .await
                    .unwrap();
                written += 1;
            }
            written
        }
    });
    let shard = loop {
        let (code, out, _) = pg.usher(&["--json", "user", "where", "7"]);
        if code == 0 {
            break serde_json::from_str::<Value>(&out).unwrap()["shard"].as_str().unwrap().to_owned();
        }
    };
    let report = pg.json(&["shard", "flip", &shard]);
    assert_eq!(
        (report["outcome"].as_str(), report["to"].as_str()),
        (Some("flipped"), Some(&*format!("{shard}b")))
    );
    assert!(report["hold_ms"].as_u64().unwrap() < 5_000, "{report}");
    let (code, out, error) = pg.usher(&["shard", "flip", &shard, "--to", &format!("{shard}a")]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("writes were held for") && error.contains("catch up"), "{out} {error}");
    let (code, out, _) = pg.usher(&["shard", "flip", &shard, "--to", &format!("{shard}a")]);
    assert!(code == 0 && out.contains("already"), "{out}");
    let (code, _, error) = pg.usher(&["shard", "flip", &shard, "--to", "g1"]);
    assert!(code == 1 && error.contains("not a member"), "{error}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let written = writing.await.unwrap();
    let mut client = pg.client().await;
    let found: Option<(u64, u64)> = client
        .query_first("SELECT COUNT(*), COUNT(DISTINCT text) FROM notes WHERE user_id = 7")
        .await
        .unwrap();
    assert_eq!(found, Some((written, written)));
    assert!(written > 10, "{written}");
}

async fn move_there_and_back(pg: &Playground, client: &mut Conn) {
    let home = pg.json(&["user", "where", "623"])["shard"].as_str().unwrap().to_owned();
    let other = if home == "s1" { "s2" } else { "s1" };
    let (code, out, error) = pg.usher(&["move", "start", "--user", "623", "--to", other, "--locked"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains(&format!("user 623 lives on {other}")), "{out}");
    assert!(error.contains("run by controller1") && error.contains("rows"), "{error}");
    assert_eq!(pg.json(&["user", "where", "623"])["shard"], other);
    let texts: Vec<String> =
        client.query("SELECT text FROM notes WHERE user_id = 623 ORDER BY id").await.unwrap();
    assert_eq!(texts, ["one", "two"]);
    let again = pg.usher(&["move", "start", "--user", "623", "--to", other, "--locked"]);
    assert!(again.0 == 1 && again.2.contains("already"), "{again:?}");
    let back = pg.usher(&["move", "start", "--user", "623", "--to", &home]);
    assert!(back.0 == 1 && back.2.contains("usher move purge"), "{back:?}");
    let unknown = pg.usher(&["move", "start", "--user", "5", "--to", other, "--locked"]);
    assert!(unknown.0 == 1 && unknown.2.contains("not in the directory"), "{unknown:?}");
    let id = last_done(pg);
    let (code, _, error) = pg.usher(&["move", "abort", &id]);
    assert!(code == 1 && error.contains("commit point"), "{error}");
    purge(pg, &id);
    // Online, as moves are if nothing else is said.
    let (code, out, error) = pg.usher(&["move", "start", "--user", "623", "--to", &home]);
    assert!(code == 0 && out.contains(&format!("user 623 lives on {home}")), "{out} {error}");
    let texts: Vec<String> =
        client.query("SELECT text FROM notes WHERE user_id = 623 ORDER BY id").await.unwrap();
    assert_eq!(texts, ["one", "two"]);
    purge(pg, &last_done(pg));
    let (code, _, error) = pg.usher(&["move", "status", "4711"]);
    assert!(code == 1 && error.contains("no move 4711"), "{error}");
}

/// The newest move that was carried out.
fn last_done(pg: &Playground) -> String {
    let moves = pg.json(&["move", "list", "--all"]);
    let all = moves["moves"].as_array().unwrap();
    let done = all.iter().filter(|one| one["phase"] != "aborted");
    done.filter_map(|one| one["id"].as_u64()).max().unwrap_or_else(|| panic!("{moves}")).to_string()
}

fn purge(pg: &Playground, id: &str) {
    let (code, out, error) = pg.usher(&["move", "purge", id]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("is purged"), "{out}");
}

/// Without a controller a move is run by the command itself.
fn interrupted_controller(pg: &Playground) {
    assert!(Command::new("kill").args(["-9", &pg.pid("controller")]).status().unwrap().success());
    let home = pg.json(&["user", "where", "623"])["shard"].as_str().unwrap().to_owned();
    let other = if home == "s1" { "s2" } else { "s1" };
    // Its last sign of life has to grow old first.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (code, _, error) =
            pg.usher(&["move", "start", "--user", "1000000", "--to", other, "--locked", "--detach"]);
        assert_eq!(code, 1);
        if error.contains("no controller runs") {
            break;
        }
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let (code, out, error) = pg.usher(&["move", "start", "--user", "623", "--to", other, "--locked"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains(&format!("user 623 lives on {other}")), "{out}");
    assert!(error.contains("run here, as no controller runs"), "{error}");
}
