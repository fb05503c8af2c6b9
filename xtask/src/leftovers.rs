//! A folder for the temporary files of tests, and the processes that still use it when they are over.

use std::{
    fs,
    path::{Path, PathBuf},
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
        let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != std::process::id() && names(*pid, &self.path)).collect()
    }
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
