//! The schemas of usher applied and every shard made known to the global master.

use std::path::Path;

use usher_directory::{Global, State as Deployment, schema};
use usher_topology::{Epoch, Role, Server, ServerId, Shard, ShardId, ShardState};

use crate::config_file;
use crate::error::{Error, Result};
use crate::state::{Node, Pair, State};

/// Share of new users that a new shard takes, as that of every other.
const WEIGHT: u32 = 100;

/// Brings schemas and topology up to date; a topology that is so already is not touched, since every change of it
/// sets all proxies to work.
pub(crate) async fn register(dir: &Path, state: &State) -> Result<()> {
    let failed = |e: usher_directory::Error| Error::Directory(e.to_string());
    let config = config_file::config(dir, state);
    let global = Global::new(&config.global, &config.backend_tls, &config.limits);
    schema::apply(&global).await.map_err(failed)?;
    let known = Deployment::load(&global).await.map_err(failed)?.topology;
    let mut is_changed = false;
    for (number, pair) in (0u16..).zip(state.pairs()?) {
        let known = known.shard(ShardId(number));
        let shard = shard(number, &pair, known);
        if known.is_none_or(|known| by_id(&known.servers) != by_id(&shard.servers)) {
            schema::register_shard(&global, &shard).await.map_err(failed)?;
            is_changed = true;
        }
    }
    if is_changed {
        // Now with the shards that have just become known.
        schema::apply(&global).await.map_err(failed)?;
    }
    Ok(())
}

fn shard(number: u16, pair: &Pair, known: Option<&Shard>) -> Shard {
    let members = pair.members.iter().map(|node| server(node, Role::Member));
    Shard {
        id: ShardId(number),
        name: pair.name.clone(),
        state: ShardState::Rw,
        epoch: Epoch(1),
        writer: ServerId(pair.writer.server_id),
        weight: known.map_or(WEIGHT, |known| known.weight),
        servers: members.chain(pair.replicas.iter().map(|node| server(node, Role::Replica))).collect(),
    }
}

fn server(node: &Node, role: Role) -> Server {
    Server {
        id: ServerId(node.server_id),
        name: node.name.clone(),
        host: "127.0.0.1".to_owned(),
        port: node.port,
        role,
    }
}

fn by_id(servers: &[Server]) -> Vec<&Server> {
    let mut sorted: Vec<&Server> = servers.iter().collect();
    sorted.sort_by_key(|server| server.id.0);
    sorted
}
