//! The stages of a move, as the `moves` row records them.

use std::fmt;

use thiserror::Error;

/// The last stage that a move has completed. What lies between two stages is told by the directory row and the
/// ownership rows, so a crash at any point resumes from the row alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Asked for; nothing has changed for the user.
    Registered,
    /// Every proxy checks the ownership row in the user's write transactions.
    Fenced,
    /// Online only: all rows are on the target, and what changes them on the source follows closely.
    CaughtUp,
    /// Every proxy refuses the user's writes, or holds them.
    Locked,
    /// The source's ownership row is locked, on both members: no write of the user can commit there.
    Drained,
    /// All rows are on the target.
    Copied,
    /// The rows of both sides have been compared.
    Verified,
    /// No mover can write to the target any more; its ownership row is ready, on both members.
    Closed,
    /// The directory names the target: from here the move only rolls forward.
    Committed,
    /// The target owns the user, the source's ownership row is gone.
    Owned,
    /// All copies of the target have the user's rows; the old ones wait for their purge.
    PurgePending,
    /// The old rows are deleted.
    Purged,
    /// Ended well.
    Finished,
    /// Being undone: the directory names the source again.
    Aborting,
    /// Undone; nothing is left on the target.
    Aborted,
}

/// A phase name that no version of this program has written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the moves row has an unknown phase {0:?}")]
pub struct UnknownPhase(pub String);

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 15] = [
        Self::Registered,
        Self::Fenced,
        Self::CaughtUp,
        Self::Locked,
        Self::Drained,
        Self::Copied,
        Self::Verified,
        Self::Closed,
        Self::Committed,
        Self::Owned,
        Self::PurgePending,
        Self::Purged,
        Self::Finished,
        Self::Aborting,
        Self::Aborted,
    ];

    /// The name in the `moves` row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Fenced => "fenced",
            Self::CaughtUp => "caught_up",
            Self::Locked => "locked",
            Self::Drained => "drained",
            Self::Copied => "copied",
            Self::Verified => "verified",
            Self::Closed => "closed",
            Self::Committed => "committed",
            Self::Owned => "owned",
            Self::PurgePending => "purge_pending",
            Self::Purged => "purged",
            Self::Finished => "finished",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
        }
    }

    /// The phase of that name.
    ///
    /// # Errors
    /// [`UnknownPhase`] when no phase has it.
    pub fn parse(name: &str) -> Result<Self, UnknownPhase> {
        Self::ALL
            .into_iter()
            .find(|phase| phase.as_str() == name)
            .ok_or_else(|| UnknownPhase(name.to_owned()))
    }

    /// Whether nothing more will be done.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Aborted)
    }

    /// Whether the directory names the target, so that the move can't be aborted any more.
    #[must_use]
    pub fn is_committed(self) -> bool {
        matches!(self, Self::Committed | Self::Owned | Self::PurgePending | Self::Purged | Self::Finished)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_parse_back_and_fit_the_column() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.as_str()).unwrap(), phase);
            assert!(phase.as_str().len() <= 32);
        }
        assert!(Phase::parse("copying").is_err());
    }

    #[test]
    fn the_commit_point_divides_the_phases() {
        for phase in Phase::ALL {
            let committed = phase >= Phase::Committed && phase <= Phase::Finished;
            assert_eq!(phase.is_committed(), committed, "{phase}");
        }
    }
}
