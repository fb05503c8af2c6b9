//! The schemas that exist on the servers: for accounts that may use only some, whose statements name schemas and aliases
//! alike, and for sessions in a schema that only the global master has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use usher_backend::Settings;
use usher_topology::ShardId;

use crate::shared::Shared;

/// The servers are asked once in so many times of `limits.probe_ms`. A new schema is closed to accounts that may not use
/// it after this time at most.
const PROBES: u64 = 5;

/// How long it counts what a session has found out; by then the servers have been asked again.
const FOUND_COUNTS: Duration = Duration::from_secs(10);
/// The pause between two attempts while nothing is known.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);
/// So many of them at most.
const FOUND_MAX: usize = 1000;

/// The schemas of all servers, as far as known.
#[derive(Debug)]
pub(crate) struct Schemas(watch::Sender<Option<Arc<Known>>>);

#[derive(Debug, Default, Clone)]
struct Known {
    /// By their names in lower case: some servers take any case.
    names: HashMap<String, Vec<String>>,
    /// Those of the global master that some shard has not.
    global_only: HashSet<String>,
    /// As sessions have found out themselves, and when: the servers may have been asked before.
    found: Vec<(String, Instant)>,
}

impl Default for Schemas {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

impl Schemas {
    /// Whether a schema of this name, in any case, exists for which `is_allowed` does not hold. While nothing is
    /// known, one does.
    pub(crate) fn has_other(&self, name: &str, is_allowed: impl Fn(&str) -> bool) -> bool {
        match &*self.0.borrow() {
            Some(known) => known
                .names
                .get(&name.to_lowercase())
                .is_some_and(|schemas| schemas.iter().any(|schema| !is_allowed(schema))),
            None => true,
        }
    }

    /// Whether a schema is on the global master and not on all shards: there it cannot be a session's schema.
    pub(crate) fn is_global_only(&self, name: &str) -> bool {
        let is_known = |known: &Arc<Known>| {
            known.global_only.contains(name) || known.found.iter().any(|(found, _)| found == name)
        };
        self.0.borrow().as_ref().is_some_and(is_known)
    }

    /// As [`Schemas::is_global_only`] will be told once the servers have been asked again.
    pub(crate) fn found_global_only(&self, name: &str) {
        self.0.send_if_modified(|known| {
            let Some(known) = known else { return false };
            let mut more = Known { found: lately(&known.found), ..Known::clone(known) };
            more.found.push((name.to_owned(), Instant::now()));
            *known = Arc::new(more);
            true
        });
    }

    /// Waits until all servers that answer have been asked.
    pub(crate) async fn known(&self) {
        // The sender is this.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    fn set(&self, lists: &HashMap<ShardId, Vec<String>>) {
        let found = self.0.borrow().as_ref().map(|known| lately(&known.found));
        let mut known = Known { found: found.unwrap_or_default(), ..Known::default() };
        for name in lists.get(&ShardId::GLOBAL).into_iter().flatten() {
            if lists.values().any(|list| !list.contains(name)) {
                known.global_only.insert(name.clone());
            }
        }
        for name in lists.values().flatten() {
            let same = known.names.entry(name.to_lowercase()).or_default();
            if !same.contains(name) {
                same.push(name.clone());
            }
        }
        self.0.send_replace(Some(Arc::new(known)));
    }
}

fn lately(found: &[(String, Instant)]) -> Vec<(String, Instant)> {
    found.iter().filter(|(_, at)| at.elapsed() < FOUND_COUNTS).take(FOUND_MAX).cloned().collect()
}

/// Asks the writers of all shards again and again. One that does not answer has what it had.
pub(crate) async fn watch(shared: Weak<Shared>, probe_ms: u64) {
    let mut lists = HashMap::new();
    let mut ticks = interval(Duration::from_millis(probe_ms * PROBES));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let limit = Duration::from_millis(shared.limits.connect_ms);
        let state = shared.directory.state();
        for shard in &state.topology.shards {
            if let Ok(Some(names)) = timeout(limit, names(&shared, shard.writer)).await {
                lists.insert(shard.id, names);
            }
        }
        // The global master has every schema that applications use.
        if lists.contains_key(&ShardId::GLOBAL) {
            shared.schemas.set(&lists);
        } else {
            // Logins may wait for it.
            ticks.reset_after(UNKNOWN_PAUSE);
        }
    }
}

async fn names(shared: &Shared, server: usher_topology::ServerId) -> Option<Vec<String>> {
    let pool = shared.pools.of(server).ok()?;
    let mut lent = pool.checkout(&Settings::at_login(false)).await.ok()?;
    let reply = lent.query(b"SHOW DATABASES").await.ok().filter(|reply| reply.error.is_none())?;
    let cells = reply.rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
    Some(cells.map(|name| String::from_utf8_lossy(&name).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_any_case_is_that_of_a_schema() {
        let schemas = Schemas::default();
        assert!(schemas.has_other("alias", |_| false), "nothing is known yet");
        let lists = HashMap::from([(ShardId::GLOBAL, vec!["app".to_owned(), "Other".to_owned()])]);
        schemas.set(&lists);
        let is_app = |name: &str| name == "app";
        assert!(schemas.has_other("other", is_app) && schemas.has_other("OTHER", is_app));
        assert!(!schemas.has_other("app", is_app) && !schemas.has_other("APP", is_app));
        assert!(!schemas.has_other("alias", is_app));
        assert!(!schemas.is_global_only("app"));
        let lists = HashMap::from([
            (ShardId::GLOBAL, vec!["app".to_owned(), "Other".to_owned()]),
            (ShardId(1), vec!["app".to_owned(), "theirs".to_owned()]),
        ]);
        schemas.set(&lists);
        assert!(schemas.is_global_only("Other") && !schemas.is_global_only("app"));
        assert!(!schemas.is_global_only("theirs"));
        schemas.found_global_only("new");
        assert!(schemas.is_global_only("new"));
    }
}
