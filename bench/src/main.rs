//! Measures MySQL addresses side by side: the same statements to each, in turns, so that what else the machine does hits
//! all of them alike. It reads a job as JSON from standard input and answers as JSON; passwords stay out of arguments.
//!
//! It is light on purpose: blocking sockets, packets made beforehand, answers walked to their end and never decoded.

mod client;
mod crowd;
mod job;
mod logins;
mod measure;
mod process;

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::job::Job;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("usher-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let job: Job = serde_json::from_reader(std::io::stdin().lock()).context("the job is not understood")?;
    let answer = match job {
        Job::Statements(statements) => serde_json::to_string(&statements.run()?)?,
        Job::Measure(measure) => serde_json::to_string(&measure::measure(&measure)?)?,
        Job::Logins(logins) => serde_json::to_string(&logins::measure(&logins)?)?,
        Job::Crowd(crowd) => serde_json::to_string(&crowd::measure(&crowd)?)?,
        Job::Idle(idle) => serde_json::to_string(&measure::idle(&idle)?)?,
    };
    println!("{answer}");
    Ok(())
}
