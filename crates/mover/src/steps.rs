//! Takes the steps of a move, but for those of online moves alone. Each is safe to repeat: what it finds done, it leaves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use usher_directory::rows::{self, DirectoryChange, MoveUpdate};
use usher_directory::{EntityState, barrier};
use usher_topology::{Generation, ShardId};

use crate::decide::{Contradiction, OwnState, Step, Wish};
use crate::fail::point;
use crate::preflight::{self, Subject, has_executed};
use crate::run::{Picture, Run, writer};
use crate::sessions::Session;
use crate::shard_rows::{self, OwnChange};
use crate::table::Table;
use crate::{MoveError, Phase, Result, copy, purge, verify};

impl Run {
    /// Takes one step.
    pub(crate) async fn take(&self, step: Step, now: &Picture) -> Result<()> {
        match step {
            Step::Fence => self.fence(now).await,
            Step::FenceBarrier => {
                self.barrier(now.state.version, now).await?;
                point("fence.barrier").await?;
                self.reach(Phase::Fenced).await
            }
            Step::Lock => self.lock(now).await,
            Step::LockBarrier => {
                self.barrier(now.state.version, now).await?;
                point("cut.barrier").await?;
                self.note_epochs(now, Phase::Locked).await
            }
            Step::Drain { from } if self.may_cut_over_at_once(&now.facts) => self.cut_over(now, from).await,
            Step::Drain { from } => self.drain(now, from).await.map(|_| ()),
            Step::DrainStandby => self.drain_standby(now).await,
            Step::Reconfirm => self.note_epochs(now, Phase::Locked).await,
            Step::Prepare => self.prepare(now).await,
            Step::Follow => self.follow(now).await,
            Step::Tail => self.finish_following(now).await,
            Step::Unlock { own_gen } => self.unlock(now, own_gen).await,
            Step::Copy => self.copy(now).await,
            Step::RecordCopied => self.reach(Phase::Copied).await,
            Step::Verify => self.verify(now).await,
            Step::Close => self.close(now).await,
            Step::Commit => self.commit(now).await,
            Step::OwnTarget => self.own_target(now, now.facts.directory.own_gen).await,
            Step::ReleaseSource => self.release_source(now).await,
            Step::Announce => self.announce().await,
            Step::Settle => self.settle(now).await,
            Step::Release => self.release(now).await,
            Step::Purge => self.purge(now).await,
            Step::Finish => self.finish(Phase::Finished).await,
            Step::AbortDirectory { own_gen } => self.abort_directory(now, own_gen).await,
            Step::Reown => self.reown(now).await,
            Step::CancelTarget => self.cancel_target(now).await,
            Step::PurgeTarget => self.purge_target(now).await,
            Step::FinishAbort => self.finish_abort(now).await,
            Step::Wait(_) | Step::Over | Step::Stop(_) => Ok(()),
        }
    }

    /// Changes the directory row and the move's row in one transaction.
    pub(crate) async fn cas(
        &self,
        now: &Picture,
        change: DirectoryChange,
        update: MoveUpdate,
    ) -> Result<u64> {
        let expected = now.facts.directory.generation;
        rows::cas_directory(&self.global, &self.key, expected, &change, Some((self.id, self.epoch, &update)))
            .await?
            .map(|changed| changed.version)
            .ok_or(MoveError::Overtaken(self.id))
    }

    async fn barrier(&self, version: u64, now: &Picture) -> Result<()> {
        let scope = barrier::Scope { shards: vec![now.row.src, now.row.dst], dead: Vec::new() };
        let patience = barrier::Patience::of(&self.limits);
        let mut tell =
            |progress: &barrier::Progress| tracing::debug!(move_id = %self.id, ?progress, "barrier");
        let revoked = barrier::pass(&self.global, version, patience, &scope, &mut tell).await?;
        if !revoked.is_empty() {
            tracing::warn!(move_id = %self.id, ?revoked, "silent proxies were shut out");
        }
        Ok(())
    }

