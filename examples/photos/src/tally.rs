//! The counts of a run while it runs: what a live display reads and what the report is made from.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::failure::{Failure, Fault};

/// Different errors and locked users that are kept by name, at most.
const KEPT_MAX: usize = 64;
/// Longest time a histogram tells apart: ten minutes in microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Whether a statement looks, changes, or only frames others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// BEGIN, COMMIT, ROLLBACK and SET autocommit: timed with the writes.
    Control,
}

/// The live counters of a run. All are of the run so far; reading them never slows it.
#[derive(Debug)]
pub struct Live {
    started: Instant,
    /// Statements answered without error.
    pub statements: AtomicU64,
    /// Of those, the ones that only read.
    pub reads: AtomicU64,
    /// Of those, the ones that write.
    pub writes: AtomicU64,
    /// Of those, BEGIN, COMMIT, ROLLBACK and SET autocommit.
    pub control: AtomicU64,
    /// Write operations acknowledged and noted.
    pub acknowledged: AtomicU64,
    /// Write operations rolled back on purpose.
    pub rolled_back: AtomicU64,
    /// Write operations refused.
    pub refused: AtomicU64,
    /// Write operations without an answer.
    pub unknown: AtomicU64,
    /// Answers compared with what they must be.
    pub checks: AtomicU64,
    /// Lock messages for users being moved; not errors.
    pub locked: AtomicU64,
    /// Times that a user was written again after lock messages.
    pub unlocked: AtomicU64,
    longest_lock_us: AtomicU64,
    /// Everything else that went wrong, wrong answers included.
    pub errors: AtomicU64,
    /// Of the errors, the wrong answers.
    pub wrong_answers: AtomicU64,
    /// New people signed up.
    pub signups: AtomicU64,
    /// Connections opened in place of an earlier one, on purpose or not.
    pub reconnects: AtomicU64,
    /// COM_RESET_CONNECTION and COM_CHANGE_USER sent.
    pub resets: AtomicU64,
    last_answer_us: AtomicU64,
    longest_gap_us: AtomicU64,
    seconds: Vec<AtomicU64>,
    pub(crate) latencies: Mutex<Latencies>,
    pub(crate) kept: Mutex<Kept>,
    stop: AtomicBool,
    stopped: Notify,
}

#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) reads: Histogram<u64>,
    pub(crate) writes: Histogram<u64>,
    /// The statement that took longest and got its answer.
    pub(crate) slowest: (Duration, String),
}

/// What is kept by name, each under a bound.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Error without its details -> how often, and the first message.
    pub(crate) errors: BTreeMap<String, (u64, String)>,
    /// User -> lock messages.
    pub(crate) locked: BTreeMap<i64, u64>,
}

impl Live {
    pub(crate) fn new(run_for: Duration) -> anyhow::Result<Self> {
        let zero = || AtomicU64::new(0);
        let seconds = usize::try_from(run_for.as_secs())?.saturating_add(120).min(1_000_000);
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_US, 3);
        let latencies =
            Latencies { reads: histogram()?, writes: histogram()?, slowest: (Duration::ZERO, String::new()) };
        Ok(Live {
            started: Instant::now(),
            statements: zero(),
            reads: zero(),
            writes: zero(),
            control: zero(),
            acknowledged: zero(),
            rolled_back: zero(),
            refused: zero(),
            unknown: zero(),
            checks: zero(),
            locked: zero(),
            unlocked: zero(),
            longest_lock_us: zero(),
            errors: zero(),
            wrong_answers: zero(),
            signups: zero(),
            reconnects: zero(),
            resets: zero(),
            last_answer_us: zero(),
            longest_gap_us: zero(),
            seconds: (0..seconds).map(|_| zero()).collect(),
            latencies: Mutex::new(latencies),
            kept: Mutex::default(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
        })
    }

    /// Asks the run to end once the operations under way have ended.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.stopped.notify_waiters();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Waits, but no longer than until the run is asked to stop.
    pub(crate) async fn pause(&self, time: Duration) {
        let stopped = self.stopped.notified();
        if !self.is_stopped() {
            // Ended by either; both mean going on.
            let _ = tokio::time::timeout(time, stopped).await;
        }
    }

    /// Time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn at_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn answered(&self, kind: Kind, took: Duration, sql: &str) {
        self.statements.fetch_add(1, Relaxed);
        match kind {
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
            Kind::Control => &self.control,
        }
        .fetch_add(1, Relaxed);
        let now = self.at_us();
        self.close_gap(now);
        let second = usize::try_from(now / 1_000_000).unwrap_or(usize::MAX);
        if let Some(count) = self.seconds.get(second) {
            count.fetch_add(1, Relaxed);
        }
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut latencies = self.latencies.lock();
        match kind {
            Kind::Read => latencies.reads.saturating_record(took_us),
            Kind::Write | Kind::Control => latencies.writes.saturating_record(took_us),
        }
        if took > latencies.slowest.0 {
            latencies.slowest = (took, sql.chars().take(160).collect());
        }
    }

    /// Ends the time since the last answer and returns the longest such time so far.
    pub(crate) fn close_gap(&self, now_us: u64) -> Duration {
        let last = self.last_answer_us.fetch_max(now_us, Relaxed);
        let gap = now_us.saturating_sub(last);
        Duration::from_micros(self.longest_gap_us.fetch_max(gap, Relaxed).max(gap))
    }

    pub(crate) fn failed(&self, failure: &Failure, user: i64) {
        if failure.fault == Fault::Locked {
            self.locked.fetch_add(1, Relaxed);
            let mut kept = self.kept.lock();
            if kept.locked.len() < KEPT_MAX * 16 || kept.locked.contains_key(&user) {
                *kept.locked.entry(user).or_default() += 1;
            }
            return;
        }
        self.errors.fetch_add(1, Relaxed);
        if failure.fault == Fault::Wrong {
            self.wrong_answers.fetch_add(1, Relaxed);
        }
        let about = match failure.statement.as_str() {
            "" => &failure.message,
            statement => statement,
        };
        let name = format!("{:?} {}", failure.fault, about.chars().take(24).collect::<String>());
        let mut kept = self.kept.lock();
        if kept.errors.len() < KEPT_MAX || kept.errors.contains_key(&name) {
            kept.errors.entry(name).or_insert_with(|| (0, failure.text())).0 += 1;
        }
    }

    /// A user who met a lock message at `since_us` has been written again.
    pub(crate) fn unlocked(&self, since_us: u64) {
        self.unlocked.fetch_add(1, Relaxed);
        self.longest_lock_us.fetch_max(self.at_us().saturating_sub(since_us), Relaxed);
    }

    /// The longest time from a user's first lock message to the next acknowledged write.
    pub fn longest_lock(&self) -> Duration {
        Duration::from_micros(self.longest_lock_us.load(Relaxed))
    }

    /// Statements answered in each full second of the run.
    pub fn per_second(&self) -> Vec<u64> {
        let full = usize::try_from(self.elapsed().as_secs()).unwrap_or(usize::MAX);
        self.seconds.iter().take(full).map(|count| count.load(Relaxed)).collect()
    }
}
