//! The demo: a site under load on real servers, while its users are moved, a writer is flipped and a cache is killed;
//! and the proof at the end that no acknowledged write was lost.

mod load;
mod report;

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    apt::{self, Wanted},
    playground::{self, Playground, Shape, text},
    shell::{ask, root, run as run_command, say},
};
use load::Load;
use report::Report;

const PROFILE: &str = "fast";
/// The last of them are moved with their writes refused meanwhile, the others online.
const LOCKED: usize = 3;
/// Moves at once.
const AT_ONCE: usize = 4;
/// Load before the first move and after the last event.
const CALM: Duration = Duration::from_secs(3);

/// What the demo is to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// mariadb, or mysql (9.7, fetched once from Debian sid)
    #[arg(long, default_value = "mariadb", value_parser = ["mariadb", "mysql"])]
    server: String,
    /// The load lasts at least so many seconds
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// People on the site
    #[arg(long, default_value_t = 300)]
    users: usize,
    /// Operations a second that the load begins; each is one statement or a few
    #[arg(long, default_value_t = 150)]
    rate: u32,
    /// Users that are moved: the largest, and others that live on the same shard
    #[arg(long, default_value_t = 21)]
    moves: usize,
    /// The folder; an earlier demo in it is removed
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Stop everything at the end
    #[arg(long, conflicts_with = "keep")]
    down: bool,
    /// Leave everything running at the end, as is done anyway
    #[arg(long)]
    keep: bool,
}

/// Runs the demo; false means errors, or a proof that does not hold.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mysql = options.server == "mysql";
    apt::install(if mysql { Wanted::ServersAndMysql } else { Wanted::Servers })?;
    playground::build(PROFILE)?;
    let began = Instant::now();
    let dir =
        options.dir.clone().map_or_else(|| Ok(root()?.join(".playground/demo")), Ok::<_, anyhow::Error>)?;
    let shape = Shape { server: &options.server, shards: 2, replicas: 1 };
    let mut playground = Playground::fresh(dir, &shape, PROFILE)?;
    let outcome = show(&mut playground, options);
    if options.down {
        playground.down()?;
    }
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            say(&format!("\nwhat happened is in the logs in {}", playground.dir.display()));
            return Err(error);
        }
    };
    say(&format!("\n{}", report.to_text()));
    say(&format!("the demo took {} s after the build", began.elapsed().as_secs()));
    if !options.down {
        say(&format!("\neverything still runs:\n{}", playground.ways_in()?));
    }
    Ok(report.is_good())
}

fn show(playground: &mut Playground, options: &Options) -> Result<Report> {
    run_command(playground.photos()?.arg("schema"))?;
    let users = options.users.to_string();
    let loaded = ask(playground.photos()?.args(["load", "--json", "--users", &users]))?;
    let largest = loaded["largest"][0][0].as_i64().context("the loader names no largest user")?;
    say(&format!(
        "{} people signed up with {} rows; the largest is user {largest}",
        loaded["users"], loaded["rows"]
    ));
    let latencies = latencies(playground, largest)?;

    let journal = playground.dir.join("photos.journal");
    let mut load = Load::start(playground.photos()?, &journal, options.rate)?;
    load.wait_until_it_flows()?;
    load.go_on(CALM)?;
    let moves = move_users(playground, largest, options.moves)?;
    let flip = flip(playground)?;
    kill_a_cache(playground)?;
    load.go_on(CALM.max(Duration::from_secs(options.seconds).saturating_sub(load.age())))?;
    let run = load.end()?;

    say("reading everything again for the proof");
    let proof = prove(playground, &journal)?;
    say("starting the killed memcached again");
    playground.up(&[])?;
    Ok(Report { latencies, moves, flip, run, proof })
}

/// Response times of one and the same read, on the server itself and through usher.
fn latencies(playground: &Playground, user: i64) -> Result<Value> {
    let shard = shard_of(playground, user)?;
    let direct = playground.target("without", &playground.reader(&shard)?, None);
    let through = playground.target("with", &playground.endpoints["proxy"], None);
    let sql = "SELECT name, plan, karma FROM users WHERE user_id = {key}";
    let case = json!({"name": "read", "kind": "text", "connections": 1, "sql": sql, "keys": [user]});
    say("timing one read, with and without usher");
    let job = json!({"targets": [direct, through], "cases": [case], "seconds": 1.0, "rounds": 3});
    playground.measure(&json!({"measure": job}))
}

fn shard_of(playground: &Playground, user: i64) -> Result<String> {
    let found = playground.usher(&["user", "where", &user.to_string()])?;
    Ok(text(&found, "shard")?.to_owned())
}

/// Moves the largest user and some of its neighbours to the other shard, most of them while they write.
fn move_users(playground: &Playground, largest: i64, moves: usize) -> Result<Vec<Value>> {
    let from = shard_of(playground, largest)?;
    let to = if from == "s1" { "s2" } else { "s1" };
    let listed =
        playground.usher(&["user", "list", "--shard", &from, "--limit", &(moves + 1).to_string()])?;
    let largest = largest.to_string();
    let mut users = vec![largest.clone()];
    let others = listed["users"].as_array().context("no list of users")?.iter();
    let others = others.filter_map(|user| user["user"].as_str()).filter(|user| *user != largest);
    users.extend(others.take(moves.saturating_sub(1)).map(str::to_owned));
    say(&format!("moving user {largest}, the largest, and {} others from {from} to {to}", users.len() - 1));
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    let Some(user) = users.get(at) else { return };
                    let moved = move_user(playground, user, to, at + LOCKED >= users.len());
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(moved);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

fn move_user(playground: &Playground, user: &str, to: &str, locked: bool) -> Result<Value> {
    let mode = if locked { "--locked" } else { "--online" };
    let moved = playground.usher(&["move", "start", "--user", user, "--to", to, mode, "--reason", "demo"])?;
    let now = shard_of(playground, user.parse()?)?;
    ensure!(now == to, "user {user} is on {now} after its move to {to}");
    say(&format!(
        "  user {user} moved: {} rows, writes {} for {} ms",
        moved["rows_done"],
        if locked { "refused" } else { "held" },
        moved["locked_ms"]
    ));
    Ok(moved)
}

fn flip(playground: &Playground) -> Result<Value> {
    say("flipping the writer of s1");
    let flip = playground.usher(&["shard", "flip", "s1"])?;
    say(&format!(
        "  the writer is {}, it was {}; writes waited {} ms",
        flip["to"], flip["from"], flip["hold_ms"]
    ));
    Ok(flip)
}

fn kill_a_cache(playground: &Playground) -> Result<()> {
    let pid = *playground.pids("memcached")?.first().context("no memcached runs")?;
    say(&format!("killing one memcached (kill -9 {pid})"));
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
    ensure!(killed.success(), "process {pid} could not be killed");
    Ok(())
}

/// Exit code 1 with a document is a proof that does not hold, not a failure to prove.
fn prove(playground: &Playground, journal: &std::path::Path) -> Result<Value> {
    let output = playground.photos()?.args(["verify", "--json", "--journal"]).arg(journal).output()?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| anyhow!("no proof: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
