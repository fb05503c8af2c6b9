//! What a flip does next, from its shard's row and what this run has achieved. Pure: no socket, no clock.

use std::fmt;

use serde::{Deserialize, Serialize};
use usher_topology::{Epoch, ServerId, ShardState};

/// What a flip is to do, fixed at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The writer until now.
    pub old: ServerId,
    /// The writer to be.
    pub new: ServerId,
    /// The shard's epoch before the commit; one more after it.
    pub epoch: Epoch,
}

/// The part of a shard's row that a flip goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its state.
    pub state: ShardState,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its writer.
    pub writer: ServerId,
    /// The member that a flip promotes.
    pub flip_to: Option<ServerId>,
    /// Who runs the flip.
    pub flip_by: Option<String>,
}

/// What this run has achieved that no row tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// The row was put into `switching` by this run, or taken over by it.
    pub announced: bool,
    /// No proxy runs a write transaction of the shard any more.
    pub drained: bool,
    /// The old writer is read-only.
    pub closed: bool,
    /// Sessions that could write nevertheless are gone.
    pub ended: bool,
    /// All that the old writer has executed.
    pub position: Option<String>,
    /// The new writer has executed all of it.
    pub caught_up: bool,
    /// The old writer takes writes again.
    pub reopened: bool,
    /// The new writer takes writes.
    pub opened: bool,
    /// Replicas and semi-sync follow the new writer.
    pub tidied: bool,
    /// Why the flip must not be committed: it is undone.
    pub failure: Option<String>,
}

/// What comes next. Each may be repeated without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Row: `rw -> switching`.
    Announce,
    /// Wait for the proxies.
    Drain,
    /// Old writer: read-only.
    Close,
    /// Old writer: end the sessions that could write nevertheless.
    EndSessions,
    /// Old writer: read its final position.
    Position,
    /// New writer: wait for that position.
    CatchUp,
    /// Row: the new writer, epoch + 1. The commit point.
    Commit,
    /// New writer: takes writes.
    Open,
    /// Row: `switching -> rw`.
    Release,
    /// Semi-sync and replicas.
    Tidy,
    /// Undoing; old writer: takes writes again.
    Reopen,
    /// Undoing; row: `switching -> rw`, the writer stays.
    Revert,
    /// Nothing more: the new writer is in office.
    Done,
    /// Nothing more: the old writer is in office again.
    Undone,
    /// Somebody else has changed the row; this run must not touch anything any more.
    Lost,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Announce => "announce",
            Self::Drain => "drain",
            Self::Close => "close the old writer",
            Self::EndSessions => "end its writing sessions",
            Self::Position => "read its final position",
            Self::CatchUp => "catch up",
            Self::Commit => "commit",
            Self::Open => "open the new writer",
            Self::Release => "release",
            Self::Tidy => "tidy",
            Self::Reopen => "open the old writer again",
            Self::Revert => "revert",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Lost => "lost",
        })
    }
}

/// The next step of `me`'s run.
#[must_use]
pub fn decide(me: &str, plan: &Plan, row: &Row, run: &Run) -> Step {
    let committed = row.epoch.0 == plan.epoch.0 + 1 && row.writer == plan.new;
    let uncommitted = row.epoch == plan.epoch && row.writer == plan.old;
    let mine = row.flip_by.as_deref() == Some(me);
    match row.state {
        ShardState::Rw if uncommitted && !run.announced && run.failure.is_none() => Step::Announce,
        ShardState::Rw if uncommitted && run.failure.is_some() => Step::Undone,
        ShardState::Switching if uncommitted && mine => before_commit(run),
        ShardState::Switching if committed && mine => {
            if run.opened {
                Step::Release
            } else {
                Step::Open
            }
        }
        ShardState::Rw if committed && run.opened => {
            if run.tidied {
                Step::Done
            } else {
                Step::Tidy
            }
        }
        _ => Step::Lost,
    }
}

fn before_commit(run: &Run) -> Step {
    if run.failure.is_some() {
        return if run.reopened { Step::Revert } else { Step::Reopen };
    }
    let done = [
        (run.drained, Step::Drain),
        (run.closed, Step::Close),
        (run.ended, Step::EndSessions),
        (run.position.is_some(), Step::Position),
        (run.caught_up, Step::CatchUp),
    ];
    done.iter().find(|(done, _)| !done).map_or(Step::Commit, |(_, step)| *step)
}
