//! A folder for the temporary files of tests, what is left of tests that were killed, and the processes that still use
//! either.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// A folder that is gone when this is dropped.
pub(crate) struct Scratch {
    /// Its path: short, since sockets lie in it and their names have a limit.
    pub(crate) path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("usher-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// The processes whose arguments name the folder.
    pub(crate) fn users(&self) -> Vec<u32> {
        users(&self.path)
    }
}

/// Removes the playgrounds of tests that were killed before they could, `NAME-PID` in `parent`: each has some hundred
/// megabytes. What still runs there is ended. One that was kept to be looked at stays.
pub(crate) fn sweep(parent: &Path) {
    for folder in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = folder.file_name();
        let pid: Option<u32> = name.to_str().and_then(|name| name.rsplit_once('-')?.1.parse().ok());
        let has = |file: &str| folder.path().join(file).exists();
        let over = pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        if over && (has("state.json") || has("parts")) && !has("kept") {
            users(&folder.path()).into_iter().for_each(kill);
            let _ = fs::remove_dir_all(folder.path());
        }
    }
}

/// Ends a process at once.
pub(crate) fn kill(pid: u32) {
    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
}

fn users(path: &Path) -> Vec<u32> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id() && names(*pid, path)).collect()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed does no harm to anybody.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn names(pid: u32, folder: &Path) -> bool {
    let folder = folder.as_os_str().as_encoded_bytes();
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    names_folder(&arguments, folder)
}

/// Whether arguments, each ended by a NUL, name the folder or what is in it; not one whose name only begins like it.
fn names_folder(arguments: &[u8], folder: &[u8]) -> bool {
    let ends = |at: usize| matches!(arguments.get(at + folder.len()), None | Some(0 | b'/' | b' '));
    arguments.windows(folder.len()).enumerate().any(|(at, part)| part == folder && ends(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_not_taken_for_another_that_begins_like_it() {
        let names = |arguments: &[u8]| names_folder(arguments, b"/t/flow-12");
        assert!(names(b"mariadbd\0--datadir=/t/flow-12/s1a\0") && names(b"tail\0/t/flow-12"));
        assert!(names(b"usher\0--dir\0/t/flow-12\0"));
        assert!(!names(b"mariadbd\0--datadir=/t/flow-123/s1a\0") && !names(b"ls\0/t\0"));
    }
}
