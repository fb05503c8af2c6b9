//! What the application was promised: each write is noted before it is sent and again once its outcome is known.
//!
//! One JSON document a line. Both notes are on disk (fdatasync, many notes together) before the load goes on, so
//! that whatever dies, the journal never claims less than the application was told. [`crate::verify`] reads it.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write as _},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Notes written by one fdatasync, at most.
const BATCH_MAX: usize = 1024;
const VERSION: u32 = 1;

/// How a write ended, as far as the application can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Acknowledged: it must be there.
    Ok,
    /// Refused or rolled back: it must not be there.
    Failed,
    /// No answer: it may be there or not, but not twice and not in part.
    Unknown,
}

/// What a write does to its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Act {
    /// Adds the row whose request id is the key.
    Insert,
    /// Takes away the row whose request id is the key.
    Delete,
    /// Gives the row of this key a new value, as its `count`-th change.
    Set,
}

/// One row touched by an operation; all rows of one operation are written together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) table: String,
    pub(crate) act: Act,
    pub(crate) key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) value: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) count: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Write {
    pub(crate) fn insert(table: &str, request: &str) -> Self {
        Write { table: table.into(), act: Act::Insert, key: request.into(), value: String::new(), count: 0 }
    }

    pub(crate) fn delete(table: &str, request: &str) -> Self {
        Write { act: Act::Delete, ..Write::insert(table, request) }
    }

    pub(crate) fn set(table: &str, key: &str, value: &str, count: u32) -> Self {
        Write { table: table.into(), act: Act::Set, key: key.into(), value: value.into(), count }
    }
}

/// How many rows a user had in each table before the load touched them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rows {
    pub(crate) photos: i64,
    pub(crate) comments: i64,
    pub(crate) albums: i64,
    pub(crate) favourites: i64,
    pub(crate) ledger: i64,
    pub(crate) memberships: i64,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(crate) enum Note {
    /// The first line.
    Run { version: u32, prefix: String, seed: u64 },
    /// One user as found before the first write.
    User { user: i64, rows: Rows },
    /// About to be sent. `user` is 0 where the operation is what makes the user.
    Intent { op: u64, user: i64, at_us: u64, writes: Vec<Write> },
    /// What became of it, with the ids the server gave, in the order of the writes that got one.
    Outcome { op: u64, at_us: u64, outcome: Outcome, ids: Vec<i64> },
}

type Durable = oneshot::Sender<Result<(), String>>;

/// The writing end: cheap to share, closed by [`Journal::close`].
#[derive(Debug)]
pub(crate) struct Journal {
    lines: SyncSender<(String, Durable)>,
    writer: JoinHandle<()>,
}

impl Journal {
    /// Starts a new journal; an existing file is never written over.
    pub(crate) fn create(path: &Path, prefix: &str, seed: u64) -> Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).with_context(|| {
            format!("cannot start the journal {} (an existing one is kept)", path.display())
        })?;
        let first = Note::Run { version: VERSION, prefix: prefix.into(), seed };
        writeln!(file, "{}", serde_json::to_string(&first)?)?;
        let (lines, waiting) = sync_channel(BATCH_MAX);
        let writer =
            std::thread::Builder::new().name("journal".into()).spawn(move || write_all(file, &waiting))?;
        Ok(Journal { lines, writer })
    }

    /// Returns once the note is on disk.
    pub(crate) async fn note(&self, note: &Note) -> Result<()> {
        let line = serde_json::to_string(note)?;
        let (durable, done) = oneshot::channel();
        // Each load connection has one note under way, so the channel is full only if there are more than BATCH_MAX.
        if self.lines.try_send((line, durable)).is_err() {
            bail!("the journal's writer is gone or more than {BATCH_MAX} notes wait for it");
        }
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => bail!("cannot write the journal: {message}"),
            Err(_) => bail!("the journal's writer is gone"),
        }
    }

    /// Ends the writing thread once all notes are on disk.
    pub(crate) fn close(self) {
        drop(self.lines);
        // A panic in the writer has already failed every note that waited for it.
        let _ = self.writer.join();
    }
}

fn write_all(mut file: File, waiting: &Receiver<(String, Durable)>) {
    while let Ok(first) = waiting.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(waiting.try_iter().take(BATCH_MAX - 1)).collect();
        let text = batch.iter().fold(String::new(), |text, (line, _)| text + line + "\n");
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        let written = written.map_err(|error| error.to_string());
        for (_, durable) in batch {
            // Whoever no longer waits has given up on the operation and will not count it.
            let _ = durable.send(written.clone());
        }
    }
}

/// Reads a journal back; a last line cut short by a crash is left out.
pub(crate) fn read(path: &Path) -> Result<Vec<Note>> {
    let file = File::open(path).with_context(|| format!("cannot open the journal {}", path.display()))?;
    let mut notes = Vec::new();
    let mut lines = BufReader::new(file).lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        match serde_json::from_str(&line?) {
            Ok(note) => notes.push(note),
            Err(_) if lines.peek().is_none() && number > 0 => break,
            Err(error) => bail!("line {} of {} is no note: {error}", number + 1, path.display()),
        }
    }
    match notes.first() {
        Some(Note::Run { version: VERSION, .. }) => Ok(notes),
        _ => bail!("{} is not a journal of this version of the load", path.display()),
    }
}
