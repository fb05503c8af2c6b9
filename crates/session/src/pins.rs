//! Why a connection stays with its session: state on it that cannot be replayed elsewhere. Each pin is counted and shown
//! with its reason, and ends as soon as what it is for does.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// What is on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Reason {
    /// A prepared statement's rows that have not all been fetched.
    Cursor,
    /// A temporary table.
    TemporaryTable,
    /// A lock of GET_LOCK.
    NamedLock,
    /// LOCK TABLES.
    LockedTables,
    /// HANDLER .. OPEN.
    Handler,
    /// What a procedure may have left.
    Procedure,
    /// A user variable whose value cannot be carried along.
    Variable,
    /// An XA transaction under way.
    Xa,
}

impl Reason {
    const ALL: [Self; 8] = [
        Self::Cursor,
        Self::TemporaryTable,
        Self::NamedLock,
        Self::LockedTables,
        Self::Handler,
        Self::Procedure,
        Self::Variable,
        Self::Xa,
    ];

    /// A bit of its own.
    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn words(self) -> &'static str {
        match self {
            Self::Cursor => "cursor",
            Self::TemporaryTable => "temporary table",
            Self::NamedLock => "named lock",
            Self::LockedTables => "locked tables",
            Self::Handler => "handler",
            Self::Procedure => "procedure",
            Self::Variable => "long user variable",
            Self::Xa => "XA transaction",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: Reason,
}

/// Pins of all sessions, by reason.
pub(crate) type PinCounts = Family<ReasonLabel, Gauge>;

/// One pin; counted as long as it lives.
#[derive(Debug)]
struct Pin {
    reason: Reason,
    /// Which of several: a cursor's statement, a lock's or a table's name. Empty if there is nothing to tell apart by.
    name: Box<[u8]>,
    count: Gauge,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.count.dec();
    }
}

/// The name of [`Reason::Procedure`] where all that is known to be left is carried along: the connection stays as long as
/// nobody else needs it.
pub(crate) const CARRIED: &[u8] = b"carried";

/// The pins of one connection. Nearly always empty, and then without an allocation.
#[derive(Debug, Default)]
pub(crate) struct Pins(Vec<Pin>);

impl Pins {
    /// Adds one, if it is not there.
    pub(crate) fn add(&mut self, counts: &PinCounts, reason: Reason, name: &[u8]) {
        if self.has(reason, name) {
            return;
        }
        let count = counts.get_or_create(&ReasonLabel { reason }).clone();
        count.inc();
        self.0.push(Pin { reason, name: name.into(), count });
    }

    /// Takes one away.
    pub(crate) fn remove(&mut self, reason: Reason, name: &[u8]) {
        self.0.retain(|pin| pin.reason != reason || *pin.name != *name);
    }

    /// Takes all of one kind away.
    pub(crate) fn remove_all(&mut self, reason: Reason) {
        self.0.retain(|pin| pin.reason != reason);
    }

    /// Whether this one is there.
    pub(crate) fn has(&self, reason: Reason, name: &[u8]) -> bool {
        self.0.iter().any(|pin| pin.reason == reason && *pin.name == *name)
    }

    /// The names of the pins of one kind.
    pub(crate) fn names(&self, reason: Reason) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |pin| pin.reason == reason).map(|pin| &*pin.name)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the session's other statements have to run here, too: a cursor alone is only fetched from.
    pub(crate) fn bind(&self) -> bool {
        self.0.iter().any(|pin| pin.reason != Reason::Cursor)
    }

    /// Whether the connection may be closed for somebody who needs one: the session does without what is on it.
    pub(crate) fn are_soft(&self) -> bool {
        let is_soft = |pin: &Pin| pin.reason == Reason::Procedure && *pin.name == *CARRIED;
        !self.0.is_empty() && self.0.iter().all(is_soft)
    }

    /// Whether named locks may be on the connection.
    pub(crate) fn may_lock(&self) -> bool {
        self.0.iter().any(|pin| matches!(pin.reason, Reason::NamedLock | Reason::Procedure))
    }

    /// The kinds that are there, as bits.
    pub(crate) fn bits(&self) -> u8 {
        self.0.iter().fold(0, |bits, pin| bits | pin.reason.bit())
    }
}

/// What [`Pins::bits`] tells, in words; empty if there is none.
pub(crate) fn in_words(bits: u8) -> String {
    let there = Reason::ALL.into_iter().filter(|reason| bits & reason.bit() != 0);
    there.map(Reason::words).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_counted_while_they_last() {
        let counts = PinCounts::default();
        let locks = || counts.get_or_create(&ReasonLabel { reason: Reason::NamedLock }).get();
        let mut pins = Pins::default();
        pins.add(&counts, Reason::NamedLock, b"a");
        pins.add(&counts, Reason::NamedLock, b"a");
        pins.add(&counts, Reason::NamedLock, b"b");
        pins.add(&counts, Reason::Cursor, b"1");
        assert_eq!((locks(), pins.bind()), (2, true));
        assert_eq!(in_words(pins.bits()), "cursor, named lock");
        pins.remove(Reason::NamedLock, b"a");
        pins.remove_all(Reason::NamedLock);
        assert_eq!((locks(), pins.bind(), pins.is_empty()), (0, false, false));
        drop(pins);
        assert_eq!(counts.get_or_create(&ReasonLabel { reason: Reason::Cursor }).get(), 0);
        assert_eq!(in_words(0), "");
        let mut soft = Pins::default();
        assert!(!soft.are_soft());
        soft.add(&counts, Reason::Procedure, CARRIED);
        assert!(soft.are_soft() && soft.bind());
        soft.add(&counts, Reason::Procedure, b"");
        assert!(!soft.are_soft());
    }
}
