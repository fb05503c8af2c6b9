//! One connection's share of the load: picks somebody, lets them do something, and notes how it ended.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rand::{Rng as _, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    failure::{Failure, Fault},
    journal::{Journal, Note, Outcome, Write},
    people::{Person, Population},
    reads,
    session::Session,
    tally::Live,
};

/// Longest wait between two attempts to connect.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);

/// What all connections of a run have in common.
pub(crate) struct Shared {
    pub(crate) population: Population,
    pub(crate) journal: Journal,
    pub(crate) live: Arc<Live>,
    /// Connections that only read what another connection has just written.
    pub(crate) readers: Vec<tokio::sync::Mutex<Session>>,
    /// What every request id of this run starts with.
    pub(crate) prefix: String,
    pub(crate) next_op: AtomicU64,
    pub(crate) groups: RwLock<Vec<i64>>,
    /// Every id handed out in this run, by table.
    pub(crate) ids: Mutex<HashSet<(&'static str, i64)>>,
    pub(crate) ends: Instant,
    /// Time between two operations of one connection; zero is as fast as answers come.
    pub(crate) think: Duration,
}

/// An operation noted and under way.
pub(crate) struct Op {
    pub(crate) number: u64,
}

/// The steps of an operation went through: it was committed, or rolled back on purpose.
pub(crate) struct Done {
    pub(crate) ids: Vec<i64>,
    pub(crate) committed: bool,
}

/// One connection of the load.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Session,
    pub(crate) rng: StdRng,
    /// Write operations of this connection that were acknowledged.
    pub(crate) acknowledged: u64,
}

impl Worker {
    /// Works until the run ends; an error is one that makes going on pointless.
    pub(crate) async fn work(mut self) -> Result<(), Failure> {
        let mut wait = Duration::from_millis(50);
        while !self.shared.live.is_stopped() && Instant::now() < self.shared.ends {
            let began = Instant::now();
            if let Err(failure) = self.session.ensure().await {
                self.shared.live.failed(&failure, 0);
                self.shared.live.reconnects.fetch_add(1, Relaxed);
                self.shared.live.pause(wait).await;
                wait = (wait * 2).min(RECONNECT_WAIT_MAX);
                continue;
            }
            wait = Duration::from_millis(50);
            self.one().await?;
            if let Some(rest) = self.shared.think.checked_sub(began.elapsed()).filter(|rest| !rest.is_zero())
            {
                self.shared.live.pause(rest).await;
            }
        }
        self.session.disconnect().await;
        Ok(())
    }

