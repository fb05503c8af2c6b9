//! What a move does next, from what its rows say. Pure: no socket, no clock. Whatever process asks, after whatever
//! crash, the same rows give the same step, and each step is safe to repeat.
//!
//! One compare-and-set of the directory row is the commit point. Everything before it can be aborted, everything
//! after it only rolls forward.

use usher_topology::{Epoch, Generation, ShardId};

use crate::Phase;

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Run,
    /// Stop where it is, until told to go on.
    Pause,
    /// Undo it.
    Abort,
}

/// State of a user in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserState {
    /// Served without condition.
    Active,
    /// Writes check the ownership row.
    Moving,
    /// Writes are refused or held.
    Locked,
    /// Committed; reads go to the target's writer.
    Settling,
}

/// The user's directory row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryFact {
    /// The shard it names.
    pub shard: ShardId,
    /// Its state.
    pub state: UserState,
    /// Its generation.
    pub generation: Generation,
    /// What the ownership row must show.
    pub own_gen: Generation,
    /// It carries this move's number.
    pub ours: bool,
}

/// State of an ownership row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnState {
    /// The shard accepts the user's writes.
    Owned,
    /// It did, and does no longer: the user is leaving.
    Locked,
    /// The user's rows are being placed.
    Incoming,
    /// They are all placed.
    Ready,
    /// The shard has lost the user; what is left of its rows is rubbish.
    Gone,
}

/// An ownership row on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnFact {
    /// Its state.
    pub state: OwnState,
    /// Its generation.
    pub own_gen: Generation,
    /// It carries this move's number.
    pub ours: bool,
}

/// The progress row on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressFact {
    /// Rows may be placed by the mover of this epoch.
    Open {
        /// The row shows this mover's epoch.
        mine: bool,
    },
    /// Nothing may be placed any more.
    Closed,
    /// Nothing may ever be placed.
    Aborted,
}

/// All that is known of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The stage on record.
    pub phase: Phase,
    /// What the operator asked for.
    pub wish: Wish,
    /// The rows are copied while the user writes; otherwise while writes are refused.
    pub online: bool,
    /// The cutover has failed or outlasted its time: the user must be let go before it is tried again.
    pub overdue: bool,
    /// Where from.
    pub src: ShardId,
    /// Where to.
    pub dst: ShardId,
    /// The user's directory row.
    pub directory: DirectoryFact,
    /// Epochs of source and target when the drain began.
    pub epochs_at_drain: Option<(Epoch, Epoch)>,
    /// Epochs of source and target now.
    pub epochs_now: (Epoch, Epoch),
    /// Both shards take writes.
    pub shards_writable: bool,
    /// The source's ownership row.
    pub source: Option<OwnFact>,
    /// The target's ownership row.
    pub target: Option<OwnFact>,
    /// The target's progress row.
    pub progress: Option<ProgressFact>,
    /// The move still holds the user: it is in the moving set.
    pub held: bool,
    /// The delay before the purge is over.
    pub purge_due: bool,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Check that the move can be done, then directory active -> moving.
    Fence,
    /// Wait until every proxy works by the fence.
    FenceBarrier,
    /// Directory moving -> locked.
    Lock,
    /// Wait until every proxy refuses the user's writes.
    LockBarrier,
    /// Source ownership owned -> locked with this generation: waits for the last open transaction of the user.
    Drain {
        /// Generation that the row must show before.
        from: Generation,
    },
    /// Wait until the source's standby has the locked row.
    DrainStandby,
    /// A shard has flipped since the drain: take the new epochs and go through the stages again from the drain.
    Reconfirm,
    /// Open (or adopt) the progress row on the target, ownership incoming.
    Prepare,
    /// Online: place the rows and what changes them, until little is left to follow.
    Follow,
    /// Online: apply what the source has logged up to its lock.
    Tail,
    /// Online: directory locked -> moving again, with this ownership generation: the cutover took too long.
    Unlock {
        /// Generation that the source's ownership row shall show.
        own_gen: Generation,
    },
    /// Place the rows.
    Copy,
    /// The copy has been closed before: only record the stage.
    RecordCopied,
    /// Compare the rows of both sides.
    Verify,
    /// Close the progress row, target ownership incoming -> ready, wait for the target's standby.
    Close,
    /// THE commit point: the directory row names the target.
    Commit,
    /// Target ownership ready -> owned.
    OwnTarget,
    /// Source ownership locked -> gone.
    ReleaseSource,
    /// Tell the proxies, forget the cached places.
    Announce,
    /// Wait until the target's copies have the rows, then directory settling -> active.
    Settle,
    /// Once every proxy knows that the user is active again: let it leave the moving set.
    Release,
    /// Delete the old rows on the source.
    Purge,
    /// Nothing is left to do.
    Finish,
    /// Directory back to active on the source; with this ownership generation.
    AbortDirectory {
        /// Generation that the source's ownership row shall show; unchanged when it was never locked.
        own_gen: Generation,
    },
    /// Source ownership back to owned with the directory's generation.
    Reown,
    /// Progress row aborted for ever, target ownership gone.
    CancelTarget,
    /// Delete what was placed on the target.
    PurgeTarget,
    /// Drop the aborted move from the moving set, once every proxy knows that the user is active again.
    FinishAbort,
    /// Nothing to do now.
    Wait(Waiting),
    /// The move is over.
    Over,
    /// The rows contradict each other: a human must look. Nothing is changed.
    Stop(Contradiction),
}

