//! Who writes where at this moment: what a barrier waits for.
//!
//! A session enters its slot before it sends a write, and looks at the deployment's state again after that; a new
//! state is installed before the slots are looked at. Both go through the slot's lock, so either the session sees the
//! new state or the barrier sees the session.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use usher_topology::{Key, ShardId};

/// The write transaction a session has under way.
#[derive(Debug, Default)]
struct Flight {
    /// `None`: nothing is under way.
    shard: Option<ShardId>,
    /// The state's version under which it was let in.
    version: u64,
    keys: Vec<Key>,
    /// The catalog by which an unsharded write was planned that is under way.
    planned: Option<u64>,
}

/// One session's entry.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    flight: Mutex<Flight>,
    /// Its place among all entries, written under their lock.
    at: AtomicUsize,
}

/// All sessions' entries.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    slots: Mutex<Vec<Arc<Slot>>>,
    waiting: AtomicUsize,
    left: Notify,
}

/// What a new version asks to be drained.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    pub(crate) keys: HashSet<Key>,
    pub(crate) shards: HashSet<ShardId>,
    /// Unsharded writes planned by an older catalog than this: it may know their table as a sharded one.
    pub(crate) catalog: Option<u64>,
}

impl Scope {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.shards.is_empty() && self.catalog.is_none()
    }
}

impl InFlight {
    /// A new session's entry.
    pub(crate) fn register(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let mut slots = self.slots.lock();
        slot.at.store(slots.len(), Ordering::Relaxed);
        slots.push(Arc::clone(&slot));
        drop(slots);
        slot
    }

    /// A session has ended.
    pub(crate) fn unregister(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots.lock();
        let at = slot.at.load(Ordering::Relaxed);
        if slots.get(at).is_some_and(|other| Arc::ptr_eq(other, slot)) {
            slots.swap_remove(at);
            if let Some(moved) = slots.get(at) {
                moved.at.store(at, Ordering::Relaxed);
            }
        }
        drop(slots);
        slot.flight.lock().planned = None;
        self.leave(slot);
        self.tell_waiting();
    }

    /// Tells that an unsharded write, planned by this version of the catalog, is about to be sent; ends with
    /// [`InFlight::unsharded_over`]. The catalog must be looked at once more after this.
    pub(crate) fn unsharded(slot: &Slot, catalog: u64) {
        slot.flight.lock().planned = Some(catalog);
    }

    /// It has been answered, or was not sent.
    pub(crate) fn unsharded_over(&self, slot: &Slot) {
        slot.flight.lock().planned = None;
        self.tell_waiting();
    }

    /// Tells that a write to `shard`, of `key` if known, is about to be sent. Further calls add keys.
    pub(crate) fn enter(slot: &Slot, shard: ShardId, key: Option<&Key>, version: u64) {
        let mut flight = slot.flight.lock();
        if flight.shard.is_none() {
            flight.shard = Some(shard);
            flight.version = version;
        }
        if let Some(key) = key
            && !flight.keys.contains(key)
        {
            flight.keys.push(key.clone());
        }
    }

    /// A write of `key` in the transaction under way was not let in after all.
    pub(crate) fn leave_key(&self, slot: &Slot, key: &Key) {
        slot.flight.lock().keys.retain(|other| other != key);
        self.tell_waiting();
    }

    /// Whether a write for this key was let in by the transaction under way.
    pub(crate) fn has_key(slot: &Slot, key: &Key) -> bool {
        slot.flight.lock().keys.contains(key)
    }

    /// Tells that it has ended.
    pub(crate) fn leave(&self, slot: &Slot) {
        let mut flight = slot.flight.lock();
        if flight.shard.take().is_none() {
            return;
        }
        flight.keys.clear();
        drop(flight);
        self.tell_waiting();
    }

    fn tell_waiting(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.left.notify_waiters();
        }
    }

    /// Waits until nothing is under way that was let in before `version` and touches the scope.
    pub(crate) async fn drained(&self, version: u64, scope: &Scope) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // Listens from here on: who leaves after the look below wakes it.
            left.as_mut().enable();
            if !self.slots.lock().iter().any(|slot| concerns(slot, version, scope)) {
                break;
            }
            left.await;
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

fn concerns(slot: &Slot, version: u64, scope: &Scope) -> bool {
    let flight = slot.flight.lock();
    if flight.planned.is_some_and(|planned| scope.catalog.is_some_and(|catalog| planned < catalog)) {
        return true;
    }
    let Some(shard) = flight.shard else { return false };
    flight.version < version
        && (scope.shards.contains(&shard) || flight.keys.iter().any(|key| scope.keys.contains(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(keys: &[i128], shards: &[u16]) -> Scope {
        Scope {
            keys: keys.iter().map(|key| Key::Int(*key)).collect(),
            shards: shards.iter().map(|shard| ShardId(*shard)).collect(),
            catalog: None,
        }
    }

    #[tokio::test]
    async fn a_new_catalog_waits_for_unsharded_writes_planned_without_it() {
        let all = Arc::new(InFlight::default());
        let (one, two) = (all.register(), all.register());
        InFlight::unsharded(&one, 10);
        InFlight::unsharded(&two, 12);
        let waiter = {
            let all = Arc::clone(&all);
            let scope = Scope { catalog: Some(12), ..Scope::default() };
            tokio::spawn(async move { all.drained(12, &scope).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        all.unsharded_over(&one);
        waiter.await.unwrap_or_else(|error| panic!("{error}"));
    }

    #[tokio::test]
    async fn a_barrier_waits_for_older_flights_of_its_scope_only() {
        let all = Arc::new(InFlight::default());
        let (one, two) = (all.register(), all.register());
        InFlight::enter(&one, ShardId(1), Some(&Key::Int(5)), 10);
        InFlight::enter(&two, ShardId(2), Some(&Key::Int(6)), 10);
        all.drained(11, &scope(&[7], &[3])).await;
        all.drained(10, &scope(&[5], &[1])).await;

        let waiter = {
            let all = Arc::clone(&all);
            tokio::spawn(async move { all.drained(11, &scope(&[5], &[2])).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        all.leave(&one);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished(), "the other one is on the shard");
        all.unregister(&two);
        waiter.await.unwrap_or_else(|error| panic!("{error}"));
    }

    #[tokio::test]
    async fn a_transaction_keeps_the_version_it_began_under() {
        let all = InFlight::default();
        let slot = all.register();
        InFlight::enter(&slot, ShardId(1), Some(&Key::Int(5)), 10);
        InFlight::enter(&slot, ShardId(1), Some(&Key::Int(6)), 12);
        assert!(InFlight::has_key(&slot, &Key::Int(6)));
        assert!(concerns(&slot, 11, &scope(&[6], &[])));
    }
}
