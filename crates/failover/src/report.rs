//! What a flip tells at its end.

use serde::{Deserialize, Serialize};

use usher_topology::{Server, Shard};

use crate::Step;

/// What happens while a flip runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step begins.
    Begins(Step),
    /// A step has ended, well or not.
    Ended(StepTime),
}

/// Told of each step as it happens; must not block.
pub type OnProgress<'a> = &'a mut (dyn FnMut(&Progress) + Send);

/// One step and how long it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// Its time, in milliseconds.
    pub ms: u64,
}

/// How a flip ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new writer is in office.
    Flipped,
    /// It was in office already; nothing was done.
    Already,
    /// A flip that had stopped half-way was finished.
    Finished,
    /// A flip that had stopped half-way was undone.
    Undone,
}

/// A flip that ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlipReport {
    /// The shard's name.
    pub shard: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The former writer's name.
    pub from: String,
    /// The writer's name now.
    pub to: String,
    /// The shard's epoch now.
    pub epoch: u64,
    /// How long writes of the shard were held, in milliseconds: from the announcement to the release.
    pub hold_ms: u64,
    /// Sessions of the old writer that were ended.
    pub sessions_ended: u64,
    /// Proxies that were silent and therefore revoked.
    pub revoked: Vec<String>,
    /// What was done, in order.
    pub steps: Vec<StepTime>,
    /// What did not go as it should but does not change the outcome.
    pub warnings: Vec<String>,
}

impl FlipReport {
    pub(crate) fn of(shard: &Shard, to: &Server) -> Self {
        Self {
            shard: shard.name.clone(),
            outcome: Outcome::Flipped,
            from: shard.writer().map(|server| server.name.clone()).unwrap_or_default(),
            to: to.name.clone(),
            epoch: shard.epoch.0,
            hold_ms: 0,
            sessions_ended: 0,
            revoked: Vec::new(),
            steps: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(crate) fn already(shard: &Shard, to: &Server) -> Self {
        Self { outcome: Outcome::Already, ..Self::of(shard, to) }
    }
}
