//! The proxy's view: where everybody is, and the ids to give.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::sync::{Semaphore, watch};
use usher_config::{Limits, Memcached};
use usher_topology::{Generation, Key};

use crate::l1::L1;
use crate::l2::L2;
use crate::lookup::{self, Flights};
use crate::pins::Pins;
use crate::place::Usage;
use crate::sequences::Sequences;
use crate::{EntityState, Error, Global, Located, Metrics, Result, State, fallback};

/// Locates entities, places new ones, hands out ids. One for each process.
#[derive(Debug)]
pub struct Directory {
    pub(crate) global: Global,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) l1: L1,
    pub(crate) l2: L2,
    pub(crate) pins: Pins,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) placing: Flights<Located>,
    pub(crate) usage: Usage,
    state: ArcSwap<State>,
    version: watch::Sender<u64>,
    era: AtomicU64,
    locating: Flights<Option<Located>>,
    sequences: Arc<Sequences>,
}

impl Directory {
    /// Connects to nothing and knows nothing yet: [`crate::Participant::register`] or [`Directory::refresh`] loads the
    /// state.
    #[must_use]
    pub fn new(global: Global, memcached: &Memcached, limits: &Limits, metrics: Metrics) -> Arc<Self> {
        let sequences =
            Sequences::new(global.clone(), metrics.clone(), limits.id_block_min, limits.id_block_max);
        Arc::new(Self {
            l1: L1::new(limits.directory_users_max, Duration::from_millis(limits.directory_unknown_ms)),
            l2: L2::new(memcached, limits, metrics.clone()),
            pins: Pins::new(Duration::from_secs(2 * u64::from(limits.memcached_ttl_s))),
            permits: Arc::new(Semaphore::new(limits.directory_lookups_max)),
            placing: Flights::default(),
            usage: Usage::default(),
            state: ArcSwap::default(),
            version: watch::Sender::new(0),
            era: AtomicU64::new(0),
            locating: Flights::default(),
            sequences: Arc::new(sequences),
            global,
            limits: limits.clone(),
            metrics,
        })
    }

    /// The state that this process works by. No lock is taken.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// The version of [`Directory::state`], whenever it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Grows each time that this proxy was revoked. A statement that was routed in one era must not be sent on a
    /// connection opened in a later one: route it again.
    #[must_use]
    pub fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// The global master.
    #[must_use]
    pub fn global(&self) -> &Global {
        &self.global
    }

    /// This directory's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What can be said without waiting: `Some(None)` is a key known not to exist a moment ago; `None` means to ask
    /// [`Directory::locate`]. Entities that are locked or settling are never answered from here.
    #[must_use]
    pub fn cached(&self, key: &Key) -> Option<Option<Located>> {
        if let Some(moving) = self.state.load().moving.get(key) {
            return match moving.located.state {
                EntityState::Active | EntityState::Moving if moving.located.generation.0 > 0 => {
                    Some(Some(moving.located))
                }
                _ => None,
            };
        }
        let found = self.l1.find(key);
        match found {
            Some(_) => self.metrics.l1_hits.inc(),
            None => self.metrics.l1_misses.inc(),
        };
        found
    }

    /// Where the entity lives: from the first level, memcached, the global master, or without its writer from the
    /// standby or the shards. Many who ask for the same key at once cause one look-up.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many look-ups wait; [`Error::GlobalUnavailable`] when nobody could say.
    pub async fn locate(self: &Arc<Self>, key: &Key) -> Result<Option<Located>> {
        if let Some(found) = self.cached(key) {
            return Ok(found);
        }
        if self.state.load().moving.get(key).is_some() {
            return self.locate_fresh(key).await;
        }
        let flight = lookup::join(&self.locating, key, || {
            let (this, key) = (Arc::clone(self), key.clone());
            async move {
                let found = this.look_up(&key).await;
                this.locating.lock().remove(&key);
                found
            }
            .boxed()
        });
        let era = self.era();
        let found = flight.await?;
        // This process was shut out meanwhile: the answer may be of any age.
        if self.era() == era { Ok(found) } else { self.locate_fresh(key).await }
    }

