//! Rows of `moves`: one for each move, never deleted.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value, params};
use usher_topology::{Epoch, Generation, Key, MoveId, ShardId};

use super::{bump, transaction};
use crate::columns::{Columns, key_text};
use crate::text_enum::text_enum;
use crate::{Error, Global, Result};

text_enum! {
    /// How a move treats the writes of its entity while rows are copied.
    MoveMode {
        /// They are refused with a message.
        Locked = "locked",
        /// They go on, and are held for the cutover only.
        Online = "online",
    }
}

text_enum! {
    /// What the operator asked for.
    Want {
        /// Go on.
        Run = "run",
        /// Stop copying until told otherwise.
        Pause = "pause",
        /// Give up, if the commit point has not been passed.
        Abort = "abort",
    }
}

/// One row of `moves`. Times are milliseconds since 1970 by the global master's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRow {
    /// Its number.
    pub id: MoveId,
    /// Who is moved.
    pub key: Key,
    /// Whether the move still holds the entity: no other move of it can begin.
    pub active: bool,
    /// From here.
    pub src: ShardId,
    /// To there.
    pub dst: ShardId,
    /// How.
    pub mode: MoveMode,
    /// How far it is, in the mover's words.
    pub phase: String,
    /// What the operator asked for.
    pub want: Want,
    /// The directory generation that the move set last.
    pub generation: Generation,
    /// The ownership generation that the move set last.
    pub own_gen: Generation,
    /// Who runs it.
    pub mover_id: Option<String>,
    /// Grows each time that a mover takes the move over; an older mover's changes are lost.
    pub mover_epoch: u64,
    /// What is left of the mover's lease; negative once it has run out.
    pub lease_left_ms: Option<i64>,
    /// The source's epoch that the move relies on.
    pub src_epoch: Option<Epoch>,
    /// The target's epoch that the move relies on.
    pub dst_epoch: Option<Epoch>,
    /// The source's position once the entity was locked there.
    pub drain_gtid: Option<String>,
    /// The target's position once its copy was closed.
    pub close_gtid: Option<String>,
    /// Rows to copy, as counted at the start.
    pub rows_total: u64,
    /// Rows copied.
    pub rows_done: u64,
    /// Bytes copied.
    pub bytes_done: u64,
    /// About how long it still takes.
    pub eta_ms: Option<u64>,
    /// How long writes were refused or held.
    pub locked_ms: Option<u64>,
    /// Time left until the purge may begin; negative once it may.
    pub purge_in_ms: Option<i64>,
    /// The last trouble.
    pub error: Option<String>,
    /// Who asked for it.
    pub started_by: String,
    /// Why.
    pub reason: String,
    /// When it was asked for.
    pub created_at_ms: u64,
    /// When the row last changed.
    pub updated_at_ms: u64,
    /// When nothing was left to do.
    pub finished_at_ms: Option<u64>,
}

const COLUMNS: &str = "m.move_id, m.entity_key, m.active_key IS NOT NULL, m.src, m.dst, m.mode, m.phase, m.want, \
    m.gen, m.own_gen, m.mover_id, m.mover_epoch, TIMESTAMPDIFF(MICROSECOND, NOW(3), m.mover_lease_until) DIV 1000, \
    m.src_epoch, m.dst_epoch, m.drain_gtid, m.close_gtid, m.rows_total, m.rows_done, m.bytes_done, m.eta_ms, \
    m.locked_ms, TIMESTAMPDIFF(MICROSECOND, NOW(3), m.purge_after) DIV 1000, m.error, m.started_by, m.reason, \
    CAST(UNIX_TIMESTAMP(m.created_at) * 1000 AS UNSIGNED), CAST(UNIX_TIMESTAMP(m.updated_at) * 1000 AS UNSIGNED), \
    CAST(UNIX_TIMESTAMP(m.finished_at) * 1000 AS UNSIGNED)";

/// All moves that still have something to do, each with the directory's columns of its entity behind.
pub(crate) fn select_unfinished() -> String {
    format!(
        "SELECT {COLUMNS}, d.shard_id, d.state, d.gen, d.own_gen, d.min_gtid FROM usher.moves m \
         LEFT JOIN usher.directory d ON d.entity = m.entity AND d.entity_key = m.entity_key \
         WHERE m.finished_at IS NULL"
    )
}

