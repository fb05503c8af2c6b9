//! The benchmark: no proxy, HAProxy passing bytes on, and usher, side by side on one machine and in turns.

mod connections;
mod haproxy;
mod report;

use std::fs;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    apt::{self, Wanted},
    playground::{self, Playground, Shape},
    shell::{root, say},
};
use haproxy::Haproxy;

pub(crate) use connections::{Options as ConnectionsOptions, run as run_connections};

const PROFILE: &str = "release";
const SHARD: &str = "s1";
const USERS: i64 = 1000;
const LONG_ROWS: u32 = 1_000_000;
/// The user with the many rows.
const LONG_USER: i64 = 1;
const POINT: &str = "SELECT name, note FROM people WHERE user_id = ";

/// How to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Length of one round of one target
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds of which the median counts; the targets take turns
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Idle connections whose memory is measured
    #[arg(long, default_value_t = 1000)]
    idle: u32,
    /// Write the tables into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<bool> {
    apt::install(Wanted::Comparison)?;
    playground::build(PROFILE)?;
    let dir = root()?.join(".playground/bench");
    let shape = Shape { server: "mariadb", shards: 1, replicas: 1 };
    let playground = Playground::fresh(dir, &shape, PROFILE)?;
    let measured = measure(&playground, options);
    playground.down()?;
    let text = measured?;
    say(&format!("\n{text}"));
    if options.write {
        write(&text, "measured")?;
    }
    Ok(true)
}

fn measure(playground: &Playground, options: &Options) -> Result<String> {
    fill(playground)?;
    let server = playground.reader(SHARD)?;
    let port = server["port"].as_u64().context("a server without a port")?;
    let haproxy = Haproxy::start(&playground.dir, port)?;
    let mut behind = server.clone();
    behind["port"] = json!(haproxy.port);
    let proxy = playground.endpoints["proxy"].clone();
    let pid = playground.pids("proxy")?.first().copied().context("no proxy runs")?;
    let targets = [
        playground.target("direct", &server, None),
        playground.target("haproxy", &behind, Some(haproxy.pid())),
        playground.target("usher", &proxy, Some(pid)),
    ];
    say("point selects");
    let points = playground.measure(&job(&targets, &point_cases(), options))?;
    say("results of a million rows");
    let long = json!([{"name": "1 000 000 rows", "kind": "text", "connections": 1, "keys": [LONG_USER],
                       "sql": "SELECT n, word, note FROM many WHERE user_id = {key}"}]);
    let long = playground.measure(&job(&targets, &long, options))?;
    say("idle connections");
    let sql = format!("{POINT}1");
    let idle = json!({"idle": {"target": targets[2], "connections": options.idle, "sql": sql}});
    let idle = playground.measure(&idle)?;
    Ok(report::text(&points, &long, &idle, options))
}

fn job(targets: &[Value], cases: &Value, options: &Options) -> Value {
    json!({"measure": {"targets": targets, "cases": cases, "seconds": options.seconds, "rounds": options.rounds}})
}

fn point_cases() -> Value {
    let keys: Vec<i64> = (1..=USERS).collect();
    let mut cases = Vec::new();
    for connections in [1, 16, 64] {
        for (kind, place) in [("text", "{key}"), ("prepared", "?")] {
            cases.push(json!({"name": format!("{kind}, {connections}"), "kind": kind, "keys": keys,
                              "connections": connections, "sql": format!("{POINT}{place}")}));
        }
    }
    Value::from(cases)
}

/// Makes the tables and rows.
fn fill(playground: &Playground) -> Result<()> {
    fill_people(playground)?;
    let table = "CREATE TABLE many (user_id BIGINT NOT NULL, n INT NOT NULL, word VARCHAR(40) NOT NULL, \
                 note VARCHAR(60) NOT NULL, PRIMARY KEY (user_id, n)) ENGINE=InnoDB \
                 COMMENT='usher:sharded key=user_id'";
    through_usher(playground, &[table.to_owned()])?;
    // These are made where they live.
    let rows = format!(
        "INSERT INTO many SELECT {LONG_USER}, seq, CONCAT('word ', seq), REPEAT('y', 40) FROM seq_1_to_{LONG_ROWS}"
    );
    playground.sql(&playground.writer(SHARD)?, &rows)?;
    await_reader(playground)
}

/// The table of point selects.
fn fill_people(playground: &Playground) -> Result<()> {
    say("making tables and rows");
    let table = "CREATE TABLE people (user_id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL, \
                 note VARCHAR(200) NOT NULL) ENGINE=InnoDB COMMENT='usher:sharded key=user_id'";
    let note = "x".repeat(120);
    let mut statements = vec![table.to_owned()];
    statements.extend(
        (1..=USERS).map(|user| format!("INSERT INTO people VALUES ({user}, 'person {user}', '{note}')")),
    );
    through_usher(playground, &statements)?;
    await_reader(playground)
}

fn through_usher(playground: &Playground, statements: &[String]) -> Result<()> {
    let proxy = playground.target("usher", &playground.endpoints["proxy"], None);
    playground.measure(&json!({"statements": {"target": proxy, "statements": statements}}))?;
    Ok(())
}

/// Until the replica has what the writer has.
fn await_reader(playground: &Playground) -> Result<()> {
    let position = playground.sql(&playground.writer(SHARD)?, "SELECT @@gtid_binlog_pos")?;
    let reader = playground.reader(SHARD)?;
    playground.sql(&reader, &format!("SELECT MASTER_GTID_WAIT('{}', 120)", position.trim()))?;
    Ok(())
}

/// Puts a text between two marks of the page.
fn write(text: &str, marks: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- {marks}: begin -->\n"), format!("<!-- {marks}: end -->"));
    let path = root()?.join("docs/performance.md");
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (before, rest) = page.split_once(&begin).context("no begin mark in docs/performance.md")?;
    let (_, after) = rest.split_once(&end).context("no end mark in docs/performance.md")?;
    fs::write(&path, format!("{before}{begin}\n{text}\n{end}{after}"))?;
    say(&format!("written to {}", path.display()));
    Ok(())
}
