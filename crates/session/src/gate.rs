//! What an address is allowed at the door: so many connections at once, and after many failed logins only slow answers.
//! The table holds the addresses that are connected and, bounded, those with failed logins of late.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use usher_config::Limits;
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::metrics::SessionMetrics;

/// The first answer that is put off waits so long; each next one twice as long.
const DELAY_MIN: Duration = Duration::from_millis(50);
/// The table is swept at most this often.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What is known of one address.
#[derive(Debug, Default)]
struct Source {
    clients: usize,
    /// Failed logins since it last had a clean sheet.
    failures: u32,
    failed_at: Option<Instant>,
    /// Answers to failed logins that are being put off.
    delayed: usize,
}

impl Source {
    fn is_idle(&self) -> bool {
        self.clients == 0 && self.delayed == 0
    }
}

/// All addresses.
#[derive(Debug)]
struct Table {
    sources: HashMap<IpAddr, Source>,
    swept_at: Instant,
}

/// The gate of a proxy.
#[derive(Debug)]
pub(crate) struct Gate {
    clients_max: usize,
    failures_free: usize,
    delay_max: Duration,
    delayed_max: usize,
    forget: Duration,
    sources_max: usize,
    table: Mutex<Table>,
    metrics: SessionMetrics,
}

/// A connection's place among those of its address; given up when dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    source: IpAddr,
}

/// An answer that is put off; counted until dropped.
#[derive(Debug)]
pub(crate) struct Delay {
    gate: Arc<Gate>,
    source: IpAddr,
    /// How long.
    pub(crate) time: Duration,
}

impl Gate {
    pub(crate) fn new(limits: &Limits, metrics: SessionMetrics) -> Arc<Self> {
        Arc::new(Self {
            clients_max: limits.clients_per_source_max,
            failures_free: limits.login_failures_free,
            delay_max: Duration::from_millis(limits.login_failure_delay_ms),
            delayed_max: limits.login_failures_delayed_max,
            forget: Duration::from_secs(limits.login_failures_forget_s),
            sources_max: limits.sources_max,
            table: Mutex::new(Table { sources: HashMap::new(), swept_at: Instant::now() }),
            metrics,
        })
    }

    /// Lets a connection in, or tells why not.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Result<Pass, Failure> {
        let key = source(from);
        let mut table = self.table.lock();
        let source = table.sources.entry(key).or_default();
        let refused = if self.delayed_max > 0 && source.delayed >= self.delayed_max {
            let words = format!("Host '{from}' is blocked because of many failed logins");
            Failure::new(ErrorId::SourceBlocked).as_server(words)
        } else if self.clients_max > 0 && source.clients >= self.clients_max {
            Failure::new(ErrorId::SourceConnections)
                .field("source", from)
                .field("limits.clients_per_source_max", self.clients_max)
        } else {
            source.clients += 1;
            return Ok(Pass { gate: Arc::clone(self), source: key });
        };
        drop(table);
        self.metrics.sources_refused.inc();
        Err(refused)
    }

    /// A login from there has failed: whether its answer is put off.
    pub(crate) fn failed(self: &Arc<Self>, from: IpAddr) -> Option<Delay> {
        self.metrics.login_failures.inc();
        let (key, now) = (source(from), Instant::now());
        let mut table = self.table.lock();
        let source = table.sources.entry(key).or_default();
        if source.failed_at.is_none_or(|at| now.duration_since(at) > self.forget) {
            source.failures = 0;
        }
        source.failures = source.failures.saturating_add(1);
        source.failed_at = Some(now);
        let beyond =
            usize::try_from(source.failures).unwrap_or(usize::MAX).checked_sub(self.failures_free + 1)?;
        let time = DELAY_MIN.saturating_mul(1 << beyond.min(20)).min(self.delay_max);
        if time.is_zero() {
            return None;
        }
        source.delayed += 1;
        self.metrics.login_failures_delayed.inc();
        Some(Delay { gate: Arc::clone(self), source: key, time })
    }

    fn leave(&self, key: IpAddr, gone: impl FnOnce(&mut Source)) {
        let mut table = self.table.lock();
        let Some(source) = table.sources.get_mut(&key) else { return };
        gone(source);
        if !source.is_idle() {
            return;
        }
        if source.failures == 0 {
            table.sources.remove(&key);
        } else if table.sources.len() > self.sources_max {
            self.shrink(&mut table, key);
        }
    }

    /// Forgets what has a clean sheet again; if that is not enough, the one that came last.
    #[cold]
    fn shrink(&self, table: &mut Table, last: IpAddr) {
        let now = Instant::now();
        if now.duration_since(table.swept_at) >= SWEEP_PAUSE {
            table.swept_at = now;
            let fresh = |at: Instant| now.duration_since(at) <= self.forget;
            table.sources.retain(|_, source| !source.is_idle() || source.failed_at.is_some_and(fresh));
        }
        if table.sources.len() > self.sources_max {
            table.sources.remove(&last);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(self.source, |source| source.clients -= 1);
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.gate.leave(self.source, |source| source.delayed -= 1);
    }
}

