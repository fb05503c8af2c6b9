//! A playground that is gone when its test ends.

use std::path::{Path, PathBuf};

use crate::Playground;

/// The folder of a test's playground. When dropped, whatever runs there is ended and the folder removed; it is kept if
/// the test has failed and `KEEP_BED` is set in the environment.
#[derive(Debug)]
pub struct TestFolder(PathBuf);

impl TestFolder {
    /// `NAME-PID` in `parent`, usually `CARGO_TARGET_TMPDIR`: the process is told by it once it has been killed. Nothing
    /// is made yet.
    #[must_use]
    pub fn new(parent: &Path, name: &str) -> Self {
        Self(parent.join(format!("{name}-{}", std::process::id())))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let dir = self.0.clone();
        // A thread, since a runtime cannot be entered from within another one.
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(Playground::down(&dir)).map_err(|error| error.to_string())
        });
        let stopped = stopped.join().unwrap_or_else(|_| Err("it panicked".to_owned()));
        let failed = std::thread::panicking();
        if failed && std::env::var_os("KEEP_BED").is_some() {
            // Read by whoever sweeps up behind killed tests.
            let _ = std::fs::write(self.0.join("kept"), "");
            eprintln!("kept {}", self.0.display());
            return;
        }
        let there = self.0.exists();
        let _ = std::fs::remove_dir_all(&self.0);
        if let Err(error) = stopped.as_ref().map_err(|error| format!("{}: {error}", self.0.display()))
            && there
        {
            assert!(failed, "a playground could not be ended: {error}");
            eprintln!("{error}");
        }
    }
}
