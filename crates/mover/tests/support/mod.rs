//! A playground with a catalog of sharded tables, users with rows of every kind, and what must hold of them.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use usher_config::{Config, Limits};
use usher_directory::rows::{self, KeyType, MoveMode, MoveRow, TableKind, TableRow, TableState};
use usher_directory::{Directory, EntityState, Global, Metrics, State};
use usher_mover::{Mover, StartMove};
use usher_playground::{Endpoints, Options, Playground, Server as Kind, TestFolder};
use usher_topology::{Key, MoveId, Server, ShardId};

/// Names of the environment that a child process is given.
pub(crate) const CHILD_DIR: &str = "MOVER_TEST_DIR";
pub(crate) const CHILD_MOVE: &str = "MOVER_TEST_MOVE";

pub(crate) struct Ground {
    folder: TestFolder,
    pub(crate) kind: Kind,
    pub(crate) directory: Arc<Directory>,
    pub(crate) state: Arc<State>,
    endpoints: Endpoints,
}

/// Small batches, so that a few rows are several of them; no delay before the purge.
pub(crate) fn limits() -> Limits {
    Limits {
        batch_rows_max: 7,
        batch_bytes_max: 4096,
        purge_delay_s: 0,
        cutover_ms: 2_000,
        ..Limits::default()
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    usher_config::load(&dir.join("usher.toml")).unwrap()
}

pub(crate) fn directory(config: &Config) -> Arc<Directory> {
    let global = Global::new(&config.global, &config.backend_tls, &config.limits);
    Directory::new(global, &config.memcached, &config.limits, Metrics::default())
}

impl Ground {
    pub(crate) async fn up(name: &str, kind: Kind) -> Self {
        let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), name);
        let options = Options { replicas: 0, proxy: false, server: kind, ..Options::new(folder.path()) };
        let began = Instant::now();
        let endpoints = Playground::up(options).await.unwrap();
        eprintln!("up: {:.1} s", began.elapsed().as_secs_f64());
        let directory = directory(&config(folder.path()));
        let state = directory.refresh().await.unwrap();
        let mut ground = Self { folder, kind, directory, state, endpoints };
        for (name, text_key, create) in tables(kind) {
            ground.add_table(name, text_key, &create).await;
        }
        ground.state = ground.directory.refresh().await.unwrap();
        ground
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn add_table(&self, name: &str, text_key: bool, create: &str) {
        for shard in ["s1", "s2"] {
            let mut conn = self.writer(shard).await;
            conn.query_drop(create).await.unwrap();
        }
        let row = TableRow {
            schema: "app".into(),
            name: name.into(),
            kind: TableKind::Sharded,
            entity: "user".into(),
            key_column: Some("user_id".into()),
            key_type: Some(if text_key { KeyType::Text } else { KeyType::Int }),
            sequence_column: None,
            columns: Vec::new(),
            state: TableState::Ready,
        };
        rows::upsert_table(self.global(), &row).await.unwrap();
    }

    pub(crate) async fn drop_table(&self, name: &str) {
        rows::delete_table(self.global(), "app", name).await.unwrap();
        for shard in ["s1", "s2"] {
            let mut conn = self.writer(shard).await;
            conn.query_drop(format!("DROP TABLE app.{name}")).await.unwrap();
        }
    }

    pub(crate) fn global(&self) -> &Global {
        self.directory.global()
    }

    pub(crate) fn mover(&self, id: &str) -> Mover {
        Mover::new(Arc::clone(&self.directory), limits(), id)
    }

    /// Sends a signal to a shard's standby.
    pub(crate) fn signal_standby(&self, shard: &str, signal: &str) {
        let standby = &self.state.topology.shard_named(shard).unwrap().standby().unwrap().name;
        let members = self.endpoints.shards.iter().flat_map(|shard| &shard.members);
        let pid = members.into_iter().find(|member| member.name == *standby).unwrap().pid.to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn server(&self, shard: &str) -> Server {
        self.state.topology.shard_named(shard).unwrap().writer().unwrap().clone()
    }

    /// A connection to a shard's writer as an application would have it.
    pub(crate) async fn writer(&self, shard: &str) -> Conn {
        let mut conn = self.global().server_conn(&self.server(shard)).await.unwrap();
        conn.query_drop("SET NAMES utf8mb4").await.unwrap();
        conn.query_drop("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'").await.unwrap();
        conn
    }

    pub(crate) fn shard_id(&self, name: &str) -> ShardId {
        self.state.topology.shard_named(name).unwrap().id
    }

    pub(crate) fn shard_name(&self, id: ShardId) -> String {
        self.state.topology.shard(id).unwrap().name.clone()
    }

    /// A new user with rows, and the shard it was placed on.
    pub(crate) async fn user(&self, number: i64) -> (Key, String) {
        let key = Key::Int(number.into());
        let located = self.directory.place(&key).await.unwrap();
        let shard = self.shard_name(located.shard);
        let mut conn = self.writer(&shard).await;
        fill(&mut conn, self.kind, number).await;
        (key, shard)
    }

    pub(crate) fn other(&self, shard: &str) -> &'static str {
        if shard == "s1" { "s2" } else { "s1" }
    }

    pub(crate) async fn request(&self, key: &Key, to: &str) -> MoveId {
        self.mover("asker").request(&start(key, to)).await.unwrap()
    }

    pub(crate) async fn request_online(&self, key: &Key, to: &str) -> MoveId {
        let start = StartMove { mode: MoveMode::Online, ..start(key, to) };
        self.mover("asker").request(&start).await.unwrap()
    }

    pub(crate) async fn row(&self, id: MoveId) -> MoveRow {
        rows::move_row(self.global(), id).await.unwrap().unwrap()
    }

    /// Every value of the user's rows on one shard, read by the server's own functions.
    pub(crate) async fn rows_of(&self, shard: &str, key: &Key) -> BTreeMap<String, Vec<String>> {
        let mut conn = self.writer(shard).await;
        let mut all = BTreeMap::new();
        for (name, ..) in tables(self.kind) {
            let columns: Vec<(String, String)> = conn
                .exec(
                    "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'app' \
                     AND table_name = ? ORDER BY ordinal_position",
                    (name,),
                )
                .await
                .unwrap();
            let shown = columns.iter().map(|(name, kind)| match kind.to_lowercase().as_str() {
                "float" => format!("CAST(`{name}` AS DOUBLE)"),
                "enum" | "set" => format!("`{name}` + 0"),
                _ => format!("HEX(`{name}`)"),
            });
            let list = shown.collect::<Vec<_>>().join(", ");
            let user = match key {
                Key::Int(number) => number.to_string(),
                Key::Text(text) => format!("'{text}'"),
            };
            let found: Vec<Row> =
                conn.query(format!("SELECT {list} FROM app.{name} WHERE user_id = {user}")).await.unwrap();
            let mut shown: Vec<String> = found.into_iter().map(shown_row).collect();
            shown.sort();
            all.insert(name.to_owned(), shown);
        }
        all
    }

    /// The user is whole on one shard, may write there, and nothing of it is left anywhere else.
    pub(crate) async fn assert_whole(
        &self,
        key: &Key,
        shard: &str,
        rows: &BTreeMap<String, Vec<String>>,
        why: &str,
    ) {
        assert_eq!(self.rows_of(shard, key).await, *rows, "{why}: rows on {shard}");
        let other = self.other(shard);
        assert!(self.rows_of(other, key).await.values().all(Vec::is_empty), "{why}: rows left on {other}");
        let row = rows::directory_row(self.global(), key).await.unwrap().unwrap();
        assert_eq!((row.located.state, row.move_id), (EntityState::Active, None), "{why}");
        assert_eq!(row.located.shard, self.shard_id(shard), "{why}");
        let own = self.ownership(shard, key).await;
        assert_eq!(own, Some(("owned".to_owned(), row.located.own_gen.0)), "{why}: the fence on {shard}");
        self.place_late(other, key).await;
        let own = self.ownership(other, key).await.map(|(state, _)| state);
        assert_ne!(own.as_deref(), Some("owned"), "{why}: ownership on {other}");
        assert!(self.mover("x").active_move(key).await.unwrap().is_none(), "{why}: still in the moving set");
        assert_eq!(self.open_progress(key).await, 0, "{why}: open progress rows");
    }

    /// A proxy that began to place a user who lived here at first, and stood still since, goes on.
    async fn place_late(&self, shard: &str, key: &Key) {
        if self.ownership(shard, key).await.is_none() {
            return;
        }
        let mut conn = self.writer(shard).await;
        let insert = "INSERT IGNORE INTO usher.ownership (entity_key, own_gen, state) VALUES (?, 1, 'owned')";
        conn.exec_drop(insert, (key.to_string(),)).await.unwrap();
    }

    pub(crate) async fn ownership(&self, shard: &str, key: &Key) -> Option<(String, u64)> {
        let mut conn = self.writer(shard).await;
        conn.exec_first("SELECT state, own_gen FROM usher.ownership WHERE entity_key = ?", (key.to_string(),))
            .await
            .unwrap()
    }

    async fn open_progress(&self, key: &Key) -> usize {
        let moves = rows::list_moves(self.global(), false, 10_000).await.unwrap();
        let mut open = 0;
        for shard in ["s1", "s2"] {
            let mut conn = self.writer(shard).await;
            let ids: Vec<u64> =
                conn.query("SELECT move_id FROM usher.move_progress WHERE status = 'open'").await.unwrap();
            open += moves.iter().filter(|row| row.key == *key && ids.contains(&row.id.0)).count();
        }
        open
    }

    /// Runs the move in a process of its own that meets a fail point.
    pub(crate) fn child(&self, id: MoveId, fail_point: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_runs_one_move", "--ignored", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, self.dir())
            .env(CHILD_MOVE, id.0.to_string())
            .env("USHER_FAIL_POINT", fail_point)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// As [`Ground::child`], and it must be killed at the point.
    pub(crate) async fn killed_at(&self, id: MoveId, point: &str) {
        let child = self.child(id, &format!("{point}=kill"));
        let done = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let output =
            tokio::time::timeout(Duration::from_secs(60), done).await.expect("the child ends").unwrap();
        assert!(
            output.status.code().is_none(),
            "{point} was not met: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// What the child process does.
pub(crate) fn run_child() {
    let dir = PathBuf::from(std::env::var_os(CHILD_DIR).expect("only for child processes"));
    let id = MoveId(std::env::var(CHILD_MOVE).unwrap().parse().unwrap());
    // One thread: a fail point that blocks stops all of this mover, as SIGSTOP would.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let directory = directory(&config(&dir));
        Mover::new(directory, limits(), "child").drive(id).await
    });
    println!("outcome: {outcome:?}");
}

fn shown_row(row: Row) -> String {
    let values: Vec<String> = row
        .unwrap()
        .into_iter()
        .map(|value| match value {
            Value::NULL => "NULL".to_owned(),
            Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            other => format!("{other:?}"),
        })
        .collect();
    values.join("|")
}

pub(crate) fn start(key: &Key, to: &str) -> StartMove {
    StartMove {
        key: key.clone(),
        to: to.into(),
        mode: MoveMode::Locked,
        by: "test".into(),
        reason: "test".into(),
    }
}

/// Name, whether its key is text, and definition.
pub(crate) fn tables(kind: Kind) -> Vec<(&'static str, bool, String)> {
    let own_types = match kind {
        Kind::Mariadb => "own_uuid UUID, own_ip INET6, own_ip4 INET4, hidden INT INVISIBLE,",
        Kind::Mysql => "hidden INT INVISIBLE,",
    };
    let kinds = format!(
        "CREATE TABLE app.kinds (user_id BIGINT NOT NULL, id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, \
         i1 TINYINT, i2 SMALLINT UNSIGNED, i3 MEDIUMINT, i4 INT, i8 BIGINT UNSIGNED, i8s BIGINT, \
         f FLOAT, d DOUBLE, de DECIMAL(65,30), bit1 BIT(1), bit64 BIT(64), \
         da DATE, dt DATETIME(6), ts TIMESTAMP(6) NULL, ti TIME(6), ye YEAR, \
         ch CHAR(10) CHARACTER SET latin1, vc VARCHAR(100) CHARACTER SET utf8mb4, \
         vu VARCHAR(50) CHARACTER SET utf16, tt TINYTEXT CHARACTER SET utf8mb3, lt LONGTEXT CHARACTER SET utf8mb4, \
         bi BINARY(8), vb VARBINARY(300), lb LONGBLOB, en ENUM('a','','\u{fc}','z') CHARACTER SET latin1, \
         se SET('x','y','z'), js JSON, ge GEOMETRY, {own_types} \
         virt INT AS (i1 + 1) VIRTUAL, stor VARCHAR(120) AS (CONCAT(vc, '!')) STORED, \
         changed TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), \
         PRIMARY KEY (user_id, id), KEY (id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    );
    let tags = "CREATE TABLE app.tags (name VARCHAR(60) COLLATE utf8mb4_unicode_ci NOT NULL, \
                kind ENUM('one','two') NOT NULL, at DATETIME(3) NOT NULL, user_id BIGINT NOT NULL, note TEXT, \
                PRIMARY KEY (name, kind, at), KEY (user_id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";
    let photos = "CREATE TABLE app.photos (id BIGINT NOT NULL PRIMARY KEY, user_id BIGINT NOT NULL, title TEXT, \
                  KEY (user_id)) ENGINE=InnoDB";
    let comments = "CREATE TABLE app.comments (id VARBINARY(20) NOT NULL PRIMARY KEY, photo_id BIGINT NOT NULL, \
                    user_id BIGINT NOT NULL, body TEXT, KEY (user_id), KEY (photo_id), \
                    CONSTRAINT of_photo FOREIGN KEY (photo_id) REFERENCES app.photos (id) ON DELETE CASCADE) \
                    ENGINE=InnoDB";
    let profile = "CREATE TABLE app.profile (user_id BIGINT NOT NULL PRIMARY KEY, bio TEXT) ENGINE=InnoDB";
    let letters = "CREATE TABLE app.letters (user_id VARCHAR(60) COLLATE utf8mb4_unicode_ci NOT NULL, n INT NOT NULL, \
                   body TEXT, PRIMARY KEY (user_id, n)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";
    vec![
        ("letters", true, letters.to_owned()),
        ("photos", false, photos.to_owned()),
        ("comments", false, comments.to_owned()),
        ("kinds", false, kinds),
        ("profile", false, profile.to_owned()),
        ("tags", false, tags.to_owned()),
    ]
}

async fn fill(conn: &mut Conn, kind: Kind, user: i64) {
    for statement in kinds_rows(kind, user) {
        conn.query_drop(&statement).await.unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
    conn.query_drop(format!("INSERT INTO app.profile VALUES ({user}, 'bio of {user}')")).await.unwrap();
    let mut photos = Vec::new();
    let mut comments = Vec::new();
    let mut tags = Vec::new();
    for n in 0..23i64 {
        let photo = user * 1000 + n;
        photos.push(format!("({photo}, {user}, '{}')", "title ".repeat(n as usize)));
        comments.push(format!("(X'00{photo:010}ff', {photo}, {user}, NULL)"));
        let name = ["a", "B", "\u{e4}", "Z ", "\u{1f600}"][(n % 5) as usize];
        let kind = ["one", "two"][(n % 2) as usize];
        tags.push(format!("('{name}{user}', '{kind}', '2020-01-01 00:00:{n:02}.5', {user}, 'n{n}')"));
    }
    for (table, values) in [("photos", photos), ("comments", comments), ("tags", tags)] {
        conn.query_drop(format!("INSERT INTO app.{table} VALUES {}", values.join(", "))).await.unwrap();
    }
}

/// The edges of every type.
fn kinds_rows(kind: Kind, user: i64) -> Vec<String> {
    let own = match kind {
        Kind::Mariadb => {
            ", own_uuid = '6ba7b810-9dad-11d1-80b4-00c04fd430c8', own_ip = '2001:db8::ff00:42:8329', \
             own_ip4 = '192.168.1.2'"
        }
        Kind::Mysql => "",
    };
    let insert = |sets: &str| format!("INSERT INTO app.kinds SET user_id = {user}, {sets}");
    let mut all = vec![
        insert("i1 = NULL"),
        insert(
            "i1 = -128, i2 = 65535, i3 = -8388608, i4 = -2147483648, i8 = 18446744073709551615, \
             i8s = -9223372036854775808, f = -1.17549435e-38, d = 4.9e-324, \
             de = -99999999999999999999999999999999999.999999999999999999999999999999, bit1 = b'1', \
             bit64 = X'FFFFFFFFFFFFFFFF', da = '9999-12-31', dt = '9999-12-31 23:59:59.999999', \
             ts = '2038-01-19 03:14:07.999999', ti = '-838:59:59', ye = 2155, ch = 'a\u{fc}  ', vc = 'a  ', \
             vu = 'utf16 \u{1f600} \u{fc}', tt = 'tiny \u{20ac}', lt = REPEAT('\u{1f600}\\'\\\\\\0', 3000), \
             bi = X'0000FF', vb = X'00FF27225C0A0D1A', lb = REPEAT(X'00FF27225C', 2000), en = '\u{fc}', \
             se = 'x,z', js = '{\"a\": [1, 2.5, null, \"\\u00fc\"], \"b\": {}}', \
             ge = ST_GeomFromText('POLYGON((0 0,10 0,10 10,0 10,0 0))'), hidden = 42",
        ) + own,
        insert(
            "i1 = 127, f = 16777217, d = -0.1, de = 0.000000000000000000000000000001, bit1 = b'0', bit64 = X'01', \
             da = '0000-00-00', dt = '0000-00-00 00:00:00', ti = '00:00:00.000001', ye = 0, ch = '', vc = '', \
             vu = '', tt = '', lt = '', bi = '', vb = '', lb = '', en = '', se = '', js = '\"\"', hidden = NULL",
        ),
        insert(
            "f = 0.1, d = 1.7976931348623157e308, da = '2021-02-31', dt = '1000-01-01 00:00:00.000001', \
             ti = '838:59:59', ts = '1970-01-01 00:00:01.000001', en = 'z', se = 'x,y,z', js = '[]', \
             ge = ST_GeomFromText('POINT(1.1 -2.2)', 4326)",
        ),
        // A value outside the list has number 0 and no name.
        insert("en = 'no such name', f = 3.4e38, ye = 1901, changed = '2001-01-01 00:00:00.000001'"),
    ];
    all.extend((0..18).map(|n| insert(&format!("i4 = {n}, vc = '{}'", "x".repeat(n)))));
    all
}
