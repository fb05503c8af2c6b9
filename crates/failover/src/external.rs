//! What another failover controller has done, recorded: "shard s1's writer is s1b as of epoch 12". It changes no
//! server. Repeating it is harmless; what is older than the row is refused.
//!
//! Where the other member is seen closed, the row may say so at once: whoever still believes in it is refused there.
//! One that does not answer may take writes of proxies that reach it, so such a claim needs `force`, and even then the
//! row names the new writer only after every proxy has stopped writing to the old one or is revoked. What force can't
//! replace is that somebody has really fenced the silent member: nobody can be shut out of it from here.

use usher_directory::barrier::{self, Patience, Scope, Undrained};
use usher_directory::{Flip, State, rows, server};
use usher_topology::{Epoch, Server, ServerId, Shard, ShardState};

use crate::flip::{run_name, shard_of};
use crate::{Error, Flips, Result};

/// What an external controller claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The member that it has made the writer.
    pub writer: ServerId,
    /// The epoch from which on that holds.
    pub epoch: Epoch,
    /// Record it although the member does not answer or is still read-only, or although the other one does not answer:
    /// the caller has fenced that.
    pub force: bool,
}

/// What is seen of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It takes writes.
    Writable,
    /// It answers and refuses writes.
    ReadOnly,
    /// It does not answer.
    Down,
}

/// What becomes of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be recorded.
    Record,
    /// It is to be recorded once no proxy writes to the other member any more, which can't be seen closed.
    RecordBehindBarrier,
    /// The row says so already.
    Already,
    /// Why it is refused.
    Refuse(String),
}

/// Judges a claim by the row and by what is seen of the named member and of the other one.
#[must_use]
pub fn judge(
    claim: &Claim,
    state: ShardState,
    writer: ServerId,
    epoch: Epoch,
    named: Reach,
    other: Option<Reach>,
) -> Verdict {
    let refuse = |reason: &str| Verdict::Refuse(reason.to_owned());
    if claim.epoch < epoch {
        return Verdict::Refuse(format!(
            "epoch {} is older than the row's {epoch}; ask again with a newer one",
            claim.epoch
        ));
    }
    if claim.epoch == epoch {
        if claim.writer != writer {
            return Verdict::Refuse(format!(
                "epoch {epoch} belongs to another writer; a change needs epoch {} or more",
                epoch.0 + 1
            ));
        }
        // A claim for another member that was not carried to its end has left the row without a writer.
        if state != ShardState::Down {
            return Verdict::Already;
        }
    }
    if state == ShardState::Switching {
        return refuse("a planned flip is under way; wait for it");
    }
    if named == Reach::Writable && other == Some(Reach::Writable) {
        return refuse("both members take writes; make the other one read-only first");
    }
    if other == Some(Reach::Writable) {
        return refuse("the other member still takes writes; make it read-only first");
    }
    match named {
        Reach::ReadOnly if !claim.force => refuse("the member is read-only; open it first, or use force"),
        Reach::Down if !claim.force => refuse("the member does not answer; use force if you know better"),
        _ if other != Some(Reach::Down) => Verdict::Record,
        _ if !claim.force => refuse(
            "the other member does not answer, so it may still take writes of proxies that reach it; make sure that \
             it is down or cut off from all of them, then use force",
        ),
        _ => Verdict::RecordBehindBarrier,
    }
}

impl Flips {
    /// Records an external controller's claim; `true` when the row has changed.
    ///
    /// # Errors
    /// [`Error::Claim`] says why it is refused, [`Error::NoShard`], and the directory's.
    pub async fn set_writer(
        &self,
        shard: &str,
        writer: &str,
        epoch: u64,
        force: bool,
        by: &str,
    ) -> Result<bool> {
        let state = State::load(&self.global).await?;
        let found = shard_of(&state, shard)?;
        let refused = |reason: String| Error::Claim { shard: shard.to_owned(), reason };
        let named = found.members().find(|member| member.name == writer);
        let named = named.ok_or_else(|| refused(format!("{writer} is not a member of its pair")))?;
        if found.id.is_global() {
            return Err(refused("the global master's writer is found by itself".to_owned()));
        }
        let other = found.members().find(|member| member.id != named.id);
        let claim = Claim { writer: named.id, epoch: Epoch(epoch), force };
        let reach = self.reach(named).await;
        let reach_other = match other {
            Some(other) => Some(self.reach(other).await),
            None => None,
        };
        let verdict = judge(&claim, found.state, found.writer, found.epoch, reach, reach_other);
        let recorded = match verdict {
            Verdict::Already => return Ok(false),
            Verdict::Refuse(reason) => return Err(refused(reason)),
            Verdict::Record => {
                rows::record_writer(&self.global, found.id, found.epoch, named.id, claim.epoch, None).await?
            }
            Verdict::RecordBehindBarrier => {
                let dead = other.map(|other| other.id).into_iter().collect();
                // A task of its own: whoever hangs up must not leave the shard without a writer.
                let (this, found, by) = (self.clone(), found.clone(), run_name(by));
                let work = async move { this.record_behind_barrier(&found, &claim, dead, by).await };
                tokio::spawn(work).await.map_err(|error| refused(error.to_string()))??
            }
        };
        if recorded.is_none() {
            return Err(refused("the row has changed meanwhile; ask again".to_owned()));
        }
        let detail =
            format!("writer {writer}, epoch {epoch}, force {force}, seen {reach:?}, other {reach_other:?}");
        rows::record(&self.global, by, "writer set", shard, &detail).await?;
        Ok(true)
    }

