//! A tail of a real server's binlog, and its apply to another: exact to the byte, whole transactions, resumable.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use usher_playground::{Endpoints, Options, Playground, Server as Kind, ServerEndpoint, TestFolder};
use usher_stream::{
    Batch, Conversion, Followed, Item, Shape, ShapeColumn, Start, StreamError, Tail, Transaction,
};
use usher_topology::GtidPosition;

const USER: i64 = 623;

struct Ground {
    _folder: TestFolder,
    kind: Kind,
    endpoints: Endpoints,
    server_id: u32,
}

impl Ground {
    async fn up(name: &str, kind: Kind) -> Self {
        let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), name);
        let options =
            Options { shards: 1, replicas: 0, proxy: false, server: kind, ..Options::new(folder.path()) };
        let endpoints = Playground::up(options).await.unwrap();
        let ground = Self { _folder: folder, kind, endpoints, server_id: 0xf000_0000 };
        for server in [ground.source(), ground.target()] {
            let mut conn = connect(server).await;
            conn.query_drop("CREATE DATABASE IF NOT EXISTS app").await.unwrap();
            conn.query_drop(kinds(kind)).await.unwrap();
            conn.query_drop(format!(
                "CREATE TABLE app.plain (id BIGINT PRIMARY KEY, {USER_COLUMN}, u INT UNIQUE)"
            ))
            .await
            .unwrap();
        }
        ground
    }

    fn source(&self) -> &ServerEndpoint {
        let shard = &self.endpoints.shards[0];
        shard.members.iter().find(|member| member.name == shard.writer).unwrap()
    }

    fn standby(&self) -> &ServerEndpoint {
        let shard = &self.endpoints.shards[0];
        shard.members.iter().find(|member| member.name != shard.writer).unwrap()
    }

    /// Any server of another pair.
    fn target(&self) -> &ServerEndpoint {
        let global = &self.endpoints.global;
        global.members.iter().find(|member| member.name == global.writer).unwrap()
    }

    async fn position(&self) -> GtidPosition {
        let mut conn = connect(self.source()).await;
        let query = match self.kind {
            Kind::Mariadb => "SELECT @@gtid_binlog_pos",
            Kind::Mysql => "SELECT @@global.gtid_executed",
        };
        let text: String = conn.query_first(query).await.unwrap().unwrap();
        GtidPosition::parse(&text.replace('\n', "")).unwrap()
    }

    /// A tail of the standby.
    async fn tail(&mut self, after: &GtidPosition) -> Tail {
        let standby = self.standby().clone();
        self.tail_of(&standby, after, 1 << 20).await
    }

    async fn tail_of(
        &mut self,
        server: &ServerEndpoint,
        after: &GtidPosition,
        part_bytes_max: usize,
    ) -> Tail {
        self.server_id += 1;
        let start =
            Start { after: after.clone(), server_id: self.server_id, heartbeat_ms: 2_000, part_bytes_max };
        let followed = |table: &str| Followed {
            schema: "app".into(),
            table: table.into(),
            key_column: "user_id".into(),
            wanted: Box::new(|value| *value == Value::Int(USER)),
        };
        let conn = connect(server).await;
        Tail::open(conn, &start, vec![followed("kinds"), followed("plain")]).await.unwrap()
    }
}

const USER_COLUMN: &str = "user_id BIGINT NOT NULL";

async fn connect(server: &ServerEndpoint) -> Conn {
    let opts = OptsBuilder::default()
        .ip_or_hostname(server.host.as_str())
        .tcp_port(server.port)
        .user(Some(server.user.as_str()))
        .pass(Some(server.password.as_str()))
        .prefer_socket(false)
        .init(vec![
            "SET time_zone = '+00:00'",
            "SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', foreign_key_checks = 0",
        ]);
    Conn::new(opts).await.unwrap()
}

