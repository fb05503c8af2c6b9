//! Looks after each server: is it up, is it read-only, how old is its heartbeat row, what has it executed.
//!
//! The heartbeat row is written on each shard's writer by whoever finds it old, with the proxy's own account: a
//! server that is read-only refuses it. A copy's lag is the writer's newest row against the copy's, so only the
//! writer's clock counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use usher_config::Limits;
use usher_topology::{GtidPosition, Health, Server, ServerId, Shard, Topology};

use crate::conn::{Conn, Reply};
use crate::pool::{Account, Cutter};
use crate::{BackendError, Defaults, Fault, Settings};

/// What is known of every server.
pub type HealthMap = HashMap<ServerId, Health>;

/// Probes every server of the topology.
#[derive(Debug)]
pub struct Monitor {
    account: Account,
    limits: Limits,
    cutter: Cutter,
    health: Arc<ArcSwap<HealthMap>>,
    defaults: Arc<watch::Sender<Option<Arc<Defaults>>>>,
    probes: parking_lot::Mutex<Probes>,
}

#[derive(Debug, Default)]
struct Probes {
    of: Topology,
    tasks: JoinSet<()>,
}

impl Monitor {
    /// A monitor that probes nothing yet. Connections to a server of which nothing is heard for `limits.server_lost_ms`
    /// are cut.
    #[must_use]
    pub fn new(account: Account, limits: Limits, cutter: Cutter) -> Self {
        let defaults = Arc::new(watch::channel(None).0);
        Self {
            account,
            limits,
            cutter,
            health: Arc::default(),
            defaults,
            probes: parking_lot::Mutex::default(),
        }
    }

    /// What new sessions begin with: as the global master's writer, which speaks for all, had it when it was asked last.
    #[must_use]
    pub fn defaults(&self) -> Option<Arc<Defaults>> {
        self.defaults.borrow().clone()
    }

    /// As [`Monitor::defaults`], once they are known.
    pub async fn defaults_known(&self) -> Arc<Defaults> {
        let mut known = self.defaults.subscribe();
        // The sender lives as long as this.
        match known.wait_for(Option::is_some).await.map(|known| known.clone()) {
            Ok(Some(known)) => known,
            _ => std::future::pending().await,
        }
    }

    /// The global master's writer has just told them.
    pub fn learn_defaults(&self, defaults: Defaults) {
        self.defaults.send_replace(Some(Arc::new(defaults)));
    }

    /// What is known of every server: one load, then plain look-ups.
    #[must_use]
    pub fn health(&self) -> arc_swap::Guard<Arc<HealthMap>> {
        self.health.load()
    }

    /// Probes the servers of this topology from now on. Cheap if neither servers nor writers have changed. Must be
    /// called on a runtime.
    pub fn install(&self, topology: &Topology) {
        let mut probes = self.probes.lock();
        if same_servers(&probes.of, topology) {
            return;
        }
        probes.tasks = JoinSet::new();
        for shard in &topology.shards {
            // The writer's newest heartbeat, in microseconds of its own clock.
            let newest = Arc::new(AtomicU64::new(0));
            for server in &shard.servers {
                let probe = Probe {
                    server: server.clone(),
                    is_writer: server.id == shard.writer,
                    account: self.account.clone(),
                    limits: self.limits.clone(),
                    cutter: self.cutter.clone(),
                    newest: Arc::clone(&newest),
                    health: Arc::clone(&self.health),
                    speaks_for_all: shard.id.is_global() && server.id == shard.writer,
                    defaults: Arc::clone(&self.defaults),
                };
                probes.tasks.spawn(probe.run());
            }
        }
        let known: Vec<ServerId> =
            topology.shards.iter().flat_map(|shard| &shard.servers).map(|server| server.id).collect();
        self.health.rcu(|old| {
            let kept = old.iter().filter(|(id, _)| known.contains(id));
            kept.map(|(id, health)| (*id, health.clone())).collect::<HealthMap>()
        });
        probes.of = topology.clone();
    }
}

fn same_servers(a: &Topology, b: &Topology) -> bool {
    let key = |shard: &Shard| (shard.id, shard.writer, shard.servers.clone());
    a.shards.len() == b.shards.len() && a.shards.iter().zip(&b.shards).all(|(x, y)| key(x) == key(y))
}

struct Probe {
    server: Server,
    is_writer: bool,
    account: Account,
    limits: Limits,
    cutter: Cutter,
    newest: Arc<AtomicU64>,
    health: Arc<ArcSwap<HealthMap>>,
    /// It is the global master's writer.
    speaks_for_all: bool,
    defaults: Arc<watch::Sender<Option<Arc<Defaults>>>>,
}

