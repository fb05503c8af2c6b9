//! Takes up flips that have stopped half-way: before the commit they are undone, after it finished.

use std::time::{Duration, Instant};

use usher_directory::rows::{self, FlipRow};
use usher_directory::{Flip, State};
use usher_topology::{Epoch, Server, ServerId, Shard, ShardState};

use crate::flip::Runner;
use crate::hold::{Held, NotHeld};
use crate::report::OnProgress;
use crate::{Error, FlipReport, Flips, Plan, Result, Run};

impl Flips {
    /// Resumes every flip that nobody runs any more. Those that somebody runs are left alone, unless their rows have
    /// not changed for longer than a flip may take. One entry for each shard that is switching.
    ///
    /// # Errors
    /// When the topology can't be read.
    pub async fn resume(&self, by: &str) -> Result<Vec<Result<FlipReport>>> {
        let state = State::load(&self.global).await?;
        let mut outcomes = Vec::new();
        for shard in state.topology.user_shards().filter(|shard| shard.state == ShardState::Switching) {
            outcomes.push(self.resume_shard(shard, by, &mut |_| ()).await);
        }
        Ok(outcomes)
    }

    pub(crate) async fn resume_shard(
        &self,
        shard: &Shard,
        by: &str,
        on_progress: OnProgress<'_>,
    ) -> Result<FlipReport> {
        let row = self.row(shard.id).await?;
        let stopped =
            |reason: String| Error::Stopped { shard: shard.name.clone(), step: "resume".to_owned(), reason };
        let Some(flip) = row.flip.clone() else {
            return Err(stopped(format!(
                "its row is {:?} without a flip; somebody is changing it",
                row.state
            )));
        };
        let committed = row.writer == flip.to;
        let plan = plan_of(shard, &row, &flip, committed)
            .ok_or_else(|| stopped("the flip names no member".into()))?;
        let by_force = row.unchanged_ms > self.longest_ms();
        let server =
            |id: ServerId| shard.server(id).ok_or_else(|| stopped(format!("there is no server {id}")));
        let mut held = Vec::new();
        for (id, needed) in [(plan.old, !committed), (plan.new, committed)] {
            let taken = Held::take(&self.global, server(id)?, by_force).await;
            held.push(self.resumable(taken, server(id)?, needed, shard, &flip)?);
        }
        let to = server(plan.new)?.clone();
        let was = Shard { writer: plan.old, epoch: plan.epoch, ..shard.clone() };
        let mut runner = Runner::new(self, was, &to, by, on_progress);
        let taken =
            rows::take_flip(&self.global, shard.id, row.epoch, &flip, runner.me(), !committed).await?;
        if taken.is_none() {
            return Err(Error::Taken { shard: shard.name.clone(), by: "somebody who was faster".to_owned() });
        }
        runner.new = held.pop().flatten();
        runner.old = held.pop().flatten();
        runner.plan =
            Plan { epoch: Epoch(if committed { row.epoch.0 - 1 } else { row.epoch.0 + 1 }), ..plan };
        runner.run = Run { announced: true, ..Run::default() };
        runner.run.failure = (!committed).then(|| format!("{} stopped half-way", flip.by));
        let held_for = Duration::from_millis(u64::try_from(row.unchanged_ms).unwrap_or(0));
        runner.begun = Instant::now().checked_sub(held_for);
        runner.resumed = true;
        runner.go().await
    }

    fn resumable(
        &self,
        taken: Result<Held, NotHeld>,
        server: &Server,
        needed: bool,
        shard: &Shard,
        flip: &Flip,
    ) -> Result<Option<Held>> {
        match taken {
            Ok(held) => Ok(Some(held)),
            Err(NotHeld::Busy) => Err(Error::Taken { shard: shard.name.clone(), by: flip.by.clone() }),
            Err(NotHeld::Down(reason)) if needed => Err(Error::Stopped {
                shard: shard.name.clone(),
                step: "resume".to_owned(),
                reason: format!("{} does not answer: {reason}", server.name),
            }),
            Err(NotHeld::Down(_)) => Ok(None),
        }
    }

    /// No flip that makes headway leaves its row alone for longer.
    fn longest_ms(&self) -> i64 {
        let longest = self.limits.hold_ms.saturating_add(self.limits.patience_ms).saturating_add(5_000);
        i64::try_from(longest).unwrap_or(i64::MAX)
    }
}

fn plan_of(shard: &Shard, row: &FlipRow, flip: &Flip, committed: bool) -> Option<Plan> {
    let other = shard.members().find(|member| member.id != flip.to)?.id;
    shard.members().find(|member| member.id == flip.to)?;
    let old = if committed { other } else { row.writer };
    Some(Plan { old, new: flip.to, epoch: row.epoch })
}
