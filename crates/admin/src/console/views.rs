//! What the statements show. Each view is a plain table of what the directory, the pools and the monitor say.

use std::collections::HashMap;

use usher_directory::rows::{self, MoveRow};
use usher_directory::{Located, State};
use usher_session::Wanted;
use usher_topology::{Health, Key, Role, Server, Shard, ShardId, ShardState, Want, choose};

use super::Desk;
use super::courtesy::is_like;
use super::statement::HELP;
use super::table::{Cell, Table};

/// Characters of a statement that are shown without FULL.
const INFO_CHARS: usize = 100;

type Result<T> = usher_directory::Result<T>;

pub(super) fn help() -> Table {
    let mut table = Table::new(&["statement", "shows"]);
    for (statement, shows) in HELP {
        table.push(vec![(*statement).into(), (*shows).into()]);
    }
    table
}

pub(super) fn shards(desk: &Desk) -> Table {
    let state = desk.directory.state();
    let mut table = Table::new(&[
        "shard", "id", "state", "epoch", "writer", "address", "standby", "replicas", "weight", "flip_to",
        "flip_by",
    ]);
    for shard in &state.topology.shards {
        let flip = state.flips.get(&shard.id);
        let to = flip.and_then(|flip| shard.server(flip.to));
        table.push(vec![
            shard.name.as_str().into(),
            u64::from(shard.id.0).into(),
            shard_state(shard.state).into(),
            shard.epoch.0.into(),
            shard.writer().map(|server| server.name.as_str()).into(),
            shard.writer().map(Server::address).into(),
            shard.standby().map(|server| server.name.as_str()).into(),
            Cell::count(shard.replicas().count()),
            u64::from(shard.weight).into(),
            to.map(|server| server.name.as_str()).into(),
            flip.map(|flip| flip.by.as_str()).into(),
        ]);
    }
    table
}

fn shard_state(state: ShardState) -> &'static str {
    match state {
        ShardState::Rw => "rw",
        ShardState::Switching => "switching",
        ShardState::Ro => "ro",
        ShardState::Down => "down",
    }
}

pub(super) fn servers(desk: &Desk) -> Table {
    let state = desk.directory.state();
    let health = desk.shared.monitor.health();
    let census: HashMap<String, (usize, usize)> =
        desk.shared.pools.census().into_iter().map(|(name, lent, idle)| (name, (lent, idle))).collect();
    let mut table = Table::new(&[
        "server",
        "id",
        "shard",
        "role",
        "address",
        "up",
        "lag_ms",
        "read_only",
        "lent",
        "idle",
        "position",
    ]);
    for shard in &state.topology.shards {
        for server in &shard.servers {
            let seen = health.get(&server.id);
            // Of a server that is down, nothing more is known.
            let alive = seen.filter(|seen| seen.up);
            let lent = census.get(&server.name);
            table.push(vec![
                server.name.as_str().into(),
                u64::from(server.id.0).into(),
                shard.name.as_str().into(),
                role(shard, server).into(),
                server.address().into(),
                seen.map_or(Cell::Null, |seen| Cell::yes(seen.up)),
                alive.and_then(|seen| seen.lag_ms).into(),
                alive.map_or(Cell::Null, |seen| Cell::yes(seen.read_only)),
                lent.map_or(Cell::Null, |(lent, _)| Cell::count(*lent)),
                lent.map_or(Cell::Null, |(_, idle)| Cell::count(*idle)),
                alive.and_then(|seen| seen.position.as_ref()).map(ToString::to_string).into(),
            ]);
        }
    }
    table
}

fn role(shard: &Shard, server: &Server) -> &'static str {
    match server.role {
        Role::Member if server.id == shard.writer => "writer",
        Role::Member => "standby",
        Role::Replica => "replica",
    }
}

pub(super) async fn moves(desk: &Desk, all: bool, limit: u32) -> Result<Table> {
    let rows = rows::list_moves(desk.directory.global(), !all, limit).await?;
    let state = desk.directory.state();
    let mut table = Table::new(&[
        "move",
        "user",
        "from",
        "to",
        "mode",
        "phase",
        "want",
        "rows_done",
        "rows_total",
        "eta_ms",
        "locked_ms",
        "mover",
        "started_by",
        "reason",
        "created_at",
        "finished_at",
        "error",
    ]);
    for row in rows {
        table.push(move_row(&state, row));
    }
    Ok(table)
}

