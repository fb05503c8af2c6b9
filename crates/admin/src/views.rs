//! The JSON shapes of rows. Keys are a contract; times are milliseconds.

use serde_json::{Value, json};
use usher_directory::State;
use usher_directory::rows::{DirectoryRow, MoveRow, ProxyRow};
use usher_topology::{Role, Server, Shard, ShardId, Topology};

use crate::Sight;

/// Moves in one list, the newest first.
pub(crate) const MOVES_MAX: u32 = 200;

pub(crate) fn shard(shard: &Shard, state: &State, sight: &Sight) -> Value {
    let flip = state.flips.get(&shard.id);
    let name = |id| shard.server(id).map(|server| server.name.clone());
    json!({
        "id": shard.id,
        "name": shard.name,
        "state": shard.state,
        "epoch": shard.epoch,
        "writer": name(shard.writer),
        "standby": shard.standby().map(|server| &server.name),
        "weight": shard.weight,
        "flip": flip.map(|flip| json!({"to": name(flip.to), "by": flip.by})),
        "servers": shard.servers.iter().map(|s| server(s, shard, sight)).collect::<Vec<_>>(),
    })
}

fn server(server: &Server, shard: &Shard, sight: &Sight) -> Value {
    let seen = sight(server.id);
    let part = match server.role {
        Role::Member if server.id == shard.writer => "writer",
        Role::Member => "standby",
        Role::Replica => "replica",
    };
    json!({
        "id": server.id,
        "name": server.name,
        "host": server.host,
        "port": server.port,
        "role": part,
        "up": seen.as_ref().map(|health| health.up),
        "lag_ms": seen.as_ref().and_then(|health| health.lag_ms),
        "read_only": seen.as_ref().map(|health| health.read_only),
    })
}

pub(crate) fn proxy(row: &ProxyRow) -> Value {
    json!({
        "id": row.proxy_id,
        "number": row.number,
        "account": row.account,
        "http_address": row.http_address,
        "revoked": row.revoked,
        "seen_version": row.seen_version,
        "drained_version": row.drained_version,
        "silent_ms": row.silent_ms,
    })
}

pub(crate) fn a_move(row: &MoveRow, topology: &Topology) -> Value {
    json!({
        "id": row.id,
        "user": row.key.to_string(),
        "from": shard_name(topology, row.src),
        "to": shard_name(topology, row.dst),
        "mode": row.mode,
        "phase": row.phase,
        "want": row.want,
        "active": row.active,
        "rows_total": row.rows_total,
        "rows_done": row.rows_done,
        "bytes_done": row.bytes_done,
        "eta_ms": row.eta_ms,
        "locked_ms": row.locked_ms,
        "purge_in_ms": row.purge_in_ms,
        "mover": row.mover_id,
        "error": row.error,
        "started_by": row.started_by,
        "reason": row.reason,
        "created_at_ms": row.created_at_ms,
        "updated_at_ms": row.updated_at_ms,
        "finished_at_ms": row.finished_at_ms,
    })
}

pub(crate) fn user(row: &DirectoryRow, state: &State) -> Value {
    json!({
        "user": row.key.to_string(),
        "shard": shard_name(&state.topology, row.located.shard),
        "state": row.located.state,
        "generation": row.located.generation,
        "own_gen": row.located.own_gen,
        "move": row.move_id,
        "pinned": row.pinned,
    })
}

/// The shard's name, or its number while the rows contradict each other.
pub(crate) fn shard_name(topology: &Topology, id: ShardId) -> String {
    topology.shard(id).map_or_else(|| id.to_string(), |shard| shard.name.clone())
}
