//! Copies a user's rows while they change: keyset chunks read from the writer, each placed at its mark in the binlog,
//! together with what the log has of the user up to there. Both go to the target in one transaction with the position
//! reached, so a crash goes on from there and repeats nothing but what is idempotent.
//!
//! The marks are those of DBLog: a chunk is read between two marks; a row that the log shows to have changed between
//! them is taken from the log, every other row was the same all the while.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mysql_async::Value;
use mysql_async::prelude::Queryable;
use usher_stream::{Batch, Cascade, Change, Followed, Images, Item, Shape, Start, StreamError, Tail};
use usher_topology::{GtidPosition, Key};

use crate::copy::Job;
use crate::fail::point;
use crate::sessions::Session;
use crate::shard_rows::{self, Progress};
use crate::table::Table;
use crate::{MoveError, Result};

/// How often an idle source is to be heard of.
const HEARTBEAT_MS: u32 = 1_000;
/// Bytes of changes held before they are applied, beside those of one chunk.
const PART_BYTES_MAX: usize = 8 << 20;
/// The log is followed closely when a mark comes back within this time.
const CLOSE: Duration = Duration::from_millis(200);
/// The longest a mark may take to come back.
const MARK_PATIENCE: Duration = Duration::from_secs(60);
/// The number that a server knows a mover's tail under: high, as replicas' are small, and the move's own.
const SERVER_ID_BASE: u32 = 0xe000_0000;

/// What the log says, beside changes of the user's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The chunk mark of this number of this mover.
    Chunk(u64),
    /// The source's ownership row of the user is locked with this generation.
    Locked(u64),
}

/// A tail of the source's log and what is made of it.
pub(crate) struct Follower {
    tail: Tail,
    shapes: Vec<Shape>,
    cascades: Vec<Cascade>,
    /// `watermark.table_name` of this mover.
    mark_name: String,
    marks: u64,
    /// Read and not applied yet.
    pending: Vec<Change>,
    pending_bytes: usize,
    /// Whose log it is, for messages.
    server: String,
}

/// Whether a value of the key column is the user.
fn is_user(table: &Table, key: &Key) -> Box<dyn Fn(&Value) -> bool + Send + Sync> {
    match (table.key_is_text, key) {
        (false, Key::Int(number)) => {
            let number = *number;
            Box::new(move |value| match value {
                Value::Int(found) => i128::from(*found) == number,
                Value::UInt(found) => i128::from(*found) == number,
                _ => false,
            })
        }
        (false, Key::Text(_)) => Box::new(|_| false),
        (true, key) => {
            let (text, fold) = (key.to_string(), table.key_folds_case);
            Box::new(move |value| {
                let Value::Bytes(bytes) = value else { return false };
                let found = bytes.trim_ascii_end();
                let wanted = text.as_bytes().trim_ascii_end();
                if fold { found.eq_ignore_ascii_case(wanted) } else { found == wanted }
            })
        }
    }
}

fn own_table(table: &str, column: &str, wanted: Box<dyn Fn(&Value) -> bool + Send + Sync>) -> Followed {
    Followed { schema: "usher".into(), table: table.into(), key_column: column.into(), wanted }
}

