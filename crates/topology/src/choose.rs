//! Which server of a shard takes a statement.

use std::fmt;
use std::sync::Arc;

use crate::{GtidPosition, Role, ServerId, Shard};

/// What the monitor last saw of one server.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// It answered the last probe in time.
    pub up: bool,
    /// Age of its newest heartbeat row against the writer's, in milliseconds; `None` when not measured.
    pub lag_ms: Option<u64>,
    /// What it has executed.
    pub position: Option<Arc<GtidPosition>>,
    /// It refuses ordinary writes (`read_only`, on MySQL `super_read_only`).
    pub read_only: bool,
}

/// What a statement needs of its server.
#[derive(Debug, Clone, Copy)]
pub enum Want<'a> {
    /// The writer and no other.
    Writer,
    /// Any server no staler than this.
    Read {
        /// The largest lag allowed, in milliseconds.
        lag_ms_max: u64,
        /// What the server must have executed: the user's own last write.
        watermark: Option<&'a GtidPosition>,
    },
}

/// Why a server was chosen, as `EXPLAIN ROUTE` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The statement needs the writer.
    Writer,
    /// A replica that is fresh enough.
    Replica,
    /// No replica was fresh enough, the standby is.
    Standby,
    /// Neither a replica nor the standby was fresh enough.
    NoFreshCopy,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writer => "the statement needs the writer",
            Self::Replica => "a replica is fresh enough",
            Self::Standby => "no replica is fresh enough, the standby is",
            Self::NoFreshCopy => "no copy is fresh enough",
        })
    }
}

/// A server and why it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The server.
    pub server: ServerId,
    /// Why it.
    pub reason: Reason,
}

/// Chooses a server of `shard`. `health` tells what the monitor last saw; `turn` spreads reads over equal replicas
/// (any number, such as a counter). The writer is the answer of last resort even if it looks down: the one who asks
/// then gets the server's own error, and one failed probe never takes a shard's writer away.
pub fn choose<'h>(
    shard: &Shard,
    want: Want<'_>,
    turn: usize,
    health: impl Fn(ServerId) -> Option<&'h Health>,
) -> Choice {
    let Want::Read { lag_ms_max, watermark } = want else {
        return Choice { server: shard.writer, reason: Reason::Writer };
    };
    let fresh = |id: ServerId| {
        health(id).is_some_and(|seen| {
            seen.up
                && seen.lag_ms.is_some_and(|lag| lag <= lag_ms_max)
                && watermark.is_none_or(|need| seen.position.as_ref().is_some_and(|have| have.covers(need)))
        })
    };
    let of_role = |role: Role| {
        let count = shard.servers.iter().filter(|server| server.role == role).count();
        let start = if count == 0 { 0 } else { turn % count };
        let candidates = || shard.servers.iter().filter(move |server| server.role == role);
        candidates()
            .skip(start)
            .chain(candidates().take(start))
            .map(|server| server.id)
            .find(|&id| id != shard.writer && fresh(id))
    };
    if let Some(server) = of_role(Role::Replica) {
        return Choice { server, reason: Reason::Replica };
    }
    match of_role(Role::Member) {
        Some(server) => Choice { server, reason: Reason::Standby },
        None => Choice { server: shard.writer, reason: Reason::NoFreshCopy },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;
    use crate::{Epoch, Server, ShardId, ShardState};

    fn shard() -> Shard {
        let server = |id: u32, role| Server {
            id: ServerId(id),
            name: format!("n{id}"),
            host: "h".into(),
            port: 1,
            role,
        };
        Shard {
            id: ShardId(1),
            name: "s1".into(),
            state: ShardState::Rw,
            epoch: Epoch(1),
            writer: ServerId(1),
            weight: 1,
            servers: vec![
                server(1, Role::Member),
                server(2, Role::Member),
                server(3, Role::Replica),
                server(4, Role::Replica),
            ],
        }
    }

    fn seen(lag_ms: u64, position: &str) -> Health {
        Health {
            up: true,
            lag_ms: Some(lag_ms),
            position: Some(Arc::new(GtidPosition::parse(position).unwrap())),
            read_only: true,
        }
    }

    fn pick(health: &HashMap<u32, Health>, watermark: Option<&str>, turn: usize) -> (u32, Reason) {
        let need = watermark.map(|text| GtidPosition::parse(text).unwrap());
        let want = Want::Read { lag_ms_max: 1000, watermark: need.as_ref() };
        let choice = choose(&shard(), want, turn, |id| health.get(&id.0));
        (choice.server.0, choice.reason)
    }

    #[test]
    fn writes_go_to_the_writer_whatever_its_health() {
        let choice = choose(&shard(), Want::Writer, 7, |_| None);
        assert_eq!(choice, Choice { server: ServerId(1), reason: Reason::Writer });
    }

    #[test]
    fn reads_take_turns_over_fresh_replicas() {
        let health = HashMap::from([(3, seen(5, "1-1-9")), (4, seen(5, "1-1-9"))]);
        assert_eq!(pick(&health, None, 0).0, 3);
        assert_eq!(pick(&health, None, 1).0, 4);
        assert_eq!(pick(&health, None, 2).0, 3);
    }

    #[test]
    fn lag_and_watermark_fall_back_step_by_step() {
        let mut health =
            HashMap::from([(2, seen(5, "1-1-9")), (3, seen(5000, "1-1-9")), (4, seen(5, "1-1-7"))]);
        assert_eq!(pick(&health, Some("1-1-8"), 0), (2, Reason::Standby));
        assert_eq!(pick(&health, Some("1-1-7"), 0), (4, Reason::Replica));
        assert_eq!(pick(&health, Some("1-1-10"), 0), (1, Reason::NoFreshCopy));
        health.get_mut(&4).unwrap().up = false;
        assert_eq!(pick(&health, Some("1-1-7"), 0), (2, Reason::Standby));
        assert_eq!(pick(&HashMap::new(), None, 0), (1, Reason::NoFreshCopy));
    }
}