impl MoveRow {
    pub(crate) fn read(columns: &mut Columns) -> Result<Self> {
        Ok(Self {
            id: MoveId(columns.take()?),
            key: Key::from_stored(&key_text(columns.take()?)?),
            active: columns.take()?,
            src: ShardId(columns.take()?),
            dst: ShardId(columns.take()?),
            mode: columns.parse(MoveMode::parse)?,
            phase: columns.take()?,
            want: columns.parse(Want::parse)?,
            generation: Generation(columns.take()?),
            own_gen: Generation(columns.take()?),
            mover_id: columns.take()?,
            mover_epoch: columns.take()?,
            lease_left_ms: columns.take()?,
            src_epoch: columns.take::<Option<u64>>()?.map(Epoch),
            dst_epoch: columns.take::<Option<u64>>()?.map(Epoch),
            drain_gtid: columns.take()?,
            close_gtid: columns.take()?,
            rows_total: columns.take()?,
            rows_done: columns.take()?,
            bytes_done: columns.take()?,
            eta_ms: columns.take()?,
            locked_ms: columns.take()?,
            purge_in_ms: columns.take()?,
            error: columns.take()?,
            started_by: columns.take()?,
            reason: columns.take()?,
            created_at_ms: columns.take()?,
            updated_at_ms: columns.take()?,
            finished_at_ms: columns.take()?,
        })
    }
}

/// A move to begin.
#[derive(Debug, Clone)]
pub struct NewMove {
    /// Who is moved.
    pub key: Key,
    /// From here: must be what the directory says.
    pub src: ShardId,
    /// To there.
    pub dst: ShardId,
    /// How.
    pub mode: MoveMode,
    /// The first phase, in the mover's words.
    pub phase: String,
    /// Who asks for it, at most 128 characters.
    pub started_by: String,
    /// Why, at most 255 characters.
    pub reason: String,
}

/// A change of a move's row; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct MoveUpdate {
    /// How far it is.
    pub phase: Option<String>,
    /// The directory generation that the move set last; [`super::cas_directory`] fills it in by itself.
    pub generation: Option<Generation>,
    /// The ownership generation that the move set last.
    pub own_gen: Option<Generation>,
    /// The source's epoch that the move relies on.
    pub src_epoch: Option<Epoch>,
    /// The target's epoch that the move relies on.
    pub dst_epoch: Option<Epoch>,
    /// The source's position once the entity was locked there.
    pub drain_gtid: Option<String>,
    /// The target's position once its copy was closed.
    pub close_gtid: Option<String>,
    /// Rows to copy.
    pub rows_total: Option<u64>,
    /// Rows copied.
    pub rows_done: Option<u64>,
    /// Bytes copied.
    pub bytes_done: Option<u64>,
    /// About how long it still takes.
    pub eta_ms: Option<u64>,
    /// How long writes were refused or held.
    pub locked_ms: Option<u64>,
    /// The purge may begin after this time from now.
    pub purge_in: Option<Duration>,
    /// The last trouble; an empty text clears it.
    pub error: Option<String>,
    /// Let the entity go: it leaves the moving set, and another move of it may begin. Only after every proxy has
    /// acknowledged the version at which the directory row became active again.
    pub release: bool,
}

/// Registers a move and raises the version. Nothing of the entity changes yet.
///
/// # Errors
/// [`Error::Conflict`] when another move has the entity, when it does not live on `src`, or is not in the directory;
/// [`Error::SchemaChange`] while sharded tables are being changed.
pub async fn insert_move(global: &Global, new: &NewMove) -> Result<(MoveId, u64)> {
    let key = new.key.to_string();
    let mut reason = String::new();
    let mut changing: Option<String> = None;
    let done = transaction!(global, "registering a move", |conn| {
        let version = bump(conn).await?;
        changing = conn.query_first("SELECT statement FROM usher.schema_change").await?;
        if changing.is_some() {
            return Ok(None);
        }
        let at: Option<(u16, String)> = conn
            .exec_first(
                "SELECT shard_id, state FROM usher.directory WHERE entity = 'user' AND entity_key = ? FOR UPDATE",
                (&key,),
            )
            .await?;
        match at {
            None => reason = format!("user {key} is not in the directory"),
            Some((shard, _)) if shard != new.src.0 => {
                reason = format!("user {key} lives on shard {shard}, not on {}", new.src);
            }
            Some((_, state)) if state != "active" => reason = format!("user {key} is {state} already"),
            Some(_) => {}
        }
        if !reason.is_empty() {
            return Ok(None);
        }
        conn.exec_drop(
            "INSERT INTO usher.moves (entity_key, active_key, src, dst, mode, phase, started_by, reason) \
             VALUES (:key, CONCAT('user:', :key), :src, :dst, :mode, :phase, :started_by, :reason)",
            params! {
                "key" => &key, "src" => new.src.0, "dst" => new.dst.0, "mode" => new.mode.as_str(),
                "phase" => &new.phase, "started_by" => &new.started_by, "reason" => &new.reason,
            },
        )
        .await?;
        Ok(conn.last_insert_id().map(|id| (MoveId(id), version)))
    });
    match (done, changing) {
        (Ok(None), Some(statement)) => Err(Error::SchemaChange { statement }),
        (Ok(Some(done)), _) => Ok(done),
        (Ok(None), None) => Err(Error::Conflict(reason)),
        (Err(Error::Server { code: 1062, .. }), _) => {
            Err(Error::Conflict(format!("user {key} is being moved already")))
        }
        (Err(error), _) => Err(error),
    }
}