    /// Where the entity lives by the global master's writer, asked after this call began; without a writer by the
    /// shards themselves. Refreshes the first level.
    ///
    /// # Errors
    /// As [`Directory::locate`].
    pub async fn locate_fresh(&self, key: &Key) -> Result<Option<Located>> {
        let era = self.era();
        let _permit = self.permit().await?;
        let found = match self.ask_writer(key).await {
            Ok(found) => found,
            Err(error @ (Error::GlobalUnavailable(_) | Error::Timeout { .. })) => {
                self.metrics.lookups_fallback.inc();
                fallback::ask_shards(self, key, &error).await?
            }
            Err(error) => return Err(error),
        };
        self.remember(key, found.as_ref(), era);
        Ok(found)
    }

    /// `n` consecutive ids of a sequence (`schema.table`) from the block in hand, the first of them; `None` when it has
    /// no such room: ask [`Directory::take_ids`]. Must be called within a runtime.
    #[must_use]
    pub fn take_ids_now(&self, sequence: &str, n: u64) -> Option<u64> {
        self.sequences.take_now(sequence, n)
    }

    /// `n` consecutive ids of a sequence, the first of them; takes a new block if need be. A sequence that nobody has
    /// registered begins at 1.
    ///
    /// # Errors
    /// [`Error::GlobalUnavailable`] once the block in hand is used up while the global master is away.
    pub async fn take_ids(&self, sequence: &str, n: u64) -> Result<u64> {
        self.sequences.take(sequence, n).await
    }

    /// An explicit id was seen: this process hands out only greater ones from now on, and so do all blocks taken later.
    ///
    /// # Errors
    /// [`Error::GlobalUnavailable`], if the id is beyond what the sequence has handed out.
    pub async fn raise_sequence(&self, sequence: &str, at_least: u64) -> Result<()> {
        self.sequences.raise(sequence, at_least).await
    }

    /// Drops what the caches hold of the entity, here and in memcached. The mover calls it after the commit point;
    /// returns the memcached servers that could not be told (every proxy's memory of the move covers for them).
    pub async fn forget(&self, key: &Key) -> Vec<String> {
        self.l1.remove(key);
        self.locating.lock().remove(key);
        self.l2.forget(key).await
    }

    /// Loads the state from the global master and works by it: for processes that are no proxies, such as a controller
    /// or one command. A proxy's [`crate::Participant`] does it by itself.
    ///
    /// # Errors
    /// As [`State::load`].
    pub async fn refresh(&self) -> Result<Arc<State>> {
        let state = Arc::new(State::load(&self.global).await?);
        self.install(Arc::clone(&state));
        Ok(state)
    }

    /// Works by `new` from now on, unless it is older than what is held; returns the state before.
    pub(crate) fn install(&self, new: Arc<State>) -> Arc<State> {
        let old = self.state();
        if new.version >= old.version {
            self.install_any(new);
        }
        old
    }

    /// Works by `new` even if it is older: a new start.
    pub(crate) fn install_any(&self, new: Arc<State>) {
        let old = self.state();
        // Pins first, then the state, then the caches: a look-up under way either sees the pin when it stores its
        // answer, or has stored it before the removal below.
        for (key, moving) in new.moving.iter().chain(old.moving.iter()) {
            self.pins.raise(key, moving.located.generation);
        }
        self.state.store(Arc::clone(&new));
        for (key, _) in new.moving.iter().chain(old.moving.iter()) {
            self.l1.remove(key);
            self.locating.lock().remove(key);
        }
        self.metrics.version.set(i64::try_from(new.version).unwrap_or(i64::MAX));
        self.metrics.moving.set(i64::try_from(new.moving.len()).unwrap_or(i64::MAX));
        self.version.send_replace(new.version);
        self.pins.expire();
    }

    /// Believes nothing that was cached: this process has been shut out and knows nothing of the time since.
    pub(crate) fn begin_era(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.l1.clear();
        self.locating.lock().clear();
        self.placing.lock().clear();
    }

    /// Generations of users whose moves have ended lately: values older than these may still be in memcached.
    pub(crate) fn pin_recent(&self, recent: impl IntoIterator<Item = (Key, Generation)>) {
        for (key, generation) in recent {
            self.pins.raise(&key, generation);
            self.l1.remove(&key);
        }
    }

    /// Entries of the first level, for `SHOW` and metrics.
    #[must_use]
    pub fn cached_users(&self) -> usize {
        self.l1.len()
    }

    /// Users whose older generations are refused because they moved lately.
    #[must_use]
    pub fn pinned_users(&self) -> usize {
        self.pins.len()
    }

    /// Empties the first level: every user is looked up anew.
    pub fn clear_cache(&self) {
        self.l1.clear();
    }
}
