//! How far a copy is, and how long it still takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters that the copy and the comparison raise while another task reports them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rows_total: AtomicU64,
    pub(crate) rows_copied: AtomicU64,
    pub(crate) bytes_copied: AtomicU64,
    /// Rows compared, of one side.
    pub(crate) rows_verified: AtomicU64,
}

impl Counters {
    /// Work done and work to do, in copied rows; comparing a row counts a fifth of copying it.
    fn work(&self) -> (f64, f64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let done = read(&self.rows_copied) + read(&self.rows_verified) / 5.0;
        (done, read(&self.rows_total) * 1.2)
    }
}

/// How long writes have been refused, over all runs of a move.
#[derive(Debug, Default)]
pub(crate) struct LockClock {
    before_ms: u64,
    since: Option<Instant>,
    /// All of it, once the target has taken over.
    total: Option<u64>,
}

impl LockClock {
    /// Writes are refused from now on, if they were not before; `before_ms` is what earlier runs have counted.
    pub(crate) fn begin(&mut self, before_ms: Option<u64>) {
        if self.since.is_none() {
            self.before_ms = before_ms.unwrap_or(0);
            self.since = Some(Instant::now());
        }
    }

    /// The time so far; `None` while writes are not refused.
    pub(crate) fn read(&self) -> Option<u64> {
        let millis = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.map(|since| self.before_ms.saturating_add(millis(since))).or(self.total)
    }

    /// The target takes them: the time does not grow any more.
    pub(crate) fn stop(&mut self) {
        self.total = self.read();
        self.since = None;
    }

    /// The time of this run alone.
    pub(crate) fn since_begin(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

    /// They are taken again.
    pub(crate) fn end(&mut self) -> Option<u64> {
        let total = self.read();
        self.since = None;
        total
    }
}

/// What a move needs beside its rows: barriers, waits for copies.
const FIXED_MS: f64 = 500.0;
/// Weight of the newest measurement after one second.
const WEIGHT: f64 = 0.3;

/// A smoothed rate.
#[derive(Debug)]
pub(crate) struct Estimate {
    rate_per_s: Option<f64>,
    last: (Instant, f64),
}

impl Estimate {
    pub(crate) fn begin(now: Instant, counters: &Counters) -> Self {
        Self { rate_per_s: None, last: (now, counters.work().0) }
    }

    /// Milliseconds still to go; `None` before anything was measured.
    pub(crate) fn eta_ms(&mut self, now: Instant, counters: &Counters) -> Option<u64> {
        let (done, total) = counters.work();
        let passed = now.saturating_duration_since(self.last.0);
        if passed >= Duration::from_millis(100) {
            let rate = (done - self.last.1) / passed.as_secs_f64();
            let weight = 1.0 - (1.0 - WEIGHT).powf(passed.as_secs_f64());
            self.rate_per_s = match self.rate_per_s {
                None if rate > 0.0 => Some(rate),
                before => before.map(|before| before + weight * (rate - before)),
            };
            self.last = (now, done);
        }
        let rate = self.rate_per_s.filter(|rate| *rate > 0.0)?;
        // Both non-negative, and far below the limits of u64 for any table that fits a disk.
        Some(((total - done).max(0.0) / rate * 1000.0 + FIXED_MS) as u64)
    }
}

/// Minutes as shown to people: rounded up, so that "about 1 minute" is the least.
pub(crate) fn minutes(eta_ms: u64) -> u64 {
    eta_ms.div_ceil(60_000).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_clock_stands_still_once_writes_are_taken_again() {
        let mut clock = LockClock::default();
        assert_eq!(clock.read(), None);
        clock.begin(Some(1_000));
        assert!(clock.read().unwrap() >= 1_000 && clock.since_begin().is_some());
        clock.stop();
        let total = clock.read().unwrap();
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!((clock.read(), clock.since_begin()), (Some(total), None));
    }

    #[test]
    fn a_steady_copy_is_foreseen() {
        let counters = Counters::default();
        counters.rows_total.store(10_000, Ordering::Relaxed);
        let start = Instant::now();
        let mut estimate = Estimate::begin(start, &counters);
        assert_eq!(estimate.eta_ms(start, &counters), None);
        for second in 1..=4u64 {
            counters.rows_copied.store(second * 1_000, Ordering::Relaxed);
            let eta = estimate.eta_ms(start + Duration::from_secs(second), &counters).unwrap();
            let left = (12_000 - second * 1_000) + 500;
            assert!(eta.abs_diff(left) < 50, "{second}: {eta} {left}");
        }
    }

    #[test]
    fn minutes_round_up() {
        assert_eq!((minutes(0), minutes(60_000), minutes(60_001)), (1, 1, 2));
    }
}
