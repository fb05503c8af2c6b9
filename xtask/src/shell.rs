//! Running other programs: shown, with their exit codes looked at.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The workspace's folder.
pub(crate) fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_path_buf).context("the workspace has no folder")
}

/// Cargo, in the workspace's folder.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root()?);
    Ok(command)
}

/// Where cargo puts the programs of a profile.
pub(crate) fn programs(profile: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    Ok(root()?.join(target.unwrap_or_else(|| "target".into())).join(profile))
}

/// Says what is being done, on a line of its own.
pub(crate) fn say(text: &str) {
    // A reader that has gone away needs no answer.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Shows the command, runs it with the terminal as it is, and tells whether it went well.
pub(crate) fn passes(command: &mut Command) -> Result<bool> {
    say(&format!("$ {}", shown(command)));
    let status =
        command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(status.success())
}

/// As [`passes`], where failing is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    ensure!(passes(command)?, "{} has failed", shown(command));
    Ok(())
}

/// Runs a program that answers in JSON.
pub(crate) fn ask(command: &mut Command) -> Result<Value> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}{}", shown(command), text.trim(), error.trim());
    }
    serde_json::from_str(&text).with_context(|| format!("{}: no JSON in {text:?}", shown(command)))
}

/// The command as somebody would type it, programs by their names.
pub(crate) fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(name.into_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Looks for a program in `PATH` and where servers are put.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|file| file.is_file())
}
