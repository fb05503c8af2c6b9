//! What a flip changes in its shard's row beyond the state: who runs it, the commit, an external controller's record.

use mysql_async::params;
use mysql_async::prelude::Queryable;
use usher_topology::{Epoch, ServerId, ShardId, ShardState};

use super::{bump, transaction};
use crate::state::{Flip, shard_state, shard_state_text};
use crate::{Global, Result};

/// A shard's row as flips go by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlipRow {
    /// Its state.
    pub state: ShardState,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its writer.
    pub writer: ServerId,
    /// The flip under way.
    pub flip: Option<Flip>,
    /// Time since the row last changed.
    pub unchanged_ms: i64,
}

type Columns = (String, u64, u32, Option<u32>, Option<String>, i64);

/// The shard's row, from the writer.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn flip_row(global: &Global, shard: ShardId) -> Result<Option<FlipRow>> {
    let mut conn = global.conn().await?;
    let query = "SELECT state, epoch, writer_id, flip_to, flip_by, \
                 TIMESTAMPDIFF(MICROSECOND, updated_at, NOW(3)) DIV 1000 FROM usher.shards WHERE shard_id = ?";
    let row: Option<Columns> =
        global.bounded("reading a shard's row", conn.exec_first(query, (shard.0,))).await?;
    row.map(|(state, epoch, writer, to, by, unchanged_ms)| {
        Ok(FlipRow {
            state: shard_state(&state)?,
            epoch: Epoch(epoch),
            writer: ServerId(writer),
            flip: to.map(|to| Flip { to: ServerId(to), by: by.unwrap_or_default() }),
            unchanged_ms,
        })
    })
    .transpose()
}

/// THE COMMIT POINT of a flip: the row names the member that `by`'s flip promotes, epoch + 1, if it is still that
/// flip at that epoch. The state stays `switching` until the new writer is open. Returns the new version; `None`:
/// nothing changed.
///
/// # Errors
/// As [`Global::bounded`]. After [`Timeout`](crate::Error::Timeout) or
/// [`GlobalUnavailable`](crate::Error::GlobalUnavailable) the outcome is unknown: the row's epoch tells.
pub async fn commit_flip(global: &Global, shard: ShardId, epoch: Epoch, flip: &Flip) -> Result<Option<u64>> {
    transaction!(global, "flipping a shard's writer", |conn| {
        let version = bump(conn).await?;
        conn.exec_drop(
            "UPDATE usher.shards SET writer_id = flip_to, epoch = epoch + 1 WHERE shard_id = :shard \
             AND epoch = :epoch AND state = 'switching' AND flip_to = :to AND flip_by = :by",
            params! { "shard" => shard.0, "epoch" => epoch.0, "to" => flip.to.0, "by" => flip.by.as_str() },
        )
        .await?;
        Ok((conn.affected_rows() == 1).then_some(version))
    })
}

/// Takes a flip over from whoever runs it. `raise` raises the epoch too, which makes every compare-and-set of the
/// former runner fail: for a flip that is not committed. `None`: the row is another by now, nothing changed.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn take_flip(
    global: &Global,
    shard: ShardId,
    epoch: Epoch,
    flip: &Flip,
    by: &str,
    raise: bool,
) -> Result<Option<u64>> {
    transaction!(global, "taking a flip over", |conn| {
        let version = bump(conn).await?;
        // Found before it is changed: an update that changes nothing affects no row.
        let found: Option<u8> = conn
            .exec_first(
                "SELECT 1 FROM usher.shards WHERE shard_id = ? AND epoch = ? AND state = 'switching' \
                 AND flip_to = ? AND COALESCE(flip_by, '') = ? FOR UPDATE",
                (shard.0, epoch.0, flip.to.0, flip.by.as_str()),
            )
            .await?;
        if found.is_none() {
            return Ok(None);
        }
        conn.exec_drop(
            "UPDATE usher.shards SET flip_by = ?, epoch = epoch + ? WHERE shard_id = ?",
            (by, u8::from(raise), shard.0),
        )
        .await?;
        Ok(Some(version))
    })
}

/// Records what an external controller has done: writer and epoch, state `rw`, if the epoch is still `from`. With a
/// claim, only if that was announced by [`cas_shard_state`](super::cas_shard_state) as `down` and nobody has announced another since. `None`:
/// another epoch, or somebody else is changing the row; nothing changed.
///
/// # Errors
/// As [`commit_flip`].
pub async fn record_writer(
    global: &Global,
    shard: ShardId,
    from: Epoch,
    writer: ServerId,
    epoch: Epoch,
    claim: Option<&Flip>,
) -> Result<Option<u64>> {
    let condition = match claim {
        Some(_) => "state = 'down' AND flip_to = :to AND flip_by = :by",
        None => "state <> 'switching' AND :to IS NULL AND :by IS NULL",
    };
    transaction!(global, "recording a shard's writer", |conn| {
        let version = bump(conn).await?;
        let statement = format!(
            "UPDATE usher.shards SET writer_id = :writer, epoch = :epoch, state = 'rw', flip_to = NULL, \
             flip_by = NULL WHERE shard_id = :shard AND epoch = :from AND {condition}"
        );
        conn.exec_drop(
            statement,
            params! {
                "shard" => shard.0, "writer" => writer.0, "from" => from.0, "epoch" => epoch.0,
                "to" => claim.map(|claim| claim.to.0), "by" => claim.map(|claim| claim.by.as_str()),
            },
        )
        .await?;
        Ok((conn.affected_rows() == 1).then_some(version))
    })
}

/// Takes an announced claim back: the state is `to` again. `None`: somebody else has changed the row since.
///
/// # Errors
/// As [`commit_flip`].
pub async fn withdraw_claim(
    global: &Global,
    shard: ShardId,
    epoch: Epoch,
    claim: &Flip,
    to: ShardState,
) -> Result<Option<u64>> {
    transaction!(global, "withdrawing a claim", |conn| {
        let version = bump(conn).await?;
        conn.exec_drop(
            "UPDATE usher.shards SET state = :state, flip_to = NULL, flip_by = NULL WHERE shard_id = :shard \
             AND epoch = :epoch AND state = 'down' AND flip_to = :to AND flip_by = :by",
            params! {
                "state" => shard_state_text(to), "shard" => shard.0, "epoch" => epoch.0, "to" => claim.to.0,
                "by" => claim.by.as_str(),
            },
        )
        .await?;
        Ok((conn.affected_rows() == 1).then_some(version))
    })
}
