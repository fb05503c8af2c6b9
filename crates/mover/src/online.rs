//! The steps that online moves alone take: copying while the user writes, the rest of the log behind the lock, and
//! letting the user go when a cutover takes too long.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use usher_directory::EntityState;
use usher_directory::rows::{DirectoryChange, MoveUpdate};
use usher_stream::Cascade;
use usher_topology::{Generation, GtidPosition, Server};

use crate::copy::Job;
use crate::decide::{Contradiction, Facts, OwnState, ProgressFact, UserState, Wish};
use crate::dialect::logged_position;
use crate::fail::point;
use crate::follow::Follower;
use crate::run::{Picture, Run, writer};
use crate::sessions::Session;
use crate::table::Table;
use crate::{MoveError, Phase, Result, foreign_keys};

/// Cutovers that are tried before the move is given up.
const CUTOVERS_MAX: u32 = 10;
/// The first wait after a cutover that was broken off; each is twice as long as the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// In the order of copying: whose parent is gone is known by those who are there already.
async fn parents_first(source: &mut Session, tables: Vec<Table>) -> Result<Vec<Table>> {
    let keys = foreign_keys::load(source, &tables).await?;
    let order = foreign_keys::children_first(&keys, tables.len());
    Ok(order.into_iter().rev().map(|at| tables[at].clone()).collect())
}

impl Run {
    /// Writes of the user are held, and the target does not have the user yet.
    pub(crate) fn is_cutting_over(&self, facts: &Facts) -> bool {
        self.online && facts.directory.state == UserState::Locked && facts.phase < Phase::Closed
    }

    /// Whether the cutover under way is broken off because of an error.
    pub(crate) async fn break_off(&self, error: &MoveError) -> bool {
        let held = self.clock.lock().since_begin().is_some();
        if !self.online || !held || self.overdue.load(Ordering::Relaxed) {
            return false;
        }
        // What was under way may have been cut short in the middle.
        self.follower.lock().await.take();
        let broken_off = self.cutovers.fetch_add(1, Ordering::Relaxed) + 1;
        if broken_off >= CUTOVERS_MAX {
            return false;
        }
        tracing::warn!(move_id = %self.id, %error, broken_off, "a cutover is broken off");
        self.overdue.store(true, Ordering::Relaxed);
        true
    }

    /// Copies and follows until little is left to follow.
    pub(crate) async fn follow(&self, now: &Picture) -> Result<()> {
        let progress = now.progress.as_ref().ok_or_else(|| self.stopped(Contradiction::Target))?;
        if now.row.rows_total == 0 {
            let update =
                MoveUpdate { rows_total: Some(self.count_rows(now).await?), ..MoveUpdate::default() };
            self.record(update, false).await?;
        }
        let (mut source, mut target, tables) = self.both(now).await?;
        let tables = parents_first(&mut source, tables).await?;
        *self.tables.lock() = Some(tables.clone());
        self.counters.rows_total.store(now.row.rows_total, Ordering::Relaxed);
        self.counters.rows_copied.store(progress.rows, Ordering::Relaxed);
        self.counters.bytes_copied.store(progress.bytes, Ordering::Relaxed);
        let job = self.job(&tables);
        let mut follower = self.take_follower(now, &mut source, &job).await?;
        let mut wish = self.wish.subscribe();
        let work = async {
            follower.copy(&job, &mut source, &mut target, progress).await?;
            let until = Instant::now() + self.backoff();
            while Instant::now() < until {
                follower.next_mark(&job, &mut source, &mut target).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok::<_, MoveError>(())
        };
        tokio::select! {
            done = work => done?,
            // What is under way is rolled back with its connection; the next facts tell what to do.
            _ = wish.wait_for(|wish| *wish != Wish::Run) => return Ok(()),
        }
        self.sessions.keep(source);
        self.sessions.keep(target);
        *self.follower.lock().await = Some(follower);
        let update = MoveUpdate {
            phase: Some(Phase::CaughtUp.as_str().to_owned()),
            rows_done: Some(self.counters.rows_copied.load(Ordering::Relaxed)),
            bytes_done: Some(self.counters.bytes_copied.load(Ordering::Relaxed)),
            ..MoveUpdate::default()
        };
        self.record(update, false).await?;
        point("caught_up").await
    }

    fn backoff(&self) -> Duration {
        match self.cutovers.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            broken_off => (FIRST_BACKOFF * 2u32.pow((broken_off - 1).min(10))).min(BACKOFF_MAX),
        }
    }