fn move_row(state: &State, row: MoveRow) -> Vec<Cell> {
    vec![
        row.id.0.into(),
        row.key.to_string().into(),
        shard_name(state, row.src).into(),
        shard_name(state, row.dst).into(),
        row.mode.as_str().into(),
        row.phase.into(),
        row.want.as_str().into(),
        row.rows_done.into(),
        row.rows_total.into(),
        row.eta_ms.into(),
        row.locked_ms.into(),
        row.mover_id.into(),
        row.started_by.into(),
        row.reason.into(),
        utc(row.created_at_ms).into(),
        row.finished_at_ms.map(utc).into(),
        row.error.filter(|error| !error.is_empty()).into(),
    ]
}

fn shard_name(state: &State, id: ShardId) -> String {
    state.topology.shard(id).map_or_else(|| format!("#{id}"), |shard| shard.name.clone())
}

pub(super) async fn proxies(desk: &Desk) -> Result<Table> {
    let rows = rows::proxies(desk.directory.global()).await?;
    let mut table = Table::new(&[
        "proxy",
        "account",
        "http_address",
        "revoked",
        "seen_version",
        "drained_version",
        "silent_ms",
        "boot_id",
    ]);
    for row in rows {
        table.push(vec![
            row.proxy_id.into(),
            row.account.into(),
            row.http_address.into(),
            Cell::yes(row.revoked),
            row.seen_version.into(),
            row.drained_version.into(),
            Cell::Int(row.silent_ms),
            row.boot_id.into(),
        ]);
    }
    Ok(table)
}

/// A proxy that does not tell has a row that says so.
pub(super) async fn sessions(desk: &Desk, full: bool) -> Table {
    let wanted = Wanted { account: None, info_chars: if full { usize::MAX } else { INFO_CHARS } };
    let (sessions, unreached) = desk.shared.sessions_everywhere(&wanted).await;
    let mut table = Table::new(&[
        "id", "proxy", "account", "client", "schema", "command", "time_ms", "state", "shard", "server",
        "thread", "info",
    ]);
    for session in sessions {
        table.push(vec![
            u64::from(session.id).into(),
            session.proxy.as_str().into(),
            session.account.as_str().into(),
            session.client.as_str().into(),
            session.schema.as_deref().into(),
            session.command.as_str().into(),
            session.time_ms.into(),
            session.state().into(),
            session.shard.into(),
            session.server.into(),
            session.thread.map(u64::from).into(),
            session.info.into(),
        ]);
    }
    for one in unreached {
        let mut row = vec![Cell::Null; 12];
        row[1] = one.proxy.into();
        row[7] = one.why.into();
        table.push(row);
    }
    table
}

pub(super) fn tables(desk: &Desk) -> Table {
    let state = desk.directory.state();
    let mut table =
        Table::new(&["schema", "table", "kind", "key_column", "key_type", "sequence", "state", "columns"]);
    for row in &state.tables {
        table.push(vec![
            row.schema.as_str().into(),
            row.name.as_str().into(),
            row.kind.as_str().into(),
            row.key_column.as_deref().into(),
            row.key_type.map(|key_type| key_type.as_str()).into(),
            row.sequence_column.as_deref().into(),
            row.state.as_str().into(),
            row.columns.join(", ").into(),
        ]);
    }
    table
}

/// The directory's row by the global master, beside what this proxy would say without asking. No row: no such user.
pub(super) async fn user(desk: &Desk, key: &Key) -> Result<Table> {
    let cached = desk.directory.cached(key).flatten();
    let row = rows::directory_row(desk.directory.global(), key).await?;
    let state = desk.directory.state();
    let mut table = Table::new(&[
        "user",
        "shard",
        "state",
        "generation",
        "own_gen",
        "move",
        "pinned",
        "min_gtid",
        "cached_shard",
        "cached_generation",
    ]);
    if let Some(row) = row {
        table.push(vec![
            row.key.to_string().into(),
            shard_name(&state, row.located.shard).into(),
            row.located.state.as_str().into(),
            row.located.generation.0.into(),
            row.located.own_gen.0.into(),
            row.move_id.map(|id| id.0).into(),
            row.pinned.into(),
            row.min_gtid.into(),
            cached.map(|found| shard_name(&state, found.shard)).into(),
            cached.map(|found| found.generation.0).into(),
        ]);
    }
    Ok(table)
}