impl Follower {
    /// Opens the log of `server` behind `after`.
    ///
    /// # Errors
    /// The server's own, as when it does not have that position.
    pub(crate) async fn open(
        conn: mysql_async::Conn,
        server: &str,
        job: &Job<'_>,
        after: GtidPosition,
        cascades: Vec<Cascade>,
    ) -> Result<Self> {
        let start = Start {
            after,
            server_id: SERVER_ID_BASE | (job.id.0 as u32 & 0x0fff_ffff),
            heartbeat_ms: HEARTBEAT_MS,
            part_bytes_max: PART_BYTES_MAX,
        };
        let mut followed: Vec<Followed> = job
            .tables
            .iter()
            .map(|table| Followed {
                schema: table.schema.clone(),
                table: table.name.clone(),
                key_column: table.key_column.clone(),
                wanted: is_user(table, job.key),
            })
            .collect();
        let (key, id) = (job.key.to_string().into_bytes(), job.id.0);
        followed.push(own_table(
            "ownership",
            "entity_key",
            Box::new(move |value| *value == Value::Bytes(key.clone())),
        ));
        followed.push(own_table("watermark", "move_id", Box::new(move |value| *value == Value::UInt(id))));
        let tail =
            Tail::open(conn, &start, followed).await.map_err(|error| MoveError::stream(server, error))?;
        Ok(Self {
            tail,
            shapes: job.tables.iter().map(|table| table.shape(job.key)).collect(),
            cascades,
            mark_name: job.epoch.to_string(),
            marks: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            server: server.to_owned(),
        })
    }

    /// Copies all that is behind `progress` and follows until little is left to follow.
    ///
    /// # Errors
    /// [`MoveError::LostLease`] when this mover may place nothing any more; servers' own; [`MoveError::Stream`].
    pub(crate) async fn copy(
        &mut self,
        job: &Job<'_>,
        source: &mut Session,
        target: &mut Session,
        progress: &Progress,
    ) -> Result<()> {
        shard_rows::open_marks(source, job.id, &self.mark_name).await?;
        // All that is read from here on is behind the first mark.
        self.next_mark(job, source, target).await?;
        let (first, mut after) = progress.goes_on(job)?;
        for at in first..job.tables.len() {
            self.copy_table(job, source, target, at, after.take()).await?;
        }
        while self.next_mark(job, source, target).await? > CLOSE {}
        Ok(())
    }

