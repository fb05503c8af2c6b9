//! Flips with a real proxy and clients that write all the time, while what runs the flip is killed or a proxy sleeps.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use serde_json::Value;
use tokio::task::JoinHandle;

struct Playground(PathBuf, Value);

impl Drop for Playground {
    fn drop(&mut self) {
        let dir = self.0.display().to_string();
        let _ = self.usher(&["playground", "down", "--dir", &dir]).output();
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Playground {
    fn up() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}", std::process::id()));
        let mut this = Self(path, Value::Null);
        let dir = this.0.display().to_string();
        let up =
            this.usher(&["--json", "playground", "up", "--shards", "1", "--dir", &dir]).output().unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        this.1 = serde_json::from_slice(&up.stdout).unwrap();
        this
    }

    fn usher(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(arguments).env("USHER_CONFIG", self.0.join("usher.toml")).stdin(Stdio::null());
        command
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.usher(&[&["--json"], arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn shard(&self) -> Value {
        let shards = self.json(&["shard", "list"]);
        shards["shards"].as_array().unwrap().iter().find(|shard| shard["name"] == "s1").unwrap().clone()
    }

    /// Waits until nobody flips the shard any more.
    fn await_rw(&self) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let shard = self.shard();
            if shard["state"] == "rw" {
                return shard;
            }
            assert!(Instant::now() < deadline, "{shard}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn opts(&self, endpoint: &Value, schema: &str) -> OptsBuilder {
        let text = |name: &str| endpoint[name].as_str().unwrap().to_owned();
        OptsBuilder::default()
            .ip_or_hostname(text("host"))
            .tcp_port(u16::try_from(endpoint["port"].as_u64().unwrap()).unwrap())
            .user(Some(text("user")))
            .pass(Some(text("password")))
            .db_name(Some(schema))
            .prefer_socket(false)
    }

    async fn client(&self) -> Conn {
        Conn::new(self.opts(&self.1["proxy"], "app")).await.unwrap()
    }

    async fn server(&self, name: &str) -> Conn {
        let servers = self.1["shards"][0]["members"].as_array().unwrap();
        let server = servers.iter().find(|server| server["name"] == name).unwrap();
        Conn::new(self.opts(server, "app")).await.unwrap()
    }

    fn signal(&self, process: &str, signal: &str) {
        let dir = self.0.display().to_string();
        let status = self.json(&["playground", "status", "--dir", &dir]);
        let all = status["processes"].as_array().unwrap();
        let pid = all.iter().find(|p| p["name"] == process).unwrap()["pid"].to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

/// One client that inserts 0, 1, 2 ... and notes errors.
struct Writing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(u64, Vec<String>, Duration)>,
}

impl Writing {
    async fn begin(pg: &Playground, user: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut client, stopped) = (pg.client().await, Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let (mut next, mut errors, mut longest) = (0, Vec::new(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let done = client.exec_drop("INSERT INTO log (user_id, n) VALUES (?, ?)", (user, next)).await;
                longest = longest.max(begun.elapsed());
                match done {
                    Ok(()) => next += 1,
                    Err(error) => {
                        errors.push(error.to_string());
                        break;
                    }
                }
            }
            (next, errors, longest)
        });
        Self { stop, task }
    }

    async fn end(self) -> (u64, Vec<String>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Starts a flip and kills it right after the step of that name.
fn kill_after(pg: &Playground, step: &str) {
    let mut flip =
        pg.usher(&["shard", "flip", "s1"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(flip.stderr.take().unwrap()).lines();
    for line in lines {
        if line.unwrap().ends_with(step) {
            break;
        }
    }
    let _ = flip.kill();
    flip.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn flips_survive_faults() {
    let pg = Playground::up();
    let mut client = pg.client().await;
    client
        .query_drop(
            "CREATE TABLE log (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL, \
             n BIGINT NOT NULL, KEY (user_id)) COMMENT 'usher:sharded key=user_id'",
        )
        .await
        .unwrap();
    killed_flips(&pg, &mut client).await;
    sleeping_proxy(&pg).await;
}

async fn killed_flips(pg: &Playground, client: &mut Conn) {
    let writing = Writing::begin(pg, 7).await;
    for step in
        ["announce", "drain", "old writer", "final position", "catch up", "commit", "new writer", "release"]
    {
        kill_after(pg, step);
        let shard = pg.await_rw();
        eprintln!("killed after {step}: {} epoch {}", shard["writer"], shard["epoch"]);
        for member in ["s1a", "s1b"] {
            let mut server = pg.server(member).await;
            let closed: Option<bool> = server.query_first("SELECT @@global.read_only").await.unwrap();
            assert_eq!(closed, Some(shard["writer"] != member), "after {step}: {member}");
        }
    }
    let (written, errors, longest) = writing.end().await;
    eprintln!("{written} rows, the longest statement took {longest:?}");
    assert_eq!(errors, Vec::<String>::new());
    let found: Option<(u64, u64)> =
        client.query_first("SELECT COUNT(*), COUNT(DISTINCT n) FROM log WHERE user_id = 7").await.unwrap();
    assert_eq!(found, Some((written, written)));
}

/// A proxy that sleeps through a flip is shut out; awake again, it writes to the new writer or not at all.
async fn sleeping_proxy(pg: &Playground) {
    let before = pg.shard()["writer"].as_str().unwrap().to_owned();
    let writing = Writing::begin(pg, 8).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    pg.signal("proxy", "-STOP");
    let report = pg.json(&["shard", "flip", "s1"]);
    assert_eq!(report["revoked"], serde_json::json!(["px1"]), "{report}");
    assert_ne!(report["to"].as_str(), Some(before.as_str()));
    // Opened only now: a flip ends the control account's sessions on the old writer.
    let mut old = pg.server(&before).await;
    let position: Option<String> = old.query_first("SELECT @@global.gtid_binlog_state").await.unwrap();
    pg.signal("proxy", "-CONT");
    // Awake: it registers anew and serves; its old session may have been told of a lost connection.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let insert = async {
            let mut client = Conn::new(pg.opts(&pg.1["proxy"], "app")).await?;
            client.query_drop("INSERT INTO log (user_id, n) VALUES (8, 1000000)").await
        };
        match insert.await {
            Ok(()) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (written, errors, _) = writing.end().await;
    eprintln!("{written} rows, errors {errors:?}");
    let mut client = pg.client().await;
    let found: Option<u64> = client
        .query_first(
            "SELECT /* usher: writer */ COUNT(DISTINCT n) FROM log WHERE user_id = 8 AND n < 1000000",
        )
        .await
        .unwrap();
    // A statement whose answer was cut off may have been executed.
    let unsure = u64::from(!errors.is_empty());
    assert!(
        found.is_some_and(|found| (written..=written + unsure).contains(&found)),
        "{found:?} of {written}"
    );
    // Nothing of the old writer's own came after the flip.
    let after: Option<String> = old.query_first("SELECT @@global.gtid_binlog_state").await.unwrap();
    let id: Option<u32> = old.query_first("SELECT @@server_id").await.unwrap();
    let own = |state: &Option<String>| {
        let items: Vec<String> = state.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
        items.into_iter().find(|item| item.split('-').nth(1) == id.map(|id| id.to_string()).as_deref())
    };
    assert_eq!(own(&position), own(&after), "the old writer has written again");
}
