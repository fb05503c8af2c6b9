//! Directory rows: where each entity lives.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, params};
use usher_topology::{Epoch, Generation, Key, MoveId, ShardId};

use super::moves::{self, MoveUpdate};
use super::{bump, transaction};
use crate::columns::{Columns, key_text};
use crate::{EntityState, Error, Global, Located, Result};

/// One row of `directory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRow {
    /// The entity.
    pub key: Key,
    /// Where it lives and what may be done with it.
    pub located: Located,
    /// The move that has it, if any.
    pub move_id: Option<MoveId>,
    /// What a copy must have executed to be read, while settling.
    pub min_gtid: Option<String>,
    /// Why a rebalance must leave it where it is.
    pub pinned: Option<String>,
}

/// A change of a directory row; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct DirectoryChange {
    /// The new shard.
    pub shard: Option<ShardId>,
    /// The new state.
    pub state: Option<EntityState>,
    /// The generation that the ownership row must show from now on.
    pub own_gen: Option<Generation>,
    /// The move that has it; `Some(None)` clears.
    pub move_id: Option<Option<MoveId>>,
    /// What a copy must have executed; `Some(None)` clears.
    pub min_gtid: Option<Option<String>>,
    /// Epochs that these shards must still have, or the change is lost.
    pub epochs: Vec<(ShardId, Epoch)>,
}

/// What a compare-and-set has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The row's new generation.
    pub generation: Generation,
    /// The version at which proxies learn of it.
    pub version: u64,
}

const COLUMNS: &str = "entity_key, shard_id, state, gen, own_gen, move_id, min_gtid, pinned";

impl DirectoryRow {
    fn read(row: Row) -> Result<Self> {
        let mut columns = Columns::of(row);
        Ok(Self {
            key: Key::from_stored(&key_text(columns.take()?)?),
            located: Located {
                shard: ShardId(columns.take()?),
                state: columns.parse(EntityState::parse)?,
                generation: Generation(columns.take()?),
                own_gen: Generation(columns.take()?),
            },
            move_id: columns.take::<Option<u64>>()?.map(MoveId),
            min_gtid: columns.take()?,
            pinned: columns.take()?,
        })
    }
}

/// The entity's row, from the writer.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn directory_row(global: &Global, key: &Key) -> Result<Option<DirectoryRow>> {
    let mut conn = global.conn().await?;
    let query = format!("SELECT {COLUMNS} FROM usher.directory WHERE entity = 'user' AND entity_key = ?");
    let row = global.bounded("reading the directory", conn.exec_first(query, (key.to_string(),))).await?;
    row.map(DirectoryRow::read).transpose()
}

/// Rows in key order (as bytes), those after `after`, of one shard or of all; at most `limit`.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn directory_rows(
    global: &Global,
    after: Option<&Key>,
    shard: Option<ShardId>,
    limit: u32,
) -> Result<Vec<DirectoryRow>> {
    let mut conn = global.conn().await?;
    let by_shard = shard.map_or_else(String::new, |id| format!(" AND shard_id = {id}"));
    let query = format!(
        "SELECT {COLUMNS} FROM usher.directory WHERE entity = 'user' AND entity_key > ?{by_shard} \
         ORDER BY entity_key LIMIT {limit}"
    );
    let after = after.map(ToString::to_string).unwrap_or_default();
    let rows: Vec<Row> = global.bounded("listing the directory", conn.exec(query, (after,))).await?;
    rows.into_iter().map(DirectoryRow::read).collect()
}

/// How many entities each shard has by the directory. Counts an index from end to end: seconds for tens of millions.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn users_per_shard(global: &Global) -> Result<Vec<(ShardId, u64)>> {
    let mut conn = global.conn().await?;
    let query = "SELECT shard_id, COUNT(*) FROM usher.directory WHERE entity = 'user' GROUP BY shard_id";
    let counts: Vec<(u16, u64)> = global.bounded("counting users", conn.query(query)).await?;
    Ok(counts.into_iter().map(|(shard, users)| (ShardId(shard), users)).collect())
}

