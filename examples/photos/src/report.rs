//! What a run has to say at its end, for people and for machines.

use std::{fmt, sync::atomic::Ordering::Relaxed, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::tally::Live;

/// Response times of one kind of statement, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the statements took no longer.
    pub p50_ms: f64,
    /// Of a hundred statements 99 took no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1000.0;
        Latency {
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }
}

/// One kind of error with its first message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorSample {
    /// How many of this kind.
    pub count: u64,
    /// The first of them in full.
    pub message: String,
}

/// What a run has done and met.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Length of the run.
    pub seconds: f64,
    /// Statements answered without error.
    pub statements: u64,
    /// Of those, the ones that only read.
    pub reads: u64,
    /// Of those, the ones that write.
    pub writes: u64,
    /// Of those, BEGIN, COMMIT, ROLLBACK and SET autocommit.
    pub control: u64,
    /// Answers compared with what they must be.
    pub checks: u64,
    /// Write operations acknowledged.
    pub acknowledged: u64,
    /// Write operations rolled back on purpose.
    pub rolled_back: u64,
    /// Write operations refused, by a lock message or an error.
    pub refused: u64,
    /// Write operations whose end nobody knows.
    pub unknown: u64,
    /// People signed up.
    pub signups: u64,
    /// Connections opened in place of an earlier one.
    pub reconnects: u64,
    /// Connections reset.
    pub resets: u64,
    /// Lock messages for users being moved; not errors.
    pub locked: u64,
    /// Users that met a lock message, with how many (at most 1024 users).
    pub locked_users: Vec<(i64, u64)>,
    /// Times that a user was written again after lock messages.
    pub unlocked: u64,
    /// The longest time from a user's first lock message to the next acknowledged write.
    pub longest_lock_ms: f64,
    /// Everything else that went wrong, wrong answers included. Zero in a good run.
    pub errors: u64,
    /// Of the errors, the wrong answers.
    pub wrong_answers: u64,
    /// The errors by kind (at most 64 kinds).
    pub error_samples: Vec<ErrorSample>,
    /// Response times of reads.
    pub read: Latency,
    /// Response times of writes, BEGIN, COMMIT and ROLLBACK.
    pub write: Latency,
    /// The statement that took longest and was answered.
    pub longest_pause_ms: f64,
    /// The text of that statement.
    pub longest_pause_statement: String,
    /// The longest time in which no connection at all got an answer.
    pub longest_gap_ms: f64,
    /// Statements answered in each full second.
    pub per_second: Vec<u64>,
}

impl Report {
    pub(crate) fn of(live: &Live) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let longest_gap_ms = ms(live.close_gap(live.at_us()));
        let latencies = live.latencies.lock();
        let kept = live.kept.lock();
        let samples = kept.errors.values();
        Report {
            seconds: live.elapsed().as_secs_f64(),
            statements: live.statements.load(Relaxed),
            reads: live.reads.load(Relaxed),
            writes: live.writes.load(Relaxed),
            control: live.control.load(Relaxed),
            checks: live.checks.load(Relaxed),
            acknowledged: live.acknowledged.load(Relaxed),
            rolled_back: live.rolled_back.load(Relaxed),
            refused: live.refused.load(Relaxed),
            unknown: live.unknown.load(Relaxed),
            signups: live.signups.load(Relaxed),
            reconnects: live.reconnects.load(Relaxed),
            resets: live.resets.load(Relaxed),
            locked: live.locked.load(Relaxed),
            locked_users: kept.locked.iter().map(|(user, count)| (*user, *count)).collect(),
            unlocked: live.unlocked.load(Relaxed),
            longest_lock_ms: ms(live.longest_lock()),
            errors: live.errors.load(Relaxed),
            wrong_answers: live.wrong_answers.load(Relaxed),
            error_samples: samples
                .map(|(count, message)| ErrorSample { count: *count, message: message.clone() })
                .collect(),
            read: Latency::of(&latencies.reads),
            write: Latency::of(&latencies.writes),
            longest_pause_ms: ms(latencies.slowest.0),
            longest_pause_statement: latencies.slowest.1.clone(),
            longest_gap_ms,
            per_second: live.per_second(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.statements as f64 / self.seconds.max(0.001);
        let share = 100.0 * self.reads as f64 / (self.reads + self.writes).max(1) as f64;
        writeln!(
            f,
            "statements        {:>10}   in {:.1} s, {rate:.0}/s, {share:.0} % reads beside writes",
            self.statements, self.seconds
        )?;
        writeln!(f, "answers checked   {:>10}   {} wrong", self.checks, self.wrong_answers)?;
        writeln!(
            f,
            "write operations  {:>10}   acknowledged; {} rolled back, {} refused, {} unknown",
            self.acknowledged, self.rolled_back, self.refused, self.unknown
        )?;
        writeln!(
            f,
            "lock messages     {:>10}   of {} users, written again {} times, after {:.0} ms at most",
            self.locked,
            self.locked_users.len(),
            self.unlocked,
            self.longest_lock_ms
        )?;
        writeln!(f, "errors            {:>10}", self.errors)?;
        for sample in &self.error_samples {
            writeln!(f, "                  {:>10}   {}", sample.count, sample.message)?;
        }
        for (name, latency) in [("reads", self.read), ("writes", self.write)] {
            let Latency { p50_ms, p99_ms, max_ms } = latency;
            writeln!(f, "{name:<7} p50 {p50_ms:>8.2} ms   p99 {p99_ms:>8.2} ms   max {max_ms:>8.2} ms")?;
        }
        writeln!(
            f,
            "longest pause     {:>10.0}   ms: {}",
            self.longest_pause_ms, self.longest_pause_statement
        )?;
        writeln!(f, "longest gap       {:>10.0}   ms without any answer", self.longest_gap_ms)?;
        write!(f, "signed up {}, reconnected {}, reset {}", self.signups, self.reconnects, self.resets)
    }
}
