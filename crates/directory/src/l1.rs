//! The first-level cache: key -> shard and generations, in this process.

use std::time::{Duration, Instant};

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use usher_topology::{Generation, Key, ShardId};

use crate::{EntityState, Located};

/// Marks an entry that says "unknown"; its other fields are the moment until which that holds.
const UNKNOWN: u16 = u16::MAX;

/// One entry, packed: with an integer key it takes 24 bytes, and with the cache's own book-keeping under 64.
#[derive(Debug, Clone, Copy)]
struct Packed {
    generation: u32,
    own_gen: u32,
    shard: u16,
}

impl Packed {
    /// Only active entities are kept, and only generations that fit: all that ever occur in practice.
    fn of(located: &Located) -> Option<Self> {
        if located.state != EntityState::Active || located.shard.0 == UNKNOWN {
            return None;
        }
        Some(Self {
            generation: u32::try_from(located.generation.0).ok()?,
            own_gen: u32::try_from(located.own_gen.0).ok()?,
            shard: located.shard.0,
        })
    }

    #[allow(clippy::cast_possible_truncation)] // the two halves of one number
    fn unknown(until_ms: u64) -> Self {
        Self { generation: (until_ms >> 32) as u32, own_gen: until_ms as u32, shard: UNKNOWN }
    }

    fn until_ms(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.own_gen)
    }

    fn located(self) -> Located {
        Located {
            shard: ShardId(self.shard),
            generation: Generation(u64::from(self.generation)),
            own_gen: Generation(u64::from(self.own_gen)),
            state: EntityState::Active,
        }
    }
}

/// The cache; bounded by number of users, least useful ones leave first.
#[derive(Debug)]
pub(crate) struct L1 {
    // Integers that fit 64 signed bits, nearly all there are, need no allocation; the rest is kept as text.
    ints: Cache<i64, Packed>,
    texts: Cache<String, Packed>,
    began: Instant,
    unknown: Duration,
}

impl L1 {
    pub(crate) fn new(users_max: usize, unknown: Duration) -> Self {
        let users_max = users_max.max(16);
        Self { ints: Cache::new(users_max), texts: Cache::new(users_max), began: Instant::now(), unknown }
    }

    /// `Some(None)`: known not to exist a moment ago.
    pub(crate) fn find(&self, key: &Key) -> Option<Option<Located>> {
        let packed = match key {
            Key::Int(number) => match i64::try_from(*number) {
                Ok(number) => self.ints.get(&number),
                Err(_) => self.texts.get(number.to_string().as_str()),
            },
            Key::Text(text) => self.texts.get(&**text),
        }?;
        if packed.shard != UNKNOWN {
            return Some(Some(packed.located()));
        }
        (self.now_ms() < packed.until_ms()).then_some(None)
    }

    /// Keeps it unless a newer generation is held.
    pub(crate) fn install(&self, key: &Key, located: &Located) {
        if let Some(packed) = Packed::of(located) {
            self.put(key, packed, |held| held.shard == UNKNOWN || held.generation <= packed.generation);
        }
    }

    /// Remembers for a short time that there is no such entity, unless something is held of it.
    pub(crate) fn install_unknown(&self, key: &Key) {
        let until_ms = self.now_ms() + u64::try_from(self.unknown.as_millis()).unwrap_or(u64::MAX / 2);
        self.put(key, Packed::unknown(until_ms), |held| held.shard == UNKNOWN);
    }

    pub(crate) fn remove(&self, key: &Key) {
        match key {
            Key::Int(number) => match i64::try_from(*number) {
                Ok(number) => drop(self.ints.remove(&number)),
                Err(_) => drop(self.texts.remove(number.to_string().as_str())),
            },
            Key::Text(text) => drop(self.texts.remove(&**text)),
        }
    }

    pub(crate) fn clear(&self) {
        self.ints.clear();
        self.texts.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.ints.len() + self.texts.len()
    }

    fn put(&self, key: &Key, packed: Packed, replaces: impl FnOnce(&Packed) -> bool) {
        match key {
            Key::Int(number) => match i64::try_from(*number) {
                Ok(number) => put_into(&self.ints, &number, packed, replaces),
                Err(_) => put_into(&self.texts, &*number.to_string(), packed, replaces),
            },
            Key::Text(text) => put_into(&self.texts, &**text, packed, replaces),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Compare and store under the cache's own lock: of two answers that arrive at once the newer one stays.
fn put_into<K, Q>(cache: &Cache<K, Packed>, key: &Q, packed: Packed, replaces: impl FnOnce(&Packed) -> bool)
where
    K: std::hash::Hash + Eq,
    Q: std::hash::Hash + quick_cache::Equivalent<K> + ToOwned<Owned = K> + ?Sized,
{
    let entry = cache.entry(key, Some(Duration::ZERO), |_, held| {
        if replaces(held) {
            *held = packed;
        }
        EntryAction::Retain(())
    });
    if let EntryResult::Vacant(guard) = entry {
        // Fails if the key was removed in between: then this answer is outdated anyway.
        let _ = guard.insert(packed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(shard: u16, generation: u64) -> Located {
        Located {
            shard: ShardId(shard),
            generation: Generation(generation),
            own_gen: Generation(generation),
            state: EntityState::Active,
        }
    }

    fn keys() -> [Key; 4] {
        [Key::Int(7), Key::Int(-7), Key::Int(i128::from(u64::MAX)), Key::Text("bob".into())]
    }

    #[test]
    fn an_older_generation_never_replaces_a_newer_one() {
        let cache = L1::new(100, Duration::from_secs(1));
        for key in keys() {
            cache.install(&key, &at(2, 5));
            cache.install(&key, &at(1, 4));
            assert_eq!(cache.find(&key), Some(Some(at(2, 5))));
            cache.install(&key, &at(3, 6));
            assert_eq!(cache.find(&key), Some(Some(at(3, 6))));
            cache.remove(&key);
            assert_eq!(cache.find(&key), None);
        }
    }

    #[test]
    fn unknown_is_forgotten_and_never_hides_what_is_known() {
        let cache = L1::new(100, Duration::from_millis(20));
        for key in keys() {
            cache.install_unknown(&key);
            assert_eq!(cache.find(&key), Some(None));
        }
        while cache.find(&Key::Int(7)).is_some() {
            std::thread::yield_now();
        }
        cache.install(&Key::Int(7), &at(1, 1));
        cache.install_unknown(&Key::Int(7));
        assert_eq!(cache.find(&Key::Int(7)), Some(Some(at(1, 1))));
    }

    #[test]
    fn users_that_are_not_active_are_not_kept() {
        let cache = L1::new(100, Duration::from_secs(1));
        cache.install(&Key::Int(1), &Located { state: EntityState::Locked, ..at(1, 1) });
        assert_eq!(cache.find(&Key::Int(1)), None);
    }

    #[test]
    fn an_integer_user_takes_at_most_64_bytes() {
        let users = 200_000;
        let cache = L1::new(users, Duration::from_secs(1));
        for id in 0..users {
            cache.install(&Key::Int(id as i128), &at(1, 1));
        }
        let held = cache.ints.len();
        assert!(held > users / 2, "{held}");
        let used = cache.ints.memory_used();
        assert!((used.entries + used.map) / held <= 64, "{used:?} for {held}");
    }
}
