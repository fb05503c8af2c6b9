//! Creates and migrates usher's own tables, on the global master and on every shard.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, params};
use usher_topology::{Role, Shard};

use crate::rows::bump;
use crate::state::shard_state_text;
use crate::{Error, Global, Result, State};

/// Number, name and statements of each migration, in order. Applied ones never change.
type Migrations = &'static [(u32, &'static str, &'static str)];

const GLOBAL: Migrations = &[
    (1, "initial", include_str!("../../../schema/global/0001-initial.sql")),
    (2, "left-over-connections", include_str!("../../../schema/global/0002-left-over-connections.sql")),
    (3, "schema-change", include_str!("../../../schema/global/0003-schema-change.sql")),
    (4, "accounts", include_str!("../../../schema/global/0004-accounts.sql")),
    (5, "proxy-numbers", include_str!("../../../schema/global/0005-proxy-numbers.sql")),
];
const SHARD: Migrations = &[(1, "initial", include_str!("../../../schema/shard/0001-initial.sql"))];

/// The longest wait for another process that migrates the same server, in seconds.
const LOCK_WAIT_S: u32 = 10;

/// What was done where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Server and migration, in the order applied; empty if all was there.
    pub applied: Vec<(String, String)>,
}

/// Brings the global master's writer and the writer of every registered shard to the newest migration. May be repeated
/// at any time.
///
/// # Errors
/// [`Error::GlobalUnavailable`], [`Error::ServerUnavailable`] or [`Error::Server`] names the server that is behind;
/// calling again goes on from there.
pub async fn apply(global: &Global) -> Result<Report> {
    let mut report = Report::default();
    let mut conn = global.conn().await?;
    let name = global.writer().map_or_else(|| "the global master".to_owned(), |member| member.name);
    // The global master has a shard's tables too: it is one to the monitor, heartbeat and all.
    for (kind, migrations) in [("global", GLOBAL), ("shard", SHARD)] {
        migrate(&mut conn, &name, kind, migrations, &mut report).await?;
    }
    drop(conn);
    let state = State::load(global).await?;
    for shard in state.topology.user_shards() {
        apply_shard(global, shard, &mut report).await?;
    }
    Ok(report)
}

/// Brings one shard's writer to the newest migration: before users are placed on it.
///
/// # Errors
/// [`Error::ServerUnavailable`] or [`Error::Server`].
pub async fn apply_shard(global: &Global, shard: &Shard, report: &mut Report) -> Result<()> {
    let writer = shard
        .writer()
        .ok_or_else(|| Error::data(format!("shard {} has no writer in the topology", shard.name)))?;
    let mut conn = global.server_conn(writer).await?;
    migrate(&mut conn, &writer.name, "shard", SHARD, report).await
}

async fn migrate(
    conn: &mut Conn,
    server: &str,
    kind: &str,
    migrations: Migrations,
    report: &mut Report,
) -> Result<()> {
    let failed = |error: mysql_async::Error| Error::of_server(server, &error);
    let lock: Option<Option<u8>> =
        conn.exec_first("SELECT GET_LOCK('usher.schema', ?)", (LOCK_WAIT_S,)).await.map_err(failed)?;
    if lock.flatten() != Some(1) {
        return Err(Error::Conflict(format!("{server} is being migrated by another process; try again")));
    }
    let done = migrate_locked(conn, server, kind, migrations, report).await.map_err(failed);
    conn.query_drop("DO RELEASE_LOCK('usher.schema')").await.map_err(failed)?;
    done
}

async fn migrate_locked(
    conn: &mut Conn,
    server: &str,
    kind: &str,
    migrations: Migrations,
    report: &mut Report,
) -> mysql_async::Result<()> {
    conn.query_drop("CREATE DATABASE IF NOT EXISTS usher CHARACTER SET utf8mb4 COLLATE utf8mb4_bin").await?;
    conn.query_drop("USE usher").await?;
    conn.query_drop(
        "CREATE TABLE IF NOT EXISTS schema_version (kind VARCHAR(16) NOT NULL, version INT UNSIGNED NOT NULL, \
         name VARCHAR(64) NOT NULL, applied_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (kind, version)) ENGINE=InnoDB COMMENT 'migrations applied'",
    )
    .await?;
    let have: Option<Option<u32>> =
        conn.exec_first("SELECT MAX(version) FROM schema_version WHERE kind = ?", (kind,)).await?;
    let have = have.flatten().unwrap_or(0);
    for (version, name, text) in migrations.iter().filter(|migration| migration.0 > have) {
        for statement in statements(text) {
            conn.query_drop(statement).await?;
        }
        conn.exec_drop(
            "INSERT INTO schema_version (kind, version, name) VALUES (?, ?, ?)",
            (kind, version, name),
        )
        .await?;
        report.applied.push((server.to_owned(), format!("{kind} {version:04}-{name}")));
    }
    Ok(())
}

