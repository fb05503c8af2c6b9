//! New users: which shard takes them, and the rows that say so.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mysql_async::prelude::Queryable;
use parking_lot::Mutex;
use usher_topology::{Generation, Key, ShardId, ShardState, Topology};

use crate::{Directory, EntityState, Error, Located, Result, lookup, rows};

/// How often the users of each shard are counted anew, at most; a count that takes long is made more seldom.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// Counting takes at most one part in so many of the time.
const COUNT_SHARE: u32 = 200;
/// How long to wait for a new version before a shard's writer is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(50);

/// How many users each shard has: counted now and then, and kept up in between by what this process places.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    users: Mutex<HashMap<ShardId, u64>>,
    count_after: Mutex<Option<Instant>>,
    counting: AtomicBool,
}

impl Usage {
    /// The shard with the fewest users for its weight, among those that take any; equal ones take turns.
    fn choose(&self, topology: &Topology, key: &Key) -> Result<ShardId> {
        let users = self.users.lock();
        let open: Vec<_> =
            topology.user_shards().filter(|s| s.weight > 0 && s.state == ShardState::Rw).collect();
        let turn =
            key.to_string().bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(b)));
        let start = if open.is_empty() { 0 } else { turn % open.len() };
        let in_turn = open.iter().cycle().skip(start).take(open.len());
        let chosen = in_turn.min_by(|a, b| {
            let load = |shard: &usher_topology::Shard| u128::from(users.get(&shard.id).copied().unwrap_or(0));
            // a.load / a.weight against b.load / b.weight, without fractions
            (load(a) * u128::from(b.weight)).cmp(&(load(b) * u128::from(a.weight)))
        });
        chosen.map(|shard| shard.id).ok_or(Error::NoShard)
    }

    fn add(&self, shard: ShardId) {
        *self.users.lock().entry(shard).or_default() += 1;
    }

    fn due(&self) -> bool {
        self.count_after.lock().is_none_or(|at| Instant::now() >= at)
    }

    fn never_counted(&self) -> bool {
        self.count_after.lock().is_none()
    }
}

impl Directory {
    /// Places a user whom the directory does not know: the shard with the fewest users for its weight takes it, and
    /// owns it when this returns. Whoever else places the same user at the same time gets the same answer.
    ///
    /// # Errors
    /// [`Error::GlobalUnavailable`], [`Error::NoShard`], [`Error::Busy`]; [`Error::ServerUnavailable`] when the
    /// shard's writer does not answer: the user then has its shard, and the next call finishes the work.
    pub async fn place(self: &Arc<Self>, key: &Key) -> Result<Located> {
        let flight = lookup::join(&self.placing, key, || {
            let (this, key) = (Arc::clone(self), key.clone());
            async move {
                let placed = this.place_one(&key).await;
                this.placing.lock().remove(&key);
                placed
            }
            .boxed()
        });
        let era = self.era();
        let placed = flight.await?;
        if self.era() == era {
            return Ok(placed);
        }
        let found = self.locate_fresh(key).await?;
        found.ok_or_else(|| Error::Conflict(format!("user {key} is not there any more; try again")))
    }

    async fn place_one(self: &Arc<Self>, key: &Key) -> Result<Located> {
        let text = key.to_string();
        if text.len() > Key::TEXT_BYTES_MAX {
            return Err(Error::data(format!(
                "a key has {} bytes, {} at most",
                text.len(),
                Key::TEXT_BYTES_MAX
            )));
        }
        let era = self.era();
        let _permit = self.permit().await?;
        self.count_users().await;
        let shard = self.usage.choose(&self.state().topology, key)?;
        let mut conn = self.global.conn().await?;
        let statement = "INSERT INTO usher.directory (entity, entity_key, shard_id) VALUES ('user', ?, ?)";
        let inserted =
            self.global.bounded("placing a user", conn.exec_drop(statement, (text, shard.0))).await;
        drop(conn);
        let first = Generation(1);
        let located = match inserted {
            Ok(()) => {
                self.metrics.placed.inc();
                self.usage.add(shard);
                Located { shard, generation: first, own_gen: first, state: EntityState::Active }
            }
            // Somebody was quicker. A deadlock or lock wait here means the same.
            Err(Error::Server { code: 1062 | 1205 | 1213, .. }) => {
                self.ask_writer(key).await?.ok_or_else(|| {
                    Error::Conflict(format!("user {key} is being placed by another; try again"))
                })?
            }
            Err(error) => return Err(error),
        };
        // The row in the directory comes first: a crash before the ownership row leaves an unfinished placing, which
        // anybody may finish here; the other order could leave two owners.
        let mut located = located;
        if located.generation == first && !self.own(key, located.shard).await? {
            // The shard knows that the user has been there and left: the directory must know more.
            located = self.ask_writer(key).await?.filter(|now| now.generation > first).ok_or_else(|| {
                let shard = located.shard;
                Error::Conflict(format!("shard {shard} had user {key} before and does not own it"))
            })?;
        }
        self.remember(key, Some(&located), era);
        Ok(located)
    }

