//! Whether a pair may be flipped now. Pure.

use thiserror::Error;
use usher_topology::{MoveId, ServerId, ShardState};

/// What is known of one member before a flip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// Why it does not answer, if so; the rest says nothing then.
    pub down: Option<String>,
    /// It takes ordinary writes.
    pub writable: bool,
    /// Why its channel from the other member does not run, if so.
    pub channel: Option<String>,
}

/// What is known of a pair before a flip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The shard's state.
    pub state: ShardState,
    /// The writer.
    pub writer: Member,
    /// The member to become the writer.
    pub standby: Member,
    /// The standby has transactions that the writer lacks.
    pub errant: bool,
    /// The standby reached the writer's position of a moment ago within this limit; `None` if it did.
    pub lag_over_ms: Option<u64>,
    /// A move that has users of this shard locked.
    pub locked_move: Option<MoveId>,
    /// XA transactions that the writer keeps prepared.
    pub prepared: Vec<String>,
}

/// Why a flip is refused, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The global master.
    #[error("flips of the global master are not supported yet")]
    Global,
    /// There is no other member.
    #[error("it has no second member to flip to")]
    NoStandby,
    /// The name is no member's.
    #[error("{0} is not a member of its pair")]
    NotAMember(String),
    /// The named member has the role already.
    #[error("{0} is its writer already")]
    AlreadyWriter(String),
    /// Not `rw`.
    #[error("its state is {0:?}, a planned flip starts from rw")]
    State(ShardState),
    /// The writer is gone.
    #[error(
        "its writer {name} does not answer ({reason}); a planned flip needs it, since nothing else knows its last \
         transactions. Bring it back, or promote the other member by hand and record that with \
         POST /v1/shards/{{name}}/writer"
    )]
    WriterDown {
        /// The writer.
        name: String,
        /// Why.
        reason: String,
    },
    /// The writer does not take writes.
    #[error("its writer {0} is read-only although the topology says rw; find out who closed it")]
    WriterClosed(String),
    /// The standby is gone.
    #[error("its standby {name} does not answer ({reason})")]
    StandbyDown {
        /// The standby.
        name: String,
        /// Why.
        reason: String,
    },
    /// Two writable members.
    #[error("its standby {0} is writable too; make it read-only and compare the two before anything else")]
    TwoWritable(String),
    /// A channel of the pair is down.
    #[error("{name} does not replicate from the other member ({reason})")]
    Channel {
        /// The member.
        name: String,
        /// Why.
        reason: String,
    },
    /// Errant transactions.
    #[error("its standby {0} has transactions that the writer lacks; compare the two first")]
    Errant(String),
    /// Too far behind.
    #[error("its standby {name} is more than {limit_ms} ms behind (limits.lag_ms_max)")]
    Lag {
        /// The standby.
        name: String,
        /// The limit.
        limit_ms: u64,
    },
    /// Prepared XA transactions: they hold rows on the writer, and their owners have to find them there.
    #[error(
        "its writer {name} keeps prepared XA transactions ({}); commit or roll them back first (XA RECOVER lists them, \
         XA COMMIT and XA ROLLBACK end them, also through a proxy)",
        prepared.join("; ")
    )]
    Prepared {
        /// The writer.
        name: String,
        /// Their names.
        prepared: Vec<String>,
    },
    /// A move has users locked.
    #[error("move {0} has a user of this shard locked; wait for it or abort it (`usher move abort {0}`)")]
    LockedMove(MoveId),
}

/// Whether the pair may be flipped.
///
/// # Errors
/// The first condition that does not hold.
pub fn check(pair: &Pair) -> Result<(), Refusal> {
    let (writer, standby) = (&pair.writer, &pair.standby);
    if let Some(reason) = &writer.down {
        return Err(Refusal::WriterDown { name: writer.name.clone(), reason: reason.clone() });
    }
    if pair.state != ShardState::Rw {
        return Err(Refusal::State(pair.state));
    }
    if let Some(reason) = &standby.down {
        return Err(Refusal::StandbyDown { name: standby.name.clone(), reason: reason.clone() });
    }
    if !writer.writable {
        return Err(Refusal::WriterClosed(writer.name.clone()));
    }
    if standby.writable {
        return Err(Refusal::TwoWritable(standby.name.clone()));
    }
    for member in [standby, writer] {
        if let Some(reason) = &member.channel {
            return Err(Refusal::Channel { name: member.name.clone(), reason: reason.clone() });
        }
    }
    if pair.errant {
        return Err(Refusal::Errant(standby.name.clone()));
    }
    if let Some(limit_ms) = pair.lag_over_ms {
        return Err(Refusal::Lag { name: standby.name.clone(), limit_ms });
    }
    if !pair.prepared.is_empty() {
        return Err(Refusal::Prepared { name: writer.name.clone(), prepared: pair.prepared.clone() });
    }
    pair.locked_move.map_or(Ok(()), |id| Err(Refusal::LockedMove(id)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn member(id: u32, writable: bool) -> Member {
        Member { id: ServerId(id), name: format!("s1{id}"), down: None, writable, channel: None }
    }

    fn sound() -> Pair {
        Pair {
            state: ShardState::Rw,
            writer: member(1, true),
            standby: member(2, false),
            errant: false,
            lag_over_ms: None,
            locked_move: None,
            prepared: Vec::new(),
        }
    }

    #[test]
    fn each_condition_is_named() {
        check(&sound()).unwrap();
        type Spoil = fn(&mut Pair);
        let cases: [(&str, Spoil); 10] = [
            ("keeps prepared XA transactions ('a'; X'00')", |p| {
                p.prepared = vec!["'a'".to_owned(), "X'00'".to_owned()];
            }),
            ("a planned flip needs it", |p| p.writer.down = Some("refused".into())),
            ("standby s12 does not answer", |p| p.standby.down = Some("refused".into())),
            ("starts from rw", |p| p.state = ShardState::Ro),
            ("s11 is read-only", |p| p.writer.writable = false),
            ("s12 is writable too", |p| p.standby.writable = true),
            ("s12 does not replicate", |p| p.standby.channel = Some("stopped".into())),
            ("s11 does not replicate", |p| p.writer.channel = Some("stopped".into())),
            ("that the writer lacks", |p| p.errant = true),
            ("usher move abort 7", |p| p.locked_move = Some(MoveId(7))),
        ];
        for (text, spoil) in cases {
            let mut pair = sound();
            spoil(&mut pair);
            let refusal = check(&pair).unwrap_err().to_string();
            assert!(refusal.contains(text), "{refusal:?} lacks {text:?}");
        }
    }
}