    async fn copy_table(
        &mut self,
        job: &Job<'_>,
        source: &mut Session,
        target: &mut Session,
        at: usize,
        mut after: Option<Vec<String>>,
    ) -> Result<()> {
        let table = &job.tables[at];
        loop {
            // One row at most, and the mark says that it is there.
            if table.keyset.is_empty() && after.is_some() {
                return Ok(());
            }
            let chunk = Chunk::read(job, source, at, after.as_deref()).await?;
            point("chunk.selected").await?;
            let more = chunk.more;
            if !chunk.rows.is_empty() {
                let place = chunk.place.clone();
                if !self.place_chunk(job, source, target, at, chunk).await? {
                    continue;
                }
                after = Some(place);
                point("chunk.after_commit").await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Reads on to the next mark and places the chunk there, but for rows that changed on the way. False when so much
    /// changed that it has to be read again.
    async fn place_chunk(
        &mut self,
        job: &Job<'_>,
        source: &mut Session,
        target: &mut Session,
        at: usize,
        chunk: Chunk,
    ) -> Result<bool> {
        let mark = self.write_mark(job, source).await?;
        if !self.read_to(job, target, Mark::Chunk(mark)).await? {
            self.apply(job, target).await?;
            return Ok(false);
        }
        let (shapes, cascades) = (std::mem::take(&mut self.shapes), std::mem::take(&mut self.cascades));
        let placed = async {
            let mut batch = self.pending_batch(&shapes, &cascades)?;
            let (rows, bytes) = (chunk.rows.len(), chunk.bytes);
            chunk.rows.into_iter().for_each(|row| batch.add_read(at, row));
            let label = job.tables[at].label();
            let done = Done { table: Some((&label, &chunk.place)), rows, bytes: bytes as u64 };
            self.write(job, target, batch, &done).await?;
            job.counters.rows_copied.fetch_add(rows as u64, Ordering::Relaxed);
            job.counters.bytes_copied.fetch_add(bytes as u64, Ordering::Relaxed);
            Ok(true)
        }
        .await;
        (self.shapes, self.cascades) = (shapes, cascades);
        placed
    }

    /// Writes a mark, reads and applies up to it; how long it took to come back.
    pub(crate) async fn next_mark(
        &mut self,
        job: &Job<'_>,
        source: &mut Session,
        target: &mut Session,
    ) -> Result<Duration> {
        let mark = self.write_mark(job, source).await?;
        let began = Instant::now();
        self.read_to(job, target, Mark::Chunk(mark)).await?;
        let took = began.elapsed();
        self.apply(job, target).await?;
        Ok(took)
    }

    /// Reads and applies up to the lock of the source's ownership row: nothing of the user can come behind it.
    ///
    /// # Errors
    /// As [`Follower::copy`].
    pub(crate) async fn finish(&mut self, job: &Job<'_>, target: &mut Session, own_gen: u64) -> Result<()> {
        self.read_to(job, target, Mark::Locked(own_gen)).await?;
        self.apply(job, target).await
    }

    async fn write_mark(&mut self, job: &Job<'_>, source: &mut Session) -> Result<u64> {
        self.marks += 1;
        shard_rows::write_mark(source, job.id, &self.mark_name, self.marks).await?;
        Ok(self.marks)
    }

    /// Reads up to a mark; what is read is pending then. False when so much came that some was applied on the way.
    async fn read_to(&mut self, job: &Job<'_>, target: &mut Session, until: Mark) -> Result<bool> {
        let mut all = true;
        let deadline = tokio::time::Instant::now() + MARK_PATIENCE;
        loop {
            let item = tokio::time::timeout_at(deadline, self.tail.next())
                .await
                .map_err(|_| {
                    MoveError::stream(&self.server, StreamError::Silent(MARK_PATIENCE.as_millis() as u64))
                })?
                .map_err(|error| MoveError::stream(&self.server, error))?;
            let transaction = match item {
                Item::Transaction(transaction) => transaction,
                Item::Definition { statement, schema, .. } => {
                    self.check_definition(job, &statement, &schema)?;
                    continue;
                }
                Item::Position(_) | Item::Heartbeat => continue,
            };
            let mut reached = false;
            for change in transaction.changes {
                if change.table >= job.tables.len() {
                    reached |= self.mark_of(job, &change) == Some(until);
                    continue;
                }
                self.pending_bytes += bytes_of(&change);
                self.pending.push(change);
            }
            if reached {
                return Ok(all);
            }
            // Also within a transaction: the position is still the one before it, so it would be applied again.
            if self.pending_bytes >= PART_BYTES_MAX {
                self.apply(job, target).await?;
                all = false;
            }
        }
    }

    /// What a change of usher's own tables says.
    fn mark_of(&self, job: &Job<'_>, change: &Change) -> Option<Mark> {
        const LOCKED: Value = Value::UInt(2);
        let (Images::Insert(row) | Images::Update { after: row, .. }) = &change.images else { return None };
        let value = |name: &str| {
            let at = change.columns.names().iter().position(|column| column == name)?;
            row.get(at)
        };
        if change.table == job.tables.len() {
            let ours = value("move_id") == Some(&Value::UInt(job.id.0));
            let locked = value("state") == Some(&LOCKED);
            return match value("own_gen") {
                Some(Value::UInt(own_gen)) if ours && locked => Some(Mark::Locked(*own_gen)),
                _ => None,
            };
        }
        match (value("table_name"), value("chunk")) {
            (Some(Value::Bytes(name)), Some(Value::UInt(chunk))) if *name == self.mark_name.as_bytes() => {
                Some(Mark::Chunk(*chunk))
            }
            _ => None,
        }
    }

    /// A definition of a followed table ends the move: what was copied may have other columns.
    fn check_definition(&self, job: &Job<'_>, statement: &str, schema: &str) -> Result<()> {
        let lower = statement.to_lowercase();
        let named = job.tables.iter().find(|table| {
            lower.contains(&table.name.to_lowercase())
                && (schema.eq_ignore_ascii_case(&table.schema)
                    || lower.contains(&table.schema.to_lowercase()))
        });
        match named {
            Some(table) => Err(MoveError::stream(&self.server, StreamError::Redefined(table.label()))),
            None => Ok(()),
        }
    }

    fn pending_batch<'s>(&mut self, shapes: &'s [Shape], cascades: &'s [Cascade]) -> Result<Batch<'s>> {
        let mut batch = Batch::new(shapes, cascades);
        self.pending_bytes = 0;
        for change in self.pending.drain(..) {
            batch.add(change).map_err(|error| MoveError::stream(&self.server, error))?;
        }
        Ok(batch)
    }

    /// Applies what is pending.
    async fn apply(&mut self, job: &Job<'_>, target: &mut Session) -> Result<()> {
        let (shapes, cascades) = (std::mem::take(&mut self.shapes), std::mem::take(&mut self.cascades));
        let applied = async {
            let batch = self.pending_batch(&shapes, &cascades)?;
            let done = Done { table: None, rows: 0, bytes: 0 };
            self.write(job, target, batch, &done).await?;
            point("event.after_commit").await
        }
        .await;
        (self.shapes, self.cascades) = (shapes, cascades);
        applied
    }

    /// One transaction on the target: rows, and how far they bring it.
    async fn write(
        &self,
        job: &Job<'_>,
        target: &mut Session,
        batch: Batch<'_>,
        done: &Done<'_>,
    ) -> Result<()> {
        let position = self.tail.position().to_string();
        let work = async {
            target.conn.query_drop("START TRANSACTION").await.map_err(target.error())?;
            batch.write(&mut target.conn).await.map_err(|error| MoveError::stream(&target.server, error))?;
            point("event.before_commit").await?;
            shard_rows::note_position(target, job.id, job.epoch, &position, done).await
        };
        let outcome = work.await;
        let end = if matches!(outcome, Ok(true)) { "COMMIT" } else { "ROLLBACK" };
        let ended = target.conn.query_drop(end).await.map_err(target.error());
        match outcome? {
            true => ended,
            false => Err(MoveError::LostLease(job.id)),
        }
    }
}

/// What a transaction on the target has brought.
pub(crate) struct Done<'a> {
    /// The table of the chunk, and the place of its last row.
    pub(crate) table: Option<(&'a str, &'a [String])>,
    pub(crate) rows: usize,
    pub(crate) bytes: u64,
}

/// Rows read between two marks.
struct Chunk {
    rows: Vec<Vec<Value>>,
    bytes: usize,
    place: Vec<String>,
    /// There may be rows behind it.
    more: bool,
}

impl Chunk {
    async fn read(job: &Job<'_>, source: &mut Session, at: usize, after: Option<&[String]>) -> Result<Self> {
        let table = &job.tables[at];
        let stored = table.stored().count();
        let query = table.select(job.key, after, job.rows_max);
        let mut chunk = Self { rows: Vec::new(), bytes: 0, place: Vec::new(), more: false };
        let mut rows = source.conn.exec_iter(query, ()).await.map_err(MoveError::at(&source.server))?;
        while let Some(row) = rows.next().await.map_err(MoveError::at(&source.server))? {
            if chunk.bytes >= job.bytes_max {
                // The rest of the result is read and dropped: the next chunk begins with it.
                chunk.more = true;
                continue;
            }
            // Not what panics: the values of a row of which none was taken before.
            let mut values = row.unwrap();
            chunk.place = table.place(&values[stored..]);
            values.truncate(stored);
            chunk.bytes += values.iter().map(crate::copy::size).sum::<usize>();
            chunk.rows.push(values);
        }
        chunk.more |= chunk.rows.len() >= job.rows_max && !table.keyset.is_empty();
        Ok(chunk)
    }
}

fn bytes_of(change: &Change) -> usize {
    let size = |row: &[Value]| row.iter().map(crate::copy::size).sum::<usize>();
    match &change.images {
        Images::Insert(row) | Images::Delete(row) => size(row),
        Images::Update { before, after } => size(before) + size(after),
    }
}
