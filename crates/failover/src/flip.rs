//! Carries a flip out, step by step.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use usher_config::Limits;
use usher_directory::barrier::{self, Patience, Scope};
use usher_directory::rows::{self, FlipRow};
use usher_directory::{EntityState, Flip, Global, State, server};
use usher_topology::{Server, Shard, ShardId, ShardState};

use crate::hold::{Held, NotHeld};
use crate::report::{FlipReport, OnProgress, Outcome, Progress, StepTime};
use crate::{Error, Member, Pair, Plan, Refusal, Result, Row, Run, Step, check, decide, tidy};

/// How long closing the old writer may wait for statements that run.
const CLOSE: Duration = Duration::from_secs(2);
/// Between the two looks at the old writer's final position.
const STILL: Duration = Duration::from_millis(20);
/// Looks at a position that should not move any more.
const STILL_TRIES: usize = 10;
/// How long ended sessions may take to roll back.
const ROLL_BACK: Duration = Duration::from_secs(2);
/// How long commits that the standby has already may take on the writer; what is missing there later is errant.
const COMMITS_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at them.
const COMMITS_POLL: Duration = Duration::from_millis(10);
/// Tries of a step after the commit, and of reading the row.
const TRIES: u32 = 5;
/// Pause between such tries.
const AGAIN: Duration = Duration::from_millis(200);

/// Flips of a deployment. Cheap to clone; one for a process is enough.
#[derive(Debug, Clone)]
pub struct Flips {
    pub(crate) global: Global,
    pub(crate) limits: Limits,
}

impl Flips {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(global: Global, limits: Limits) -> Self {
        Self { global, limits }
    }

    /// Flips a shard to its other member, or to the one named. A flip of it that has stopped half-way is resumed
    /// first. Dropped half-way, the flip stops where it is, to be resumed.
    ///
    /// # Errors
    /// See [`Error`]; only [`Error::Stopped`] leaves the shard's writes held.
    pub async fn flip(
        &self,
        shard: &str,
        to: Option<&str>,
        by: &str,
        on_progress: OnProgress<'_>,
    ) -> Result<FlipReport> {
        let mut state = State::load(&self.global).await?;
        let mut found = shard_of(&state, shard)?;
        let target = target_of(&found, to)?;
        if found.state == ShardState::Switching {
            let resumed = self.resume_shard(&found, by, &mut *on_progress).await?;
            if resumed.to == target.name {
                return Ok(resumed);
            }
            state = State::load(&self.global).await?;
            found = shard_of(&state, shard)?;
        }
        if found.writer == target.id {
            return Ok(FlipReport::already(&found, &target));
        }
        let mut runner = Runner::new(self, found.clone(), &target, by, &mut *on_progress);
        runner.prepare(&state).await?;
        let stopped = match runner.go().await {
            Err(Error::Stopped { reason, .. }) => reason,
            outcome => return outcome,
        };
        // A lost session, a restarted server: what one run can't do with what it holds, a fresh one may.
        let resumed = self.resume_own(&found, by, on_progress).await?;
        if resumed.outcome == Outcome::Undone {
            return Err(Error::Undone { shard: found.name, writer: resumed.to, reason: stopped });
        }
        Ok(resumed)
    }