    /// The shard has no writer while proxies learn that the old one is none any more. A crash in between leaves it
    /// so, until the claim is repeated or another one is made.
    async fn record_behind_barrier(
        &self,
        shard: &Shard,
        claim: &Claim,
        dead: Vec<ServerId>,
        by: String,
    ) -> Result<Option<u64>> {
        let announced = Flip { to: claim.writer, by };
        let from = [ShardState::Rw, ShardState::Ro, ShardState::Down];
        let (global, to) = (&self.global, ShardState::Down);
        let version =
            rows::cas_shard_state(global, shard.id, shard.epoch, &from, to, Some(&announced)).await?;
        let Some(version) = version else { return Ok(None) };
        let scope = Scope { shards: vec![shard.id], dead };
        // A transaction that waits for the dead would end never, and must not be waited for.
        let patience = Patience { undrained: Undrained::Revoke, ..Patience::of(&self.limits) };
        if let Err(error) = barrier::pass(global, version, patience, &scope, &mut |_| ()).await {
            rows::withdraw_claim(global, shard.id, shard.epoch, &announced, shard.state).await?;
            return Err(error.into());
        }
        let (writer, epoch) = (claim.writer, claim.epoch);
        Ok(rows::record_writer(global, shard.id, shard.epoch, writer, epoch, Some(&announced)).await?)
    }

    async fn reach(&self, member: &Server) -> Reach {
        let look = async {
            let mut conn = self.global.server_conn(member).await.ok()?;
            server::is_writable(&mut conn).await.ok()
        };
        let limit = std::time::Duration::from_millis(self.limits.connect_ms.saturating_mul(2));
        match tokio::time::timeout(limit, look).await.ok().flatten() {
            Some(true) => Reach::Writable,
            Some(false) => Reach::ReadOnly,
            None => Reach::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ServerId = ServerId(1);
    const B: ServerId = ServerId(2);

    fn judged(writer: ServerId, epoch: u64, force: bool, named: Reach, other: Option<Reach>) -> Verdict {
        judge(&Claim { writer, epoch: Epoch(epoch), force }, ShardState::Rw, A, Epoch(11), named, other)
    }

    fn is_refused(verdict: &Verdict, word: &str) -> bool {
        matches!(verdict, Verdict::Refuse(reason) if reason.contains(word))
    }

    #[test]
    fn epochs_order_claims() {
        let (open, closed) = (Reach::Writable, Some(Reach::ReadOnly));
        assert_eq!(judged(B, 12, false, open, closed), Verdict::Record);
        assert_eq!(judged(B, 15, false, open, closed), Verdict::Record);
        assert_eq!(
            judged(A, 11, false, Reach::Down, None),
            Verdict::Already,
            "asked again, whatever the servers do"
        );
        assert!(is_refused(&judged(B, 11, true, open, closed), "another writer"));
        assert!(is_refused(&judged(B, 10, true, open, closed), "older"));
    }

    #[test]
    fn a_claim_that_was_left_half_way_is_taken_up_or_back() {
        let judged = |writer, epoch, force, other| {
            let claim = Claim { writer, epoch: Epoch(epoch), force };
            judge(&claim, ShardState::Down, A, Epoch(11), Reach::Writable, Some(other))
        };
        assert_eq!(judged(B, 12, true, Reach::Down), Verdict::RecordBehindBarrier);
        assert_eq!(judged(A, 11, false, Reach::ReadOnly), Verdict::Record);
        assert!(is_refused(&judged(A, 11, false, Reach::Down), "may still take writes"));
    }

    #[test]
    fn servers_are_looked_at() {
        assert!(is_refused(&judged(B, 12, true, Reach::Writable, Some(Reach::Writable)), "both members"));
        assert!(is_refused(&judged(B, 12, true, Reach::ReadOnly, Some(Reach::Writable)), "other member"));
        assert!(is_refused(&judged(B, 12, false, Reach::ReadOnly, Some(Reach::ReadOnly)), "read-only"));
        assert!(is_refused(&judged(B, 12, false, Reach::Down, Some(Reach::ReadOnly)), "does not answer"));
        assert_eq!(judged(B, 12, true, Reach::ReadOnly, Some(Reach::ReadOnly)), Verdict::Record);
        let (open, gone) = (Reach::Writable, Some(Reach::Down));
        assert!(is_refused(&judged(B, 12, false, open, gone), "may still take writes"));
        assert_eq!(judged(B, 12, true, open, gone), Verdict::RecordBehindBarrier);
        let busy = Claim { writer: B, epoch: Epoch(12), force: true };
        let verdict = judge(&busy, ShardState::Switching, A, Epoch(11), Reach::Writable, None);
        assert!(is_refused(&verdict, "under way"));
    }
}