    async fn fence(&self, now: &Picture) -> Result<()> {
        point("registered").await?;
        let own_gen = now.facts.directory.own_gen;
        let subject = Subject { key: &self.key, id: self.id, own_gen, online: self.online };
        let (src, dst) = (now.src()?, now.dst()?);
        preflight::check(&self.sessions, &now.state, src, dst, &subject, self.limits.drain_ms).await?;
        let change = DirectoryChange {
            state: Some(EntityState::Moving),
            move_id: Some(Some(self.id)),
            ..DirectoryChange::default()
        };
        self.cas(now, change, MoveUpdate { error: Some(String::new()), ..MoveUpdate::default() }).await?;
        point("fence.cas").await
    }

    async fn lock(&self, now: &Picture) -> Result<()> {
        let total = if self.online { None } else { Some(self.count_rows(now).await?) };
        let change = DirectoryChange { state: Some(EntityState::Locked), ..DirectoryChange::default() };
        let update = MoveUpdate { rows_total: total, ..MoveUpdate::default() };
        self.overdue.store(false, Ordering::Relaxed);
        self.cas(now, change, update).await?;
        self.clock.lock().begin(now.row.locked_ms);
        point("cut.cas").await
    }

    pub(crate) async fn count_rows(&self, now: &Picture) -> Result<u64> {
        let mut source = self.sessions.on_writer(writer(&now.state, now.row.src)?).await?;
        let mut total: u64 = 0;
        for table in preflight::load(&mut source, &now.state).await? {
            let rows: Option<u64> =
                source.conn.query_first(table.count(&self.key)).await.map_err(source.error())?;
            total = total.saturating_add(rows.unwrap_or(0));
        }
        self.sessions.keep(source);
        Ok(total)
    }

    /// The drain's proof: this lock on the ownership row is granted once the user's last open transaction has ended,
    /// and every later one finds the row locked. A prepared XA transaction has no session to wait for, and keeps no shared
    /// lock: it is looked for by the rows that it holds, here so that the source is left alone if there is one, and again
    /// once no other can follow.
    ///
    /// Returns the position that has the lock.
    pub(crate) async fn drain(&self, now: &Picture, from: Generation) -> Result<String> {
        if now.facts.epochs_at_drain != Some(now.facts.epochs_now) {
            self.note_epochs(now, Phase::Locked).await?;
        }
        let mut source = self.sessions.on_writer(writer(&now.state, now.row.src)?).await?;
        preflight::not_prepared(&mut source, &now.state, now.src()?, &self.key).await?;
        let change = OwnChange {
            key: &self.key,
            move_id: self.id,
            to: OwnState::Locked,
            own_gen: Generation(from.0 + 1),
            when: format!("state = 'owned' AND own_gen = {from}"),
        };
        let position = shard_rows::change_ownership(&mut source, &change).await?;
        let position = position.ok_or(MoveError::Overtaken(self.id))?;
        point("cut.own_locked").await?;
        // No other can follow now.
        preflight::not_prepared(&mut source, &now.state, now.src()?, &self.key).await?;
        self.sessions.keep(source);
        Ok(position)
    }

    /// Records the epochs that all later steps rely on, and goes (back) to `phase`.
    async fn note_epochs(&self, now: &Picture, phase: Phase) -> Result<()> {
        let (src_epoch, dst_epoch) = now.facts.epochs_now;
        let update = MoveUpdate {
            phase: Some(phase.as_str().to_owned()),
            src_epoch: Some(src_epoch),
            dst_epoch: Some(dst_epoch),
            ..MoveUpdate::default()
        };
        self.record(update, false).await.map(|_| ())
    }

