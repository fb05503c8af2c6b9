//! Connections: how fast they are opened, beside HAProxy in the same run, and what ten thousand of them cost.

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

use super::{POINT, SHARD, USERS, haproxy::Haproxy, report, write};
use crate::{
    apt::{self, Wanted},
    playground::{self, Playground, Shape},
    shell::{root, say},
    table::markdown,
};

/// How to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Length of one round of one target
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds of which the median counts; the targets take turns
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Connections opened at once
    #[arg(long, default_value_t = 16)]
    threads: u32,
    /// Idle connections
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
    /// Busy connections beside them
    #[arg(long, default_value_t = 1_000)]
    busy: u32,
    /// Cargo's profile of what is measured
    #[arg(long, default_value = "release")]
    profile: String,
    /// Write the tables into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<bool> {
    apt::install(Wanted::Comparison)?;
    playground::build(&options.profile)?;
    let dir = root()?.join(".playground/connections");
    let shape = Shape { server: "mariadb", shards: 1, replicas: 1 };
    let playground = Playground::fresh(dir, &shape, &options.profile)?;
    let measured = measure(&playground, options);
    playground.down()?;
    let text = measured?;
    say(&format!("\n{text}"));
    if options.write {
        write(&text, "connections")?;
    }
    Ok(true)
}

fn measure(playground: &Playground, options: &Options) -> Result<String> {
    super::fill_people(playground)?;
    let server = playground.reader(SHARD)?;
    let haproxy =
        Haproxy::start(&playground.dir, server["port"].as_u64().context("a server without a port")?)?;
    let mut behind = server.clone();
    behind["port"] = json!(haproxy.port);
    let proxy = playground.endpoints["proxy"].clone();
    let pid = playground.pids("proxy")?.first().copied().context("no proxy runs")?;
    let usher = playground.target("usher", &proxy, Some(pid));
    let targets = [
        playground.target("direct", &server, None),
        playground.target("haproxy", &behind, Some(haproxy.pid())),
        usher.clone(),
    ];
    say("many connections");
    let keys: Vec<i64> = (1..=USERS).collect();
    let crowd = json!({"crowd": {"target": usher, "idle": options.idle, "busy": options.busy, "keys": keys,
                                 "seconds": options.seconds, "sql": format!("{POINT}{{key}}")}});
    let crowd = playground.measure(&crowd)?;
    say("opening connections");
    let logins = json!({"logins": {"targets": targets, "threads": options.threads, "seconds": options.seconds,
                                   "rounds": options.rounds}});
    let logins = playground.measure(&logins)?;
    Ok(text(&logins, &crowd, options))
}

fn float(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(f64::NAN)
}

fn text(logins: &Value, crowd: &Value, options: &Options) -> String {
    let row = |outcome: &Value| {
        let cpu = outcome["cpu_us"].as_f64().map_or_else(String::new, |cpu| format!("{cpu:.0}"));
        let name = outcome["target"].as_str().unwrap_or_default().to_owned();
        vec![
            name,
            format!("{:.0}", float(outcome, "per_second")),
            cpu,
            format!("{:.0}", float(outcome, "load_us")),
        ]
    };
    let rows: Vec<_> = logins.as_array().into_iter().flatten().map(row).collect();
    let opened = markdown(
        &["opened, logged in and closed", "a second", "CPU µs of the proxy for each", "CPU µs of the load"],
        &rows,
    );
    let kib = |key: &str| format!("{:.1}", float(crowd, key) / 1024.0);
    let crowd_rows = vec![vec![
        crowd["idle"].to_string(),
        kib("idle_bytes"),
        crowd["busy"].to_string(),
        kib("busy_bytes"),
        format!("{:.0}", float(crowd, "per_second")),
        format!("{:.1} / {:.1}", float(crowd, "p50_us") / 1e3, float(crowd, "p99_us") / 1e3),
        format!("{:.1}", float(crowd, "cpu_us")),
    ]];
    let many = markdown(
        &[
            "idle",
            "KiB each",
            "busy beside them",
            "KiB each",
            "statements/s",
            "p50 / p99 in ms",
            "CPU µs each",
        ],
        &crowd_rows,
    );
    let Options { seconds, rounds, threads, profile, .. } = options;
    format!(
        "{}; profile `{profile}`, {threads} connections at once, medians of {rounds} rounds of {seconds} s, the \
         targets in turns.\n\n{opened}\n{many}",
        report::machine()
    )
}
