//! Real processes: started to outlive us, recognised again by pid and arguments, stopped.
//!
//! A pid alone proves nothing, for the system reuses it; a process counts as ours only while its arguments are,
//! byte for byte, those that we started it with. They hold the path of the playground's folder.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{AtPath, Error, Result};

/// How often a process's end is looked for; there is nothing to wait on for a process that is not our child.
const POLL: Duration = Duration::from_millis(10);
/// How long a process may take to end after SIGTERM, before SIGKILL.
const TERM_PATIENCE: Duration = Duration::from_secs(20);
/// How long a process may take to vanish after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long the kernel may take to show a new program's arguments.
const EXEC_PATIENCE: Duration = Duration::from_secs(5);
const EXEC_POLL: Duration = Duration::from_millis(1);

/// A process that we started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its id at the start.
    pub(crate) pid: u32,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
}

impl Process {
    /// Whether it still runs. False for a zombie, whose arguments the kernel has dropped.
    pub(crate) fn runs(&self) -> bool {
        std::fs::read(format!("/proc/{}/cmdline", self.pid)).is_ok_and(|raw| is_argv(&raw, &self.argv))
    }

    /// Whether it runs or is still ending: its memory goes first, its ports are closed a moment later.
    fn lingers(&self) -> bool {
        match std::fs::read(format!("/proc/{}/cmdline", self.pid)) {
            Ok(raw) if raw.is_empty() => has_live_thread(self.pid),
            Ok(raw) => is_argv(&raw, &self.argv),
            Err(_) => false,
        }
    }

    /// Waits until nothing is left of a process that has ended.
    pub(crate) async fn ended(&self) {
        self.gone_within(KILL_PATIENCE).await;
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.runs()) {
            // Fails only if it has just ended, which is what the caller looks for next.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends it: SIGTERM, and SIGKILL if that takes too long. Also wakes a process stopped by SIGSTOP.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        if self.gone_within(TERM_PATIENCE).await {
            return Ok(());
        }
        self.signal(Signal::KILL);
        if self.gone_within(KILL_PATIENCE).await {
            return Ok(());
        }
        Err(Error::Command {
            what: format!("stopping process {}", self.pid),
            detail: "it survived SIGKILL".into(),
        })
    }

    async fn gone_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.lingers() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

/// Whether any thread of a process is not a zombie.
fn has_live_thread(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold some itself.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    })
}

fn is_argv(raw: &[u8], argv: &[String]) -> bool {
    raw.strip_suffix(b"\0").is_some_and(|raw| raw.split(|b| *b == 0).eq(argv.iter().map(String::as_bytes)))
}

/// Finds a running process by its arguments: one that an interrupted `up` started and did not get to record.
pub(crate) fn find(argv: &[String]) -> Option<Process> {
    let pids = std::fs::read_dir("/proc").ok()?;
    pids.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(|pid| Process { pid, argv: argv.to_vec() })
        .find(Process::runs)
}

/// Starts a process in its own process group, so that neither our end nor the terminal's Ctrl-C ends it.
/// Both outputs are appended to `log`.
pub(crate) async fn start(name: &str, argv: &[String], log: &Path) -> Result<Process> {
    let (program, arguments) =
        argv.split_first().ok_or_else(|| Error::Option(format!("{name}: empty command line")))?;
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log).at(log)?;
    let err = out.try_clone().at(log)?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
        .at(program)?;
    let pid = child.id().ok_or_else(|| Error::Start {
        name: name.to_owned(),
        what: "ended at once".to_owned(),
        log: log.to_owned(),
        tail: crate::files::log_tail(log),
    })?;
    let process = Process { pid, argv: argv.to_vec() };
    // The kernel shows a new program's arguments a moment after the start. Whether it has ended is for the caller
    // to see.
    let deadline = Instant::now() + EXEC_PATIENCE;
    while !process.runs() && Instant::now() < deadline && child.try_wait().at(program)?.is_none() {
        tokio::time::sleep(EXEC_POLL).await;
    }
    // Collects the child's end while we live; afterwards init does.
    tokio::spawn(async move { child.wait().await });
    Ok(process)
}

/// Runs a helper program to its end in a folder that is also for its temporary files; both outputs go to `log`.
pub(crate) async fn run(what: &str, dir: &Path, argv: &[String], input: &str, log: &Path) -> Result<()> {
    let failed = |detail: String| Error::Command { what: what.to_owned(), detail };
    let (program, arguments) = argv.split_first().ok_or_else(|| failed("empty command line".into()))?;
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log).at(log)?;
    let err = out.try_clone().at(log)?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("TMPDIR", dir)
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(err)
        .kill_on_drop(true)
        .spawn()
        .at(program)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input reports that by its exit status.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await;
    }
    let status = child.wait().await.at(program)?;
    if status.success() {
        return Ok(());
    }
    Err(failed(format!("{status}; {} ends:\n{}", log.display(), crate::files::log_tail(log))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn arguments_compare_whole() {
        assert!(is_argv(b"sleep\09\0", &words("sleep 9")));
        assert!(!is_argv(b"sleep\090\0", &words("sleep 9")));
        assert!(!is_argv(b"sleep\0", &words("sleep 9")));
        assert!(!is_argv(b"", &words("sleep 9")));
    }

    #[tokio::test]
    async fn started_found_and_stopped() {
        let log = std::env::temp_dir().join(format!("usher-process-{}.log", std::process::id()));
        let argv = words(&format!("/bin/sleep 600.{}", std::process::id()));
        let process = start("sleep", &argv, &log).await.unwrap();
        assert!(process.runs());
        assert_eq!(find(&argv), Some(process.clone()));
        let other = Process { pid: process.pid, argv: words("/bin/sleep 601") };
        other.stop().await.unwrap();
        assert!(process.runs(), "a process with other arguments is not ours to stop");
        process.stop().await.unwrap();
        assert!(!process.runs());
        assert_eq!(find(&argv), None);
        std::fs::remove_file(log).unwrap();
    }
}
