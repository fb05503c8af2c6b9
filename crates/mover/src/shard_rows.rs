//! The rows of schema `usher` on the shards that a move changes: ownership and progress.
//!
//! The control account may write on a read-only server, so each transaction here ends with a statement that also
//! checks that the server is still a writer; the flip reads its final position only after the role is gone.

use mysql_async::prelude::Queryable;
use usher_topology::{Generation, Key, MoveId};

use crate::decide::{OwnFact, OwnState, ProgressFact};
use crate::dialect::last_position;
use crate::follow::Done;
use crate::sessions::Session;
use crate::{MoveError, Result};

impl OwnState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Locked => "locked",
            Self::Incoming => "incoming",
            Self::Ready => "ready",
            Self::Gone => "gone",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        [Self::Owned, Self::Locked, Self::Incoming, Self::Ready, Self::Gone]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| MoveError::Data(format!("usher.ownership has an unknown state {text:?}")))
    }
}

/// A change of an ownership row: only from one of these states, and only if the row is what it was.
pub(crate) struct OwnChange<'a> {
    pub(crate) key: &'a Key,
    pub(crate) move_id: MoveId,
    pub(crate) to: OwnState,
    pub(crate) own_gen: Generation,
    /// Condition on the row as it is, SQL over its columns.
    pub(crate) when: String,
}

const OF_USER: &str = "entity = 'user' AND entity_key = ?";
const WRITER: &str = "@@global.read_only = 0";

/// What tells a tombstone from a row whose rows are still to be purged: no move is named any more.
const TOMBSTONE: &str = "state = 'gone' AND move_id IS NULL";

/// Reads the ownership row. A tombstone, of a user who has been here and left nothing, counts as none.
pub(crate) async fn ownership(session: &mut Session, key: &Key, move_id: MoveId) -> Result<Option<OwnFact>> {
    let row: Option<(String, u64, Option<u64>)> = session
        .conn
        .exec_first(
            format!(
                "SELECT state, own_gen, move_id FROM usher.ownership WHERE {OF_USER} AND NOT ({TOMBSTONE})"
            ),
            (key.to_string(),),
        )
        .await
        .map_err(session.error())?;
    row.map(|(state, own_gen, of_move)| {
        Ok(OwnFact {
            state: OwnState::parse(&state)?,
            own_gen: Generation(own_gen),
            ours: of_move == Some(move_id.0),
        })
    })
    .transpose()
}

/// Gives a user that was loaded past the proxy its ownership row, if it has none.
pub(crate) async fn ensure_owned(session: &mut Session, key: &Key, own_gen: Generation) -> Result<()> {
    session
        .conn
        .exec_drop(
            format!(
                "INSERT IGNORE INTO usher.ownership (entity_key, own_gen, state) SELECT ?, ?, 'owned' FROM DUAL \
                 WHERE {WRITER}"
            ),
            (key.to_string(), own_gen.0),
        )
        .await
        .map_err(session.error())
}

