//! Moves users from one shard to another: decides the next step from the rows alone, copies, verifies, commits by one
//! compare-and-set of the directory row, purges what is left behind. Never speaks to clients, never changes the
//! topology.

mod copy;
mod decide;
mod dialect;
mod error;
mod fail;
mod follow;
mod foreign_keys;
mod mover;
mod online;
mod phase;
mod preflight;
mod progress;
mod purge;
mod run;
mod sessions;
mod shard_rows;
mod steps;
mod table;
mod verify;

pub use decide::{
    Contradiction, DirectoryFact, Facts, OwnFact, OwnState, ProgressFact, Step, UserState, Waiting, Wish,
    decide,
};
pub use error::{MoveError, Refusal, Result};
pub use fail::{ONLINE_POINTS as ONLINE_FAIL_POINTS, POINTS as FAIL_POINTS};
pub use mover::{Mover, StartMove};
pub use phase::{Phase, UnknownPhase};
pub use run::Outcome;
