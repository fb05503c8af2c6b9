//! What can go wrong, by what the caller can do about it.

use thiserror::Error;

use crate::Refusal;

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// No such shard.
    #[error("there is no shard {0}; `usher shard list` shows all")]
    NoShard(String),
    /// A condition for the flip does not hold. Nothing was changed.
    #[error("shard {shard} is not flipped: {refusal}")]
    Refused {
        /// The shard.
        shard: String,
        /// The condition.
        refusal: Refusal,
    },
    /// It had begun and was undone: the old writer takes writes as before.
    #[error("the flip of shard {shard} was undone, {writer} takes writes as before: {reason}")]
    Undone {
        /// The shard.
        shard: String,
        /// The writer, old and present.
        writer: String,
        /// Why.
        reason: String,
    },
    /// Somebody else runs a flip of this shard, or took this one over.
    #[error("a flip of shard {shard} is run by {by}; nothing was done here")]
    Taken {
        /// The shard.
        shard: String,
        /// Who.
        by: String,
    },
    /// It stopped half-way: the shard's writes are held or refused until it is resumed.
    #[error(
        "the flip of shard {shard} stopped at \"{step}\": {reason}; it is resumed by the controller, or by \
         `usher shard flip {shard}`, once the cause is gone"
    )]
    Stopped {
        /// The shard.
        shard: String,
        /// Where.
        step: String,
        /// Why.
        reason: String,
    },
    /// An external controller's claim that must not be recorded. Nothing was changed.
    #[error("shard {shard}'s writer is not recorded: {reason}")]
    Claim {
        /// The shard.
        shard: String,
        /// Why, and what would be right.
        reason: String,
    },
    /// From the directory.
    #[error(transparent)]
    Directory(#[from] usher_directory::Error),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
