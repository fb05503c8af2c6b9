//! Runs one move under a lease: reads the facts, asks [`decide`], takes the step, until the move is over or has to
//! wait. Reports progress and keeps the lease while a step works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use usher_config::Limits;
use usher_directory::rows::{self, DirectoryRow, MoveRow, MoveUpdate, Want};
use usher_directory::{Directory, EntityState, Global, State};
use usher_topology::{Key, MoveId, Server, Shard, ShardState};

use crate::decide::{Contradiction, DirectoryFact, Facts, Step, UserState, Waiting, Wish, decide};
use crate::error::Remedy;
use crate::follow::Follower;
use crate::progress::{Counters, Estimate, LockClock, minutes};
use crate::sessions::Sessions;
use crate::shard_rows;
use crate::table::Table;
use crate::{MoveError, Phase, Result};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The user lives on the target, nothing is left on the source.
    Finished,
    /// The user lives on the source as before, nothing is left on the target.
    Aborted,
    /// The user lives on the target; the old rows wait for their purge.
    PurgePending,
    /// The operator has asked for a pause.
    Paused,
    /// A shard is flipping or not writable; to be tried again soon.
    Waiting,
}

/// How long a mover may be silent before another may take its move over.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How long a user may be locked while a shard is not writable.
const SHARDS_PATIENCE: Duration = Duration::from_secs(30);
/// Tries of a step whose error may pass by itself; each waits twice as long as the one before.
const TRIES: u32 = 7;
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// One move, run by one mover.
pub(crate) struct Run {
    pub(crate) global: Global,
    pub(crate) directory: Arc<Directory>,
    pub(crate) limits: Limits,
    pub(crate) mover_id: String,
    pub(crate) sessions: Sessions,
    pub(crate) id: MoveId,
    pub(crate) epoch: u64,
    pub(crate) key: Key,
    pub(crate) counters: Counters,
    /// How long writes have been refused.
    pub(crate) clock: Mutex<LockClock>,
    /// This mover undoes the move because of an error. Not recorded: one that takes over may have more luck.
    pub(crate) given_up: AtomicBool,
    /// What the operator wants, as last read; a copy looks at it between batches.
    pub(crate) wish: watch::Sender<Wish>,
    /// The rows are copied while they change.
    pub(crate) online: bool,
    /// Online: the cutover under way is to be broken off.
    pub(crate) overdue: AtomicBool,
    /// Online: cutovers that were broken off.
    pub(crate) cutovers: AtomicU32,
    /// Online: the tables as they were when the copy began. One that is redefined later ends the move by the log.
    pub(crate) tables: Mutex<Option<Vec<Table>>>,
    /// Online: the source's log, open between the steps.
    pub(crate) follower: tokio::sync::Mutex<Option<Follower>>,
}

/// What the rows say, with the rows themselves where a step needs them.
pub(crate) struct Picture {
    pub(crate) facts: Facts,
    pub(crate) state: State,
    pub(crate) row: MoveRow,
    pub(crate) progress: Option<shard_rows::Progress>,
}

impl Picture {
    pub(crate) fn src(&self) -> Result<&Shard> {
        shard(&self.state, self.row.src)
    }

    pub(crate) fn dst(&self) -> Result<&Shard> {
        shard(&self.state, self.row.dst)
    }
}

fn shard(state: &State, id: usher_topology::ShardId) -> Result<&Shard> {
    state
        .topology
        .shard(id)
        .ok_or_else(|| MoveError::Data(format!("shard {id} is not in the topology any more")))
}

pub(crate) fn wish_of(want: Want) -> Wish {
    match want {
        Want::Run => Wish::Run,
        Want::Pause => Wish::Pause,
        Want::Abort => Wish::Abort,
    }
}