/// A column of every type, each with what a prepared statement and a comparison with the log make of it.
fn columns(kind: Kind) -> Vec<(&'static str, &'static str)> {
    let mut columns = vec![
        ("id", "BIGINT UNSIGNED NOT NULL"),
        ("ye", "YEAR"),
        ("i1", "TINYINT"),
        ("i1u", "TINYINT UNSIGNED"),
        ("i2", "SMALLINT"),
        ("i3", "MEDIUMINT"),
        ("i3u", "MEDIUMINT UNSIGNED"),
        ("i4", "INT"),
        ("i8", "BIGINT"),
        ("i8u", "BIGINT UNSIGNED"),
        ("user_id", "BIGINT NOT NULL"),
        ("f", "FLOAT"),
        ("d", "DOUBLE"),
        ("de", "DECIMAL(65,30)"),
        ("de2", "DECIMAL(9,0) UNSIGNED"),
        ("b1", "BIT(1)"),
        ("b13", "BIT(13)"),
        ("b64", "BIT(64)"),
        ("da", "DATE"),
        ("dt", "DATETIME"),
        ("dt1", "DATETIME(1)"),
        ("dt4", "DATETIME(4)"),
        ("dt6", "DATETIME(6)"),
        ("ts", "TIMESTAMP NULL"),
        ("ts3", "TIMESTAMP(3) NULL"),
        ("ts6", "TIMESTAMP(6) NULL"),
        ("ti", "TIME"),
        ("ti2", "TIME(2)"),
        ("ti3", "TIME(3)"),
        ("ti6", "TIME(6)"),
        ("ch", "CHAR(10) CHARACTER SET latin1"),
        ("chw", "CHAR(200) CHARACTER SET utf8mb4"),
        ("vc", "VARCHAR(60) CHARACTER SET utf8mb4"),
        ("vcw", "VARCHAR(300) CHARACTER SET utf16"),
        ("tt", "TINYTEXT CHARACTER SET utf8mb3"),
        ("mt", "MEDIUMTEXT CHARACTER SET utf8mb4"),
        ("lt", "LONGTEXT CHARACTER SET utf8mb4"),
        ("bi", "BINARY(8)"),
        ("vb", "VARBINARY(300)"),
        ("tb", "TINYBLOB"),
        ("lb", "LONGBLOB"),
        ("en", "ENUM('a','','\u{fc}','z') CHARACTER SET latin1"),
        ("se", "SET('x','y','z','aa','ab','ac','ad','ae','af','ag')"),
        ("js", "JSON"),
        ("ge", "GEOMETRY"),
    ];
    if kind == Kind::Mariadb {
        columns.extend([("uu", "UUID"), ("ip6", "INET6"), ("ip4", "INET4")]);
    } else {
        columns.push(("ve", "VECTOR(3)"));
    }
    columns.extend([
        ("virt", "INT AS (i4 + 1) VIRTUAL"),
        ("stor", "VARCHAR(120) AS (CONCAT(vc, '!')) STORED"),
        ("changed", "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)"),
    ]);
    columns
}

fn kinds(kind: Kind) -> String {
    let list: Vec<String> = columns(kind).iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    format!("CREATE TABLE app.kinds ({}, PRIMARY KEY (user_id, id)) DEFAULT CHARSET utf8mb4", list.join(", "))
}

