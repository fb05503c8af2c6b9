//! What the application knows of each person: enough to say what any answer about them must be.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};

use parking_lot::{Mutex, RwLock};
use rand::Rng;

use crate::journal::{Outcome, Rows};

/// Photos of a person that are remembered, at most.
const GALLERY_MAX: usize = 64;

/// How many rows there are of one kind, between what is certain and what is possible.
#[derive(Debug, Default)]
pub(crate) struct Span {
    added: AtomicI64,
    adding: AtomicI64,
    removed: AtomicI64,
    removing: AtomicI64,
}

/// The certain part of a [`Span`] before a question is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    added: i64,
    removed: i64,
}

impl Span {
    pub(crate) fn starting_at(rows: i64) -> Self {
        Span { added: AtomicI64::new(rows), adding: AtomicI64::new(rows), ..Span::default() }
    }

    pub(crate) fn add(&self, rows: i64) {
        self.adding.fetch_add(rows, SeqCst);
    }

    pub(crate) fn added(&self, rows: i64, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.added.fetch_add(rows, SeqCst),
            Outcome::Failed => self.adding.fetch_sub(rows, SeqCst),
            Outcome::Unknown => 0,
        };
    }

    pub(crate) fn remove(&self, rows: i64) {
        self.removing.fetch_add(rows, SeqCst);
    }

    pub(crate) fn removed(&self, rows: i64, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.removed.fetch_add(rows, SeqCst),
            Outcome::Failed => self.removing.fetch_sub(rows, SeqCst),
            Outcome::Unknown => 0,
        };
    }

    pub(crate) fn before(&self) -> Before {
        Before { added: self.added.load(SeqCst), removed: self.removed.load(SeqCst) }
    }

    /// Fewest and most rows that an answer may show whose question was asked at `before`.
    pub(crate) fn bounds(&self, before: Before) -> (i64, i64) {
        (before.added - self.removing.load(SeqCst), self.adding.load(SeqCst) - before.removed)
    }
}

/// A photo whose row is known to be there.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) id: i64,
    pub(crate) request: String,
}

/// What one person's own writes left behind; held while a write for that person is under way.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Photo -> how often its title was changed; `None` once an outcome was unknown, and it is left alone.
    pub(crate) edits: BTreeMap<i64, Option<u32>>,
    /// Favourites made in this run: photo and request.
    pub(crate) favourites: Vec<(i64, String)>,
    /// Photos liked already, by anybody's doing; asked for at the first like.
    pub(crate) favoured: Option<BTreeSet<i64>>,
    pub(crate) groups: BTreeSet<i64>,
    /// How often the person visited; `None` once unknown.
    pub(crate) visits: Option<u32>,
    /// Preference -> changes; `None` once unknown. Read at the first change of any.
    pub(crate) preferences: Option<BTreeMap<String, Option<u32>>>,
}

/// One person of the site.
#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) id: i64,
    /// The request that signed the person up.
    pub(crate) request: String,
    pub(crate) photos: Span,
    pub(crate) comments: Span,
    pub(crate) albums: Span,
    pub(crate) favourites: Span,
    pub(crate) ledger: Span,
    pub(crate) memberships: Span,
    /// Newest photos last.
    pub(crate) gallery: Mutex<VecDeque<Known>>,
    pub(crate) own: tokio::sync::Mutex<Own>,
    /// No writes before this time of the run, because the person was being moved.
    pub(crate) locked_until_us: AtomicU64,
    /// Time of the run of the first lock message since the last acknowledged write; 0 is none.
    pub(crate) locked_since_us: AtomicU64,
}

impl Person {
    pub(crate) fn new(id: i64, request: String, rows: Rows, visits: u32) -> Self {
        Person {
            id,
            request,
            photos: Span::starting_at(rows.photos),
            comments: Span::starting_at(rows.comments),
            albums: Span::starting_at(rows.albums),
            favourites: Span::starting_at(rows.favourites),
            ledger: Span::starting_at(rows.ledger),
            memberships: Span::starting_at(rows.memberships),
            gallery: Mutex::default(),
            own: tokio::sync::Mutex::new(Own { visits: Some(visits), ..Own::default() }),
            locked_until_us: AtomicU64::new(0),
            locked_since_us: AtomicU64::new(0),
        }
    }

    pub(crate) fn remember(&self, photo: Known) {
        let mut gallery = self.gallery.lock();
        if gallery.len() == GALLERY_MAX {
            gallery.pop_front();
        }
        gallery.push_back(photo);
    }

    /// One of the remembered photos, newer ones more often.
    pub(crate) fn some_photo(&self, rng: &mut impl Rng) -> Option<Known> {
        let gallery = self.gallery.lock();
        let (one, other) = (rng.random_range(0..GALLERY_MAX), rng.random_range(0..GALLERY_MAX));
        let newest = gallery.len().checked_sub(1)?;
        gallery.get(newest - (one.min(other) % gallery.len())).cloned()
    }
}

#[derive(Debug, Default)]
struct Crowd {
    people: Vec<Arc<Person>>,
    /// Sum of the weights up to and with each person: the n-th has weight 1/n, as people's fame has.
    weights: Vec<f64>,
}

/// Everybody, the busiest first.
#[derive(Debug, Default)]
pub(crate) struct Population(RwLock<Crowd>);

impl Population {
    pub(crate) fn join(&self, person: Arc<Person>) {
        let mut crowd = self.0.write();
        let total = crowd.weights.last().copied().unwrap_or(0.0);
        let place = f64::from(u32::try_from(crowd.people.len()).unwrap_or(u32::MAX)) + 1.0;
        crowd.weights.push(total + 1.0 / place);
        crowd.people.push(person);
    }

    /// Anybody, the busy far more often.
    pub(crate) fn somebody(&self, rng: &mut impl Rng) -> Option<Arc<Person>> {
        let crowd = self.0.read();
        let total = crowd.weights.last().copied()?;
        let point = rng.random_range(0.0..total);
        let place = crowd.weights.partition_point(|weight| *weight <= point);
        crowd.people.get(place).or_else(|| crowd.people.last()).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().people.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn a_span_knows_what_an_answer_may_show() {
        let span = Span::starting_at(5);
        let before = span.before();
        span.add(1);
        assert_eq!(span.bounds(before), (5, 6));
        span.added(1, Outcome::Ok);
        assert_eq!(span.bounds(span.before()), (6, 6));
        span.remove(1);
        assert_eq!(span.bounds(span.before()), (5, 6));
        span.removed(1, Outcome::Unknown);
        span.add(1);
        span.added(1, Outcome::Failed);
        assert_eq!(span.bounds(span.before()), (5, 6));
    }

    #[test]
    fn the_first_are_the_busiest() {
        let population = Population::default();
        for id in 0..100 {
            population.join(Arc::new(Person::new(id, String::new(), Rows::default(), 0)));
        }
        let mut rng = StdRng::seed_from_u64(1);
        let mut met = [0; 100];
        for _ in 0..10_000 {
            let id = population.somebody(&mut rng).expect("somebody").id;
            met[usize::try_from(id).expect("small")] += 1;
        }
        assert!(met[0] > 1500 && met[0] > 5 * met[20], "{met:?}");
    }
}
