//! Ids from the global sequences, taken in blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use mysql_async::prelude::Queryable;
use parking_lot::Mutex;

use crate::{Error, Global, Metrics, Result};

/// The blocks in hand, by sequence.
#[derive(Debug)]
pub(crate) struct Sequences {
    by_name: ArcSwap<HashMap<Box<str>, Arc<Sequence>>>,
    adding: Mutex<()>,
    global: Global,
    metrics: Metrics,
    block_min: u64,
    block_max: u64,
}

#[derive(Debug)]
struct Sequence {
    name: Box<str>,
    blocks: Mutex<Blocks>,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Blocks {
    now: Block,
    spare: Block,
    /// No id up to this one may be handed out any more: an explicit id has been seen.
    floor: u64,
    /// A prefetch is under way or was just done.
    prefetching: bool,
    size: u64,
    taken: u64,
    since: Instant,
}

/// Ids from `next` up to, not including, `end`.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    next: u64,
    end: u64,
}

impl Block {
    fn take(&mut self, n: u64, floor: u64) -> Option<u64> {
        let first = self.next.max(floor.saturating_add(1));
        let after = first.checked_add(n)?;
        if after > self.end {
            return None;
        }
        self.next = after;
        Some(first)
    }

    fn left(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }
}

impl Blocks {
    fn take(&mut self, n: u64) -> Option<u64> {
        if let Some(first) = self.now.take(n, self.floor) {
            self.taken += n;
            return Some(first);
        }
        // What is left of the old block is a gap, as after a crash.
        let first = self.spare.take(n, self.floor)?;
        self.now = std::mem::take(&mut self.spare);
        self.taken += n;
        Some(first)
    }

    /// Half of the block in hand is used up and nothing follows it yet.
    fn runs_low(&self) -> bool {
        !self.prefetching && self.spare.left() == 0 && self.now.left() * 2 < self.size
    }

    /// About one second of use.
    fn next_size(&mut self, min: u64, max: u64) -> u64 {
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let per_second = self.taken.saturating_mul(1000) / ms;
        self.size = per_second.clamp(min, max);
        self.taken = 0;
        self.since = Instant::now();
        self.size
    }
}

impl Sequences {
    pub(crate) fn new(global: Global, metrics: Metrics, block_min: u64, block_max: u64) -> Self {
        let block_min = block_min.max(1);
        Self {
            by_name: ArcSwap::default(),
            adding: Mutex::default(),
            global,
            metrics,
            block_min,
            block_max: block_max.max(block_min),
        }
    }

    /// `n` consecutive ids out of the block in hand; `None` if it has no room for them.
    pub(crate) fn take_now(self: &Arc<Self>, name: &str, n: u64) -> Option<u64> {
        let sequence = Arc::clone(self.by_name.load().get(name)?);
        let mut blocks = sequence.blocks.lock();
        let first = blocks.take(n)?;
        let low = blocks.runs_low();
        blocks.prefetching |= low;
        drop(blocks);
        self.metrics.ids.inc_by(n);
        if low {
            self.prefetch(sequence);
        }
        Some(first)
    }

    pub(crate) async fn take(self: &Arc<Self>, name: &str, n: u64) -> Result<u64> {
        if n == 0 {
            return Err(Error::data("no ids were asked for"));
        }
        let sequence = self.sequence(name);
        loop {
            if let Some(first) = self.take_now(name, n) {
                return Ok(first);
            }
            let _one = sequence.fetching.lock().await;
            // Whoever held the lock before may have brought enough.
            if let Some(first) = self.take_now(name, n) {
                return Ok(first);
            }
            self.fetch(&sequence, n).await?;
        }
    }

    /// An explicit id was stored: no id up to it will be handed out by this process, nor by a block taken from now on.
    pub(crate) async fn raise(&self, name: &str, at_least: u64) -> Result<()> {
        let sequence = self.sequence(name);
        let known = {
            let mut blocks = sequence.blocks.lock();
            blocks.floor = blocks.floor.max(at_least);
            blocks.now.end.max(blocks.spare.end)
        };
        // Blocks end where the row stood when they were taken: below that the row is high enough already.
        if at_least < known {
            return Ok(());
        }
        let next =
            at_least.checked_add(1).ok_or_else(|| Error::data(format!("id {at_least} is the last one")))?;
        crate::rows::ensure_sequence(&self.global, name, next).await
    }

    fn sequence(&self, name: &str) -> Arc<Sequence> {
        if let Some(sequence) = self.by_name.load().get(name) {
            return Arc::clone(sequence);
        }
        let _one = self.adding.lock();
        let mut all = HashMap::clone(&self.by_name.load());
        let sequence = all.entry(name.into()).or_insert_with(|| {
            Arc::new(Sequence {
                name: name.into(),
                blocks: Mutex::new(Blocks {
                    now: Block::default(),
                    spare: Block::default(),
                    floor: 0,
                    prefetching: false,
                    size: 0,
                    taken: 0,
                    since: Instant::now(),
                }),
                fetching: tokio::sync::Mutex::default(),
            })
        });
        let sequence = Arc::clone(sequence);
        self.by_name.store(Arc::new(all));
        sequence
    }

    fn prefetch(self: &Arc<Self>, sequence: Arc<Sequence>) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let _one = sequence.fetching.lock().await;
            if sequence.blocks.lock().spare.left() == 0
                && let Err(error) = this.fetch(&sequence, 1).await
            {
                tracing::warn!(sequence = &*sequence.name, %error, "no block of ids could be taken ahead");
            }
            sequence.blocks.lock().prefetching = false;
        });
    }

    /// Takes a block of at least `n` ids; the caller holds `fetching`.
    async fn fetch(&self, sequence: &Sequence, n: u64) -> Result<()> {
        let (size, floor) = {
            let mut blocks = sequence.blocks.lock();
            (blocks.next_size(self.block_min, self.block_max).max(n), blocks.floor)
        };
        let mut conn = self.global.conn().await?;
        let name = &*sequence.name;
        let ask = async {
            const TAKE: &str = "UPDATE usher.sequences SET next = LAST_INSERT_ID(GREATEST(next, ?)) + ? \
                                WHERE name = ?";
            let least = floor.saturating_add(1);
            conn.exec_drop(TAKE, (least, size, name)).await?;
            if conn.affected_rows() == 0 {
                conn.exec_drop("INSERT IGNORE INTO usher.sequences (name, next) VALUES (?, 1)", (name,))
                    .await?;
                conn.exec_drop(TAKE, (least, size, name)).await?;
            }
            Ok(conn.last_insert_id())
        };
        let first = self.global.bounded("taking a block of ids", ask).await?;
        let first = first.ok_or_else(|| Error::data(format!("sequence {name} gave no block")))?;
        self.metrics.id_blocks.inc();
        let mut blocks = sequence.blocks.lock();
        let block = Block { next: first, end: first.saturating_add(size) };
        if blocks.now.end == first {
            // Nobody took ids in between: both blocks are one.
            blocks.now.end = block.end;
        } else if blocks.now.left() == 0 {
            blocks.now = block;
        } else {
            blocks.spare = block;
        }
        Ok(())
    }
}
