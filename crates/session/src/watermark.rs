//! Each user's last write, until every copy has it: what makes a user's reads see the user's own writes, on whatever
//! connection they come.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use usher_backend::HealthMap;
use usher_topology::{GtidPosition, Key, Shard, ShardId, Topology};

const STRIPES: usize = 16;

/// What a read of a user needs.
#[derive(Debug, Clone)]
pub(crate) enum Needs {
    /// Nothing: any copy within the lag limit will do.
    Nothing,
    /// A copy that has executed this.
    Position(Arc<GtidPosition>),
    /// The writer: where the write stands in its history is not known.
    Writer,
}

#[derive(Debug)]
struct Mark {
    shard: ShardId,
    position: Option<Arc<GtidPosition>>,
    at: Instant,
}

impl Mark {
    /// Takes a further write in. Answers of writes that ran at the same time come in any order: the later position
    /// of the two counts.
    fn advance(&mut self, new: Mark) {
        match (&mut self.position, &new.position) {
            (Some(held), Some(position)) if self.shard == new.shard => {
                Arc::make_mut(held).merge(position);
                self.at = new.at;
            }
            _ => *self = new,
        }
    }
}

/// The last writes of all users that wrote lately.
#[derive(Debug)]
pub(crate) struct Watermarks {
    stripes: Vec<Mutex<HashMap<Key, Mark>>>,
    hasher: RandomState,
    max_in_stripe: usize,
    /// A write whose position is not known is on every copy within the lag limit after this.
    blind: Duration,
    /// Where a stripe was full: what the whole shard's reads need.
    floor: Mutex<HashMap<ShardId, Mark>>,
    /// Spares reads the floor's lock while there is none, as nearly always.
    has_floor: AtomicBool,
}

impl Watermarks {
    pub(crate) fn new(max: usize, lag_ms_max: u64, probe_ms: u64) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            max_in_stripe: (max / STRIPES).max(1),
            blind: Duration::from_millis(lag_ms_max + 2 * probe_ms),
            floor: Mutex::default(),
            has_floor: AtomicBool::new(false),
        }
    }

    fn stripe(&self, key: &Key) -> &Mutex<HashMap<Key, Mark>> {
        // The index is below STRIPES, which is the length.
        &self.stripes[self.hasher.hash_one(key) as usize % STRIPES]
    }

    /// Remembers a write.
    pub(crate) fn wrote(&self, shard: ShardId, key: &Key, position: Option<Arc<GtidPosition>>) {
        let mark = Mark { shard, position, at: Instant::now() };
        let mut stripe = self.stripe(key).lock();
        if let Some(held) = stripe.get_mut(key) {
            held.advance(mark);
            return;
        }
        if stripe.len() < self.max_in_stripe {
            stripe.insert(key.clone(), mark);
            return;
        }
        drop(stripe);
        self.raise_floor(mark);
    }

    /// Remembers a write of these users; of nobody knows whom, if they are not known.
    pub(crate) fn wrote_of(&self, shard: ShardId, keys: Option<&[Key]>, position: Option<Arc<GtidPosition>>) {
        match keys {
            Some(keys) => keys.iter().for_each(|key| self.wrote(shard, key, position.clone())),
            None => self.raise_floor(Mark { shard, position, at: Instant::now() }),
        }
    }

    fn raise_floor(&self, mark: Mark) {
        let mut floor = self.floor.lock();
        self.has_floor.store(true, Ordering::Release);
        match floor.get_mut(&mark.shard) {
            Some(held) => held.advance(mark),
            None => drop(floor.insert(mark.shard, mark)),
        }
    }

    /// What a read of this user on this shard needs.
    pub(crate) fn needs(&self, shard: ShardId, key: Option<&Key>) -> Needs {
        let own = key.and_then(|key| {
            let stripe = self.stripe(key).lock();
            stripe.get(key).filter(|mark| mark.shard == shard).map(|mark| self.judge(mark))
        });
        let floor = match self.has_floor.load(Ordering::Acquire) {
            true => self.floor.lock().get(&shard).map(|mark| self.judge(mark)),
            false => None,
        };
        match (own, floor) {
            (None | Some(Needs::Nothing), None) => Needs::Nothing,
            (Some(needs), None | Some(Needs::Nothing)) | (None, Some(needs)) => needs,
            (Some(Needs::Position(mut own)), Some(Needs::Position(floor))) => {
                Arc::make_mut(&mut own).merge(&floor);
                Needs::Position(own)
            }
            _ => Needs::Writer,
        }
    }

    fn judge(&self, mark: &Mark) -> Needs {
        match &mark.position {
            Some(position) => Needs::Position(Arc::clone(position)),
            None if mark.at.elapsed() < self.blind => Needs::Writer,
            None => Needs::Nothing,
        }
    }

    /// Forgets what every copy has. Called now and then.
    pub(crate) fn sweep(&self, topology: &Topology, health: &HealthMap) {
        let everywhere = |mark: &Mark| match (&mark.position, topology.shard(mark.shard)) {
            (None, _) => mark.at.elapsed() >= self.blind,
            (Some(_), None) => true,
            (Some(position), Some(shard)) => copies(shard).all(|id| {
                health.get(&id).and_then(|h| h.position.as_ref()).is_some_and(|p| p.covers(position))
            }),
        };
        for stripe in &self.stripes {
            stripe.lock().retain(|_, mark| !everywhere(mark));
        }
        let mut floor = self.floor.lock();
        floor.retain(|_, mark| !everywhere(mark));
        self.has_floor.store(!floor.is_empty(), Ordering::Release);
    }
}

fn copies(shard: &Shard) -> impl Iterator<Item = usher_topology::ServerId> {
    shard.servers.iter().map(|server| server.id).filter(|id| *id != shard.writer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> Option<Arc<GtidPosition>> {
        Some(Arc::new(GtidPosition::parse(text).unwrap()))
    }

    #[test]
    fn a_full_table_raises_the_floor_of_the_shard() {
        let marks = Watermarks::new(1, 1000, 10);
        for n in 0..100 {
            marks.wrote(ShardId(1), &Key::Int(n), at(&format!("1-1-{}", n + 1)));
        }
        let Needs::Position(needs) = marks.needs(ShardId(1), Some(&Key::Int(1000))) else { panic!() };
        assert!(needs.covers(&GtidPosition::parse("1-1-90").unwrap()), "{needs}");
        assert!(matches!(marks.needs(ShardId(2), Some(&Key::Int(5))), Needs::Nothing));
    }

    #[test]
    fn an_answer_that_comes_late_does_not_take_the_mark_back() {
        let marks = Watermarks::new(100, 1000, 10);
        for position in ["1-1-9", "1-1-7"] {
            marks.wrote(ShardId(1), &Key::Int(1), at(position));
        }
        let Needs::Position(needs) = marks.needs(ShardId(1), Some(&Key::Int(1))) else { panic!() };
        assert!(needs.covers(&GtidPosition::parse("1-1-9").unwrap()), "{needs}");
    }

    #[test]
    fn a_write_of_unknown_position_is_read_from_the_writer_for_a_while() {
        let marks = Watermarks::new(100, 0, 0);
        let careful = Watermarks::new(100, 60_000, 10);
        for table in [&marks, &careful] {
            table.wrote(ShardId(1), &Key::Int(1), None);
        }
        assert!(matches!(marks.needs(ShardId(1), Some(&Key::Int(1))), Needs::Nothing));
        assert!(matches!(careful.needs(ShardId(1), Some(&Key::Int(1))), Needs::Writer));
    }
}