/// Changes a move's row if `mover_epoch` still holds it; with `bump_version` proxies are told. `None`: another mover
/// has taken it over, and nothing changed. `Some` has the new version, or 0 without a bump.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn update_move(
    global: &Global,
    id: MoveId,
    mover_epoch: u64,
    update: &MoveUpdate,
    bump_version: bool,
) -> Result<Option<u64>> {
    transaction!(global, "changing a move", |conn| {
        let version = if bump_version { bump(conn).await? } else { 0 };
        Ok(update_on(conn, id, mover_epoch, update).await?.then_some(version))
    })
}

/// Marks the move as having nothing left to do: the entity is let go and the purge is over. `None`: as
/// [`update_move`].
///
/// # Errors
/// As [`Global::bounded`].
pub async fn finish_move(
    global: &Global,
    id: MoveId,
    mover_epoch: u64,
    update: &MoveUpdate,
) -> Result<Option<u64>> {
    let update = MoveUpdate { release: true, ..update.clone() };
    transaction!(global, "finishing a move", |conn| {
        let version = bump(conn).await?;
        if !update_on(conn, id, mover_epoch, &update).await? {
            return Ok(None);
        }
        conn.exec_drop(
            "UPDATE usher.moves SET finished_at = COALESCE(finished_at, NOW(3)), mover_lease_until = NULL \
             WHERE move_id = ?",
            (id.0,),
        )
        .await?;
        Ok(Some(version))
    })
}

/// The change itself, within the caller's transaction; false if `mover_epoch` does not hold the move any more.
pub(crate) async fn update_on(
    conn: &mut Conn,
    id: MoveId,
    mover_epoch: u64,
    update: &MoveUpdate,
) -> mysql_async::Result<bool> {
    let held: Option<u8> = conn
        .exec_first(
            "SELECT 1 FROM usher.moves WHERE move_id = ? AND mover_epoch = ? FOR UPDATE",
            (id.0, mover_epoch),
        )
        .await?;
    if held.is_none() {
        return Ok(false);
    }
    let mut sets: Vec<&str> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut set = |column: &'static str, value: Option<Value>| {
        if let Some(value) = value {
            sets.push(column);
            values.push(value);
        }
    };
    set("phase = ?", update.phase.as_deref().map(Value::from));
    set("gen = ?", update.generation.map(|g| g.0.into()));
    set("own_gen = ?", update.own_gen.map(|g| g.0.into()));
    set("src_epoch = ?", update.src_epoch.map(|e| e.0.into()));
    set("dst_epoch = ?", update.dst_epoch.map(|e| e.0.into()));
    set("drain_gtid = ?", update.drain_gtid.as_deref().map(Value::from));
    set("close_gtid = ?", update.close_gtid.as_deref().map(Value::from));
    set("rows_total = ?", update.rows_total.map(Value::from));
    set("rows_done = ?", update.rows_done.map(Value::from));
    set("bytes_done = ?", update.bytes_done.map(Value::from));
    set("eta_ms = ?", update.eta_ms.map(Value::from));
    set("locked_ms = ?", update.locked_ms.map(Value::from));
    set("error = NULLIF(?, '')", update.error.as_deref().map(Value::from));
    let purge_in_us = update.purge_in.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    set("purge_after = NOW(3) + INTERVAL ? MICROSECOND", purge_in_us.map(Value::from));
    if update.release {
        sets.push("active_key = NULL");
    }
    if sets.is_empty() {
        return Ok(true);
    }
    values.push(id.0.into());
    let statement = format!("UPDATE usher.moves SET {} WHERE move_id = ?", sets.join(", "));
    conn.exec_drop(statement, values).await?;
    Ok(true)
}

