//! Look-ups while the global master's writer is away: its standby, then the shards, whose ownership rows together are
//! a complete directory.

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use usher_topology::{Generation, Key, Shard};

use crate::{Directory, EntityState, Error, Global, Located, Result, lookup};

/// The entity's place by a member that may be stale, or by the shards. `why` is the writer's trouble, for the error.
pub(crate) async fn look_up(directory: &Directory, key: &Key, why: &Error) -> Result<Option<Located>> {
    // Nothing moves while the writer is away, and where only this process can't reach it, a barrier shuts this
    // process out: so an answer of the standby may be believed as far as a cached one may.
    if let Ok(Some(located)) = lookup::ask_any_member(&directory.global, key).await
        && directory.pins.allow(key, located.generation)
    {
        return Ok(Some(located));
    }
    ask_shards(directory, key, why).await
}

/// Asks every shard. Without an owner the answer is "unknown" only if all have answered.
pub(crate) async fn ask_shards(directory: &Directory, key: &Key, why: &Error) -> Result<Option<Located>> {
    let state = directory.state();
    let shards: Vec<&Shard> = state.topology.user_shards().collect();
    let answers = join_all(shards.iter().map(|shard| ask_shard(&directory.global, shard, key))).await;
    let mut failed = None;
    let mut found: Option<Located> = None;
    for answer in answers {
        match answer {
            Ok(Some(located)) => found = Some(found.map_or(located, |other| better(other, located))),
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
    }
    match (found, failed) {
        (Some(located), _) => Ok(Some(located)),
        (None, None) if !shards.is_empty() => Ok(None),
        (None, None) => Err(Error::GlobalUnavailable(why.to_string())),
        (None, Some(error)) => {
            Err(Error::GlobalUnavailable(format!("{why}; and asking the shards: {error}")))
        }
    }
}

/// An owner before one who has only locked, then the newer generation.
fn better(a: Located, b: Located) -> Located {
    let weight = |located: &Located| (located.state == EntityState::Active, located.own_gen);
    if weight(&b) > weight(&a) { b } else { a }
}

async fn ask_shard(global: &Global, shard: &Shard, key: &Key) -> Result<Option<Located>> {
    let mut last = Error::data(format!("shard {} has no servers", shard.name));
    for server in shard.writer().into_iter().chain(shard.standby()) {
        let mut conn = match global.borrowed_conn(server).await {
            Ok(conn) => conn,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let query = "SELECT own_gen, state FROM usher.ownership WHERE entity = 'user' AND entity_key = ? \
                     AND state IN ('owned', 'locked')";
        match global.server_bounded(&server.name, conn.exec_first(query, (key.to_string(),))).await {
            Ok(row) => {
                let row: Option<(u64, String)> = row;
                return Ok(row.map(|(own_gen, state)| Located {
                    shard: shard.id,
                    generation: Generation(0),
                    own_gen: Generation(own_gen),
                    state: if state == "owned" { EntityState::Active } else { EntityState::Locked },
                }));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