impl Run {
    /// Runs until the move is over or must wait. The lease is given back at the end.
    pub(crate) async fn go(&self) -> Result<Outcome> {
        let outcome = tokio::select! {
            outcome = self.steps() => outcome,
            error = self.report() => Err(error),
        };
        // Another mover need not wait for the lease to run out. Failing that, it waits.
        let _ = rows::renew_mover_lease(&self.global, self.id, self.epoch, Duration::ZERO).await;
        outcome
    }

    async fn steps(&self) -> Result<Outcome> {
        let mut failures = 0;
        let mut waiting_since = None;
        loop {
            let failed = match self.next().await {
                Ok(Some(Outcome::Waiting)) => {
                    // A flip is over soon; a user that is locked must not wait for a shard that stays away.
                    let since: Instant = *waiting_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > SHARDS_PATIENCE {
                        return self.stop_waiting().await;
                    }
                    tokio::time::sleep(REPORT_EVERY).await;
                    continue;
                }
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {
                    failures = 0;
                    waiting_since = None;
                    continue;
                }
                Err(error) => error,
            };
            tracing::warn!(move_id = %self.id, error = %failed, "a step of a move has failed");
            let remedy = failed.remedy();
            if remedy != Remedy::Leave && self.break_off(&failed).await {
                continue;
            }
            if remedy == Remedy::Leave {
                self.note_error(&failed).await;
                return Err(failed);
            }
            failures += 1;
            if remedy == Remedy::Retry && failures < TRIES {
                tokio::time::sleep(FIRST_WAIT * 2u32.pow(failures - 1)).await;
                continue;
            }
            if !self.give_up(&failed).await? {
                return Err(failed);
            }
            failures = 0;
        }
    }

    /// Undoes a move of a locked user whose shards are not writable; one that has locked nobody may wait on.
    async fn stop_waiting(&self) -> Result<Outcome> {
        let unlocked = self.clock.lock().read().is_none();
        let reason = MoveError::NotWritable { id: self.id };
        if unlocked || !self.give_up(&reason).await? {
            return Ok(Outcome::Waiting);
        }
        Box::pin(self.steps()).await
    }

    /// Reads, decides, does one step. `Some` ends the run.
    async fn next(&self) -> Result<Option<Outcome>> {
        let row = self.row().await?;
        if Phase::parse(&row.phase)?.is_over() || row.finished_at_ms.is_some() {
            return Ok(Some(ended(Phase::parse(&row.phase)?)));
        }
        let picture = self.picture(row).await?;
        if picture.facts.directory.state == UserState::Locked {
            self.clock.lock().begin(picture.row.locked_ms);
        }
        let step = decide(&picture.facts);
        tracing::debug!(move_id = %self.id, phase = %picture.facts.phase, ?step, "step");
        match step {
            Step::Over => Ok(Some(ended(picture.facts.phase))),
            Step::Wait(Waiting::Paused) => Ok(Some(Outcome::Paused)),
            Step::Wait(Waiting::Shards) => Ok(Some(Outcome::Waiting)),
            Step::Wait(Waiting::PurgeTime) => Ok(Some(Outcome::PurgePending)),
            Step::Stop(contradiction) => Err(MoveError::Stopped { id: self.id, contradiction }),
            step => self.take_in_time(step, &picture).await.map(|()| None),
        }
    }

    /// Takes a step; those of an online cutover, while writes are held, within its time.
    async fn take_in_time(&self, step: Step, now: &Picture) -> Result<()> {
        let undoes = now.facts.overdue || matches!(step, Step::Reown | Step::AbortDirectory { .. });
        if !self.is_cutting_over(&now.facts) || undoes {
            return self.take(step, now).await;
        }
        let budget = Duration::from_millis(self.limits.cutover_ms);
        let spent = self.clock.lock().since_begin().unwrap_or_default();
        match tokio::time::timeout(budget.saturating_sub(spent), self.take(step, now)).await {
            Ok(taken) => taken,
            Err(_) => Err(MoveError::CutoverLate { id: self.id, budget_ms: self.limits.cutover_ms }),
        }
    }

