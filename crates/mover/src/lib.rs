//! Moves users from one shard to another: decides the next step from the rows alone, copies, verifies, commits by one
//! compare-and-set of the directory row, purges what is left behind. Never speaks to clients, never changes the
//! topology.

mod decide;
mod phase;

pub use decide::{
    Contradiction, DirectoryFact, Facts, OwnFact, OwnState, ProgressFact, Step, UserState, Waiting, Wish, decide,
};
pub use phase::{Phase, UnknownPhase};
