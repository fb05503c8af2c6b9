//! Rows of `shards`: writer, epoch and state of each pair.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, params};
use usher_topology::{Epoch, ServerId, ShardId, ShardState};

use super::{bump, transaction};
use crate::state::{Flip, shard_state_text};
use crate::{Error, Global, Result};

/// Changes a shard's state if its epoch is `epoch` and its state one of `from`; `flip` says to whom and by whom, and
/// `None` clears that. Returns the new version; `None`: another epoch or state, nothing changed.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn cas_shard_state(
    global: &Global,
    shard: ShardId,
    epoch: Epoch,
    from: &[ShardState],
    to: ShardState,
    flip: Option<&Flip>,
) -> Result<Option<u64>> {
    let states: Vec<String> = from.iter().map(|state| format!("'{}'", shard_state_text(*state))).collect();
    if states.is_empty() {
        return Err(Error::data("a change of a shard's state needs the states it may come from"));
    }
    let statement = format!(
        "SELECT 1 FROM usher.shards WHERE shard_id = ? AND epoch = ? AND state IN ({}) FOR UPDATE",
        states.join(", ")
    );
    transaction!(global, "changing a shard's state", |conn| {
        let version = bump(conn).await?;
        let found: Option<u8> = conn.exec_first(statement, (shard.0, epoch.0)).await?;
        if found.is_none() {
            return Ok(None);
        }
        conn.exec_drop(
            "UPDATE usher.shards SET state = ?, flip_to = ?, flip_by = ? WHERE shard_id = ?",
            (shard_state_text(to), flip.map(|f| f.to.0), flip.map(|f| f.by.as_str()), shard.0),
        )
        .await?;
        Ok(Some(version))
    })
}

/// THE COMMIT POINT of a flip: sets writer and state if the epoch is still `epoch`, and raises it by one. Returns the
/// new version; `None`: another epoch, nothing changed.
///
/// # Errors
/// As [`Global::bounded`]. After [`Error::Timeout`] or [`Error::GlobalUnavailable`] the outcome is unknown: the row's
/// epoch tells.
pub async fn cas_shard_writer(
    global: &Global,
    shard: ShardId,
    epoch: Epoch,
    writer: ServerId,
    state: ShardState,
) -> Result<Option<u64>> {
    transaction!(global, "flipping a shard's writer", |conn| {
        set_writer(conn, shard, epoch, writer, state).await
    })
}

/// As [`cas_shard_writer`], on a connection of the caller's choice: the global master's own flip commits on its new
/// writer, which no search would find before that.
///
/// # Errors
/// The driver's own; after one that is no error packet the outcome is unknown.
pub async fn cas_shard_writer_on(
    conn: &mut Conn,
    shard: ShardId,
    epoch: Epoch,
    writer: ServerId,
    state: ShardState,
) -> mysql_async::Result<Option<u64>> {
    conn.query_drop("START TRANSACTION").await?;
    let outcome = set_writer(conn, shard, epoch, writer, state).await;
    let end = if matches!(outcome, Ok(Some(_))) { "COMMIT" } else { "ROLLBACK" };
    let ended = conn.query_drop(end).await;
    let outcome = outcome?;
    ended.map(|()| outcome)
}

async fn set_writer(
    conn: &mut Conn,
    shard: ShardId,
    epoch: Epoch,
    writer: ServerId,
    state: ShardState,
) -> mysql_async::Result<Option<u64>> {
    let version = bump(conn).await?;
    // The writer must be a member of that very shard: a wrong id would strand it.
    conn.exec_drop(
        "UPDATE usher.shards SET writer_id = :writer, epoch = epoch + 1, state = :state, flip_to = NULL, \
         flip_by = NULL WHERE shard_id = :shard AND epoch = :epoch AND EXISTS (SELECT 1 FROM usher.servers \
         WHERE server_id = :writer AND servers.shard_id = :shard AND role = 'member')",
        params! {
            "writer" => writer.0, "state" => shard_state_text(state), "shard" => shard.0, "epoch" => epoch.0,
        },
    )
    .await?;
    Ok((conn.affected_rows() == 1).then_some(version))
}

/// Sets a shard's share of new users; 0 drains it of them. Returns the new version.
///
/// # Errors
/// [`Error::Conflict`] for a shard that does not exist; as [`Global::bounded`].
pub async fn set_weight(global: &Global, shard: ShardId, weight: u32) -> Result<u64> {
    let done = transaction!(global, "changing a shard's weight", |conn| {
        let version = bump(conn).await?;
        let found: Option<u8> = conn
            .exec_first(
                "SELECT 1 FROM usher.shards WHERE shard_id = ? AND shard_id > 0 FOR UPDATE",
                (shard.0,),
            )
            .await?;
        conn.exec_drop("UPDATE usher.shards SET weight = ? WHERE shard_id = ?", (weight, shard.0)).await?;
        Ok(found.map(|_| version))
    })?;
    done.ok_or_else(|| Error::Conflict(format!("there is no shard {shard} for users")))
}