/// What a move waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The operator.
    Paused,
    /// A flip of one of its shards to end.
    Shards,
    /// The time of its purge.
    PurgeTime,
}

/// Rows that no run of this protocol leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The directory row is not as this stage leaves it.
    #[error("the directory row is not as this stage leaves it")]
    Directory,
    /// The source's ownership row is not as this stage leaves it.
    #[error("the ownership row on the source is not as this stage leaves it")]
    Source,
    /// The target's ownership row or progress row is not as this stage leaves it.
    #[error("the ownership or progress row on the target is not as this stage leaves it")]
    Target,
    /// The target owns the user though the directory names the source: the global master has lost a commit.
    #[error(
        "the target owns the user, yet the directory names the source: the global master has lost the commit"
    )]
    LostCommit,
}

/// The next step of a move.
#[must_use]
pub fn decide(facts: &Facts) -> Step {
    if facts.phase.is_over() {
        return Step::Over;
    }
    if facts.phase.is_committed() {
        return after_commit(facts);
    }
    if facts.directory.ours && facts.directory.shard == facts.dst {
        // Phase and directory change in one transaction; should they differ, the directory is the commit point.
        return Step::Stop(Contradiction::Directory);
    }
    if facts.directory.shard != facts.src {
        return Step::Stop(Contradiction::Directory);
    }
    if facts.phase == Phase::Aborting || facts.wish == Wish::Abort {
        return abort(facts);
    }
    match facts.wish {
        Wish::Pause => Step::Wait(Waiting::Paused),
        _ if !facts.shards_writable => Step::Wait(Waiting::Shards),
        _ => before_commit(facts),
    }
}

fn before_commit(facts: &Facts) -> Step {
    let state = (facts.directory.state, facts.directory.ours);
    if facts.overdue && state == (UserState::Locked, true) {
        match facts.progress {
            Some(ProgressFact::Open { mine: true }) => {
                return Step::Unlock { own_gen: own_gen_after_abort(facts) };
            }
            // First no older mover may be able to close it any more.
            Some(ProgressFact::Open { mine: false }) => return Step::Prepare,
            // All that is left is the commit.
            _ => {}
        }
    }
    let drained = facts.phase >= Phase::Drained;
    if drained && facts.epochs_at_drain != Some(facts.epochs_now) {
        return Step::Reconfirm;
    }
    match facts.phase {
        Phase::Registered => match state {
            (UserState::Active, _) => Step::Fence,
            (UserState::Moving, true) => Step::FenceBarrier,
            _ => Step::Stop(Contradiction::Directory),
        },
        Phase::Fenced | Phase::CaughtUp => match state {
            (UserState::Moving, true) if facts.online => follow(facts),
            (UserState::Moving, true) => Step::Lock,
            (UserState::Locked, true) => Step::LockBarrier,
            _ => Step::Stop(Contradiction::Directory),
        },
        _ if state != (UserState::Locked, true) => Step::Stop(Contradiction::Directory),
        Phase::Locked => drain(facts),
        _ if !source_is_locked(facts) => Step::Stop(Contradiction::Source),
        phase => place(phase, facts),
    }
}

/// While the user writes. A mover that takes over catches up before it locks the user.
fn follow(facts: &Facts) -> Step {
    match facts.source {
        Some(own) if own.state == OwnState::Owned && own.own_gen == facts.directory.own_gen => {}
        // A cutover was broken off; until the row is the source's again no write of the user succeeds.
        Some(own) if own.state == OwnState::Owned && own.own_gen < facts.directory.own_gen => {
            return Step::Reown;
        }
        _ if source_is_locked(facts) => return Step::Reown,
        _ => return Step::Stop(Contradiction::Source),
    }
    let incoming = facts.target.is_some_and(|own| own.state == OwnState::Incoming && own.ours);
    match (facts.phase, facts.progress) {
        (_, None | Some(ProgressFact::Open { mine: false })) => Step::Prepare,
        (Phase::CaughtUp, Some(ProgressFact::Open { .. })) if incoming => Step::Lock,
        (_, Some(ProgressFact::Open { .. })) if incoming => Step::Follow,
        _ => Step::Stop(Contradiction::Target),
    }
}