    async fn drain_standby(&self, now: &Picture) -> Result<()> {
        let mut source = self.sessions.on_writer(writer(&now.state, now.row.src)?).await?;
        preflight::not_prepared(&mut source, &now.state, now.src()?, &self.key).await?;
        self.sessions.keep(source);
        let position = self.reach_standby(now, now.row.src).await?;
        point("cut.partner").await?;
        let (src_epoch, dst_epoch) = now.facts.epochs_now;
        let update = MoveUpdate {
            phase: Some(Phase::Drained.as_str().to_owned()),
            drain_gtid: Some(position),
            src_epoch: Some(src_epoch),
            dst_epoch: Some(dst_epoch),
            ..MoveUpdate::default()
        };
        self.record(update, false).await.map(|_| ())
    }

    /// Waits until the shard's standby has all that its writer has committed; returns the position.
    async fn reach_standby(&self, now: &Picture, id: ShardId) -> Result<String> {
        let server = writer(&now.state, id)?;
        let mut session = self.sessions.on_writer(server).await?;
        let position = shard_rows::touch(&mut session).await?;
        self.sessions.keep(session);
        self.standby_has(now, id, &position).await?;
        Ok(position)
    }

    /// Waits until the shard's standby has this position.
    pub(crate) async fn standby_has(&self, now: &Picture, id: ShardId, position: &str) -> Result<()> {
        let Some(standby) = now.state.topology.shard(id).and_then(|shard| shard.standby()) else {
            return Ok(());
        };
        let session = self.sessions.on(standby).await?;
        has_executed(&self.sessions, session, position, self.limits.drain_ms).await
    }

    async fn prepare(&self, now: &Picture) -> Result<()> {
        let mut target = self.sessions.on_writer(writer(&now.state, now.row.dst)?).await?;
        if !shard_rows::prepare(&mut target, &self.key, self.id, self.epoch).await? {
            return Err(self.stopped(Contradiction::Target));
        }
        self.sessions.keep(target);
        point("dst.prepare").await?;
        // Who takes over has to catch up before it locks the user.
        if now.facts.phase == Phase::CaughtUp { self.reach(Phase::Fenced).await } else { Ok(()) }
    }

    /// Sessions on both writers, and the tables, which must still be defined alike.
    pub(crate) async fn both(&self, now: &Picture) -> Result<(Session, Session, Vec<Table>)> {
        let mut source = self.sessions.on_writer(writer(&now.state, now.row.src)?).await?;
        let mut target = self.sessions.on_writer(writer(&now.state, now.row.dst)?).await?;
        // Within the cutover every round trip is a part of the user's pause.
        if let Some(tables) = self.tables.lock().clone().filter(|_| self.is_cutting_over(&now.facts)) {
            return Ok((source, target, tables));
        }
        let ours = preflight::load(&mut source, &now.state).await?;
        let theirs = preflight::load(&mut target, &now.state).await?;
        for (left, right) in ours.iter().zip(&theirs) {
            preflight::same_definition(left, right, &source, &target)?;
        }
        Ok((source, target, ours))
    }

    async fn copy(&self, now: &Picture) -> Result<()> {
        let progress = now.progress.as_ref().ok_or_else(|| self.stopped(Contradiction::Target))?;
        let (mut source, mut target, tables) = self.both(now).await?;
        self.counters.rows_total.store(now.row.rows_total, Ordering::Relaxed);
        self.counters.rows_copied.store(progress.rows, Ordering::Relaxed);
        self.counters.bytes_copied.store(progress.bytes, Ordering::Relaxed);
        let job = self.job(&tables);
        // The standby has had the drain, so it has all rows; the comparison reads them from the writer.
        let mut reader = self.on_standby(now).await;
        let from = reader.as_mut().unwrap_or(&mut source);
        let mut wish = self.wish.subscribe();
        tokio::select! {
            done = copy::copy(&job, from, &mut target, progress) => done?,
            // A batch under way is rolled back with its connection; the next facts tell what to do.
            _ = wish.wait_for(|wish| *wish != Wish::Run) => return Ok(()),
        }
        self.sessions.keep(source);
        self.sessions.keep(target);
        point("copied").await?;
        self.record_copied().await
    }

