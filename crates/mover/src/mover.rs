//! Takes requests for moves and runs the moves that wait: what `usher controller` runs and `usher move` asks.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use usher_config::Limits;
use usher_directory::barrier::Patience;
use usher_directory::rows::{self, MoveMode, MoveRow, MoveUpdate, NewMove, Want};
use usher_directory::{Directory, Error as DirectoryError, Global};
use usher_topology::{Key, MoveId, ShardState};

use crate::progress::Counters;
use crate::run::{LEASE, Outcome, Run, wish_of};
use crate::sessions::Sessions;
use crate::{MoveError, Phase, Refusal, Result};

/// Moves looked at in one round.
const LIST_MAX: u32 = 10_000;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A move that has failed is left alone this long.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// A move to begin.
#[derive(Debug, Clone)]
pub struct StartMove {
    /// Who is moved.
    pub key: Key,
    /// Name of the shard that shall have the user.
    pub to: String,
    /// How the user's writes are treated meanwhile.
    pub mode: MoveMode,
    /// Who asks, at most 128 characters.
    pub by: String,
    /// Why, at most 255 characters.
    pub reason: String,
}

/// Begins, runs, pauses, aborts and purges moves. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mover {
    directory: Arc<Directory>,
    limits: Limits,
    id: String,
}

impl Mover {
    /// Moves under the name `id`, which no other living process may use: it may take over its own moves at once.
    #[must_use]
    pub fn new(directory: Arc<Directory>, limits: Limits, id: impl Into<String>) -> Self {
        Self { directory, limits, id: id.into() }
    }

    fn global(&self) -> &Global {
        self.directory.global()
    }

