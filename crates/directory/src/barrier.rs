//! Waits until every proxy works by a version, or has been shut out.
//!
//! Safety rests on rows and accounts only: a proxy's row says what it has acknowledged, and a silent proxy's account is
//! locked and its connections ended on every server concerned before it counts as passed. The clock decides only when
//! patience ends.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use usher_config::Limits;
use usher_topology::{Role, Server, ServerId, ShardId, Topology};

use crate::rows::{self, ProxyRow};
use crate::{Error, Global, Result, State, accounts};

/// How often the rows are read.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Which servers a silent proxy must be shut out of.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The shards concerned; the global master, if unsharded tables are.
    pub shards: Vec<ShardId>,
    /// Members known to be dead, which cannot be asked: the old writer in an unplanned flip.
    pub dead: Vec<ServerId>,
}

/// How long to wait for whom.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A proxy that says nothing for this long is silent.
    pub silence: Duration,
    /// A proxy that lives may take this long to drain.
    pub drain: Duration,
    /// What then.
    pub undrained: Undrained,
}

/// What becomes of a proxy that lives and does not drain in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Undrained {
    /// It is left alone, and the barrier does not pass.
    #[default]
    Refuse,
    /// It is revoked as if it were silent, and must begin anew: its clients lose their open transactions.
    Revoke,
}

impl Patience {
    /// As the limits say.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        Self {
            silence: Duration::from_millis(limits.patience_ms),
            drain: Duration::from_millis(limits.drain_ms),
            undrained: Undrained::default(),
        }
    }
}

/// What a barrier is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// These proxies have not acknowledged yet.
    Waiting(Vec<String>),
    /// This one is silent and is being shut out.
    Revoking(String),
}