/// Pins the entity where it is, or lifts that. Raises neither generation nor version: no proxy needs to know.
///
/// # Errors
/// [`Error::Conflict`] for an entity that the directory does not have; as [`Global::bounded`].
pub async fn set_pinned(global: &Global, key: &Key, reason: Option<&str>) -> Result<()> {
    let done = transaction!(global, "pinning a user", |conn| {
        let found: Option<u8> = conn
            .exec_first(
                "SELECT 1 FROM usher.directory WHERE entity = 'user' AND entity_key = ? FOR UPDATE",
                (key.to_string(),),
            )
            .await?;
        if found.is_some() {
            conn.exec_drop(
                "UPDATE usher.directory SET pinned = ? WHERE entity = 'user' AND entity_key = ?",
                (reason, key.to_string()),
            )
            .await?;
        }
        Ok(found)
    })?;
    done.map(|_| ()).ok_or_else(|| Error::Conflict(format!("user {key} is not in the directory")))
}

/// Changes the row if its generation is still `expected`, together with its move's row and the version, in one
/// transaction. `None`: the generation, an epoch or the mover's epoch was another, and nothing changed.
///
/// # Errors
/// As [`Global::bounded`]. After [`Error::Timeout`] or [`Error::GlobalUnavailable`] the outcome is unknown: the row's
/// generation tells.
pub async fn cas_directory(
    global: &Global,
    key: &Key,
    expected: Generation,
    change: &DirectoryChange,
    moved: Option<(MoveId, u64, &MoveUpdate)>,
) -> Result<Option<Changed>> {
    transaction!(global, "changing a directory row", |conn| {
        // Always in the order control, shards, directory, moves: two changes can't lock each other out.
        let version = bump(conn).await?;
        if !epochs_hold(conn, &change.epochs).await? || !change_row(conn, key, expected, change).await? {
            return Ok(None);
        }
        if let Some((move_id, mover_epoch, update)) = moved {
            let update = MoveUpdate { generation: Some(Generation(expected.0 + 1)), ..update.clone() };
            if !moves::update_on(conn, move_id, mover_epoch, &update).await? {
                return Ok(None);
            }
        }
        Ok(Some(Changed { generation: Generation(expected.0 + 1), version }))
    })
}

async fn epochs_hold(conn: &mut Conn, epochs: &[(ShardId, Epoch)]) -> mysql_async::Result<bool> {
    for (shard, epoch) in epochs {
        let now: Option<u64> = conn
            .exec_first("SELECT epoch FROM usher.shards WHERE shard_id = ? LOCK IN SHARE MODE", (shard.0,))
            .await?;
        if now != Some(epoch.0) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn change_row(
    conn: &mut Conn,
    key: &Key,
    expected: Generation,
    change: &DirectoryChange,
) -> mysql_async::Result<bool> {
    let (set_move, move_id) = (change.move_id.is_some(), change.move_id.flatten().map(|id| id.0));
    let (set_gtid, min_gtid) = (change.min_gtid.is_some(), change.min_gtid.clone().flatten());
    conn.exec_drop(
        "UPDATE usher.directory SET gen = gen + 1, shard_id = COALESCE(:shard, shard_id), \
         state = COALESCE(:state, state), own_gen = COALESCE(:own_gen, own_gen), \
         move_id = IF(:set_move, :move_id, move_id), min_gtid = IF(:set_gtid, :min_gtid, min_gtid) \
         WHERE entity = 'user' AND entity_key = :key AND gen = :expected",
        params! {
            "shard" => change.shard.map(|id| id.0),
            "state" => change.state.map(EntityState::as_str),
            "own_gen" => change.own_gen.map(|own| own.0),
            set_move, move_id, set_gtid, min_gtid,
            "key" => key.to_string(),
            "expected" => expected.0,
        },
    )
    .await?;
    Ok(conn.affected_rows() == 1)
}