/// A random literal of a column's type, extremes among them.
fn literal(kind: &str, rng: &mut StdRng) -> String {
    if !kind.contains("NOT NULL") && rng.random_ratio(1, 8) {
        return "NULL".into();
    }
    let pick = |rng: &mut StdRng, list: &[&str]| list[rng.random_range(0..list.len())].to_owned();
    let bytes = |rng: &mut StdRng, most: usize| {
        let n = rng.random_range(0..=most);
        let hex: String = (0..n)
            .map(|_| format!("{:02x}", rng.random::<u8>() & if rng.random() { 0xff } else { 0 }))
            .collect();
        format!("X'{hex}'")
    };
    let moment = |rng: &mut StdRng, from: u32, to: u32| {
        format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}",
            rng.random_range(from..=to),
            rng.random_range(1..=12),
            rng.random_range(1..=28),
            rng.random_range(0..24),
            rng.random_range(0..60),
            rng.random_range(0..60),
            rng.random_range(0..1_000_000)
        )
    };
    let texts =
        ["''", "'a'", "'trailing  '", "'\u{fc}\u{df} na\u{ef}ve'", "'it''s \\\\ \\n'", "REPEAT('lang', 12)"];
    match kind.split(['(', ' ']).next().unwrap() {
        "TINYINT" if kind.contains("UNSIGNED") => pick(rng, &["0", "255", "128"]),
        "TINYINT" => pick(rng, &["0", "-128", "127", "-1"]),
        "SMALLINT" => pick(rng, &["0", "-32768", "32767", "-2"]),
        "MEDIUMINT" if kind.contains("UNSIGNED") => pick(rng, &["0", "16777215", "8388608"]),
        "MEDIUMINT" => pick(rng, &["0", "-8388608", "8388607", "-3"]),
        "INT" => rng.random_range(-2_147_483_648_i64..2_147_483_647).to_string(),
        "BIGINT" if kind.contains("UNSIGNED") => {
            pick(rng, &["0", "18446744073709551615", "9223372036854775808"])
        }
        "BIGINT" => pick(rng, &["0", "-9223372036854775808", "9223372036854775807"]),
        "FLOAT" => format!("{:e}", f32::from_bits(rng.random::<u32>() & 0xbfff_ffff)),
        "DOUBLE" => format!("{:e}", f64::from_bits(rng.random::<u64>() & 0xbfff_ffff_ffff_ffff)),
        "DECIMAL" if kind.contains("UNSIGNED") => rng.random_range(0..999_999_999).to_string(),
        "DECIMAL" => pick(
            rng,
            &[
                "0",
                "-99999999999999999999999999999999999.999999999999999999999999999999",
                "1.5",
                "-0.000000000000000000000000000001",
                "12345678901234567890.123456789",
            ],
        ),
        "BIT" if kind.contains("64") => format!("CAST({} AS UNSIGNED)", rng.random::<u64>()),
        "BIT" if kind.contains("13") => rng.random_range(0..8192).to_string(),
        "BIT" => rng.random_range(0..2).to_string(),
        "YEAR" => pick(rng, &["0", "1901", "2155", "2026"]),
        "DATE" => {
            pick(rng, &["'0000-00-00'", "'1000-01-01'", "'9999-12-31'", "'2024-02-31'", "'2024-02-00'"])
        }
        "DATETIME" if rng.random_ratio(1, 6) => "'0000-00-00 00:00:00'".into(),
        "DATETIME" => format!("'{}'", moment(rng, 1, 9999)),
        "TIMESTAMP" if rng.random_ratio(1, 6) => "'0000-00-00 00:00:00'".into(),
        "TIMESTAMP" => format!("'{}'", moment(rng, 1971, 2037)),
        "TIME" => format!(
            "'{}{}:{:02}:{:02}.{:06}'",
            if rng.random() { "-" } else { "" },
            rng.random_range(0..838),
            rng.random_range(0..60),
            rng.random_range(0..60),
            rng.random_range(0..1_000_000)
        ),
        "CHAR" if kind.contains("latin1") => {
            pick(rng, &["''", "'a'", "'\u{fc}\u{df}'", "'0123456789'", "'x  '"])
        }
        "CHAR" | "VARCHAR" | "TINYTEXT" => pick(rng, &texts),
        "MEDIUMTEXT" | "LONGTEXT" => pick(rng, &["''", "REPEAT('\u{1f600}', 30000)", "'short'"]),
        "BINARY" => bytes(rng, 8),
        "VARBINARY" | "TINYBLOB" => bytes(rng, 255),
        "LONGBLOB" => {
            if rng.random() {
                bytes(rng, 1000)
            } else {
                "REPEAT(X'00ff', 40000)".into()
            }
        }
        "ENUM" => pick(rng, &["'a'", "''", "'\u{fc}'", "'z'"]),
        "SET" => rng.random_range(0..1024).to_string(),
        "JSON" => json(rng),
        "GEOMETRY" => pick(
            rng,
            &["ST_GeomFromText('POINT(1.5 -2)')", "ST_GeomFromText('LINESTRING(0 0,1 1,2 0)', 4326)"],
        ),
        "UUID" => pick(
            rng,
            &[
                "'6ccd780c-baba-1026-9564-5b8c656024db'",
                "'00000000-0000-0000-0000-000000000000'",
                "'f47ac10b-58cc-4372-a567-0e02b2c3d479'",
                "'018f4a5e-7b1c-7def-8123-456789abcd00'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
                "'f47ac10b-58cc-4372-2567-0e02b2c3d479'",
            ],
        ),
        "INET6" => pick(rng, &["'::'", "'2001:db8::ff00:42:8329'", "'::ffff:192.0.2.128'", "'fe80::'"]),
        "INET4" => pick(rng, &["'0.0.0.0'", "'192.0.2.0'", "'255.255.255.255'"]),
        "VECTOR" => "TO_VECTOR('[1.5, -2, 3e10]')".into(),
        other => panic!("no literal of {other}"),
    }
}