/// Waits until every proxy has drained `version` or is revoked; returns those that this call revoked.
///
/// # Errors
/// [`Error::NotDrained`] when a living proxy takes too long: nothing was done to it, and the caller decides.
/// [`Error::LeftOver`] when one that began anew has not reached a server concerned since.
/// [`Error::NotRevoked`] when a silent one could not be shut out of a member: the barrier has not passed.
pub async fn pass(
    global: &Global,
    version: u64,
    patience: Patience,
    scope: &Scope,
    progress: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Vec<String>> {
    let began = Instant::now();
    let (mut out, mut revoked, mut waited_for) = (HashSet::new(), Vec::new(), Vec::new());
    loop {
        let rows = rows::proxies(global).await?;
        let mut waiting = Vec::new();
        for row in rows {
            let silent = row.silent_ms >= i64::try_from(patience.silence.as_millis()).unwrap_or(i64::MAX);
            let is_out = row.revoked && out.contains(&row.proxy_id);
            // Nobody has ended its connections to the dead. One that lives does so as it begins anew, at once; once
            // revoked it can't say any more that it lives.
            let lives_on = !silent && !scope.dead.is_empty();
            let drained = row.drained_version >= version;
            let left_over = if drained { left_over(global, &row, scope).await? } else { None };
            let passed = if row.revoked { is_out && !lives_on } else { drained && left_over.is_none() };
            if passed {
                continue;
            }
            let blind = row.seen_version < version && began.elapsed() >= patience.silence;
            let late = row.seen_version >= version && began.elapsed() >= patience.drain;
            if is_out {
                // Waited for.
            } else if row.revoked || silent || blind || late && patience.undrained == Undrained::Revoke {
                progress(&Progress::Revoking(row.proxy_id.clone()));
                if revoke(global, version, &row, scope).await? {
                    revoked.push(row.proxy_id.clone());
                }
                out.insert(row.proxy_id.clone());
            } else if late {
                let after_ms = u64::try_from(patience.drain.as_millis()).unwrap_or(u64::MAX);
                let proxy = row.proxy_id;
                return Err(match left_over {
                    Some(server) => Error::LeftOver { proxy, server, after_ms },
                    None => Error::NotDrained { proxy, version, after_ms },
                });
            }
            waiting.push(row.proxy_id);
        }
        if waiting.is_empty() {
            return Ok(revoked);
        }
        if waiting != waited_for {
            progress(&Progress::Waiting(waiting.clone()));
            waited_for = waiting;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A server concerned on which the proxy may still have connections of an earlier life.
async fn left_over(global: &Global, row: &ProxyRow, scope: &Scope) -> Result<Option<String>> {
    if row.left_over.is_empty() {
        return Ok(None);
    }
    let topology = State::load(global).await?.topology;
    let servers = servers_of(&topology, scope).into_iter();
    let mut left = servers.filter(|server| row.left_over.contains(&server.id));
    Ok(left.next().map(|server| server.name.clone()))
}

/// Shuts one proxy out; true if it was not before. Leaves it alone if it has acknowledged in the last moment.
async fn revoke(global: &Global, version: u64, row: &ProxyRow, scope: &Scope) -> Result<bool> {
    if !row.revoked && !mark(global, row, Some(version)).await? {
        return Ok(false);
    }
    let topology = State::load(global).await?.topology;
    let servers = servers_of(&topology, scope);
    let work = servers.iter().map(|server| shut_out(global, server, &row.account));
    let mut changed = false;
    for (server, done) in servers.iter().zip(join_all(work).await) {
        match done {
            Ok(did) => changed |= did,
            // A replica never takes writes, and a proxy that wakes up reads from it for one poll at most.
            Err(error) if server.role == Role::Replica => {
                tracing::warn!(proxy = %row.proxy_id, server = %server.name, %error, "replica not reached");
            }
            Err(error) => {
                return Err(Error::NotRevoked {
                    proxy: row.proxy_id.clone(),
                    server: server.name.clone(),
                    reason: error.to_string(),
                });
            }
        }
    }
    if changed {
        // If the proxy registered anew while it was being locked, this makes it do so once more, and unlock.
        mark(global, row, None).await?;
    }
    if !row.revoked {
        let detail = format!("not drained: version {version}; silent for {} ms", row.silent_ms);
        rows::record(global, "barrier", "revoke", &row.proxy_id, &detail).await?;
        tracing::warn!(proxy = %row.proxy_id, version, silent_ms = row.silent_ms, "proxy revoked");
    }
    Ok(!row.revoked)
}

/// Sets `revoked`; with a version only if that very process still has not acknowledged it.
async fn mark(global: &Global, row: &ProxyRow, unless_drained: Option<u64>) -> Result<bool> {
    let mut conn = global.conn().await?;
    let done = match unless_drained {
        Some(version) => {
            let statement = "UPDATE usher.proxies SET revoked = 1 \
                             WHERE proxy_id = ? AND boot_id = ? AND drained_version < ?";
            let values = (&row.proxy_id, row.boot_id, version);
            global.bounded("revoking a proxy", conn.exec_drop(statement, values)).await
        }
        None => {
            let statement = "UPDATE usher.proxies SET revoked = 1 WHERE proxy_id = ?";
            global.bounded("revoking a proxy", conn.exec_drop(statement, (&row.proxy_id,))).await
        }
    };
    done.map(|()| conn.affected_rows() > 0)
}

fn servers_of<'t>(topology: &'t Topology, scope: &Scope) -> Vec<&'t Server> {
    let shards = scope.shards.iter().filter_map(|id| topology.shard(*id));
    shards.flat_map(|shard| &shard.servers).filter(|server| !scope.dead.contains(&server.id)).collect()
}

async fn shut_out(global: &Global, server: &Server, account: &str) -> Result<bool> {
    // Not pooled: the session's binlog is switched off.
    let mut conn = global.server_conn(server).await?;
    accounts::shut_out(&mut conn, account).await.map_err(|error| Error::of_server(&server.name, &error))?
}
