//! The least generation that may be believed of users who moved lately.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use usher_topology::{Generation, Key};

/// A value that was written to memcached while its user was moving may be read from there until it expires; what is
/// older than the pin is refused. Pins live twice as long as values in memcached.
#[derive(Debug)]
pub(crate) struct Pins {
    least: RwLock<HashMap<Key, (Generation, Instant)>>,
    life: Duration,
}

impl Pins {
    pub(crate) fn new(life: Duration) -> Self {
        Self { least: RwLock::default(), life }
    }

    /// Believes nothing older than `generation` of `key` from now on, for the life of a pin.
    pub(crate) fn raise(&self, key: &Key, generation: Generation) {
        let until = Instant::now() + self.life;
        let mut least = self.least.write();
        let pin = least.entry(key.clone()).or_insert((generation, until));
        pin.0 = pin.0.max(generation);
        pin.1 = until;
    }

    /// Whether an answer of that generation may be believed.
    pub(crate) fn allow(&self, key: &Key, generation: Generation) -> bool {
        let least = self.least.read();
        least.is_empty() || least.get(key).is_none_or(|(pin, _)| generation >= *pin)
    }

    /// Drops those that have outlived their use.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        self.least.write().retain(|_, (_, until)| *until > now);
    }

    pub(crate) fn len(&self) -> usize {
        self.least.read().len()
    }
}
