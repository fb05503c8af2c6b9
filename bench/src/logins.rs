//! Connections that are opened, logged in and closed, as fast as a few threads can.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::{client::Client, job::Target, measure::median, process};

/// What to measure.
#[derive(Debug, Deserialize)]
pub(crate) struct Logins {
    targets: Vec<Target>,
    /// Connections opened at once.
    threads: usize,
    /// Length of one round of one target.
    seconds: f64,
    /// Rounds; targets take turns within each.
    rounds: usize,
}

/// The medians of the rounds against one target.
#[derive(Debug, Serialize)]
pub(crate) struct LoginsResult {
    target: String,
    /// Logins a second.
    per_second: f64,
    /// CPU time of the process in between for each.
    cpu_us: Option<f64>,
    /// CPU time of the load itself for each: what it can't be blamed for.
    load_us: f64,
}

/// One round.
struct Round {
    per_second: f64,
    cpu_us: Option<f64>,
    load_us: f64,
}

/// Measures all targets.
pub(crate) fn measure(job: &Logins) -> Result<Vec<LoginsResult>> {
    ensure!(job.rounds > 0 && job.seconds > 0.0 && job.threads > 0, "no rounds");
    let mut rounds: Vec<Vec<Round>> = job.targets.iter().map(|_| Vec::new()).collect();
    for _ in 0..job.rounds {
        for (target, rounds) in job.targets.iter().zip(&mut rounds) {
            rounds.push(round(job, target)?);
        }
    }
    let outcome = |(target, rounds): (&Target, &Vec<Round>)| {
        let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
        let cpu: Vec<f64> = rounds.iter().filter_map(|round| round.cpu_us).collect();
        LoginsResult {
            target: target.name.clone(),
            per_second: middle(|round| round.per_second),
            cpu_us: (!cpu.is_empty()).then(|| median(cpu)),
            load_us: middle(|round| round.load_us),
        }
    };
    Ok(job.targets.iter().zip(&rounds).map(outcome).collect())
}

fn round(job: &Logins, target: &Target) -> Result<Round> {
    let length = Duration::from_secs_f64(job.seconds);
    // Pools and caches are filled before the clock starts.
    for _ in 0..job.threads {
        Client::connect(target)?.quit()?;
    }
    let own = std::process::id();
    let (began, before, load) = (Instant::now(), target.pid.map(process::cpu), process::cpu(own)?);
    let count: Result<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..job.threads).map(|_| scope.spawn(|| one(target, began, length))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread died"))?).sum()
    });
    let (count, spent) = (count? as f64, began.elapsed());
    let each = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1e6 / count;
    let cpu_us = match before.zip(target.pid.map(process::cpu)) {
        Some((before, after)) => Some(each(before?, after?)),
        None => None,
    };
    Ok(Round { per_second: count / spent.as_secs_f64(), cpu_us, load_us: each(load, process::cpu(own)?) })
}

fn one(target: &Target, began: Instant, length: Duration) -> Result<u64> {
    let mut count = 0;
    while began.elapsed() < length {
        Client::connect(target)?.quit()?;
        count += 1;
    }
    Ok(count)
}