    /// Resumes what this process has just let go; its sessions may take a moment to be gone.
    async fn resume_own(&self, shard: &Shard, by: &str, on_progress: OnProgress<'_>) -> Result<FlipReport> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.resume_shard(shard, by, &mut *on_progress).await {
                Err(Error::Taken { .. }) if tried < TRIES => tokio::time::sleep(AGAIN).await,
                outcome => return outcome,
            }
        }
    }

    pub(crate) async fn row(&self, shard: ShardId) -> Result<FlipRow> {
        let mut tried = 0;
        loop {
            tried += 1;
            match rows::flip_row(&self.global, shard).await {
                Ok(Some(row)) => return Ok(row),
                Ok(None) => return Err(Error::NoShard(shard.to_string())),
                Err(error) if tried >= TRIES => return Err(error.into()),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

pub(crate) fn shard_of(state: &State, name: &str) -> Result<Shard> {
    state.topology.shard_named(name).cloned().ok_or_else(|| Error::NoShard(name.to_owned()))
}

fn target_of(shard: &Shard, to: Option<&str>) -> Result<Server> {
    let refused = |refusal| Error::Refused { shard: shard.name.clone(), refusal };
    if shard.id.is_global() {
        return Err(refused(Refusal::Global));
    }
    match to {
        Some(name) => shard
            .members()
            .find(|member| member.name == name)
            .cloned()
            .ok_or_else(|| refused(Refusal::NotAMember(name.to_owned()))),
        None => shard.standby().cloned().ok_or_else(|| refused(Refusal::NoStandby)),
    }
}

/// A name that no other run has.
pub(crate) fn run_name(by: &str) -> String {
    let by: String = by.chars().take(50).collect();
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{by}/{:08x}", random >> 32)
}

/// One run of one flip.
pub(crate) struct Runner<'a> {
    flips: &'a Flips,
    shard: Shard,
    me: String,
    pub(crate) plan: Plan,
    pub(crate) run: Run,
    pub(crate) old: Option<Held>,
    pub(crate) new: Option<Held>,
    pub(crate) begun: Option<Instant>,
    pub(crate) resumed: bool,
    version: u64,
    report: FlipReport,
    on_progress: OnProgress<'a>,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(
        flips: &'a Flips,
        shard: Shard,
        to: &Server,
        by: &str,
        on_progress: OnProgress<'a>,
    ) -> Self {
        let plan = Plan { old: shard.writer, new: to.id, epoch: shard.epoch };
        let report = FlipReport::of(&shard, to);
        Self {
            flips,
            shard,
            me: run_name(by),
            plan,
            run: Run::default(),
            old: None,
            new: None,
            begun: None,
            resumed: false,
            version: 0,
            report,
            on_progress,
        }
    }

    pub(crate) fn me(&self) -> &str {
        &self.me
    }

    /// Takes both members and checks every condition; nothing is changed yet.
    async fn prepare(&mut self, state: &State) -> Result<()> {
        let mut pair = Pair {
            state: self.shard.state,
            writer: self.member(self.plan.old, self.plan.new).await?,
            standby: self.member(self.plan.new, self.plan.old).await?,
            errant: false,
            lag_over_ms: None,
            locked_move: state
                .moving
                .iter()
                .filter(|(_, moving)| moving.located.state == EntityState::Locked)
                .map(|(_, moving)| &moving.row)
                .find(|row| row.src == self.shard.id || row.dst == self.shard.id)
                .map(|row| row.id),
            prepared: Vec::new(),
        };
        if let Some(old) = &mut self.old {
            pair.prepared = old.at_once(async |conn, _| server::prepared_branches(conn).await).await?;
        }
        let refused = |refusal| Error::Refused { shard: self.shard.name.clone(), refusal };
        check(&pair).map_err(refused)?;
        self.compare(&mut pair).await?;
        check(&pair).map_err(|refusal| Error::Refused { shard: self.shard.name.clone(), refusal })
    }

    /// Holds a member and looks at it; `source` is where its channel should come from.
    async fn member(
        &mut self,
        id: usher_topology::ServerId,
        source: usher_topology::ServerId,
    ) -> Result<Member> {
        let server = |id| self.shard.server(id).cloned().ok_or_else(|| contradiction(&self.shard.name));
        let (server, source) = (server(id)?, server(source)?);
        let mut member = Member { id, name: server.name.clone(), down: None, writable: false, channel: None };
        let mut held = match Held::take(&self.flips.global, &server, false).await {
            Ok(held) => held,
            Err(NotHeld::Busy) => return Err(self.taken("another process")),
            Err(NotHeld::Down(reason)) => {
                member.down = Some(reason);
                return Ok(member);
            }
        };
        member.writable = held.at_once(async |conn, _| server::is_writable(conn).await).await?;
        let channels = held.at_once(async |conn, family| server::channels(conn, family).await).await?;
        member.channel = tidy::channel_trouble(&channels, &source);
        let place = if id == self.plan.old { &mut self.old } else { &mut self.new };
        *place = Some(held);
        Ok(member)
    }

    /// Errant transactions and lag. The standby is asked first: it can only be behind what the writer says later, but
    /// for commits under way. In lossless semi-sync the standby has them before the writer itself counts them as done.
    async fn compare(&mut self, pair: &mut Pair) -> Result<()> {
        let limit_ms = self.flips.limits.lag_ms_max;
        let (old, new) = both(&mut self.old, &mut self.new, &self.shard.name)?;
        let theirs = new.at_once(async |conn, family| server::executed(conn, family).await).await?;
        let given_up = Instant::now() + COMMITS_WITHIN;
        pair.errant = loop {
            let ours = old.at_once(async |conn, family| server::executed(conn, family).await).await?;
            if ours.covers(&theirs) {
                break false;
            }
            if Instant::now() >= given_up {
                break true;
            }
            tokio::time::sleep(COMMITS_POLL).await;
        };
        let target = old.at_once(async |conn, family| server::position(conn, family).await).await?;
        let patience = Duration::from_millis(limit_ms);
        let reached = new
            .within(patience, async |conn, family| server::reached(conn, family, &target, patience).await)
            .await?;
        pair.lag_over_ms = (!reached).then_some(limit_ms);
        Ok(())
    }

    fn taken(&self, by: &str) -> Error {
        Error::Taken { shard: self.shard.name.clone(), by: by.to_owned() }
    }

    /// Runs to the end.
    pub(crate) async fn go(mut self) -> Result<FlipReport> {
        loop {
            let row = self.flips.row(self.shard.id).await.map_err(|error| self.stopped("row", &error))?;
            let by = row.flip.as_ref().map(|flip| flip.by.clone());
            let row = Row {
                state: row.state,
                epoch: row.epoch,
                writer: row.writer,
                flip_to: row.flip.map(|flip| flip.to),
                flip_by: by.clone(),
            };
            let step = decide(&self.me, &self.plan, &row, &self.run);
            match step {
                Step::Done => return Ok(self.finished(row.epoch.0)),
                Step::Undone => return self.undone(row.epoch.0),
                Step::Lost => return Err(self.taken(by.as_deref().unwrap_or("somebody else"))),
                _ => self.perform_timed(step).await?,
            }
        }
    }

    fn finished(mut self, epoch: u64) -> FlipReport {
        self.report.epoch = epoch;
        self.report.outcome = if self.resumed { Outcome::Finished } else { Outcome::Flipped };
        self.report
    }

    fn undone(mut self, epoch: u64) -> Result<FlipReport> {
        if !self.resumed {
            return Err(Error::Undone {
                shard: self.shard.name.clone(),
                writer: self.report.from.clone(),
                reason: self.run.failure.clone().unwrap_or_default(),
            });
        }
        self.report.epoch = epoch;
        self.report.outcome = Outcome::Undone;
        self.report.to = self.report.from.clone();
        Ok(self.report)
    }

    async fn perform_timed(&mut self, step: Step) -> Result<()> {
        (self.on_progress)(&Progress::Begins(step));
        let begun = Instant::now();
        let mut outcome = self.perform(step).await;
        let mut tries = 1;
        while outcome.is_err() && tries < TRIES && matches!(step, Step::Open | Step::Release | Step::Revert) {
            tokio::time::sleep(AGAIN).await;
            outcome = self.perform(step).await;
            tries += 1;
        }
        let time = StepTime { step, ms: millis(begun.elapsed()) };
        (self.on_progress)(&Progress::Ended(time.clone()));
        self.report.steps.push(time);
        match outcome {
            Ok(()) => Ok(()),
            Err(reason) => self.failed(step, reason).await,
        }
    }

    /// What an error of a step means for the run.
    async fn failed(&mut self, step: Step, reason: String) -> Result<()> {
        tracing::warn!(shard = self.shard.name, step = step.to_string(), reason, "a step of a flip failed");
        match step {
            Step::Commit => {
                // The commit may still be under way somewhere: only an epoch raised before undoing stops it.
                let flip = Flip { to: self.plan.new, by: self.me.clone() };
                let raised = self.raise(&flip).await.map_err(|error| self.stopped("commit", &error))?;
                if raised {
                    self.plan.epoch.0 += 1;
                    self.run.failure = Some(reason);
                }
                Ok(())
            }
            // An announcement whose outcome is unknown too: the row read next tells whether it is to be undone.
            Step::Announce
            | Step::Drain
            | Step::Close
            | Step::EndSessions
            | Step::Position
            | Step::CatchUp => {
                self.run.failure = Some(reason);
                Ok(())
            }
            _ => Err(self.stopped(&step.to_string(), &reason)),
        }
    }

    async fn raise(&mut self, flip: &Flip) -> Result<bool> {
        let raised =
            rows::take_flip(&self.flips.global, self.shard.id, self.plan.epoch, flip, &self.me, true).await?;
        Ok(raised.is_some())
    }

    fn stopped(&self, step: &str, reason: &impl ToString) -> Error {
        Error::Stopped { shard: self.shard.name.clone(), step: step.to_owned(), reason: reason.to_string() }
    }

    /// Time left before held statements would give up; a flip must be over by then or be undone.
    fn left(&self) -> Result<Duration, String> {
        let budget = Duration::from_millis(self.flips.limits.hold_ms.saturating_mul(9) / 10);
        let spent = self.begun.map(|begun| begun.elapsed()).unwrap_or_default();
        match budget.checked_sub(spent) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err("it would take longer than statements are held (limits.hold_ms)".to_owned()),
        }
    }

    async fn perform(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Announce => self.announce().await,
            Step::Drain => self.drain().await,
            Step::Close => self.close().await,
            Step::EndSessions => self.end_sessions().await,
            Step::Position => self.final_position().await,
            Step::CatchUp => self.catch_up().await,
            Step::Commit => self.commit().await,
            Step::Open => self.open().await,
            Step::Release | Step::Revert => self.release(step).await,
            Step::Tidy => self.tidy().await,
            Step::Reopen => self.reopen().await,
            Step::Done | Step::Undone | Step::Lost => Ok(()),
        }
    }

    async fn announce(&mut self) -> Result<(), String> {
        let flip = Flip { to: self.plan.new, by: self.me.clone() };
        let begun = Instant::now();
        let version = rows::cas_shard_state(
            &self.flips.global,
            self.shard.id,
            self.plan.epoch,
            &[ShardState::Rw],
            ShardState::Switching,
            Some(&flip),
        )
        .await
        .map_err(text)?;
        // Lost: the row read next tells to whom.
        if let Some(version) = version {
            self.version = version;
            self.begun = Some(begun);
        }
        self.run.announced = true;
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), String> {
        self.left()?;
        let limits = Patience::of(&self.flips.limits);
        let patience = Patience { drain: limits.drain.min(self.left()?), ..limits };
        let scope = Scope { shards: vec![self.shard.id], dead: Vec::new() };
        let passed = barrier::pass(&self.flips.global, self.version, patience, &scope, &mut |_| ()).await;
        self.report.revoked = passed.map_err(text)?;
        self.look_for_prepared().await?;
        self.run.drained = true;
        Ok(())
    }

    /// What was begun before the flip may have been prepared since; from now on nothing is.
    async fn look_for_prepared(&mut self) -> Result<(), String> {
        let (old, _) = both(&mut self.old, &mut self.new, &self.shard.name).map_err(text)?;
        let prepared =
            old.at_once(async |conn, _| server::prepared_branches(conn).await).await.map_err(text)?;
        match prepared.is_empty() {
            true => Ok(()),
            false => {
                let refusal = crate::Refusal::Prepared { name: self.report.from.clone(), prepared };
                Err(refusal.to_string())
            }
        }
    }

    async fn close(&mut self) -> Result<(), String> {
        let patience = CLOSE.min(self.left()?);
        let (old, _) = both(&mut self.old, &mut self.new, &self.shard.name).map_err(text)?;
        old.within(patience, async |conn, family| server::close(conn, family, patience).await)
            .await
            .map_err(text)?;
        self.run.closed = true;
        Ok(())
    }

    async fn end_sessions(&mut self) -> Result<(), String> {
        let patience = ROLL_BACK.min(self.left()?);
        let (old, _) = both(&mut self.old, &mut self.new, &self.shard.name).map_err(text)?;
        let ended =
            old.within(patience, async |conn, _| tidy::end_writing_sessions(conn, patience).await).await;
        match ended.map_err(text)? {
            Some(ended) => {
                self.report.sessions_ended += ended;
                self.run.ended = true;
                Ok(())
            }
            None => Err(format!("sessions of {} did not end in time", self.report.from)),
        }
    }

    async fn final_position(&mut self) -> Result<(), String> {
        self.left()?;
        let (old, _) = both(&mut self.old, &mut self.new, &self.shard.name).map_err(text)?;
        let mut before = None;
        for _ in 0..STILL_TRIES {
            let now =
                old.at_once(async |conn, family| server::position(conn, family).await).await.map_err(text)?;
            if before.as_ref() == Some(&now) {
                self.run.position = Some(now);
                return Ok(());
            }
            before = Some(now);
            tokio::time::sleep(STILL).await;
        }
        Err(format!("somebody writes on {} although it is read-only", self.report.from))
    }

    async fn catch_up(&mut self) -> Result<(), String> {
        let left = self.left()?;
        let target = self.run.position.clone().unwrap_or_default();
        let (_, new) = both(&mut self.old, &mut self.new, &self.shard.name).map_err(text)?;
        if new.at_once(async |conn, _| server::is_writable(conn).await).await.map_err(text)? {
            return Err(format!("{} takes writes already, though nobody has opened it", self.report.to));
        }
        let reached =
            new.within(left, async |conn, family| server::reached(conn, family, &target, left).await).await;
        if !reached.map_err(text)? {
            return Err(format!("{} did not reach {target} in time", self.report.to));
        }
        self.run.caught_up = true;
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), String> {
        self.left()?;
        let flip = Flip { to: self.plan.new, by: self.me.clone() };
        rows::commit_flip(&self.flips.global, self.shard.id, self.plan.epoch, &flip)
            .await
            .map(|_| ())
            .map_err(text)
    }

    async fn open(&mut self) -> Result<(), String> {
        self.close_former().await?;
        let new = self.new.as_mut().ok_or_else(|| format!("{} is not at hand", self.report.to))?;
        new.at_once(async |conn, family| server::open(conn, family).await).await.map_err(text)?;
        self.run.opened = true;
        Ok(())
    }

    /// The former writer may have been restarted since it was closed.
    async fn close_former(&mut self) -> Result<(), String> {
        let Some(old) = self.old.as_mut() else { return Ok(()) };
        let look = old.at_once(async |conn, _| server::is_writable(conn).await).await;
        // Gone after its final position was reached: the new writer needs it no more.
        let Ok(writable) = look else { return Ok(()) };
        if writable {
            self.report
                .warnings
                .push(format!("{} had become writable again and was closed", self.report.from));
            old.within(CLOSE, async |conn, family| server::close(conn, family, CLOSE).await)
                .await
                .map_err(text)?;
        }
        Ok(())
    }

    async fn release(&mut self, step: Step) -> Result<(), String> {
        let epoch = if step == Step::Release {
            usher_topology::Epoch(self.plan.epoch.0 + 1)
        } else {
            self.plan.epoch
        };
        let released = rows::cas_shard_state(
            &self.flips.global,
            self.shard.id,
            epoch,
            &[ShardState::Switching],
            ShardState::Rw,
            None,
        );
        released.await.map_err(text)?;
        self.report.hold_ms = self.begun.map(|begun| millis(begun.elapsed())).unwrap_or_default();
        let (what, detail) = match (&self.run.failure, step) {
            (Some(reason), Step::Revert) => ("flip undone", reason.clone()),
            _ => (
                "flip",
                format!("{} -> {}, held {} ms", self.report.from, self.report.to, self.report.hold_ms),
            ),
        };
        if let Err(error) = rows::record(&self.flips.global, &self.me, what, &self.shard.name, &detail).await
        {
            self.report.warnings.push(format!("history: {error}"));
        }
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), String> {
        if let Some(new) = self.new.as_mut()
            && let Ok(true) = new.at_once(async |conn, _| server::is_writable(conn).await).await
        {
            return Err(format!("{} takes writes although it never became the writer", self.report.to));
        }
        let old = self.old.as_mut().ok_or_else(|| format!("{} is not at hand", self.report.from))?;
        old.at_once(async |conn, family| server::open(conn, family).await).await.map_err(text)?;
        self.run.reopened = true;
        Ok(())
    }

    async fn tidy(&mut self) -> Result<(), String> {
        let Some(new) = self.shard.server(self.plan.new).cloned() else { return Ok(()) };
        let trouble =
            tidy::follow_new_writer(&self.flips.global, &self.shard, &new, &mut self.old, &mut self.new);
        self.report.warnings.extend(trouble.await);
        self.run.tidied = true;
        Ok(())
    }
}

fn both<'h>(
    old: &'h mut Option<Held>,
    new: &'h mut Option<Held>,
    shard: &str,
) -> Result<(&'h mut Held, &'h mut Held)> {
    match (old, new) {
        (Some(old), Some(new)) => Ok((old, new)),
        _ => Err(contradiction(shard)),
    }
}

fn contradiction(shard: &str) -> Error {
    Error::NoShard(format!("{shard} with both members at hand"))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
