//! Schema changes whose proxy is gone: ended, once nothing of them can be running any more.

use usher_topology::{Role, ShardId, Topology};

use crate::barrier::{self, Patience, Scope};
use crate::rows::{self, ProxyRow, SchemaChange};
use crate::{Global, Result, State, accounts};

/// Ends the schema change under way if its proxy has begun anew, was revoked or has left; one that is silent is revoked
/// first. True if there is none any more.
///
/// # Errors
/// As [`barrier::pass`]; [`crate::Error::ServerUnavailable`] when a server cannot be asked whether the change still runs there.
pub async fn end_abandoned_schema_change(global: &Global, patience: Patience) -> Result<bool> {
    let Some(change) = rows::schema_change(global).await? else { return Ok(true) };
    let silence = i64::try_from(patience.silence.as_millis()).unwrap_or(i64::MAX);
    let row = proxy_of(global, &change).await?;
    if row.is_some_and(|row| is_its_maker(&row, &change) && row.silent_ms < silence) {
        return Ok(false);
    }
    let state = State::load(global).await?;
    let shards: Vec<ShardId> = state.topology.shards.iter().map(|shard| shard.id).collect();
    let scope = Scope { shards, dead: Vec::new() };
    barrier::pass(global, state.version, patience, &scope, &mut |_| ()).await?;
    match proxy_of(global, &change).await? {
        Some(row) if is_its_maker(&row, &change) => return Ok(false),
        Some(_) => {}
        // It has left, or never was registered: nobody has looked after its connections.
        None => end_everywhere(global, &state.topology, &change.account).await?,
    }
    rows::end_schema_change(global, change.ticket).await?;
    let detail = format!("its proxy is gone: {}", change.statement);
    rows::record(global, &change.account, "schema change ended", "schema", &detail).await?;
    Ok(true)
}

async fn proxy_of(global: &Global, change: &SchemaChange) -> Result<Option<ProxyRow>> {
    let proxies = rows::proxies(global).await?;
    Ok(proxies.into_iter().find(|proxy| proxy.account == change.account))
}

fn is_its_maker(row: &ProxyRow, change: &SchemaChange) -> bool {
    !row.revoked && change.boot_id == Some(row.boot_id)
}

async fn end_everywhere(global: &Global, topology: &Topology, account: &str) -> Result<()> {
    let servers = topology.shards.iter().flat_map(|shard| &shard.servers);
    for server in servers.filter(|server| server.role == Role::Member) {
        let mut conn = global.server_conn(server).await?;
        global.server_bounded(&server.name, accounts::end_all(&mut conn, account)).await??;
    }
    Ok(())
}