/// One move.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn move_row(global: &Global, id: MoveId) -> Result<Option<MoveRow>> {
    let mut conn = global.conn().await?;
    let query = format!("SELECT {COLUMNS} FROM usher.moves m WHERE m.move_id = ?");
    let row: Option<Row> = global.bounded("reading a move", conn.exec_first(query, (id.0,))).await?;
    row.map(|row| MoveRow::read(&mut Columns::of(row))).transpose()
}

/// Moves, the newest first, at most `limit`; only those with something left to do, or all.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn list_moves(global: &Global, unfinished_only: bool, limit: u32) -> Result<Vec<MoveRow>> {
    let mut conn = global.conn().await?;
    let filter = if unfinished_only { "WHERE m.finished_at IS NULL" } else { "" };
    let query = format!("SELECT {COLUMNS} FROM usher.moves m {filter} ORDER BY m.move_id DESC LIMIT {limit}");
    let rows: Vec<Row> = global.bounded("listing moves", conn.query(query)).await?;
    rows.into_iter().map(|row| MoveRow::read(&mut Columns::of(row))).collect()
}

/// Tells the mover what the operator wants; false if the move has nothing left to do or does not exist.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn set_want(global: &Global, id: MoveId, want: Want) -> Result<bool> {
    let done = transaction!(global, "changing a move's wish", |conn| {
        let found: Option<u8> = conn
            .exec_first(
                "SELECT 1 FROM usher.moves WHERE move_id = ? AND finished_at IS NULL FOR UPDATE",
                (id.0,),
            )
            .await?;
        if found.is_some() {
            conn.exec_drop("UPDATE usher.moves SET want = ? WHERE move_id = ?", (want.as_str(), id.0))
                .await?;
        }
        Ok(found)
    })?;
    Ok(done.is_some())
}

/// Takes the move over, if nobody else's lease on it runs: returns the epoch that every later change must carry. The
/// same mover may always take it anew, as after its own restart.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn take_mover_lease(
    global: &Global,
    id: MoveId,
    mover_id: &str,
    lease: Duration,
) -> Result<Option<u64>> {
    let lease_us = u64::try_from(lease.as_micros()).unwrap_or(u64::MAX);
    transaction!(global, "taking a move over", |conn| {
        conn.exec_drop(
            "UPDATE usher.moves SET mover_id = :mover, mover_epoch = LAST_INSERT_ID(mover_epoch + 1), \
             mover_lease_until = NOW(3) + INTERVAL :lease MICROSECOND WHERE move_id = :id AND finished_at IS NULL \
             AND (mover_id IS NULL OR mover_id = :mover OR mover_lease_until IS NULL OR mover_lease_until < NOW(3))",
            params! { "mover" => mover_id, "lease" => lease_us, "id" => id.0 },
        )
        .await?;
        Ok(if conn.affected_rows() == 1 { conn.last_insert_id() } else { None })
    })
}

/// Prolongs the lease from now on; false if another mover has taken the move over. The lease is for patience only:
/// what makes an old mover harmless is the epoch in every change.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn renew_mover_lease(
    global: &Global,
    id: MoveId,
    mover_epoch: u64,
    lease: Duration,
) -> Result<bool> {
    let lease_us = u64::try_from(lease.as_micros()).unwrap_or(u64::MAX);
    let done = transaction!(global, "renewing a move's lease", |conn| {
        let held: Option<u8> = conn
            .exec_first(
                "SELECT 1 FROM usher.moves WHERE move_id = ? AND mover_epoch = ? FOR UPDATE",
                (id.0, mover_epoch),
            )
            .await?;
        conn.exec_drop(
            "UPDATE usher.moves SET mover_lease_until = NOW(3) + INTERVAL ? MICROSECOND \
             WHERE move_id = ? AND mover_epoch = ?",
            (lease_us, id.0, mover_epoch),
        )
        .await?;
        Ok(held)
    })?;
    Ok(done.is_some())
}
