//! Ending every process of a folder.

use std::path::Path;

use futures_util::future::try_join_all;

use crate::error::{Error, Result};
use crate::process::{self, Process};
use crate::state::State;
use crate::{dir_of, lock};

/// Stops the proxy and the controller, then everything else at once.
pub(crate) async fn down(dir: &Path) -> Result<()> {
    let dir = dir_of(dir)?;
    // Before the lock, which would leave its file in a folder that is none of ours.
    State::load(&dir)?.ok_or_else(|| Error::None { dir: dir.clone() })?;
    let _lock = lock(&dir).await?;
    let mut state = State::load(&dir)?.ok_or_else(|| Error::None { dir: dir.clone() })?;
    let is_front = |name: &str| ["proxy", "controller"].contains(&name);
    for front in [true, false] {
        let chosen = state.processes.iter().filter(|(name, _)| is_front(name) == front);
        try_join_all(chosen.map(|(_, process)| stop(process))).await?;
    }
    state.processes.clear();
    state.ready_pairs.clear();
    state.save(&dir)
}

async fn stop(process: &Process) -> Result<()> {
    process.stop().await?;
    // Recorded before it is started, a process can run without its pid having been written down.
    match process::find(&process.argv) {
        Some(unrecorded) => unrecorded.stop().await,
        None => Ok(()),
    }
}