    /// One thing that somebody does.
    async fn one(&mut self) -> Result<(), Failure> {
        let Some(person) = self.shared.population.somebody(&mut self.rng) else {
            return Err(Failure::wrong("there is nobody on the site: load people first"));
        };
        let acknowledged = self.acknowledged;
        let ended = match self.rng.random_range(0..1000) {
            0..5 => self.shake().await,
            5..880 => self.look(&person).await,
            _ if person.locked_until_us.load(Relaxed) > self.shared.live.at_us() => self.look(&person).await,
            _ => self.change(&person).await,
        };
        if self.acknowledged > acknowledged {
            let since = person.locked_since_us.swap(0, Relaxed);
            if since > 0 {
                self.shared.live.unlocked(since);
            }
        }
        let Err(failure) = ended else {
            return Ok(());
        };
        self.shared.live.failed(&failure, person.id);
        self.session.recover().await;
        match failure.fault {
            Fault::Journal => Err(failure),
            Fault::Locked => {
                let (now, wait_us) = (self.shared.live.at_us(), self.rng.random_range(200_000..600_000));
                person.locked_until_us.store(now + wait_us, Relaxed);
                // An older first message stays.
                let _ = person.locked_since_us.compare_exchange(0, now.max(1), Relaxed, Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What drivers and pools do between requests.
    async fn shake(&mut self) -> Result<(), Failure> {
        match self.rng.random_range(0..10) {
            0..3 => {
                self.shared.live.resets.fetch_add(1, Relaxed);
                self.session.reset(false).await
            }
            3 => {
                self.shared.live.resets.fetch_add(1, Relaxed);
                self.session.reset(true).await
            }
            4..6 => {
                self.session.disconnect().await;
                self.shared.live.reconnects.fetch_add(1, Relaxed);
                self.session.ensure().await
            }
            _ => {
                let on = !self.session.autocommit || self.rng.random_bool(0.7);
                self.session.set_autocommit(on).await
            }
        }
    }

    async fn look(&mut self, person: &Person) -> Result<(), Failure> {
        let (session, shared) = (&mut self.session, &*self.shared);
        match self.rng.random_range(0..100) {
            0..20 => reads::profile(session, shared, person).await,
            20..42 => reads::stream(session, shared, person).await,
            42..62 => reads::photo_page(session, shared, person, &mut self.rng).await,
            62..68 => reads::statistics(session, shared, person).await,
            68..74 => reads::money(session, shared, person).await,
            74..79 => reads::favourites(session, shared, person).await,
            79..83 => reads::albums(session, shared, person).await,
            83..88 => reads::groups(session, shared, person).await,
            88..94 => reads::login(session, shared, person).await,
            94..96 => reads::stranger(session, shared, &mut self.rng).await,
            _ => reads::same_twice(session, shared, person).await,
        }?;
        // Where autocommit is off the reads have opened a transaction; the next request must see news.
        let commit = self.rng.random_bool(0.5);
        self.session.end(commit).await
    }

    async fn change(&mut self, person: &Arc<Person>) -> Result<(), Failure> {
        match self.rng.random_range(0..100) {
            0..15 => self.upload(person).await,
            15..42 => self.comment(person).await,
            42..55 => self.edit(person).await,
            55..66 => self.favourite(person).await,
            66..72 => self.unfavourite(person).await,
            72..80 => self.visit(person).await,
            80..86 => self.preference(person).await,
            86..92 => self.transfer(person).await,
            92..95 => self.album(person).await,
            95..98 => self.group(person).await,
            _ => self.sign_up().await,
        }
    }

    /// A new operation's request id.
    pub(crate) fn fresh(&self) -> (u64, String) {
        let number = self.shared.next_op.fetch_add(1, Relaxed);
        (number, format!("{}-{number}", self.shared.prefix))
    }

    /// Notes what is about to be sent.
    pub(crate) async fn intend(&self, number: u64, user: i64, writes: Vec<Write>) -> Result<Op, Failure> {
        let note = Note::Intent { op: number, user, at_us: self.shared.live.at_us(), writes };
        self.note(&note).await?;
        Ok(Op { number })
    }

    /// Notes how the operation ended; only after that does it count as acknowledged.
    pub(crate) async fn settle(&mut self, op: Op, done: &Result<Done, Failure>) -> Result<Outcome, Failure> {
        let live = &self.shared.live;
        let (outcome, counter, ids) = match done {
            Ok(done) if done.committed => (Outcome::Ok, &live.acknowledged, done.ids.clone()),
            Ok(_) => (Outcome::Failed, &live.rolled_back, Vec::new()),
            Err(failure) => match failure.outcome() {
                Outcome::Failed => (Outcome::Failed, &live.refused, Vec::new()),
                other => (other, &live.unknown, Vec::new()),
            },
        };
        if done.is_err() {
            self.session.recover().await;
        }
        self.note(&Note::Outcome { op: op.number, at_us: live.at_us(), outcome, ids }).await?;
        counter.fetch_add(1, Relaxed);
        self.acknowledged += u64::from(outcome == Outcome::Ok);
        Ok(outcome)
    }

    async fn note(&self, note: &Note) -> Result<(), Failure> {
        self.shared
            .journal
            .note(note)
            .await
            .map_err(|error| Failure::new(Fault::Journal, error.to_string(), ""))
    }

    /// Ends a transaction: nearly always with COMMIT, now and then with a change of mind.
    pub(crate) async fn finish(&mut self, ids: Vec<i64>) -> Result<Done, Failure> {
        let committed = self.rng.random_bool(0.95);
        self.session.end(committed).await?;
        Ok(Done { ids, committed })
    }
}

impl Shared {
    /// An id that nobody had before.
    pub(crate) fn unique(&self, table: &'static str, id: i64) -> Result<(), Failure> {
        self.live.checks.fetch_add(1, Relaxed);
        if id <= 0 || !self.ids.lock().insert((table, id)) {
            return Err(Failure::wrong(format!(
                "{table} gave the id {id}, which is none or had been given before"
            )));
        }
        Ok(())
    }
}
