//! The `usher` program and the processes it runs in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The `usher` program of the same build as the test; built if it is not there.
pub fn usher_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("TEST_USHER") {
            return given.into();
        }
        let test = std::env::current_exe().unwrap();
        // target/PROFILE/deps/TEST
        let profile = test.ancestors().nth(2).unwrap();
        let binary = profile.join("usher");
        if !binary.exists() {
            let name = match profile.file_name().unwrap().to_str().unwrap() {
                "debug" => "dev",
                other => other,
            };
            let arguments = ["build", "--quiet", "-p", "usher", "--profile", name];
            let cargo = option_env!("CARGO").unwrap_or("cargo");
            let built = Command::new(cargo)
                .args(arguments)
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
                .status()
                .unwrap();
            assert!(built.success(), "cargo build -p usher");
        }
        binary
    })
}

/// What a command has said.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the `usher` program with a configuration to its end.
pub async fn usher(config: &Path, arguments: &[&str]) -> Output {
    let output = tokio::process::Command::new(usher_binary())
        .args(arguments)
        .arg("--config")
        .arg(config)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(90), output).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Runs any program to its end, with `input` on its standard input.
pub async fn program(command: &[&str], input: &str) -> Output {
    use tokio::io::AsyncWriteExt;
    let (name, arguments) = command.split_first().unwrap();
    let mut child = tokio::process::Command::new(name)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let written = async move { drop(stdin.write_all(input.as_bytes()).await) };
    let ended = async { tokio::join!(written, child.wait_with_output()).1 };
    let output = tokio::time::timeout(Duration::from_secs(90), ended).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Whether a process runs.
pub fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|raw| !raw.is_empty())
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Tells a process to read its files anew.
pub fn hang_up(pid: u32) {
    signal(pid, Signal::HUP);
}

/// Stops a process in its tracks, as a long pause of its machine would.
pub fn suspend(pid: u32) {
    signal(pid, Signal::STOP);
}

/// Lets it go on.
pub fn resume(pid: u32) {
    signal(pid, Signal::CONT);
}

/// Kills a process and waits for its end.
pub async fn kill_9(pid: u32) {
    signal(pid, Signal::KILL);
    let start = Instant::now();
    while runs(pid) {
        assert!(start.elapsed() < Duration::from_secs(10), "process {pid} survived");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