/// Changes the ownership row in one transaction: its lock waits for every transaction that has fenced itself by the
/// row. Returns the position that has the change; `None` when the row is not as `when` says.
pub(crate) async fn change_ownership(
    session: &mut Session,
    change: &OwnChange<'_>,
) -> Result<Option<String>> {
    let key = change.key.to_string();
    let conn = &mut session.conn;
    let work = async {
        conn.query_drop("START TRANSACTION").await?;
        let found: Option<u8> = conn
            .exec_first(format!("SELECT 1 FROM usher.ownership WHERE {OF_USER} FOR UPDATE"), (&key,))
            .await?;
        if found.is_some() {
            conn.exec_drop(
                format!(
                    "UPDATE usher.ownership SET state = ?, own_gen = ?, move_id = ? WHERE {OF_USER} AND ({}) \
                     AND {WRITER}",
                    change.when
                ),
                (change.to.as_str(), change.own_gen.0, change.move_id.0, &key),
            )
            .await?;
        }
        let changed = found.is_some() && conn.affected_rows() == 1;
        conn.query_drop(if changed { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok::<_, mysql_async::Error>(changed)
    };
    if !work.await.map_err(MoveError::at(&session.server))? {
        return Ok(None);
    }
    position(session).await.map(Some)
}

/// The position that has what this session has last committed.
pub(crate) async fn position(session: &mut Session) -> Result<String> {
    last_position(&mut session.conn, session.family).await.map_err(session.error())
}

/// Commits something of no meaning and returns its position: all that was committed before is before it.
pub(crate) async fn touch(session: &mut Session) -> Result<String> {
    session
        .conn
        .query_drop(
            "UPDATE usher.heartbeat SET ts = IF(ts = CURRENT_TIMESTAMP(3), ts + INTERVAL 1 SECOND / 1000, \
             CURRENT_TIMESTAMP(3)) WHERE id = 1 AND @@global.read_only = 0",
        )
        .await
        .map_err(session.error())?;
    if session.conn.affected_rows() != 1 {
        return Err(MoveError::Data(format!(
            "{}: usher.heartbeat has no row, or it is read-only",
            session.server
        )));
    }
    position(session).await
}

/// A progress row as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) fact: ProgressFact,
    /// `schema.table` of the table last placed into.
    pub(crate) table: Option<String>,
    /// Literals of the last row's place in it.
    pub(crate) place: Vec<String>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Online: behind what has been applied of the source's log.
    pub(crate) position: Option<String>,
}

type ProgressRow = (u64, String, Option<String>, Option<Vec<u8>>, u64, u64, Option<String>);

/// Reads the progress row.
pub(crate) async fn progress(session: &mut Session, id: MoveId, epoch: u64) -> Result<Option<Progress>> {
    let row: Option<ProgressRow> = session
        .conn
        .exec_first(
            "SELECT mover_epoch, status, table_done, last_pk, rows_done, bytes_done, src_gtid \
             FROM usher.move_progress WHERE move_id = ?",
            (id.0,),
        )
        .await
        .map_err(session.error())?;
    let Some((mover_epoch, status, table, place, rows, bytes, position)) = row else { return Ok(None) };
    let fact = match status.as_str() {
        "open" => ProgressFact::Open { mine: mover_epoch == epoch },
        "closed" => ProgressFact::Closed,
        _ => ProgressFact::Aborted,
    };
    let place = match place {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| MoveError::Data(format!("usher.move_progress.last_pk of move {id}: {error}")))?,
        None => Vec::new(),
    };
    Ok(Some(Progress { fact, table, place, rows, bytes, position }))
}