/// Where statements of the user go, as the proxy itself would find out.
pub(super) async fn route(desk: &Desk, key: &Key) -> Result<Table> {
    let known = desk.directory.cached(key);
    let located = match known {
        Some(located) => located,
        None => desk.directory.locate(key).await?,
    };
    let state = desk.directory.state();
    let moving = state.moving.get(key).map(|moving| moving.row.id.0);
    let mut table = Table::new(&["what", "value"]);
    let mut add = |what: &str, value: Cell| table.push(vec![what.into(), value]);
    add("user", key.to_string().into());
    let source = match known {
        _ if moving.is_some() => "the moving set",
        Some(_) => "this proxy's cache",
        None => "asked just now",
    };
    add("known from", source.into());
    match located {
        Some(located) => places(desk, &state, located, &mut add),
        None => add("shard", "none: unknown user, placed by its first INSERT".into()),
    }
    add("move", moving.map(|id| id.to_string()).into());
    add("directory version", state.version.to_string().into());
    Ok(table)
}

fn places(desk: &Desk, state: &State, located: Located, add: &mut impl FnMut(&str, Cell)) {
    add("shard", shard_name(state, located.shard).into());
    add("state", located.state.as_str().into());
    add("generation", located.generation.to_string().into());
    let Some(shard) = state.topology.shard(located.shard) else { return };
    add("shard state", shard_state(shard.state).into());
    add("epoch", shard.epoch.to_string().into());
    let named = |server: &Server| format!("{} ({})", server.name, server.address());
    add("writes go to", shard.writer().map(named).into());
    let health = desk.shared.monitor.health();
    let look = |id| -> Option<&Health> { health.get(&id) };
    let want = Want::Read { lag_ms_max: desk.limits.lag_ms_max, watermark: None };
    let choice = choose(shard, want, 0, look);
    add("reads go to", shard.server(choice.server).map(named).into());
    add("because", choice.reason.to_string().into());
}

pub(super) async fn sequences(desk: &Desk) -> Result<Table> {
    let rows = rows::sequences(desk.directory.global()).await?;
    let mut table = Table::new(&["sequence", "next"]);
    for row in rows {
        table.push(vec![row.name.into(), row.next.into()]);
    }
    Ok(table)
}

pub(super) async fn history(desk: &Desk, subject: Option<&str>, limit: u32) -> Result<Table> {
    let rows = rows::history(desk.directory.global(), subject, limit).await?;
    let mut table = Table::new(&["at", "who", "what", "subject", "detail"]);
    for row in rows {
        table.push(vec![
            utc(row.at_ms).into(),
            row.who.into(),
            row.what.into(),
            row.subject.into(),
            row.detail.into(),
        ]);
    }
    Ok(table)
}

pub(super) fn metrics(desk: &Desk, like: Option<&str>) -> Table {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &desk.registry);
    let mut table = Table::new(&["metric", "value"]);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.rsplit_once(' ')
            && is_like(name, like)
        {
            table.push(vec![name.into(), value.into()]);
        }
    }
    table
}

pub(super) fn limits(desk: &Desk, like: Option<&str>) -> Table {
    let mut table = Table::new(&["limit", "value"]);
    let tree = serde_json::to_value(&desk.limits).unwrap_or_default();
    for (name, value) in tree.as_object().into_iter().flatten().filter(|(name, _)| is_like(name, like)) {
        let value = value.as_u64().map_or_else(|| value.to_string().into(), Cell::UInt);
        table.push(vec![name.as_str().into(), value]);
    }
    table
}

/// `2026-01-31 23:59:59.123`, of milliseconds since 1970.
fn utc(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Howard Hinnant's civil_from_days: eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{:03}", in_day % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(951_782_399_999), "2000-02-28 23:59:59.999");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(utc(1_709_251_200_001), "2024-03-01 00:00:00.001");
        assert_eq!(utc(4_102_444_799_000), "2099-12-31 23:59:59.000");
    }
}
