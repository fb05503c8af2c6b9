//! Many idle connections, and beside them many that ask one statement after the other.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    job::{Case, Idle, Kind, Target},
    measure, process,
};

/// What to measure.
#[derive(Debug, Deserialize)]
pub(crate) struct Crowd {
    target: Target,
    /// Connections that have run the statement once.
    idle: usize,
    /// Connections that run it all the time.
    busy: usize,
    /// For how long.
    seconds: f64,
    /// The statement; `{key}` is where a key goes.
    sql: String,
    keys: Vec<i64>,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct CrowdResult {
    idle: usize,
    busy: usize,
    /// Growth of the process for each idle connection.
    idle_bytes: f64,
    /// Its further growth for each busy one.
    busy_bytes: f64,
    /// Statements a second of the busy ones, and how long half and 99 of 100 took.
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// CPU time of the process for each.
    cpu_us: Option<f64>,
}

/// Opens the idle ones, then lets the busy ones run beside them.
pub(crate) fn measure(job: &Crowd) -> Result<CrowdResult> {
    let pid = job.target.pid.context("no process to look at")?;
    let key = job.keys.first().context("no keys")?;
    let sql = job.sql.replace("{key}", &key.to_string());
    let idle = Idle { target: job.target.clone(), connections: job.idle, sql };
    let (idlers, idle_bytes) = measure::open_idle(&idle)?;
    let before = process::memory(pid)?;
    let case = Case {
        name: "crowd".to_owned(),
        kind: Kind::Text,
        connections: job.busy,
        sql: job.sql.clone(),
        keys: job.keys.clone(),
    };
    let round = measure::round(&case, &job.target, Duration::from_secs_f64(job.seconds))?;
    let grown = process::memory(pid)?.saturating_sub(before) as f64;
    drop(idlers);
    Ok(CrowdResult {
        idle: job.idle,
        busy: job.busy,
        idle_bytes,
        busy_bytes: grown / job.busy.max(1) as f64,
        per_second: round.per_second,
        p50_us: round.p50_us,
        p99_us: round.p99_us,
        cpu_us: round.cpu_us,
    })
}
