//! The deployment that a configuration names, as commands ask it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use usher_config::Config;
use usher_directory::rows::{self, TableKind};
use usher_directory::{Directory, Global, Metrics, State, schema};
use usher_failover::Flips;
use usher_mover::Mover;
use usher_topology::{Shard, ShardId};

use crate::say::{Say, table};

/// A controller that has said nothing for this long does not count as running.
const CONTROLLER_SILENT: Duration = Duration::from_secs(5);
/// Exit code of wrong usage.
const USAGE: i32 = 2;

/// Reads the configuration; without a file it is wrong usage.
pub(crate) fn load(path: Option<&Path>) -> anyhow::Result<Config> {
    let Some(path) = path else {
        eprintln!("usher: which deployment? Give --config FILE or set USHER_CONFIG.");
        std::process::exit(USAGE);
    };
    Ok(usher_config::load(path)?)
}

/// Handles to the global master and what works on it.
pub(crate) struct Deployment {
    pub(crate) config: Config,
    pub(crate) global: Global,
    pub(crate) directory: Arc<Directory>,
    pub(crate) metrics: Metrics,
    pub(crate) flips: Flips,
}

impl Deployment {
    /// Connects to nothing yet. Must be called on a runtime.
    pub(crate) fn new(config: Config) -> Self {
        let global = Global::new(&config.global, &config.backend_tls, &config.limits);
        let metrics = Metrics::default();
        let directory = Directory::new(global.clone(), &config.memcached, &config.limits, metrics.clone());
        let flips = Flips::new(global.clone(), config.limits.clone());
        Self { config, global, directory, metrics, flips }
    }

    /// A mover under the name `id`.
    pub(crate) fn mover(&self, id: &str) -> Mover {
        Mover::new(Arc::clone(&self.directory), self.config.limits.clone(), id)
    }

    /// Topology, moving set and catalog as they are now.
    pub(crate) async fn state(&self) -> anyhow::Result<State> {
        Ok(State::load(&self.global).await?)
    }

    /// The controller that runs, if one does.
    pub(crate) async fn live_controller(&self) -> anyhow::Result<Option<String>> {
        Ok(rows::live_controller(&self.global, CONTROLLER_SILENT).await?)
    }

    pub(crate) async fn apply_schema(&self, say: &Say) -> anyhow::Result<()> {
        let report = schema::apply(&self.global).await?;
        let applied: Vec<_> = report
            .applied
            .iter()
            .map(|(server, name)| json!({"server": server, "migration": name}))
            .collect();
        say.answer(&json!({"applied": applied}), || match report.applied.len() {
            0 => "everything is at the newest version already".to_owned(),
            _ => report.applied.iter().map(|(server, name)| format!("{server}: {name}\n")).collect(),
        });
        Ok(())
    }

    pub(crate) async fn list_tables(&self, say: &Say) -> anyhow::Result<()> {
        let rows = rows::list_tables(&self.global).await?;
        let machine: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({"schema": row.schema, "table": row.name, "kind": row.kind, "entity": row.entity,
                       "key": row.key_column, "sequence": row.sequence_column, "state": row.state})
            })
            .collect();
        say.answer(&json!({"tables": machine}), || {
            let line = |row: &rows::TableRow| {
                let key =
                    row.key_column.clone().filter(|_| row.kind == TableKind::Sharded).unwrap_or_default();
                let sequence = row.sequence_column.clone().unwrap_or_default();
                vec![
                    format!("{}.{}", row.schema, row.name),
                    row.kind.to_string(),
                    key,
                    sequence,
                    row.state.to_string(),
                ]
            };
            table(&["TABLE", "KIND", "KEY", "SEQUENCE", "STATE"], rows.iter().map(line))
        });
        Ok(())
    }
}

/// The user shard of that name.
pub(crate) fn user_shard<'s>(state: &'s State, name: &str) -> anyhow::Result<&'s Shard> {
    let shard = state.topology.user_shards().find(|shard| shard.name == name);
    shard.ok_or_else(|| anyhow::anyhow!("there is no shard {name} for users; `usher shard list` shows all"))
}

/// A shard's name, or its number while the rows contradict each other.
pub(crate) fn shard_name(state: &State, id: ShardId) -> String {
    state.topology.shard(id).map_or_else(|| id.to_string(), |shard| shard.name.clone())
}

/// Who asks, as history rows name it.
pub(crate) fn who() -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "someone".to_owned());
    format!("{user} (cli {})", std::process::id())
}