fn json(rng: &mut StdRng) -> String {
    let scalars = [
        "null",
        "true",
        "-1",
        "70000",
        "18446744073709551615",
        "-9223372036854775808",
        "1.0",
        "0.1",
        "1e20",
        "2.5e-8",
        "\\\"q\\\\\\\\ \\n \\u0001 \u{fc}\\\"",
        "\\\"\\\"",
        "[]",
        "{}",
    ];
    let scalars: Vec<String> = scalars.iter().map(|text| text.replace("\\\"", "\"")).collect();
    let some = |rng: &mut StdRng| scalars[rng.random_range(0..scalars.len())].clone();
    let text = match rng.random_range(0..4) {
        0 => some(rng),
        1 => format!("[{}, {}, [{}]]", some(rng), some(rng), some(rng)),
        2 => format!("{{\"b\": {}, \"a\": {{\"long key \u{fc}\": {}}}, \"\": []}}", some(rng), some(rng)),
        // More than 64 KiB: MySQL's large format.
        _ => format!("[\"{}\", {{\"k\": {}}}]", "x".repeat(70_000), some(rng)),
    };
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn shapes(kind: Kind) -> Vec<Shape> {
    let column = |(name, kind): &(&str, &str)| {
        let (write, conversion): (&str, Conversion) = match kind.split(['(', ' ']).next().unwrap() {
            "UUID" => ("CONVERT(? USING latin1)", Conversion::Uuid),
            "INET6" => ("CONVERT(? USING latin1)", Conversion::Inet6),
            "INET4" => ("CONVERT(? USING latin1)", Conversion::Inet4),
            "JSON" => ("CONVERT(? USING utf8mb4)", Conversion::None),
            _ => ("?", Conversion::None),
        };
        ShapeColumn {
            name: (*name).into(),
            generated: kind.contains(" AS ("),
            write: write.into(),
            compare: "?".into(),
            conversion,
        }
    };
    let plain = [("id", "BIGINT"), ("user_id", "BIGINT"), ("u", "INT")];
    let all = columns(kind);
    let primary = ["user_id", "id"].map(|name| all.iter().position(|column| column.0 == name).unwrap());
    vec![
        Shape {
            path: "app.kinds".into(),
            columns: all.iter().map(column).collect(),
            primary: primary.into(),
            followed: "user_id = 623".into(),
        },
        Shape {
            path: "app.plain".into(),
            columns: plain.iter().map(column).collect(),
            primary: vec![0],
            followed: "user_id = 623".into(),
        },
    ]
}

/// Every value of the user's rows by the server's own functions.
async fn rows_of(server: &ServerEndpoint, kind: Kind) -> Vec<Vec<String>> {
    let mut conn = connect(server).await;
    let all = columns(kind);
    let list = all.iter().map(|(name, kind)| match kind.split(['(', ' ']).next().unwrap() {
        "FLOAT" => format!("CAST({name} AS DOUBLE)"),
        "DOUBLE" | "INT" | "BIGINT" | "JSON" => (*name).to_owned(),
        "ENUM" | "SET" | "BIT" => format!("{name} + 0"),
        _ => format!("HEX({name})"),
    });
    let list = list.collect::<Vec<_>>().join(", ");
    let query = format!("SELECT {list} FROM app.kinds WHERE user_id = {USER} ORDER BY id");
    let mut rows: Vec<Row> = conn.query(query).await.unwrap();
    rows.extend(
        conn.query::<Row, _>(format!("SELECT * FROM app.plain WHERE user_id = {USER} ORDER BY id"))
            .await
            .unwrap(),
    );
    let shown = |value: Value| match value {
        Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
        other => format!("{other:?}"),
    };
    rows.into_iter().map(|row| row.unwrap().into_iter().map(shown).collect()).collect()
}

/// Random work of two users, in transactions of one and of many statements.
async fn work(conn: &mut Conn, kind: Kind, rng: &mut StdRng, transactions: usize) {
    for _ in 0..transactions {
        let statements = rng.random_range(1..5);
        conn.query_drop("BEGIN").await.unwrap();
        for _ in 0..statements {
            let user = if rng.random_ratio(2, 3) { USER } else { 7 };
            let id = rng.random_range(0..12);
            let set = |rng: &mut StdRng| {
                let all = columns(kind);
                let writable = all.iter().filter(|(name, kind)| {
                    !kind.contains(" AS (") && !["id", "user_id", "changed"].contains(name)
                });
                writable
                    .map(|(name, kind)| format!("{name} = {}", literal(kind, rng)))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let text = match rng.random_range(0..5) {
                0 => format!("DELETE FROM app.kinds WHERE user_id = {user} AND id = {id}"),
                1 => format!("UPDATE app.kinds SET {} WHERE user_id = {user} AND id = {id}", set(rng)),
                2 => format!(
                    "UPDATE IGNORE app.kinds SET id = {} WHERE user_id = {user} AND id = {id}",
                    id + 1
                ),
                _ => format!("INSERT IGNORE INTO app.kinds SET user_id = {user}, id = {id}, {}", set(rng)),
            };
            conn.query_drop(&text).await.unwrap_or_else(|error| panic!("{error}: {text}"));
        }
        let end = if rng.random_ratio(1, 6) { "ROLLBACK" } else { "COMMIT" };
        conn.query_drop(end).await.unwrap();
    }
}

/// Reads until `end` is reached, and applies what came.
async fn follow(tail: &mut Tail, end: &GtidPosition, shapes: &[Shape], target: &mut Conn) {
    while !tail.position().covers(end) {
        let mut batch = Batch::new(shapes, &[]);
        while let Item::Transaction(Transaction { changes, position, .. }) = next(tail).await {
            changes.into_iter().for_each(|change| batch.add(change).unwrap());
            if position.is_some() {
                break;
            }
        }
        target.query_drop("BEGIN").await.unwrap();
        batch.write(target).await.unwrap();
        target.query_drop("COMMIT").await.unwrap();
    }
}

async fn next(tail: &mut Tail) -> Item {
    tokio::time::timeout(Duration::from_secs(60), tail.next()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    all(Ground::up("stream-mariadb", Kind::Mariadb).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    all(Ground::up("stream-mysql", Kind::Mysql).await).await;
}

async fn all(mut ground: Ground) {
    every_type_arrives_exactly(&mut ground, false).await;
    every_type_arrives_exactly(&mut ground, true).await;
    unique_values_may_be_swapped(&mut ground).await;
    large_transactions_come_in_parts(&mut ground).await;
    what_can_not_be_told_ends_the_tail(&mut ground).await;
}

async fn every_type_arrives_exactly(ground: &mut Ground, compressed: bool) {
    let seed =
        std::env::var("USHER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("USHER_SEED={seed} compressed: {compressed}");
    let (mut rng, kind) = (StdRng::seed_from_u64(seed), ground.kind);
    let mut source = connect(ground.source()).await;
    let compress = match kind {
        Kind::Mariadb => format!("SET GLOBAL log_bin_compress = {compressed}, log_bin_compress_min_len = 10"),
        Kind::Mysql => format!("SET binlog_transaction_compression = {compressed}"),
    };
    source.query_drop(compress).await.unwrap();
    // MariaDB reads the setting when a session begins to write.
    let mut source = if kind == Kind::Mariadb { connect(ground.source()).await } else { source };
    let mut target = connect(ground.target()).await;
    target.query_drop("SET NAMES binary").await.unwrap();
    let (shapes, mut at) = (shapes(kind), ground.position().await);
    for _ in 0..3 {
        work(&mut source, kind, &mut rng, 25).await;
        let end = ground.position().await;
        // Each time a new tail, where the last one was.
        let mut tail = ground.tail(&at).await;
        follow(&mut tail, &end, &shapes, &mut target).await;
        at = tail.position().clone();
        assert_same(ground, seed).await;
    }
    assert!(!rows_of(ground.source(), kind).await.is_empty());
    let others: u64 =
        target.query_first("SELECT COUNT(*) FROM app.kinds WHERE user_id <> 623").await.unwrap().unwrap();
    assert_eq!(others, 0, "another user's rows were followed");
}

async fn assert_same(ground: &Ground, seed: u64) {
    let (ours, theirs) =
        (rows_of(ground.source(), ground.kind).await, rows_of(ground.target(), ground.kind).await);
    let names = columns(ground.kind);
    assert_eq!(ours.len(), theirs.len(), "seed {seed}");
    for (our, their) in ours.iter().zip(&theirs) {
        for (at, (a, b)) in our.iter().zip(their).enumerate() {
            assert_eq!(a, b, "seed {seed}: column {:?}", names.get(at));
        }
    }
}

async fn unique_values_may_be_swapped(ground: &mut Ground) {
    let at = ground.position().await;
    let mut source = connect(ground.source()).await;
    source
        .query_drop(format!("INSERT INTO app.plain VALUES (1, {USER}, 10), (2, {USER}, 20), (3, {USER}, 30)"))
        .await
        .unwrap();
    let middle = ground.position().await;
    source.query_drop("BEGIN").await.unwrap();
    for text in ["u = NULL WHERE id = 1", "u = 10 WHERE id = 2", "u = 20 WHERE id = 1", "id = 4 WHERE id = 3"]
    {
        source.query_drop(format!("UPDATE app.plain SET {text}")).await.unwrap();
    }
    source.query_drop("COMMIT").await.unwrap();
    let end = ground.position().await;
    let (shapes, mut target) = (shapes(ground.kind), connect(ground.target()).await);
    let mut tail = ground.tail(&at).await;
    follow(&mut tail, &middle, &shapes, &mut target).await;
    follow(&mut tail, &end, &shapes, &mut target).await;
    // What was applied before does no harm when it is applied again.
    let mut tail = ground.tail(&middle).await;
    follow(&mut tail, &end, &shapes, &mut target).await;
    assert_eq!(rows_of(ground.source(), ground.kind).await, rows_of(ground.target(), ground.kind).await);
}

async fn large_transactions_come_in_parts(ground: &mut Ground) {
    let at = ground.position().await;
    let mut source = connect(ground.source()).await;
    source.query_drop("BEGIN").await.unwrap();
    for from in (100..1100).step_by(100) {
        let rows: Vec<String> =
            (from..from + 100).map(|id| format!("({id}, {USER}, {})", 1000 + id)).collect();
        source.query_drop(format!("INSERT INTO app.plain VALUES {}", rows.join(", "))).await.unwrap();
    }
    source.query_drop("COMMIT").await.unwrap();
    let end = ground.position().await;
    let standby = ground.standby().clone();
    let mut tail = ground.tail_of(&standby, &at, 20_000).await;
    let (mut parts, mut changes) = (0, 0);
    loop {
        let Item::Transaction(part) = next(&mut tail).await else { continue };
        changes += part.changes.len();
        if part.position.is_some() {
            break;
        }
        parts += 1;
        assert!(!tail.position().covers(&end), "a part is not the whole");
    }
    assert!(parts > 2, "{parts}");
    assert_eq!(changes, 1000);
    assert!(tail.position().covers(&end));
}

async fn what_can_not_be_told_ends_the_tail(ground: &mut Ground) {
    let mut source = connect(ground.source()).await;
    source.query_drop(format!("INSERT INTO app.plain VALUES (5000, {USER}, 5000)")).await.unwrap();
    type Case = (&'static [&'static str], fn(&StreamError) -> bool);
    let cases: [Case; 4] = [
        (
            &[
                "SET binlog_row_image = MINIMAL",
                "UPDATE app.plain SET u = 5001 WHERE id = 5000",
                "SET binlog_row_image = FULL",
            ],
            |error| matches!(error, StreamError::NotFull(table) if table == "app.plain"),
        ),
        (
            &["UPDATE app.plain SET user_id = 8 WHERE id = 5000"],
            |error| matches!(error, StreamError::OwnerChanged(table) if table == "app.plain"),
        ),
        (
            &[
                "SET binlog_format = STATEMENT",
                "UPDATE app.plain SET u = 5002 WHERE id = 5000",
                "SET binlog_format = ROW",
            ],
            |error| matches!(error, StreamError::Statement(text) if text.contains("5002")),
        ),
        (
            &[
                "XA START 'x'",
                "INSERT INTO app.plain VALUES (5003, 623, 5003)",
                "XA END 'x'",
                "XA PREPARE 'x'",
                "XA ROLLBACK 'x'",
            ],
            |error| matches!(error, StreamError::PreparedXa),
        ),
    ];
    for (texts, expected) in cases {
        let at = ground.position().await;
        for text in texts {
            source.query_drop(*text).await.unwrap_or_else(|error| panic!("{error}: {text}"));
        }
        // Of the writer itself: the standby logs full rows whatever it was sent.
        let writer = ground.source().clone();
        let mut tail = ground.tail_of(&writer, &at, 1 << 20).await;
        let until_it_ends = async {
            loop {
                if let Err(error) = tail.next().await {
                    break error;
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(60), until_it_ends).await;
        let error = error.unwrap_or_else(|_| panic!("no error of {texts:?}"));
        assert!(expected(&error), "{texts:?}: {error}");
    }
    let at = ground.position().await;
    source.query_drop("ALTER TABLE app.plain ADD COLUMN more INT").await.unwrap();
    let mut tail = ground.tail(&at).await;
    let definition = async {
        loop {
            match tail.next().await.unwrap() {
                Item::Definition { statement, .. } => break statement,
                Item::Transaction(found) => panic!("{found:?}"),
                Item::Position(_) | Item::Heartbeat => {}
            }
        }
    };
    let statement = tokio::time::timeout(Duration::from_secs(60), definition).await.unwrap();
    assert!(statement.contains("ADD COLUMN more"), "{statement}");
}
