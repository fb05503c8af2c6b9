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

/// Removes the servers' folders of tests that were killed before they could, `NAME-PID` in `parent`: each has some
/// hundred megabytes. What still runs there is ended.
pub(crate) fn sweep(parent: &Path) {
    for folder in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = folder.file_name();
        let pid: Option<u32> = name.to_str().and_then(|name| name.rsplit_once('-')?.1.parse().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
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
    arguments.windows(folder.len()).any(|part| part == folder)
}
