//! Where an entity lives, asked of the servers; one look-up for all who ask at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use usher_topology::{Generation, Key, ShardId};

use crate::columns::Columns;
use crate::global::is_on;
use crate::{Directory, EntityState, Error, Global, Located, Result, fallback};

/// Look-ups under way. Each runs in a task of its own, so that the first asker may leave.
pub(crate) type Flights<T> = Mutex<HashMap<Key, Shared<BoxFuture<'static, Result<T>>>>>;

/// An answer believed at once may be outdated by a move that commits meanwhile; that often is enough.
const ATTEMPTS_MAX: usize = 3;

const QUERY: &str = "SELECT @@global.read_only, d.shard_id, d.state, d.gen, d.own_gen FROM (SELECT 1 AS one) o \
    LEFT JOIN usher.directory d ON d.entity = 'user' AND d.entity_key = ?";

/// What the member at hand says, and whether it is read-only.
async fn ask(global: &Global, conn: &mut mysql_async::Conn, key: &Key) -> Result<(bool, Option<Located>)> {
    let row: Option<Row> =
        global.bounded("a directory look-up", conn.exec_first(QUERY, (key.to_string(),))).await?;
    let mut columns = Columns::of(row.ok_or_else(|| Error::data("a look-up gave no row"))?);
    let read_only = is_on(&columns.take::<mysql_async::Value>()?);
    let Some(shard) = columns.take::<Option<u16>>()? else { return Ok((read_only, None)) };
    let located = Located {
        shard: ShardId(shard),
        state: columns.parse(EntityState::parse)?,
        generation: Generation(columns.take()?),
        own_gen: Generation(columns.take()?),
    };
    Ok((read_only, Some(located)))
}

/// What the global master's writer says.
pub(crate) async fn ask_writer(global: &Global, key: &Key) -> Result<Option<Located>> {
    let mut conn = global.unproven_conn().await?;
    let (read_only, found) = ask(global, &mut conn, key).await?;
    if !read_only {
        return Ok(found);
    }
    drop(conn);
    let mut conn = global.conn().await?;
    ask(global, &mut conn, key).await.map(|(_, found)| found)
}

/// What any member says; it may be stale.
pub(crate) async fn ask_any_member(global: &Global, key: &Key) -> Result<Option<Located>> {
    let mut conn = global.standby_conn().await?;
    ask(global, &mut conn, key).await.map(|(_, found)| found)
}

/// Joins the task that already works for `key`, or starts one.
pub(crate) fn join<T: Clone + Send + Sync + 'static>(
    flights: &Flights<T>,
    key: &Key,
    start: impl FnOnce() -> BoxFuture<'static, Result<T>>,
) -> Shared<BoxFuture<'static, Result<T>>> {
    let mut flights = flights.lock();
    if let Some(flight) = flights.get(key) {
        return flight.clone();
    }
    let task = tokio::spawn(start());
    let flight = async move {
        task.await.unwrap_or_else(|error| Err(Error::data(format!("a look-up ended early: {error}"))))
    }
    .boxed()
    .shared();
    flights.insert(key.clone(), flight.clone());
    flight
}

impl Directory {
    /// Waits for its turn among the look-ups, but not for ever.
    pub(crate) async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let wait = Duration::from_millis(self.limits.directory_lookup_ms);
        let turn = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(wait, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                self.metrics.lookups_busy.inc();
                Err(Error::Busy { limit: self.limits.directory_lookups_max })
            }
        }
    }

    /// The body of a look-up: memcached, the writer, and without a writer whoever else may know. An asker that was
    /// suspended between missing the first level and joining the flight finds here what that flight brought.
    pub(crate) async fn look_up(&self, key: &Key) -> Result<Option<Located>> {
        let era = self.era();
        if let Some(found) = self.l1.find(key) {
            return Ok(found);
        }
        let tokens = match self.l2.find(key, |generation| self.pins.allow(key, generation)).await {
            Ok(located) => {
                self.remember(key, Some(&located), era);
                return Ok(Some(located));
            }
            Err(tokens) => tokens,
        };
        let _permit = self.permit().await?;
        match self.ask_writer(key).await {
            Ok(found) => {
                self.remember(key, found.as_ref(), era);
                if let Some(located) = &found {
                    self.l2.fill(key, located, tokens).await;
                }
                Ok(found)
            }
            Err(error @ (Error::GlobalUnavailable(_) | Error::Timeout { .. })) => {
                self.metrics.lookups_fallback.inc();
                let found = fallback::look_up(self, key, &error).await?;
                self.remember(key, found.as_ref(), era);
                Ok(found)
            }
            Err(error) => Err(error),
        }
    }

    /// From the writer; asked again while the answer is older than what is known meanwhile.
    pub(crate) async fn ask_writer(&self, key: &Key) -> Result<Option<Located>> {
        for _ in 0..ATTEMPTS_MAX {
            self.metrics.lookups.inc();
            let found = ask_writer(&self.global, key).await?;
            match &found {
                Some(located) if !self.pins.allow(key, located.generation) => {}
                _ => return Ok(found),
            }
        }
        Err(Error::GlobalUnavailable(format!(
            "the directory shows an older generation of user {key} than was seen before; \
             has the global master lost transactions?"
        )))
    }

    /// Keeps an answer in the first level, unless a move has made it worthless, or it was asked for in another era: this
    /// process may have stood still since for longer than any pin lives.
    pub(crate) fn remember(&self, key: &Key, found: Option<&Located>, era: u64) {
        let allowed =
            || self.era() == era && found.is_none_or(|located| self.pins.allow(key, located.generation));
        if !allowed() {
            return;
        }
        match found {
            Some(located) => self.l1.install(key, located),
            None => self.l1.install_unknown(key),
        }
        // A pin raised in between, or an era begun, has removed the entry either before or after it was installed.
        if !allowed() {
            self.l1.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use usher_config::{BackendTls, GlobalMaster, Limits, Memcached};

    use super::*;
    use crate::Metrics;

    fn directory() -> Arc<Directory> {
        let config =
            GlobalMaster { writer_hint: None, user: String::new(), password: String::new(), members: vec![] };
        let limits = Limits::default();
        let global = Global::new(&config, &BackendTls::default(), &limits);
        Directory::new(global, &Memcached { servers: vec![] }, &limits, Metrics::default())
    }

    #[tokio::test]
    async fn who_comes_too_late_for_the_flight_finds_its_answer() {
        let (directory, key) = (directory(), Key::Int(7));
        let first = Generation(1);
        let located =
            Located { shard: ShardId(1), generation: first, own_gen: first, state: EntityState::Active };
        directory.remember(&key, Some(&located), directory.era());
        // There is no server to ask: only the first level can answer.
        assert_eq!(directory.look_up(&key).await.unwrap(), Some(located));
        assert_eq!(directory.metrics.lookups.get(), 0);
    }

    #[tokio::test]
    async fn an_answer_of_an_earlier_era_is_not_kept() {
        let (directory, key) = (directory(), Key::Int(7));
        let first = Generation(1);
        let located =
            Located { shard: ShardId(1), generation: first, own_gen: first, state: EntityState::Active };
        let asked_in = directory.era();
        directory.remember(&key, Some(&located), asked_in);
        assert_eq!(directory.cached(&key), Some(Some(located)));
        // The process stood still and was shut out; the user has moved, and no pin tells of it any more.
        directory.begin_era();
        directory.remember(&key, Some(&located), asked_in);
        assert_eq!(directory.cached(&key), None);
        directory.remember(&key, None, asked_in);
        assert_eq!(directory.cached(&key), None, "nor is it known any more that there is no such user");
    }
}