/// What counts as one address: of IPv6 a /64, which anybody has whole.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(change: impl FnOnce(&mut Limits)) -> Arc<Gate> {
        let mut limits = Limits { login_failures_free: 2, ..Limits::default() };
        change(&mut limits);
        Gate::new(&limits, SessionMetrics::default())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST))
    }

    fn id(refused: Result<Pass, Failure>) -> Option<ErrorId> {
        refused.err().map(|failure| failure.id())
    }

    #[test]
    fn an_address_has_so_many_places() {
        let gate = gate(|limits| limits.clients_per_source_max = 2);
        let here = address("192.0.2.1");
        let (first, second) = (gate.enter(here), gate.enter(address("::ffff:192.0.2.1")));
        assert!(first.is_ok() && second.is_ok() && gate.enter(address("192.0.2.2")).is_ok());
        assert_eq!(id(gate.enter(here)), Some(ErrorId::SourceConnections));
        drop(first);
        assert!(gate.enter(here).is_ok());
        drop(second);
        assert!(gate.table.lock().sources.is_empty());
        // Of one network of IPv6.
        let both = [gate.enter(address("fd00::1")), gate.enter(address("fd00::2"))];
        assert_eq!(id(gate.enter(address("fd00::3"))), Some(ErrorId::SourceConnections));
        assert!(gate.enter(address("fd00:0:0:1::1")).is_ok());
        drop(both);
    }

    #[test]
    fn failures_are_answered_ever_later() {
        let gate = gate(|limits| {
            (limits.login_failure_delay_ms, limits.login_failures_delayed_max) = (150, 3);
        });
        let here = address("192.0.2.1");
        assert!(gate.failed(here).is_none() && gate.failed(here).is_none());
        let delays: Vec<_> = (0..3).filter_map(|_| gate.failed(here)).collect();
        let times: Vec<_> = delays.iter().map(|delay| delay.time.as_millis()).collect();
        assert_eq!(times, [50, 100, 150]);
        assert_eq!(id(gate.enter(here)), Some(ErrorId::SourceBlocked));
        assert!(gate.enter(address("192.0.2.2")).is_ok());
        drop(delays);
        assert!(gate.enter(here).is_ok());
    }

    #[test]
    fn a_clean_sheet_after_a_while() {
        let gate = gate(|limits| limits.login_failures_forget_s = 0);
        for _ in 0..10 {
            assert!(gate.failed(address("192.0.2.1")).is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn no_more_are_remembered_than_allowed() {
        let gate = gate(|limits| limits.sources_max = 10);
        for n in 0..1000 {
            let from = IpAddr::V6(Ipv6Addr::from_bits(n << 64));
            let pass = gate.enter(from);
            assert!(gate.failed(from).is_none());
            drop(pass);
        }
        assert!(gate.table.lock().sources.len() <= 10);
    }
}