    pub(crate) async fn row(&self) -> Result<MoveRow> {
        rows::move_row(&self.global, self.id).await?.ok_or_else(|| MoveError::NoSuchMove(self.id.to_string()))
    }

    /// Reads all that a decision needs, from the writers.
    async fn picture(&self, row: MoveRow) -> Result<Picture> {
        let phase = Phase::parse(&row.phase)?;
        // Within a cutover every round trip is a part of the user's pause.
        let (state, directory) =
            tokio::join!(State::load(&self.global), rows::directory_row(&self.global, &self.key));
        let (state, directory) = (state?, directory?);
        let directory = directory.ok_or_else(|| MoveError::UnknownUser(self.key.clone()))?;
        let mut facts = self.facts_of_global(phase, &row, &state, &directory)?;
        let mut progress = None;
        // A move that was never fenced has touched no shard: it may be aborted with a shard down.
        if facts.directory.ours || phase.is_committed() {
            // Undoing needs the source first, the user's home; the target may be what is down.
            let (source, target) =
                tokio::join!(self.source_fact(&state, &row), self.target_facts(&state, &row));
            facts.source = source?;
            match target {
                Ok((own, found)) => {
                    facts.target = own;
                    facts.progress = found.as_ref().map(|found| found.fact);
                    progress = found;
                }
                Err(error) if !self.can_do_without_target(&facts) => return Err(error),
                Err(error) => {
                    tracing::warn!(move_id = %self.id, %error, "undoing without the target for now");
                }
            }
        }
        Ok(Picture { facts, state, row, progress })
    }

    /// The user can be unlocked on the source while the target is down: before the move was closed there, the target
    /// can't own the user.
    fn can_do_without_target(&self, facts: &Facts) -> bool {
        let undoing = facts.wish == Wish::Abort || facts.phase == Phase::Aborting;
        let reowned = facts.phase == Phase::Aborting
            && facts.source.is_none_or(|own| own.own_gen == facts.directory.own_gen);
        undoing && !reowned && facts.phase != Phase::Closed
    }

    async fn source_fact(&self, state: &State, row: &MoveRow) -> Result<Option<crate::OwnFact>> {
        let mut source = self.sessions.on_writer(writer(state, row.src)?).await?;
        let own = shard_rows::ownership(&mut source, &self.key, self.id).await?;
        self.sessions.keep(source);
        Ok(own)
    }

    async fn target_facts(
        &self,
        state: &State,
        row: &MoveRow,
    ) -> Result<(Option<crate::OwnFact>, Option<shard_rows::Progress>)> {
        let mut target = self.sessions.on_writer(writer(state, row.dst)?).await?;
        let own = shard_rows::ownership(&mut target, &self.key, self.id).await?;
        let progress = shard_rows::progress(&mut target, self.id, self.epoch).await?;
        self.sessions.keep(target);
        Ok((own, progress))
    }

    fn facts_of_global(
        &self,
        phase: Phase,
        row: &MoveRow,
        state: &State,
        directory: &DirectoryRow,
    ) -> Result<Facts> {
        let (src, dst) = (shard(state, row.src)?, shard(state, row.dst)?);
        Ok(Facts {
            phase,
            online: self.online,
            overdue: self.overdue.load(Ordering::Relaxed),
            wish: if self.given_up.load(Ordering::Relaxed) { Wish::Abort } else { wish_of(row.want) },
            src: row.src,
            dst: row.dst,
            directory: DirectoryFact {
                shard: directory.located.shard,
                state: match directory.located.state {
                    EntityState::Active => UserState::Active,
                    EntityState::Moving => UserState::Moving,
                    EntityState::Locked => UserState::Locked,
                    EntityState::Settling => UserState::Settling,
                },
                generation: directory.located.generation,
                own_gen: directory.located.own_gen,
                ours: directory.move_id == Some(self.id),
            },
            epochs_at_drain: row.src_epoch.zip(row.dst_epoch),
            epochs_now: (src.epoch, dst.epoch),
            shards_writable: src.state == ShardState::Rw && dst.state == ShardState::Rw,
            source: None,
            target: None,
            progress: None,
            held: row.active,
            purge_due: row.purge_in_ms.is_some_and(|left| left <= 0),
        })
    }

