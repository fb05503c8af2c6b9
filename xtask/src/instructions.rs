//! Instructions of a statement's way, counted and compared with what they were: times differ from run to run on any
//! machine, these do not.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{
    apt::{self, Wanted},
    shell::{cargo, root, say, shown},
    table,
};

/// Where the counts are kept.
const FILE: &str = "docs/instructions.txt";
const HEAD: &str = "\
# Instructions of each way of a statement through the proxy's own code, apart from sockets and the runtime
# (crates/session/src/cost.rs). Counted by valgrind in a release build on x86-64; `cargo xtask instructions` fails
# where one has grown by more than three hundredths. After a change that is worth it: `cargo xtask instructions --update`.
";
/// The loops, by their names in `crates/session/src/cost.rs`.
const LOOPS: &[&str] =
    &["point_select_text", "point_select_old_client", "point_select_prepared", "thousand_rows"];
const ROUNDS: &str = "USHER_ROUNDS";
/// The difference of two runs is free of what a program does when it starts and ends.
const FEW: u64 = 200;
const MANY: u64 = 1200;
/// Growth that counts as none, in hundredths.
const TOLERANCE: f64 = 3.0;

/// How to count.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Keep what is counted now as what it should be
    #[arg(long)]
    update: bool,
}

/// Counts and compares.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if !cfg!(target_arch = "x86_64") {
        say("instructions: skipped, the counts kept are those of x86-64");
        return Ok(true);
    }
    if let Err(error) = apt::install(Wanted::Valgrind) {
        say(&format!("instructions: skipped; {error:#}"));
        return Ok(true);
    }
    let program = build()?;
    let mut now = BTreeMap::new();
    for name in LOOPS {
        now.insert((*name).to_owned(), each(&program, name)?);
    }
    let path = root()?.join(FILE);
    if options.update {
        let lines: String = now.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        std::fs::write(&path, format!("{HEAD}{lines}"))?;
    }
    let before = kept(&path)?;
    let rows: Vec<Vec<String>> = now.iter().map(|(name, count)| row(name, *count, &before)).collect();
    say(&table::aligned(&rows));
    Ok(now
        .iter()
        .all(|(name, count)| before.get(name).is_some_and(|before| growth(*before, *count) <= TOLERANCE)))
}

fn row(name: &str, count: u64, before: &BTreeMap<String, u64>) -> Vec<String> {
    let judged = match before.get(name).map(|before| growth(*before, count)) {
        None => format!("not in {FILE}: run with --update"),
        Some(growth) if growth > TOLERANCE => format!("{growth:+.1} %, TOO MUCH: allowed is {TOLERANCE} %"),
        Some(growth) if growth < -TOLERANCE => format!("{growth:+.1} %, better: run with --update"),
        Some(growth) => format!("{growth:+.1} %"),
    };
    vec![name.to_owned(), count.to_string(), judged]
}

fn growth(before: u64, now: u64) -> f64 {
    (now as f64 / before.max(1) as f64 - 1.0) * 100.0
}

fn kept(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {FILE}"))?,
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
        .collect())
}

/// Builds the loops as the product is built; gives the program that has them.
fn build() -> Result<PathBuf> {
    let mut command = cargo(&["test", "--release", "-p", "usher-session", "--lib", "--no-run", "--locked"])?;
    command.arg("--message-format=json-render-diagnostics");
    say(&format!("$ {}", shown(&command)));
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the build has failed");
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "usher_session")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.context("cargo names no program of tests")
}

/// Instructions of one round.
fn each(program: &Path, name: &str) -> Result<u64> {
    let (few, many) = (count(program, name, FEW)?, count(program, name, MANY)?);
    Ok(many.saturating_sub(few) / (MANY - FEW))
}

fn count(program: &Path, name: &str, rounds: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.args(["--ignored", "--exact", &format!("cost::{name}"), "--test-threads=1"]);
    let output = command.env(ROUNDS, rounds.to_string()).output().context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(collected) if ran && output.status.success() => Ok(collected),
        _ => bail!("{}: {}", shown(&command), said.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_in_hundredths() {
        assert!((growth(200, 206) - 3.0).abs() < 1e-9);
        assert!(growth(200, 150) < -20.0);
    }
}