impl Probe {
    async fn run(self) {
        let mut ticks = interval(Duration::from_millis(self.limits.probe_ms));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut conn = None;
        let mut defaults = None;
        let limit = Duration::from_millis(self.limits.connect_ms);
        let mut heard = Instant::now();
        loop {
            ticks.tick().await;
            let asked = Instant::now();
            let seen = match timeout(limit, self.probe(&mut conn, &mut defaults)).await {
                Ok(Ok(health)) => {
                    heard = Instant::now();
                    health
                }
                result => {
                    if let Ok(Err(fault)) = result {
                        tracing::debug!(server = %self.server.name, %fault, "probe failed");
                        // A server that says no is there.
                        if matches!(fault, Fault::Server { .. }) {
                            heard = asked;
                        }
                    }
                    conn = None;
                    Health::default()
                }
            };
            self.publish(seen);
            if heard.elapsed() >= Duration::from_millis(self.limits.server_lost_ms) {
                self.cut();
            }
        }
    }

    /// A server that is gone answers nobody any more.
    fn cut(&self) {
        let cut = self.cutter.cut(self.server.id);
        if cut > 0 {
            tracing::warn!(server = %self.server.name, connections = cut, "nothing heard of the server: cut off");
        }
    }

    fn publish(&self, seen: Health) {
        self.health.rcu(|old| {
            let mut new = HealthMap::clone(old);
            let previous = new.insert(self.server.id, seen.clone());
            if previous.is_some_and(|previous| previous.up != seen.up) {
                tracing::info!(server = %self.server.name, up = seen.up, "server changed");
            }
            new
        });
    }

    /// Looks whether new sessions would begin with other settings than before. The connections that there are have the
    /// old ones.
    async fn watch_defaults(&self, conn: &mut Conn, before: &mut Option<Defaults>) -> Result<(), Fault> {
        let Some(now) = conn.defaults().await? else { return Ok(()) };
        if before.as_ref() == Some(&now) {
            return Ok(());
        }
        if before.is_some() {
            tracing::info!(server = %self.server.name, "global settings of sessions have changed");
            self.cutter.renew(self.server.id);
        }
        if self.speaks_for_all {
            self.defaults.send_replace(Some(Arc::new(now.clone())));
        }
        *before = Some(now);
        Ok(())
    }

    async fn probe(&self, conn: &mut Option<Conn>, defaults: &mut Option<Defaults>) -> Result<Health, Fault> {
        let conn = match conn {
            Some(conn) => conn,
            None => {
                let settings = Settings::at_login(false);
                let opened = Conn::open(&self.server, &self.account, &settings, &self.limits).await;
                conn.insert(opened.map_err(|error| match error {
                    BackendError::Connect { fault, .. } => fault,
                    error => Fault::Server { code: 0, message: error.to_string() },
                })?)
            }
        };
        // Before the copy is asked: what it is behind of.
        let newest = self.newest.load(Ordering::Acquire);
        if self.is_writer {
            let period_us = self.limits.probe_ms * 500;
            let beat = format!(
                "UPDATE usher.heartbeat SET ts = CURRENT_TIMESTAMP(3) \
                 WHERE id = 1 AND ts < CURRENT_TIMESTAMP(3) - INTERVAL {period_us} MICROSECOND"
            );
            // Refused while the server is read-only, as in a flip: then the row just ages.
            let _ = conn.query(beat.as_bytes()).await?;
        }
        let (position, read_only) = if conn.is_mariadb() {
            ("@@GLOBAL.gtid_slave_pos", "@@GLOBAL.read_only")
        } else {
            ("@@GLOBAL.gtid_executed", "@@GLOBAL.super_read_only")
        };
        let ask = format!(
            "SELECT {read_only}, {position}, \
             (SELECT CAST(UNIX_TIMESTAMP(ts) * 1000000 AS UNSIGNED) FROM usher.heartbeat WHERE id = 1)"
        );
        let reply = conn.query(ask.as_bytes()).await?;
        self.watch_defaults(conn, defaults).await?;
        Ok(self.judge(&reply, newest))
    }

    fn judge(&self, reply: &Reply, newest: u64) -> Health {
        let cell = |at: usize| {
            let bytes = reply.rows.first()?.get(at)?.as_ref()?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let beat = cell(2).and_then(|text| text.parse::<u64>().ok());
        if self.is_writer
            && let Some(beat) = beat
        {
            self.newest.fetch_max(beat, Ordering::AcqRel);
        }
        let lag_us = beat.filter(|_| newest > 0 || self.is_writer).map(|beat| newest.saturating_sub(beat));
        Health {
            up: reply.error.is_none(),
            lag_ms: lag_us.map(|us| us / 1000),
            position: cell(1)
                .and_then(|text| GtidPosition::parse(&text.replace('\n', "")).ok())
                .map(Arc::new),
            read_only: cell(0).is_some_and(|text| text == "1"),
        }
    }
}
