//! Deletes what a move has left behind, in batches. Each batch's transaction locks the ownership row, which must be
//! `gone` by this very move; the directory is read anew before each and must not name the shard.

use mysql_async::prelude::Queryable;
use usher_directory::Global;
use usher_directory::rows;
use usher_topology::{Key, MoveId, ShardId};

use crate::fail::point;
use crate::sessions::Session;
use crate::shard_rows;
use crate::table::Table;
use crate::{Contradiction, MoveError, Result, foreign_keys};

/// What to delete where.
pub(crate) struct Job<'a> {
    pub(crate) key: &'a Key,
    pub(crate) id: MoveId,
    pub(crate) shard: ShardId,
    pub(crate) tables: &'a [Table],
    pub(crate) rows_max: usize,
    /// The point that a test may stop at.
    pub(crate) point: &'static str,
}

/// Deletes it all, children first; then the ownership row becomes a tombstone.
///
/// # Errors
/// [`MoveError::Stopped`] when the rows forbid it; servers' own.
pub(crate) async fn purge(job: &Job<'_>, global: &Global, session: &mut Session) -> Result<()> {
    let stopped = |contradiction| MoveError::Stopped { id: job.id, contradiction };
    let keys = foreign_keys::load(session, job.tables).await?;
    for at in foreign_keys::children_first(&keys, job.tables.len()) {
        loop {
            let row = rows::directory_row(global, job.key).await?;
            if row.is_none_or(|row| row.located.shard == job.shard) {
                return Err(stopped(Contradiction::Directory));
            }
            match batch(job, session, &job.tables[at]).await? {
                None => return Err(stopped(Contradiction::Source)),
                Some(deleted) if deleted < job.rows_max as u64 => break,
                Some(_) => {}
            }
        }
    }
    shard_rows::bury(session, job.key, job.id).await
}

/// `None`: the ownership row forbids it.
async fn batch(job: &Job<'_>, session: &mut Session, table: &Table) -> Result<Option<u64>> {
    session.conn.query_drop("START TRANSACTION").await.map_err(session.error())?;
    if !shard_rows::hold_gone(session, job.key, job.id).await? {
        session.conn.query_drop("ROLLBACK").await.map_err(session.error())?;
        return Ok(None);
    }
    session.conn.query_drop(table.delete(job.key, job.rows_max)).await.map_err(session.error())?;
    let deleted = session.conn.affected_rows();
    session.conn.query_drop("COMMIT").await.map_err(session.error())?;
    if deleted > 0 {
        point(job.point).await?;
    }
    Ok(Some(deleted))
}
