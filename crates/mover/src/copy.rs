//! Places the user's rows on the target: keyset chunks in primary key order, the binary protocol both ways. Each
//! transaction on the target ends with a mark in the progress row that only the mover of this epoch can make, so an
//! older mover is harmless and a crash resumes behind the last mark.

use std::sync::atomic::Ordering;

use mysql_async::Value;
use mysql_async::prelude::Queryable;
use tokio::sync::mpsc;
use usher_topology::{Key, MoveId};

use crate::fail::point;
use crate::progress::Counters;
use crate::sessions::Session;
use crate::shard_rows::{self, Progress};
use crate::table::Table;
use crate::{MoveError, Result};

/// What a copy is given.
pub(crate) struct Job<'a> {
    pub(crate) key: &'a Key,
    pub(crate) id: MoveId,
    pub(crate) epoch: u64,
    /// In the order of every run of this move.
    pub(crate) tables: &'a [Table],
    /// Rows of one chunk.
    pub(crate) rows_max: usize,
    /// Bytes of one transaction; a single row may be larger.
    pub(crate) bytes_max: usize,
    pub(crate) counters: &'a Counters,
}

/// Rows placed in one transaction.
struct Batch {
    table: usize,
    rows: Vec<Vec<Value>>,
    /// Bytes of each row.
    sizes: Vec<usize>,
    /// Place of the last row.
    place: Vec<String>,
}

impl Batch {
    fn of(table: usize) -> Self {
        Self { table, rows: Vec::new(), sizes: Vec::new(), place: Vec::new() }
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().sum()
    }
}

/// Batches read ahead while one is being placed.
const READ_AHEAD: usize = 1;
/// Tries of one batch that meets a deadlock or a lock wait.
const TRIES: usize = 5;

/// Copies all that is behind `progress`.
///
/// # Errors
/// [`MoveError::LostLease`] when this mover may place nothing any more; servers' own.
pub(crate) async fn copy(
    job: &Job<'_>,
    source: &mut Session,
    target: &mut Session,
    progress: &Progress,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let read = read(job, source, progress, sender);
    let write = write(job, target, receiver);
    // The writer's error comes first: when it gives up, the reader only finds its channel closed.
    let (read, write) = tokio::join!(read, write);
    write.and(read)
}

impl Progress {
    /// Where a copy goes on: the table, and the place behind which in it.
    pub(crate) fn goes_on(&self, job: &Job<'_>) -> Result<(usize, Option<Vec<String>>)> {
        let Some(label) = self.table.as_deref() else { return Ok((0, None)) };
        let at = job.tables.iter().position(|table| table.label() == label);
        let left = || MoveError::Data(format!("table {label} has left the catalog during the move"));
        Ok((at.ok_or_else(left)?, Some(self.place.clone())))
    }
}

async fn read(
    job: &Job<'_>,
    source: &mut Session,
    progress: &Progress,
    sender: mpsc::Sender<Batch>,
) -> Result<()> {
    let (first, mut after) = progress.goes_on(job)?;
    for at in first..job.tables.len() {
        if !read_table(job, source, at, after.take(), &sender).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// False when nobody takes the rows any more.
async fn read_table(
    job: &Job<'_>,
    source: &mut Session,
    at: usize,
    mut after: Option<Vec<String>>,
    sender: &mpsc::Sender<Batch>,
) -> Result<bool> {
    let table = &job.tables[at];
    // One row at most, and the mark says that it is there.
    if table.keyset.is_empty() && after.is_some() {
        return Ok(true);
    }
    let stored = table.stored().count();
    loop {
        let query = table.select(job.key, after.as_deref(), job.rows_max);
        let mut batch = Batch::of(at);
        let mut found = 0;
        let mut rows = source.conn.exec_iter(query, ()).await.map_err(MoveError::at(&source.server))?;
        while let Some(row) = rows.next().await.map_err(MoveError::at(&source.server))? {
            found += 1;
            // Not what panics: the values of a row of which none was taken before.
            let mut values = row.unwrap();
            let place = table.place(&values[stored..]);
            values.truncate(stored);
            batch.sizes.push(values.iter().map(size).sum());
            batch.rows.push(values);
            batch.place = place;
            if batch.bytes() >= job.bytes_max {
                after = Some(batch.place.clone());
                if sender.send(std::mem::replace(&mut batch, Batch::of(at))).await.is_err() {
                    return Ok(false);
                }
            }
        }
        drop(rows);
        point("chunk.selected").await?;
        if !batch.rows.is_empty() {
            after = Some(batch.place.clone());
            if sender.send(batch).await.is_err() {
                return Ok(false);
            }
        }
        if found < job.rows_max || table.keyset.is_empty() {
            return Ok(true);
        }
    }
}

pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Bytes(bytes) => bytes.len() + 4,
        _ => 8,
    }
}

async fn write(job: &Job<'_>, target: &mut Session, mut receiver: mpsc::Receiver<Batch>) -> Result<()> {
    while let Some(batch) = receiver.recv().await {
        let mut tries = 1;
        loop {
            match place(job, target, &batch).await {
                Ok(()) => break,
                Err(error) if tries < TRIES && is_lock_trouble(&error) => tries += 1,
                Err(error) => return Err(error),
            }
        }
        job.counters.rows_copied.fetch_add(batch.rows.len() as u64, Ordering::Relaxed);
        job.counters.bytes_copied.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        point("chunk.after_commit").await?;
    }
    Ok(())
}

fn is_lock_trouble(error: &MoveError) -> bool {
    matches!(error, MoveError::Server { source: mysql_async::Error::Server(inner), .. }
        if matches!(inner.code, 1205 | 1213))
}

async fn place(job: &Job<'_>, target: &mut Session, batch: &Batch) -> Result<()> {
    let outcome = place_open(job, target, batch).await;
    let end = if matches!(outcome, Ok(true)) { "COMMIT" } else { "ROLLBACK" };
    let ended = target.conn.query_drop(end).await.map_err(target.error());
    match outcome? {
        true => ended,
        false => Err(MoveError::LostLease(job.id)),
    }
}

async fn place_open(job: &Job<'_>, target: &mut Session, batch: &Batch) -> Result<bool> {
    let table = &job.tables[batch.table];
    target.conn.query_drop("START TRANSACTION").await.map_err(target.error())?;
    let mut from = 0;
    while from < batch.rows.len() {
        let rows = rows_of_insert(table, &batch.sizes[from..], job.bytes_max);
        let values: Vec<Value> = batch.rows[from..from + rows].iter().flatten().cloned().collect();
        target.conn.exec_drop(table.insert(rows), values).await.map_err(target.error())?;
        from += rows;
    }
    point("chunk.before_commit").await?;
    shard_rows::note_batch(
        target,
        job.id,
        job.epoch,
        &table.label(),
        &batch.place,
        batch.rows.len(),
        batch.bytes() as u64,
    )
    .await
}

/// A power of two, so that few statements are prepared, within the limits of one statement.
fn rows_of_insert(table: &Table, sizes: &[usize], bytes_max: usize) -> usize {
    let mut rows = 1;
    let most = sizes.len().min(table.rows_per_insert());
    while rows * 2 <= most && sizes[..rows * 2].iter().sum::<usize>() <= bytes_max {
        rows *= 2;
    }
    rows
}