    /// Undoes the move from now on because of `error`; false when it can't be undone, or is being undone already.
    async fn give_up(&self, error: &MoveError) -> Result<bool> {
        self.note_error(error).await;
        let row = self.row().await?;
        let phase = Phase::parse(&row.phase)?;
        if phase.is_committed() || phase == Phase::Aborting || row.want == Want::Abort {
            return Ok(false);
        }
        Ok(!self.given_up.swap(true, Ordering::Relaxed))
    }

    async fn note_error(&self, error: &MoveError) {
        let update = MoveUpdate { error: Some(format!("{}: {error}", error.id())), ..MoveUpdate::default() };
        if let Err(unheard) = rows::update_move(&self.global, self.id, self.epoch, &update, false).await {
            tracing::warn!(move_id = %self.id, %unheard, "the move's error could not be recorded");
        }
    }

    /// Writes progress and renews the lease for ever; returns when another mover has taken the move over.
    async fn report(&self) -> MoveError {
        let mut estimate = Estimate::begin(Instant::now(), &self.counters);
        let mut told_minutes = None;
        loop {
            tokio::time::sleep(REPORT_EVERY).await;
            if let Err(error) = self.report_once(&mut estimate, &mut told_minutes).await {
                match error {
                    MoveError::LostLease(_) => return error,
                    // Not heard for a moment; the epoch in each change keeps this safe.
                    error => tracing::warn!(move_id = %self.id, %error, "progress could not be written"),
                }
            }
        }
    }

    async fn report_once(&self, estimate: &mut Estimate, told_minutes: &mut Option<u64>) -> Result<()> {
        let row = self.row().await?;
        self.wish.send_if_modified(|wish| std::mem::replace(wish, wish_of(row.want)) != wish_of(row.want));
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let mut update = MoveUpdate { locked_ms: self.clock.lock().read(), ..MoveUpdate::default() };
        if read(&self.counters.rows_total) > 0 {
            update.rows_done = Some(read(&self.counters.rows_copied));
            update.bytes_done = Some(read(&self.counters.bytes_copied));
            update.eta_ms = estimate.eta_ms(Instant::now(), &self.counters);
        }
        // Proxies show the minutes to clients whose writes are refused.
        let told = update.eta_ms.map(minutes);
        let bump = told.is_some() && told != *told_minutes;
        *told_minutes = told.or(*told_minutes);
        let held = rows::update_move(&self.global, self.id, self.epoch, &update, bump).await?.is_some();
        let held = held && rows::renew_mover_lease(&self.global, self.id, self.epoch, LEASE).await?;
        if held { Ok(()) } else { Err(MoveError::LostLease(self.id)) }
    }

    /// Changes the move's row, with the proxies told of it.
    pub(crate) async fn record(&self, update: MoveUpdate, tell: bool) -> Result<u64> {
        rows::update_move(&self.global, self.id, self.epoch, &update, tell)
            .await?
            .ok_or(MoveError::LostLease(self.id))
    }

    /// Records the stage.
    pub(crate) async fn reach(&self, phase: Phase) -> Result<()> {
        let update = MoveUpdate { phase: Some(phase.as_str().to_owned()), ..MoveUpdate::default() };
        self.record(update, false).await.map(|_| ())
    }

    pub(crate) fn stopped(&self, contradiction: Contradiction) -> MoveError {
        MoveError::Stopped { id: self.id, contradiction }
    }
}

fn ended(phase: Phase) -> Outcome {
    if phase == Phase::Aborted { Outcome::Aborted } else { Outcome::Finished }
}

/// The writer of a shard.
pub(crate) fn writer(state: &State, id: usher_topology::ShardId) -> Result<&Server> {
    crate::preflight::writer(shard(state, id)?)
}
