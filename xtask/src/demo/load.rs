//! The example's load as a process of its own, watched by the lines that it prints each second.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::shell::say;

/// The load ends by itself after this time, whatever becomes of the demo.
const LONGEST: &str = "170";
const CONNECTIONS: &str = "16";
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines that may wait to be shown.
const LINES: usize = 1000;

/// A load that runs.
pub(crate) struct Load {
    child: Child,
    began: Instant,
    lines: Receiver<String>,
}

impl Load {
    /// Starts it.
    pub(crate) fn start(mut photos: Command, journal: &Path, rate: u32) -> Result<Self> {
        let rate = rate.to_string();
        photos.args(["run", "--json", "--progress", "--seconds", LONGEST, "--connections", CONNECTIONS]);
        photos.args(["--rate", &rate, "--journal"]).arg(journal);
        say("starting the load");
        let mut child = photos.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("no standard error")?;
        let (sender, lines) = sync_channel(LINES);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, began: Instant::now(), lines })
    }

    /// How long it has run.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns once statements are answered.
    pub(crate) fn wait_until_it_flows(&self) -> Result<()> {
        while self.began.elapsed() < PATIENCE {
            if let Some(line) = self.line(PATIENCE)? {
                say(&line);
                if statements(&line) > 0 {
                    return Ok(());
                }
            }
        }
        bail!("the load got no answer in {} s", PATIENCE.as_secs())
    }

    /// Lets it run for a while, showing what it says.
    pub(crate) fn go_on(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if let Some(line) = self.line(left)? {
                say(&line);
            }
        }
        Ok(())
    }

    fn line(&self, patience: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the load has ended by itself"),
        }
    }

    /// Ends it as Ctrl-C does, and takes its report.
    pub(crate) fn end(&mut self) -> Result<Value> {
        let pid = self.child.id().to_string();
        ensure!(Command::new("kill").args(["-INT", &pid]).status()?.success(), "the load cannot be stopped");
        let mut text = String::new();
        self.child.stdout.take().context("no standard output")?.read_to_string(&mut text)?;
        self.child.wait()?;
        // Errors of the load give exit code 1 and a report; without one something else is wrong.
        let last: Vec<String> = self.lines.try_iter().collect();
        serde_json::from_str(&text).with_context(|| format!("no report of the load: {}", last.join("\n")))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Nothing to do for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number before the word in `  3 s   1234 statements ...`.
fn statements(line: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "statements");
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::statements;

    #[test]
    fn the_count_is_found() {
        assert_eq!(statements("    3 s      1234 statements     400/s      0 locked    0 errors"), 1234);
        assert_eq!(statements("photos: no answer"), 0);
    }
}