/// Opens the progress row, or takes it over from an older mover; the ownership row becomes `incoming`. False when the
/// target already has either in a state that forbids it.
pub(crate) async fn prepare(session: &mut Session, key: &Key, id: MoveId, epoch: u64) -> Result<bool> {
    let key = key.to_string();
    let conn = &mut session.conn;
    let work = async {
        conn.query_drop("START TRANSACTION").await?;
        conn.exec_drop(
            "INSERT INTO usher.move_progress (move_id, mover_epoch, status) VALUES (?, ?, 'open') \
             ON DUPLICATE KEY UPDATE mover_epoch = IF(status = 'open', GREATEST(mover_epoch, VALUES(mover_epoch)), \
             mover_epoch)",
            (id.0, epoch),
        )
        .await?;
        let row: Option<(u64, String)> = conn
            .exec_first(
                "SELECT mover_epoch, status FROM usher.move_progress WHERE move_id = ? FOR UPDATE",
                (id.0,),
            )
            .await?;
        let mine = row == Some((epoch, "open".to_owned()));
        let own: Option<(String, Option<u64>)> = conn
            .exec_first(
                format!("SELECT state, move_id FROM usher.ownership WHERE {OF_USER} FOR UPDATE"),
                (&key,),
            )
            .await?;
        let free = match own {
            None => true,
            Some((state, None)) => state == "gone",
            Some((state, of_move)) => state == "incoming" && of_move == Some(id.0),
        };
        conn.exec_drop(
            format!(
                "INSERT IGNORE INTO usher.ownership (entity_key, own_gen, state, move_id) \
                 SELECT ?, 0, 'incoming', ? FROM DUAL WHERE {WRITER}"
            ),
            (&key, id.0),
        )
        .await?;
        conn.exec_drop(
            format!(
                "UPDATE usher.ownership SET state = 'incoming', own_gen = 0, move_id = ? \
                 WHERE {OF_USER} AND {TOMBSTONE} AND {WRITER}"
            ),
            (id.0, &key),
        )
        .await?;
        let there: Option<u8> = conn
            .exec_first(format!("SELECT 1 FROM usher.ownership WHERE {OF_USER} AND {WRITER}"), (&key,))
            .await?;
        let good = mine && free && there.is_some();
        conn.query_drop(if good { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok::<_, mysql_async::Error>(good)
    };
    work.await.map_err(MoveError::at(&session.server))
}

/// Within the transaction of a batch, its last statement: notes what the batch has placed. False when this mover may
/// place nothing any more.
pub(crate) async fn note_batch(
    session: &mut Session,
    id: MoveId,
    epoch: u64,
    table: &str,
    place: &[String],
    rows: usize,
    bytes: u64,
) -> Result<bool> {
    let place = serde_json::to_vec(place).map_err(|error| MoveError::Data(error.to_string()))?;
    session
        .conn
        .exec_drop(
            format!(
                "UPDATE usher.move_progress SET table_done = ?, last_pk = ?, rows_done = rows_done + ?, \
                 bytes_done = bytes_done + ? WHERE move_id = ? AND mover_epoch = ? AND status = 'open' AND {WRITER}"
            ),
            (table, place, rows, bytes, id.0, epoch),
        )
        .await
        .map_err(session.error())?;
    Ok(session.conn.affected_rows() == 1)
}

/// As [`note_batch`], for an online move: also how far the source's log has been applied.
pub(crate) async fn note_position(
    session: &mut Session,
    id: MoveId,
    epoch: u64,
    position: &str,
    done: &Done<'_>,
) -> Result<bool> {
    let place = done.table.map(|(_, place)| serde_json::to_vec(place)).transpose();
    let place = place.map_err(|error| MoveError::Data(error.to_string()))?;
    session
        .conn
        .exec_drop(
            format!(
                "UPDATE usher.move_progress SET src_gtid = ?, table_done = COALESCE(?, table_done), \
                 last_pk = COALESCE(?, last_pk), rows_done = rows_done + ?, bytes_done = bytes_done + ? \
                 WHERE move_id = ? AND mover_epoch = ? AND status = 'open' AND {WRITER}"
            ),
            (position, done.table.map(|(label, _)| label), place, done.rows, done.bytes, id.0, epoch),
        )
        .await
        .map_err(session.error())?;
    Ok(session.conn.affected_rows() == 1)
}

/// Makes the row on the source by which this mover's marks are known, in place of any older mover's.
pub(crate) async fn open_marks(session: &mut Session, id: MoveId, name: &str) -> Result<()> {
    drop_marks(session, id).await?;
    session
        .conn
        .exec_drop(
            format!(
                "INSERT INTO usher.watermark (move_id, table_name, chunk, kind) SELECT ?, ?, 0, 'high' FROM DUAL \
                 WHERE {WRITER}"
            ),
            (id.0, name),
        )
        .await
        .map_err(session.error())
}

/// Puts a mark into the source's log.
pub(crate) async fn write_mark(session: &mut Session, id: MoveId, name: &str, number: u64) -> Result<()> {
    session
        .conn
        .exec_drop(
            format!("UPDATE usher.watermark SET chunk = ? WHERE move_id = ? AND table_name = ? AND {WRITER}"),
            (number, id.0, name),
        )
        .await
        .map_err(session.error())?;
    if session.conn.affected_rows() == 1 { Ok(()) } else { Err(MoveError::LostLease(id)) }
}

/// Drops the marks of every mover of this move.
pub(crate) async fn drop_marks(session: &mut Session, id: MoveId) -> Result<()> {
    session
        .conn
        .exec_drop(format!("DELETE FROM usher.watermark WHERE move_id = ? AND {WRITER}"), (id.0,))
        .await
        .map_err(session.error())
}

/// Closes the progress row and makes the ownership row ready, in one transaction. Returns the position that has it; `None`
/// when this mover may not.
pub(crate) async fn close(
    session: &mut Session,
    key: &Key,
    id: MoveId,
    epoch: u64,
    own_gen: Generation,
) -> Result<Option<String>> {
    let key = key.to_string();
    let conn = &mut session.conn;
    let work = async {
        conn.query_drop("START TRANSACTION").await?;
        conn.exec_drop(
            "UPDATE usher.move_progress SET status = 'closed' WHERE move_id = ? AND mover_epoch = ? \
             AND status = 'open'",
            (id.0, epoch),
        )
        .await?;
        let closed = conn.affected_rows() == 1;
        conn.exec_drop(
            format!(
                "UPDATE usher.ownership SET state = 'ready', own_gen = ? WHERE {OF_USER} AND state = 'incoming' \
                 AND move_id = ? AND {WRITER}"
            ),
            (own_gen.0, &key, id.0),
        )
        .await?;
        let good = closed && conn.affected_rows() == 1;
        conn.query_drop(if good { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok::<_, mysql_async::Error>(good)
    };
    if !work.await.map_err(MoveError::at(&session.server))? {
        return Ok(None);
    }
    position(session).await.map(Some)
}

/// Sees to it that no mover of this move, however old, can ever place a row here again.
pub(crate) async fn cancel(session: &mut Session, key: &Key, id: MoveId, epoch: u64) -> Result<bool> {
    let key = key.to_string();
    let conn = &mut session.conn;
    let work = async {
        conn.query_drop("START TRANSACTION").await?;
        conn.exec_drop(
            "INSERT INTO usher.move_progress (move_id, mover_epoch, status) VALUES (?, ?, 'aborted') \
             ON DUPLICATE KEY UPDATE status = 'aborted', mover_epoch = GREATEST(mover_epoch, VALUES(mover_epoch))",
            (id.0, epoch),
        )
        .await?;
        conn.exec_drop(
            format!(
                "UPDATE usher.ownership SET state = 'gone' WHERE {OF_USER} AND move_id = ? \
                 AND state IN ('incoming', 'ready')"
            ),
            (&key, id.0),
        )
        .await?;
        let writer: Option<u8> = conn.query_first(format!("SELECT {WRITER}")).await?;
        let good = writer == Some(1);
        conn.query_drop(if good { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok::<_, mysql_async::Error>(good)
    };
    work.await.map_err(MoveError::at(&session.server))
}

/// Within a purge's transaction, first: the row is locked and is `gone` by this very move.
pub(crate) async fn hold_gone(session: &mut Session, key: &Key, id: MoveId) -> Result<bool> {
    let row: Option<(String, Option<u64>, u8)> = session
        .conn
        .exec_first(
            format!("SELECT state, move_id, {WRITER} FROM usher.ownership WHERE {OF_USER} FOR UPDATE"),
            (key.to_string(),),
        )
        .await
        .map_err(session.error())?;
    Ok(row == Some(("gone".to_owned(), Some(id.0), 1)))
}

/// Makes the row a tombstone once nothing of the user is left, and drops progress rows that no living mover can mean.
/// The tombstone stays: whoever began to place the user here before the move, and wakes up only now, inserts nothing.
pub(crate) async fn bury(session: &mut Session, key: &Key, id: MoveId) -> Result<()> {
    const PROGRESS_KEPT: u64 = 10_000;
    session
        .conn
        .exec_drop(
            format!(
                "UPDATE usher.ownership SET move_id = NULL WHERE {OF_USER} AND state = 'gone' AND move_id = ? \
                 AND {WRITER}"
            ),
            (key.to_string(), id.0),
        )
        .await
        .map_err(session.error())?;
    session
        .conn
        .exec_drop(
            "DELETE FROM usher.move_progress WHERE move_id < ? AND status <> 'open' LIMIT 1000",
            (id.0.saturating_sub(PROGRESS_KEPT),),
        )
        .await
        .map_err(session.error())
}