    /// Makes sure that the shard has the first ownership row. Rows of users who have left are never deleted, so a late
    /// insert can't bring one back: `false` then.
    async fn own(&self, key: &Key, shard: ShardId) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_millis(self.limits.directory_lookup_ms);
        let mut versions = self.subscribe();
        loop {
            let error = match self.try_own(key, shard).await {
                Ok(owned) => return Ok(owned),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            // During a flip the next version names the new writer.
            let _ = tokio::time::timeout(RETRY_WAIT, versions.changed()).await;
        }
    }

    async fn try_own(&self, key: &Key, shard: ShardId) -> Result<bool> {
        let state = self.state();
        let writer = state.topology.shard(shard).and_then(usher_topology::Shard::writer);
        let writer =
            writer.ok_or_else(|| Error::data(format!("shard {shard} has no writer in the topology")))?;
        let mut conn = self.global.borrowed_conn(writer).await?;
        // The control account may write on a read-only server, and must not: that is a former writer.
        let insert = "INSERT IGNORE INTO usher.ownership (entity, entity_key, own_gen, state) \
                      SELECT 'user', ?, 1, 'owned' FROM DUAL WHERE CONCAT(@@global.read_only) IN ('0', 'OFF')";
        let check = "SELECT state = 'owned' AND own_gen = 1 FROM usher.ownership WHERE entity = 'user' AND entity_key = ?";
        let ask = async {
            conn.exec_drop(insert, (key.to_string(),)).await?;
            if conn.affected_rows() == 1 {
                return Ok(Some(true));
            }
            conn.exec_first::<bool, _, _>(check, (key.to_string(),)).await
        };
        match self.global.server_bounded(&writer.name, ask).await? {
            Some(owned) => Ok(owned),
            None => Err(Error::ServerUnavailable {
                server: writer.name.clone(),
                reason: "it is read-only, a flip may be under way".to_owned(),
            }),
        }
    }

    /// The first count is waited for, so that a full shard is not taken for an empty one; later ones are not.
    async fn count_users(self: &Arc<Self>) {
        if !self.usage.due() || self.usage.counting.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        let wait = self.usage.never_counted();
        let task = tokio::spawn(async move {
            let began = Instant::now();
            match rows::users_per_shard(&this.global).await {
                Ok(counts) => *this.usage.users.lock() = counts.into_iter().collect(),
                Err(error) => tracing::warn!(%error, "users per shard could not be counted"),
            }
            let pause = COUNT_EVERY.max(began.elapsed() * COUNT_SHARE);
            *this.usage.count_after.lock() = Some(Instant::now() + pause);
            this.usage.counting.store(false, Ordering::Release);
        });
        if wait {
            let _ = task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use usher_topology::{Epoch, ServerId, Shard};

    use super::*;

    fn topology(weights: &[u32]) -> Topology {
        let shard = |(index, weight): (usize, &u32)| Shard {
            id: ShardId(u16::try_from(index).unwrap()),
            name: format!("s{index}"),
            state: ShardState::Rw,
            epoch: Epoch(1),
            writer: ServerId(1),
            weight: *weight,
            servers: vec![],
        };
        Topology { shards: weights.iter().enumerate().map(shard).collect() }
    }

    #[test]
    fn users_spread_by_weight() {
        let usage = Usage::default();
        let topology = topology(&[100, 100, 300, 0]);
        for id in 0..400 {
            let shard = usage.choose(&topology, &Key::Int(id)).unwrap();
            usage.add(shard);
        }
        let users = usage.users.lock();
        assert_eq!(users.get(&ShardId(1)), Some(&100));
        assert_eq!(users.get(&ShardId(2)), Some(&300));
        assert_eq!(users.get(&ShardId(3)), None, "weight 0 takes nobody");
        assert_eq!(users.get(&ShardId(0)), None, "the global master holds no users");
    }

    #[test]
    fn without_an_open_shard_there_is_no_place() {
        let mut topology = topology(&[100, 0, 50]);
        topology.shards[2].state = ShardState::Switching;
        assert_eq!(Usage::default().choose(&topology, &Key::Int(1)), Err(Error::NoShard));
    }
}