    /// Records that all rows are on the target.
    pub(crate) async fn record_copied(&self) -> Result<()> {
        let update = MoveUpdate {
            phase: Some(Phase::Copied.as_str().to_owned()),
            rows_done: Some(self.counters.rows_copied.load(Ordering::Relaxed)),
            bytes_done: Some(self.counters.bytes_copied.load(Ordering::Relaxed)),
            ..MoveUpdate::default()
        };
        self.record(update, false).await.map(|_| ())
    }

    pub(crate) fn job<'a>(&'a self, tables: &'a [Table]) -> copy::Job<'a> {
        copy::Job {
            key: &self.key,
            id: self.id,
            epoch: self.epoch,
            tables,
            rows_max: self.limits.batch_rows_max,
            bytes_max: self.limits.batch_bytes_max,
            counters: &self.counters,
        }
    }

    /// A session on the source's standby, if there is one that answers and has executed the drain.
    async fn on_standby(&self, now: &Picture) -> Option<Session> {
        let standby = now.src().ok()?.standby()?;
        let position = now.row.drain_gtid.as_deref()?;
        let session = self.sessions.on(standby).await.ok()?;
        has_executed(&self.sessions, session, position, 0).await.ok()?;
        self.sessions.on(standby).await.ok()
    }

    async fn verify(&self, now: &Picture) -> Result<()> {
        if self.compare(now).await? { self.reach(Phase::Verified).await } else { Ok(()) }
    }

    /// Compares all tables; false when the operator has come in between.
    pub(crate) async fn compare(&self, now: &Picture) -> Result<bool> {
        let (mut source, mut target, tables) = self.both(now).await?;
        self.counters.rows_verified.store(0, Ordering::Relaxed);
        let mut wish = self.wish.subscribe();
        for table in &tables {
            let seen = &self.counters.rows_verified;
            tokio::select! {
                done = verify::compare(&mut source, &mut target, table, &self.key, seen) => done?,
                _ = wish.wait_for(|wish| *wish != Wish::Run) => return Ok(false),
            };
        }
        self.sessions.keep(source);
        self.sessions.keep(target);
        point("cut.verify2").await.map(|()| true)
    }

    async fn close(&self, now: &Picture) -> Result<()> {
        let own_gen = self.next_own_gen(now)?;
        if now.facts.progress != Some(crate::ProgressFact::Closed) {
            self.close_target(now, own_gen).await?;
        }
        point("cut.closed").await?;
        let position = self.reach_standby(now, now.row.dst).await?;
        let update = MoveUpdate {
            phase: Some(Phase::Closed.as_str().to_owned()),
            own_gen: Some(own_gen),
            close_gtid: Some(position),
            ..MoveUpdate::default()
        };
        self.record(update, false).await.map(|_| ())
    }

    /// What the target's ownership row shall show; the source is locked with the one before.
    fn next_own_gen(&self, now: &Picture) -> Result<Generation> {
        let own_gen = now.facts.source.map(|own| Generation(own.own_gen.0 + 1));
        own_gen.ok_or_else(|| self.stopped(Contradiction::Source))
    }

    /// No mover, however old, can place a row on the target from here on. Returns the position that has this.
    pub(crate) async fn close_target(&self, now: &Picture, own_gen: Generation) -> Result<String> {
        let mut target = self.sessions.on_writer(writer(&now.state, now.row.dst)?).await?;
        let closed = shard_rows::close(&mut target, &self.key, self.id, self.epoch, own_gen).await?;
        self.sessions.keep(target);
        closed.ok_or(MoveError::Overtaken(self.id))
    }

    async fn commit(&self, now: &Picture) -> Result<()> {
        let own_gen = now.facts.target.map(|own| own.own_gen);
        let own_gen = own_gen.ok_or_else(|| self.stopped(Contradiction::Target))?;
        self.commit_as(now, own_gen, now.row.close_gtid.clone()).await
    }

