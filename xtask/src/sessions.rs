//! The random test of session state, at length: integration-tests/tests/session_state.rs.

use anyhow::Result;

use crate::{
    apt::{self, Wanted},
    shell::{cargo, passes, run, say},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Sessions at once.
    #[arg(long, default_value_t = 300)]
    sessions: u64,
    /// Statements of each.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Connections that the proxy may open to one server.
    #[arg(long, default_value_t = 8)]
    backends: u64,
    /// The first seed; chosen if none is given.
    #[arg(long)]
    seed: Option<u32>,
    /// How often, each time with the next seed.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// On `mariadb` or `mysql` alone.
    #[arg(long)]
    server: Option<String>,
}

/// Runs it on both servers; `false` if an answer was not that of one server.
pub(crate) fn run_all(options: &Options) -> Result<bool> {
    apt::install(Wanted::ServersAndMysql)?;
    run(&mut cargo(&["build", "-p", "usher"])?)?;
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut good = true;
    for round in 0..options.rounds {
        let mut test = cargo(&["test", "-p", "usher-integration-tests", "--test", "session_state", "--"])?;
        test.args(options.server.as_ref().map(|server| format!("on_{server}")))
            .args(["--nocapture", "--test-threads=1"]);
        test.env("TEST_SESSIONS", options.sessions.to_string());
        test.env("TEST_STEPS", options.steps.to_string());
        test.env("TEST_BACKENDS", options.backends.to_string());
        test.env("TEST_SEED", seed.wrapping_add(round).to_string());
        good &= passes(&mut test)?;
    }
    say(if good { "as on one server" } else { "not as on one server" });
    Ok(good)
}