/// Cuts a file at its semicolons, except those within quotes and comments.
fn statements(text: &str) -> Vec<String> {
    let (mut all, mut current) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = if rest.starts_with("--") {
            let end = rest.find('\n').unwrap_or(rest.len());
            rest = &rest[end..];
            continue;
        } else if matches!(next, '\'' | '"' | '`') {
            // A doubled quote reads as two neighbouring texts, which comes to the same.
            rest[1..].find(next).map_or(rest.len(), |end| end + 2)
        } else if next == ';' {
            all.push(std::mem::take(&mut current));
            rest = &rest[1..];
            continue;
        } else {
            next.len_utf8()
        };
        current.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    all.push(current);
    all.iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// Makes a shard and its servers known, or brings the list of servers and the weight up to date: writer, epoch and
/// state of a shard that is known already are left to flips. Shard 0 is the global master. Returns the new version.
///
/// # Errors
/// [`Error::Data`] when the writer is not one of the members; [`Error::Conflict`] when a server's number or name
/// belongs to another; as [`Global::bounded`].
pub async fn register_shard(global: &Global, shard: &Shard) -> Result<u64> {
    if shard.writer().is_none_or(|writer| writer.role != Role::Member) {
        return Err(Error::data(format!("shard {}: the writer must be one of its members", shard.name)));
    }
    let mut reason = String::new();
    let done = crate::rows::transaction!(global, "registering a shard", |conn| {
        let version = bump(conn).await?;
        if let Some(clash) = clash(conn, shard).await? {
            reason = clash;
            return Ok(None);
        }
        write_shard(conn, shard).await?;
        Ok(Some(version))
    })?;
    done.ok_or(Error::Conflict(reason))
}

/// Why these servers can't be this shard's.
async fn clash(conn: &mut Conn, shard: &Shard) -> mysql_async::Result<Option<String>> {
    for server in &shard.servers {
        let other: Option<(u32, String, u16)> = conn
            .exec_first(
                "SELECT server_id, name, shard_id FROM usher.servers \
                 WHERE (server_id = :id AND shard_id <> :shard) OR (name = :name AND server_id <> :id)",
                params! { "id" => server.id.0, "name" => &server.name, "shard" => shard.id.0 },
            )
            .await?;
        if let Some((id, name, of)) = other {
            return Ok(Some(format!(
                "server {} ({}) clashes with server {id} ({name}) of shard {of}",
                server.id, server.name
            )));
        }
    }
    let writer: Option<u32> = conn
        .exec_first("SELECT writer_id FROM usher.shards WHERE shard_id = ? FOR UPDATE", (shard.id.0,))
        .await?;
    let stays = writer.is_none_or(|id| shard.members().any(|server| server.id.0 == id));
    Ok((!stays)
        .then(|| format!("shard {}: its present writer must stay a member; flip it first", shard.name)))
}

async fn write_shard(conn: &mut Conn, shard: &Shard) -> mysql_async::Result<()> {
    conn.exec_drop(
        "INSERT INTO usher.shards (shard_id, name, writer_id, epoch, state, weight) \
         VALUES (:id, :name, :writer, :epoch, :state, :weight) \
         ON DUPLICATE KEY UPDATE name = VALUES(name), weight = VALUES(weight)",
        params! {
            "id" => shard.id.0, "name" => &shard.name, "writer" => shard.writer.0,
            "epoch" => shard.epoch.0.max(1), "state" => shard_state_text(shard.state), "weight" => shard.weight,
        },
    )
    .await?;
    conn.exec_drop("DELETE FROM usher.servers WHERE shard_id = ?", (shard.id.0,)).await?;
    for server in &shard.servers {
        let role = if server.role == Role::Member { "member" } else { "replica" };
        conn.exec_drop(
            "INSERT INTO usher.servers (server_id, shard_id, name, host, port, role) VALUES (?, ?, ?, ?, ?, ?)",
            (server.id.0, shard.id.0, &server.name, &server.host, server.port, role),
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_cut_at_their_semicolons_only() {
        let text = "-- it's; a comment\nA 'x; ''y' ;\n\nB \"--\" `;` -- end; \n; ";
        assert_eq!(statements(text), ["A 'x; ''y'", "B \"--\" `;`"]);
        for (_, _, text) in GLOBAL.iter().chain(SHARD) {
            assert!(
                statements(text).iter().all(|one| one.starts_with("CREATE") || one.starts_with("INSERT"))
            );
        }
    }
}