    /// THE commit point: the directory names the target, if it is as it was and neither shard has changed its writer since
    /// the drain.
    pub(crate) async fn commit_as(
        &self,
        now: &Picture,
        own_gen: Generation,
        close_gtid: Option<String>,
    ) -> Result<()> {
        point("cut.before_commit").await?;
        let epochs = now.facts.epochs_at_drain.ok_or_else(|| self.stopped(Contradiction::Directory))?;
        let change = DirectoryChange {
            shard: Some(now.row.dst),
            state: Some(EntityState::Settling),
            own_gen: Some(own_gen),
            min_gtid: Some(close_gtid),
            epochs: vec![(now.row.src, epochs.0), (now.row.dst, epochs.1)],
            ..DirectoryChange::default()
        };
        let update =
            MoveUpdate { phase: Some(Phase::Committed.as_str().to_owned()), ..MoveUpdate::default() };
        self.cas(now, change, update).await?;
        point("cut.after_commit").await
    }

    pub(crate) async fn own_target(&self, now: &Picture, own_gen: Generation) -> Result<()> {
        let mut target = self.sessions.on_writer(writer(&now.state, now.row.dst)?).await?;
        let change = OwnChange {
            key: &self.key,
            move_id: self.id,
            to: OwnState::Owned,
            own_gen,
            when: format!("state = 'ready' AND own_gen = {own_gen} AND move_id = {}", self.id),
        };
        let changed = shard_rows::change_ownership(&mut target, &change).await?;
        changed.ok_or(MoveError::Overtaken(self.id))?;
        self.clock.lock().stop();
        self.sessions.keep(target);
        point("dst.owned").await
    }

    async fn release_source(&self, now: &Picture) -> Result<()> {
        let mut source = self.sessions.on_writer(writer(&now.state, now.row.src)?).await?;
        let own_gen = now.facts.source.map_or(Generation(0), |own| own.own_gen);
        let change = OwnChange {
            key: &self.key,
            move_id: self.id,
            to: OwnState::Gone,
            own_gen,
            when: format!("state = 'locked' AND move_id = {}", self.id),
        };
        let changed = shard_rows::change_ownership(&mut source, &change).await?;
        changed.ok_or(MoveError::Overtaken(self.id))?;
        if self.online {
            shard_rows::drop_marks(&mut source, self.id).await?;
        }
        self.sessions.keep(source);
        point("src.gone").await
    }

    async fn announce(&self) -> Result<()> {
        let update = MoveUpdate {
            phase: Some(Phase::Owned.as_str().to_owned()),
            locked_ms: self.clock.lock().read(),
            ..MoveUpdate::default()
        };
        self.record(update, true).await?;
        self.forget().await;
        point("announced").await
    }

    async fn forget(&self) {
        let unheard = self.directory.forget(&self.key).await;
        if !unheard.is_empty() {
            tracing::warn!(move_id = %self.id, ?unheard, "memcached servers not told; the generations cover for them");
        }
    }

    /// Once every copy has the rows, reads may go to copies again. One that does not answer here may answer proxies: as
    /// long as it has not been seen to have the rows, they read this user from the writer.
    async fn settle(&self, now: &Picture) -> Result<()> {
        let dst = now.dst()?;
        let position = now.row.close_gtid.as_deref().unwrap_or_default();
        for copy in dst.servers.iter().filter(|server| server.id != dst.writer) {
            let session = self.sessions.on(copy).await?;
            has_executed(&self.sessions, session, position, self.limits.drain_ms).await?;
        }
        let change = DirectoryChange {
            state: Some(EntityState::Active),
            min_gtid: Some(None),
            move_id: Some(None),
            ..DirectoryChange::default()
        };
        let update = MoveUpdate {
            phase: Some(Phase::PurgePending.as_str().to_owned()),
            purge_in: Some(Duration::from_secs(self.limits.purge_delay_s)),
            eta_ms: Some(0),
            ..MoveUpdate::default()
        };
        self.cas(now, change, update).await?;
        point("settle").await
    }

