//! Small file chores: private files written in one step, trees copied, log ends read.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;

use crate::error::{AtPath, Error, Result};

/// Bytes of a log's end that an error quotes.
const LOG_TAIL_BYTES: u64 = 1500;

/// Writes a file that only its owner may read, by a rename, so that no reader sees half of it.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(part)
        .at(part)?;
    file.write_all(content).and_then(|()| file.sync_all()).at(part)?;
    std::fs::rename(part, path).at(path)
}

/// Writes a value as indented JSON with [`write_private`].
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::State { path: path.to_owned(), detail: e.to_string() })?;
    text.push(b'\n');
    write_private(path, &text)
}

/// Makes a folder, and those above it, that only its owner may enter.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at(path)
}

/// Removes a folder with all in it; one that does not exist is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at(path),
        _ => Ok(()),
    }
}

/// Copies a folder's regular files and folders; anything else in it (a left-over socket) is skipped.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    make_dir(to)?;
    for entry in std::fs::read_dir(from).at(from)? {
        let entry = entry.at(from)?;
        let kind = entry.file_type().at(entry.path())?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &target).at(&target)?;
        }
    }
    Ok(())
}

/// The end of a log file, for an error's text.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|e| format!("(unreadable: {e})"))
}

/// Looks for a program in `PATH` and in the folders for servers that many users' `PATH` lacks.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/bin", "/usr/local/bin"];
    std::env::split_paths(&path)
        .chain(usual.iter().map(std::path::PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