    /// The log where an earlier step left it, or opened where the target's rows are.
    async fn take_follower(&self, now: &Picture, source: &mut Session, job: &Job<'_>) -> Result<Follower> {
        if let Some(follower) = self.follower.lock().await.take() {
            return Ok(follower);
        }
        let known = now.progress.as_ref().and_then(|progress| progress.position.clone());
        let cascades = foreign_keys::cascades(&foreign_keys::load(source, job.tables).await?, job.tables)?;
        let src = now.src()?;
        let mut last = None;
        // The standby first: what it logs survives the writer.
        for server in src.standby().into_iter().chain([writer(&now.state, now.row.src)?]) {
            match self.open_log(server, known.as_deref(), job, cascades.clone()).await {
                Ok(follower) => return Ok(follower),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.stopped(Contradiction::Source)))
    }

    async fn open_log(
        &self,
        server: &Server,
        known: Option<&str>,
        job: &Job<'_>,
        cascades: Vec<Cascade>,
    ) -> Result<Follower> {
        let mut conn = self.global.server_conn(server).await?;
        let position = match known {
            Some(position) => position.to_owned(),
            None => {
                let family =
                    usher_directory::server::family(&mut conn).await.map_err(MoveError::at(&server.name))?;
                logged_position(&mut conn, family).await.map_err(MoveError::at(&server.name))?
            }
        };
        let after = GtidPosition::parse(&position).map_err(|error| MoveError::Data(error.to_string()))?;
        Follower::open(conn, &server.name, job, after, cascades).await
    }

    /// Whether the rest of the cutover may follow from what is known now: this mover has caught up, nothing was recorded
    /// of an earlier cutover, and both shards are as they were when the proxies were asked.
    pub(crate) fn may_cut_over_at_once(&self, facts: &Facts) -> bool {
        self.online
            && facts.epochs_at_drain == Some(facts.epochs_now)
            && facts.progress == Some(ProgressFact::Open { mine: true })
            && facts.target.is_some_and(|own| own.state == OwnState::Incoming && own.ours)
    }

    /// The cutover from the drain to the target's ownership, in one go: each stage that is recorded on the way, and each
    /// look at all the rows, would be a part of the user's pause. The rows on both shards tell whoever has to go on how
    /// far it has come, and the commit proves that the directory and the shards' writers are as they were.
    pub(crate) async fn cut_over(&self, now: &Picture, from: Generation) -> Result<()> {
        let drained = self.drain(now, from).await?;
        self.standby_has(now, now.row.src, &drained).await?;
        point("cut.partner").await?;
        self.apply_rest(now, from.0 + 1).await?;
        if !self.compare(now).await? {
            return Ok(());
        }
        let own_gen = Generation(from.0 + 2);
        let closed = self.close_target(now, own_gen).await?;
        point("cut.closed").await?;
        self.standby_has(now, now.row.dst, &closed).await?;
        // By itself: should the global master lose the commit, this tells that the target may own the user.
        let update = MoveUpdate {
            phase: Some(Phase::Closed.as_str().to_owned()),
            rows_done: Some(self.counters.rows_copied.load(Ordering::Relaxed)),
            bytes_done: Some(self.counters.bytes_copied.load(Ordering::Relaxed)),
            own_gen: Some(own_gen),
            drain_gtid: Some(drained),
            close_gtid: Some(closed.clone()),
            ..MoveUpdate::default()
        };
        self.record(update, false).await?;
        self.commit_as(now, own_gen, Some(closed)).await?;
        self.own_target(now, own_gen).await
    }

    /// Applies what the source has logged up to its lock.
    pub(crate) async fn finish_following(&self, now: &Picture) -> Result<()> {
        let own_gen = now.facts.source.map(|own| own.own_gen.0);
        self.apply_rest(now, own_gen.ok_or_else(|| self.stopped(Contradiction::Source))?).await?;
        self.record_copied().await
    }

    async fn apply_rest(&self, now: &Picture, own_gen: u64) -> Result<()> {
        let (mut source, mut target, tables) = self.both(now).await?;
        let job = self.job(&tables);
        let mut follower = self.take_follower(now, &mut source, &job).await?;
        follower.finish(&job, &mut target, own_gen).await?;
        self.sessions.keep(source);
        self.sessions.keep(target);
        point("cut.tail").await
    }

    /// Lets the user write again; the cutover is tried again later.
    pub(crate) async fn unlock(&self, now: &Picture, own_gen: Generation) -> Result<()> {
        let change = DirectoryChange {
            state: Some(EntityState::Moving),
            own_gen: Some(own_gen),
            ..DirectoryChange::default()
        };
        let update = MoveUpdate { phase: Some(Phase::Fenced.as_str().to_owned()), ..MoveUpdate::default() };
        self.cas(now, change, update).await?;
        self.overdue.store(false, Ordering::Relaxed);
        point("cut.unlocked").await
    }
}