fn drain(facts: &Facts) -> Step {
    match facts.source {
        Some(own) if own.state == OwnState::Owned && own.own_gen == facts.directory.own_gen => {
            Step::Drain { from: own.own_gen }
        }
        _ if source_is_locked(facts) => Step::DrainStandby,
        _ => Step::Stop(Contradiction::Source),
    }
}

/// From here the source's rows can't change.
fn source_is_locked(facts: &Facts) -> bool {
    facts.source.is_some_and(|own| own.state == OwnState::Locked && own.ours)
}

fn place(phase: Phase, facts: &Facts) -> Step {
    let incoming = facts.target.is_some_and(|own| own.state == OwnState::Incoming && own.ours);
    let ready = facts.target.is_some_and(|own| own.state == OwnState::Ready && own.ours);
    match (phase, facts.progress) {
        (Phase::Drained, None) => Step::Prepare,
        (_, Some(ProgressFact::Open { mine: false })) => Step::Prepare,
        (Phase::Drained, Some(ProgressFact::Open { .. })) if incoming && facts.online => Step::Tail,
        (Phase::Drained, Some(ProgressFact::Open { .. })) if incoming => Step::Copy,
        (Phase::Drained, Some(ProgressFact::Closed)) if ready => Step::RecordCopied,
        (Phase::Copied, Some(ProgressFact::Open { .. })) if incoming => Step::Verify,
        (Phase::Copied, Some(ProgressFact::Closed)) if ready => Step::Verify,
        (Phase::Verified, Some(ProgressFact::Open { .. })) if incoming => Step::Close,
        (Phase::Verified, Some(ProgressFact::Closed)) if ready => Step::Close,
        (Phase::Closed, Some(ProgressFact::Closed)) if ready => Step::Commit,
        _ => Step::Stop(Contradiction::Target),
    }
}

fn after_commit(facts: &Facts) -> Step {
    let unsettled = matches!(facts.phase, Phase::Committed | Phase::Owned);
    if (unsettled && facts.directory.shard != facts.dst) || facts.directory.shard == facts.src {
        return Step::Stop(Contradiction::Directory);
    }
    match facts.phase {
        Phase::Committed => match (facts.target, facts.source) {
            (Some(own), _) if own.ours && own.state == OwnState::Ready => Step::OwnTarget,
            (Some(own), _) if own.state != OwnState::Owned => Step::Stop(Contradiction::Target),
            (None, _) => Step::Stop(Contradiction::Target),
            (_, Some(own)) if own.ours && own.state == OwnState::Locked => Step::ReleaseSource,
            (_, Some(own)) if own.state != OwnState::Gone => Step::Stop(Contradiction::Source),
            _ => Step::Announce,
        },
        Phase::Owned => Step::Settle,
        Phase::PurgePending if facts.held => Step::Release,
        Phase::PurgePending if facts.purge_due => Step::Purge,
        Phase::PurgePending => Step::Wait(Waiting::PurgeTime),
        Phase::Purged => Step::Finish,
        _ => Step::Over,
    }
}

fn abort(facts: &Facts) -> Step {
    if facts.target.is_some_and(|own| own.ours && own.state == OwnState::Owned) {
        return Step::Stop(Contradiction::LostCommit);
    }
    if !facts.directory.ours {
        // Never fenced: no shard has been touched, and no shard needs to be up for this.
        return Step::FinishAbort;
    }
    if facts.phase != Phase::Aborting {
        return Step::AbortDirectory { own_gen: own_gen_after_abort(facts) };
    }
    let reowned =
        facts.source.is_none_or(|own| own.state == OwnState::Owned && own.own_gen == facts.directory.own_gen);
    if !reowned {
        return Step::Reown;
    }
    match (facts.progress, facts.target) {
        (Some(ProgressFact::Aborted), Some(own)) if own.ours && own.state == OwnState::Gone => {
            Step::PurgeTarget
        }
        (Some(ProgressFact::Aborted), target) if target.is_none_or(|own| !own.ours) => Step::FinishAbort,
        _ => Step::CancelTarget,
    }
}

/// Before the directory is locked no mover can have touched the source's row. After it, one that has lost its lease
/// may still raise it by one, so the generation goes past what that one would write. The same while the row is still
/// locked from a cutover that was broken off.
fn own_gen_after_abort(facts: &Facts) -> Generation {
    let now = facts.directory.own_gen.0;
    if facts.directory.state != UserState::Locked && !source_is_locked(facts) {
        return facts.directory.own_gen;
    }
    Generation(facts.source.map_or(now, |own| own.own_gen.0).max(now) + 2)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