    async fn release(&self, now: &Picture) -> Result<()> {
        self.barrier(now.state.version, now).await?;
        self.forget().await;
        self.record(MoveUpdate { release: true, ..MoveUpdate::default() }, true).await?;
        point("released").await
    }

    async fn purge(&self, now: &Picture) -> Result<()> {
        point("purge.intent").await?;
        if now.facts.source.is_some() {
            self.purge_shard(now, now.row.src, "purge.batch").await?;
        }
        point("purge.done").await?;
        self.reach(Phase::Purged).await
    }

    async fn purge_shard(&self, now: &Picture, shard: ShardId, point: &'static str) -> Result<()> {
        let mut session = self.sessions.on_writer(writer(&now.state, shard)?).await?;
        let tables = preflight::load(&mut session, &now.state).await?;
        let job = purge::Job {
            key: &self.key,
            id: self.id,
            shard,
            tables: &tables,
            rows_max: self.limits.batch_rows_max,
            point,
        };
        purge::purge(&job, &self.global, &mut session).await?;
        self.sessions.keep(session);
        Ok(())
    }

    async fn finish(&self, phase: Phase) -> Result<()> {
        let update = MoveUpdate { phase: Some(phase.as_str().to_owned()), ..MoveUpdate::default() };
        let detail = format!("move {}", self.id);
        rows::finish_move(&self.global, self.id, self.epoch, &update)
            .await?
            .ok_or(MoveError::LostLease(self.id))?;
        let what = format!("move {phase}");
        rows::record(&self.global, &self.mover_id, &what, &format!("user {}", self.key), &detail).await?;
        Ok(())
    }

    async fn abort_directory(&self, now: &Picture, own_gen: Generation) -> Result<()> {
        let change = DirectoryChange {
            state: Some(EntityState::Active),
            own_gen: Some(own_gen),
            ..DirectoryChange::default()
        };
        let update = MoveUpdate { phase: Some(Phase::Aborting.as_str().to_owned()), ..MoveUpdate::default() };
        self.cas(now, change, update).await?;
        self.forget().await;
        point("abort.cas").await
    }

    async fn reown(&self, now: &Picture) -> Result<()> {
        let mut source = self.sessions.on_writer(writer(&now.state, now.row.src)?).await?;
        let own_gen = now.facts.directory.own_gen;
        let change = OwnChange {
            key: &self.key,
            move_id: self.id,
            to: OwnState::Owned,
            own_gen,
            when: format!(
                "(state = 'owned' AND own_gen < {own_gen}) OR (state = 'locked' AND move_id = {})",
                self.id
            ),
        };
        let changed = shard_rows::change_ownership(&mut source, &change).await?;
        changed.ok_or_else(|| self.stopped(Contradiction::Source))?;
        self.sessions.keep(source);
        let locked_ms = self.clock.lock().end();
        self.record(MoveUpdate { locked_ms, ..MoveUpdate::default() }, false).await?;
        point("abort.reown").await
    }

    async fn cancel_target(&self, now: &Picture) -> Result<()> {
        let mut target = self.sessions.on_writer(writer(&now.state, now.row.dst)?).await?;
        if !shard_rows::cancel(&mut target, &self.key, self.id, self.epoch).await? {
            return Err(MoveError::NotWriter { server: target.server });
        }
        self.sessions.keep(target);
        point("abort.cancel").await
    }

    async fn purge_target(&self, now: &Picture) -> Result<()> {
        self.purge_shard(now, now.row.dst, "abort.purge").await
    }

    async fn finish_abort(&self, now: &Picture) -> Result<()> {
        let mut version = now.state.version;
        if now.facts.directory.ours {
            let change = DirectoryChange { move_id: Some(None), ..DirectoryChange::default() };
            version = self.cas(now, change, MoveUpdate::default()).await?;
        }
        if now.facts.phase == Phase::Aborting {
            self.barrier(version, now).await?;
            self.forget().await;
        }
        self.finish(Phase::Aborted).await
    }
}