    /// Registers a move. It begins once a controller, or [`Mover::drive`], runs it.
    ///
    /// # Errors
    /// Each reason by its name; nothing was changed then. After [`DirectoryError::Timeout`] see [`Mover::list`].
    pub async fn request(&self, start: &StartMove) -> Result<MoveId> {
        let state = usher_directory::State::load(self.global()).await?;
        let dst = state
            .topology
            .shard_named(&start.to)
            .filter(|shard| !shard.id.is_global())
            .ok_or_else(|| MoveError::UnknownShard(start.to.clone()))?;
        let row = rows::directory_row(self.global(), &start.key)
            .await?
            .ok_or_else(|| MoveError::UnknownUser(start.key.clone()))?;
        if let Some(moving) = state.moving.get(&start.key) {
            return Err(already_moving(&moving.row));
        }
        if row.located.shard == dst.id {
            return Err(MoveError::AlreadyThere { key: start.key.clone(), shard: dst.name.clone() });
        }
        if let Some(reason) = row.pinned {
            return Err(MoveError::Pinned { key: start.key.clone(), reason });
        }
        let src = state.topology.shard(row.located.shard);
        for shard in src.into_iter().chain([dst]) {
            if shard.state != ShardState::Rw {
                let state = format!("{:?}", shard.state).to_lowercase();
                return Err(Refusal::ShardState { shard: shard.name.clone(), state }.into());
            }
        }
        let new = NewMove {
            key: start.key.clone(),
            src: row.located.shard,
            dst: dst.id,
            mode: start.mode,
            phase: Phase::Registered.as_str().to_owned(),
            started_by: start.by.chars().take(128).collect(),
            reason: start.reason.chars().take(255).collect(),
        };
        let mut inserted = rows::insert_move(self.global(), &new).await;
        if matches!(inserted, Err(DirectoryError::SchemaChange { .. }))
            && usher_directory::end_abandoned_schema_change(self.global(), Patience::of(&self.limits)).await?
        {
            inserted = rows::insert_move(self.global(), &new).await;
        }
        match inserted {
            Ok((id, _)) => {
                let detail = format!("move {id} to {}: {}", start.to, start.reason);
                let subject = format!("user {}", start.key);
                rows::record(self.global(), &start.by, "move started", &subject, &detail).await?;
                Ok(id)
            }
            Err(DirectoryError::Conflict(text)) => match self.active_move(&start.key).await? {
                Some(row) => Err(already_moving(&row)),
                None => Err(DirectoryError::Conflict(text).into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The move that holds this user at present.
    ///
    /// # Errors
    /// The global master's.
    pub async fn active_move(&self, key: &Key) -> Result<Option<MoveRow>> {
        let unfinished = rows::list_moves(self.global(), true, LIST_MAX).await?;
        Ok(unfinished.into_iter().find(|row| row.active && row.key == *key))
    }

    /// Moves, the newest first, at most `limit`.
    ///
    /// # Errors
    /// The global master's.
    pub async fn list(&self, unfinished_only: bool, limit: u32) -> Result<Vec<MoveRow>> {
        Ok(rows::list_moves(self.global(), unfinished_only, limit).await?)
    }

    /// One move as it stands.
    ///
    /// # Errors
    /// [`MoveError::NoSuchMove`]; the global master's.
    pub async fn status(&self, id: MoveId) -> Result<MoveRow> {
        rows::move_row(self.global(), id).await?.ok_or_else(|| MoveError::NoSuchMove(id.to_string()))
    }

    /// Lets a paused or failed move go on.
    ///
    /// # Errors
    /// [`MoveError::Over`], [`MoveError::NoSuchMove`]; the global master's.
    pub async fn resume(&self, id: MoveId) -> Result<()> {
        self.want(id, Want::Run, false).await
    }

    /// Stops a move where it is. A user that is locked already stays so until it is resumed or aborted.
    ///
    /// # Errors
    /// [`MoveError::Committed`], [`MoveError::Over`], [`MoveError::NoSuchMove`]; the global master's.
    pub async fn pause(&self, id: MoveId) -> Result<()> {
        self.want(id, Want::Pause, true).await
    }

    /// Asks for a move to be undone; a controller, or [`Mover::drive`], does it.
    ///
    /// # Errors
    /// [`MoveError::Committed`], [`MoveError::Over`], [`MoveError::NoSuchMove`]; the global master's.
    pub async fn abort(&self, id: MoveId) -> Result<()> {
        self.want(id, Want::Abort, true).await
    }

    async fn want(&self, id: MoveId, want: Want, before_commit: bool) -> Result<()> {
        let phase = Phase::parse(&self.status(id).await?.phase)?;
        if phase.is_over() {
            return Err(MoveError::Over { id, phase });
        }
        if before_commit && phase.is_committed() {
            return Err(MoveError::Committed { id, phase });
        }
        if rows::set_want(self.global(), id, want).await? {
            Ok(())
        } else {
            Err(MoveError::Over { id, phase })
        }
    }

    /// Runs one move in this process until it is over or has to wait. A lease that a dead process has left is waited
    /// for.
    ///
    /// # Errors
    /// [`MoveError::Leased`] while another process runs the move; else what stopped it. The move's row tells how far
    /// it is; running it again goes on from there.
    pub async fn drive(&self, id: MoveId) -> Result<Outcome> {
        let run = self.take_over(id, LEASE + Duration::from_secs(1)).await?;
        run.go().await
    }

    /// Deletes the rows that a committed move has left on its source now, whatever the delay.
    ///
    /// # Errors
    /// [`MoveError::NotPurgeable`], [`MoveError::Leased`]; else what stopped it.
    pub async fn purge_now(&self, id: MoveId) -> Result<Outcome> {
        let phase = Phase::parse(&self.status(id).await?.phase)?;
        if !matches!(phase, Phase::PurgePending | Phase::Purged) {
            return Err(MoveError::NotPurgeable { id, phase });
        }
        let run = self.take_over(id, LEASE + Duration::from_secs(1)).await?;
        run.record(MoveUpdate { purge_in: Some(Duration::ZERO), ..MoveUpdate::default() }, false).await?;
        run.go().await
    }

    /// Takes the lease, waiting for at most `patience` for an older one to run out.
    async fn take_over(&self, id: MoveId, patience: Duration) -> Result<Run> {
        let deadline = Instant::now() + patience;
        loop {
            let row = self.status(id).await?;
            let epoch = rows::take_mover_lease(self.global(), id, &self.id, LEASE).await?;
            if let Some(epoch) = epoch {
                return Ok(self.run_of(row, epoch));
            }
            let phase = Phase::parse(&row.phase)?;
            if phase.is_over() {
                return Err(MoveError::Over { id, phase });
            }
            if Instant::now() >= deadline {
                let mover = row.mover_id.unwrap_or_default();
                return Err(MoveError::Leased { id, mover, left_ms: row.lease_left_ms.unwrap_or(0) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn run_of(&self, row: MoveRow, epoch: u64) -> Run {
        Run {
            global: self.global().clone(),
            directory: Arc::clone(&self.directory),
            limits: self.limits.clone(),
            mover_id: self.id.clone(),
            sessions: Sessions::new(self.global().clone()),
            id: row.id,
            epoch,
            key: row.key,
            counters: Counters::default(),
            clock: Mutex::default(),
            given_up: AtomicBool::new(false),
            wish: watch::Sender::new(wish_of(row.want)),
            online: row.mode == MoveMode::Online,
            overdue: AtomicBool::new(false),
            cutovers: AtomicU32::new(0),
            tables: Mutex::default(),
            follower: tokio::sync::Mutex::default(),
        }
    }

    /// Runs the moves that wait, at most `limits.moves_max` at once, and the purges that are due, until `shutdown`.
    /// Moves cut short by it are taken up by the next controller.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut tasks: JoinSet<(MoveId, Result<Outcome>)> = JoinSet::new();
        let mut running: HashMap<MoveId, ()> = HashMap::new();
        let mut resting: HashMap<MoveId, Instant> = HashMap::new();
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(done) = tasks.join_next(), if !tasks.is_empty() => match done {
                    Ok((id, outcome)) => {
                        running.remove(&id);
                        if let Some(rest) = rest_after(id, &outcome) {
                            resting.insert(id, Instant::now() + rest);
                        }
                    }
                    Err(error) => tracing::error!(%error, "a move's task has failed"),
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            resting.retain(|_, until| *until > Instant::now());
            if tasks.is_empty() {
                // Also after a task that died without telling which move it ran.
                running.clear();
            }
            let room = self.limits.moves_max.saturating_sub(tasks.len());
            for id in self.waiting(room, |id| running.contains_key(&id) || resting.contains_key(&id)).await {
                running.insert(id, ());
                let mover = self.clone();
                tasks.spawn(async move {
                    let outcome = async { mover.take_over(id, Duration::ZERO).await?.go().await }.await;
                    (id, outcome)
                });
            }
        }
    }

    /// Moves that something can be done for now, the oldest first.
    async fn waiting(&self, room: usize, busy: impl Fn(MoveId) -> bool) -> Vec<MoveId> {
        if room == 0 {
            return Vec::new();
        }
        let listed = match rows::list_moves(self.global(), true, LIST_MAX).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "the moves can't be listed");
                return Vec::new();
            }
        };
        let ready = |row: &&MoveRow| !busy(row.id) && self.is_ready(row);
        listed.iter().rev().filter(ready).map(|row| row.id).take(room).collect()
    }

    fn is_ready(&self, row: &MoveRow) -> bool {
        let Ok(phase) = Phase::parse(&row.phase) else { return false };
        let free =
            row.lease_left_ms.is_none_or(|left| left <= 0) || row.mover_id.as_deref() == Some(&self.id);
        let paused = row.want == Want::Pause && !phase.is_committed();
        let early =
            phase == Phase::PurgePending && !row.active && row.purge_in_ms.is_some_and(|left| left > 0);
        free && !paused && !early
    }
}

fn already_moving(row: &MoveRow) -> MoveError {
    MoveError::AlreadyMoving { key: row.key.clone(), id: row.id, phase: row.phase.clone() }
}

fn rest_after(id: MoveId, outcome: &Result<Outcome>) -> Option<Duration> {
    match outcome {
        Ok(Outcome::Waiting) => Some(LOOK_EVERY),
        Ok(outcome) => {
            tracing::info!(move_id = %id, ?outcome, "a move has ended or waits");
            None
        }
        Err(error) => {
            tracing::warn!(move_id = %id, %error, "a move stands still");
            Some(AFTER_FAILURE)
        }
    }
}
