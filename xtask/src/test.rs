//! All tests of the workspace.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    apt::{self, Wanted},
    leftovers::{Scratch, kill, sweep},
    shell::{cargo, find, programs, say, shown},
};

/// How many tests there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs them, with cargo-nextest if it is there, and closes with one plain line.
pub(crate) fn run() -> Result<bool> {
    apt::install(Wanted::Servers)?;
    let beds = programs("tmp")?;
    sweep(&beds);
    let scratch = Scratch::new()?;
    let mut runs = Vec::new();
    if find("cargo-nextest").is_some() {
        runs.push(cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])?);
        runs.push(cargo(&["test", "--workspace", "--doc", "--no-fail-fast"])?);
    } else {
        runs.push(cargo(&["test", "--workspace", "--no-fail-fast"])?);
    }
    let mut good = true;
    let mut count = Count::default();
    for command in &mut runs {
        let (went_well, counted) = one_run(command.env("TMPDIR", &scratch.path))?;
        good &= went_well;
        count.passed += counted.passed;
        count.failed += counted.failed;
    }
    for pid in scratch.users() {
        say(&format!("process {pid} was left behind by a test; ending it"));
        good = false;
        kill(pid);
    }
    sweep(&beds);
    // A build that fails fails no test, but must not look like success.
    let failed = if good { count.failed } else { count.failed.max(1) };
    say(&format!("{} passed, {failed} failed", count.passed));
    Ok(good)
}

fn one_run(command: &mut Command) -> Result<(bool, Count)> {
    say(&format!("$ {}", shown(command)));
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run cargo")?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let counted = thread::scope(|scope| {
        let out = out.map(|out| scope.spawn(|| pass_on(out)));
        let err = err.map(|err| scope.spawn(|| pass_on(err)));
        let mut sum = Count::default();
        for counted in [out, err].into_iter().flatten().filter_map(|reader| reader.join().ok()) {
            sum.passed += counted.passed;
            sum.failed += counted.failed;
        }
        sum
    });
    Ok((child.wait()?.success(), counted))
}

/// Shows what the runner says and adds up what it counted.
fn pass_on(from: impl Read) -> Count {
    let mut sum = Count::default();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        say(line.trim_end());
        if let Some(counted) = count(&line) {
            sum.passed += counted.passed;
            sum.failed += counted.failed;
        }
    }
    sum
}

/// The numbers of a closing line of cargo's or nextest's.
fn count(line: &str) -> Option<Count> {
    // What nextest shows of a failed test's own output stands further in.
    if line.starts_with(' ') && line.trim_start().starts_with("test result:") {
        return None;
    }
    let line = line.trim();
    let nextest = line.starts_with("Summary [") && line.contains("run:");
    if !nextest && !line.starts_with("test result:") {
        return None;
    }
    let number = |word: &str| {
        let before = line.split(word).next().filter(|before| before.len() < line.len())?;
        before.trim().rsplit([' ', ':']).next()?.parse::<u64>().ok()
    };
    let failed = number(" failed").unwrap_or(0) + number(" timed out").unwrap_or(0);
    Some(Count { passed: number(" passed").unwrap_or(0), failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let cargo = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(count(cargo), Some(Count { passed: 12, failed: 3 }));
        let nextest =
            "     Summary [  16.1s] 119 tests run: 117 passed (1 slow), 1 failed, 1 timed out, 2 skipped";
        assert_eq!(count(nextest), Some(Count { passed: 117, failed: 2 }));
        assert_eq!(
            count("     Summary [   0.1s] 7 tests run: 7 passed, 0 skipped"),
            Some(Count { passed: 7, failed: 0 })
        );
        assert_eq!(count("test it_works ... ok"), None);
    }
}
