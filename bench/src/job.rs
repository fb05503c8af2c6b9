//! What is to be measured, and what came out.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{client::Client, crowd::Crowd, logins::Logins};

/// One thing to do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Job {
    /// Run statements one after the other.
    Statements(Statements),
    /// Measure speed.
    Measure(Measure),
    /// Measure what idle connections cost.
    Idle(Idle),
    /// Measure how fast connections are opened.
    Logins(Logins),
    /// Measure many connections at once.
    Crowd(Crowd),
}

/// An address to measure.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Target {
    /// What to call it.
    pub(crate) name: String,
    /// Host or address.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// Account.
    pub(crate) user: String,
    /// Its password.
    pub(crate) password: String,
    /// Schema to start in.
    pub(crate) database: String,
    /// The process in between, if there is one, whose CPU time and memory are of interest.
    pub(crate) pid: Option<u32>,
}

/// Statements to run.
#[derive(Debug, Deserialize)]
pub(crate) struct Statements {
    target: Target,
    statements: Vec<String>,
}

impl Statements {
    /// Runs them; the answer is their number.
    pub(crate) fn run(&self) -> Result<usize> {
        let mut client = Client::connect(&self.target)?;
        for statement in &self.statements {
            client.query(statement).with_context(|| format!("{}: {statement:.200}", self.target.name))?;
        }
        Ok(self.statements.len())
    }
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// As text, the key in it.
    Text,
    /// Prepared once, the key as its one parameter (BIGINT).
    Prepared,
}

/// One measurement, made of every target.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    /// What to call it.
    pub(crate) name: String,
    /// How it is sent.
    pub(crate) kind: Kind,
    /// Connections at once, each on its thread.
    pub(crate) connections: usize,
    /// The statement; `{key}` (text) or `?` (prepared) is where a key goes.
    pub(crate) sql: String,
    /// Keys, one after the other.
    pub(crate) keys: Vec<i64>,
}

/// What to measure.
#[derive(Debug, Deserialize)]
pub(crate) struct Measure {
    pub(crate) targets: Vec<Target>,
    pub(crate) cases: Vec<Case>,
    /// Length of one round of one target.
    pub(crate) seconds: f64,
    /// Rounds; targets take turns within each.
    pub(crate) rounds: usize,
}

/// The medians of the rounds of one case against one target.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) case: String,
    pub(crate) target: String,
    /// Answers a second.
    pub(crate) per_second: f64,
    /// Response time that half of the statements kept.
    pub(crate) p50_us: f64,
    /// Response time that 99 of 100 kept.
    pub(crate) p99_us: f64,
    /// Bytes of answers a second.
    pub(crate) bytes_per_second: f64,
    /// CPU time of the process in between for each statement.
    pub(crate) cpu_us: Option<f64>,
}

/// Idle connections to measure.
#[derive(Debug, Deserialize)]
pub(crate) struct Idle {
    pub(crate) target: Target,
    pub(crate) connections: usize,
    /// What each has run before it idles.
    pub(crate) sql: String,
}

/// What idle connections cost.
#[derive(Debug, Serialize)]
pub(crate) struct IdleResult {
    pub(crate) connections: usize,
    /// Growth of the process in between, for each connection.
    pub(crate) bytes_each: f64,
}
