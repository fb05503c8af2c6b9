//! What must hold before a move touches anything. Each check that fails names what it found and where.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use usher_directory::State;
use usher_directory::rows::{TableKind, TableState};
use usher_directory::server::{prepared_branches, reached};
use usher_topology::{Key, Shard, ShardState};

use crate::decide::OwnState;
use crate::sessions::{Session, Sessions};
use crate::shard_rows;
use crate::table::Table;
use crate::{MoveError, Refusal, Result, foreign_keys};

/// What servers say of rows that somebody else has locked: MariaDB's lock wait timeout, MySQL's NOWAIT.
const LOCKED: [u16; 2] = [1205, 3572];

/// A user as the directory has it.
pub(crate) struct Subject<'a> {
    pub(crate) key: &'a Key,
    pub(crate) id: usher_topology::MoveId,
    pub(crate) own_gen: usher_topology::Generation,
    /// The rows are copied while they change.
    pub(crate) online: bool,
}

/// All checks; returns nothing, as every step reads what it needs anew.
///
/// # Errors
/// [`Refusal`], or a server's own.
pub(crate) async fn check(
    sessions: &Sessions,
    state: &State,
    src: &Shard,
    dst: &Shard,
    subject: &Subject<'_>,
    standby_ms: u64,
) -> Result<()> {
    for shard in [src, dst] {
        if shard.state != ShardState::Rw {
            let state = format!("{:?}", shard.state).to_lowercase();
            return Err(Refusal::ShardState { shard: shard.name.clone(), state }.into());
        }
    }
    let mut source = sessions.on_writer(writer(src)?).await?;
    let mut target = sessions.on_writer(writer(dst)?).await?;
    same_family(&source, &target)?;
    packets(&mut source, &mut target).await?;
    let (ours, theirs) = (load(&mut source, state).await?, load(&mut target, state).await?);
    for (table, there) in ours.iter().zip(&theirs) {
        usable(table)?;
        same_definition(table, there, &source, &target)?;
        // The copy inserts on the target, the purge deletes on either.
        no_triggers(&mut target, table).await?;
        no_triggers(&mut source, table).await?;
        if subject.online {
            followable(table)?;
        }
        empty(&mut target, dst, there, subject.key).await?;
    }
    if subject.online {
        foreign_keys::cascades(&foreign_keys::load(&mut source, &ours).await?, &ours)?;
    }
    ownership(&mut source, &mut target, src, dst, subject).await?;
    sessions.keep(target);
    sessions.keep(source);
    if subject.online {
        for server in &src.servers {
            if src.writer == server.id || src.standby().is_some_and(|standby| standby.id == server.id) {
                logs_rows(sessions, server).await?;
            }
        }
    }
    follows(sessions, src, standby_ms).await?;
    follows(sessions, dst, standby_ms).await
}

/// The shard's writer.
pub(crate) fn writer(shard: &Shard) -> Result<&usher_topology::Server> {
    shard
        .writer()
        .ok_or_else(|| MoveError::Data(format!("shard {} names a writer it does not have", shard.name)))
}

/// The sharded tables as a server defines them, in catalog order.
///
/// # Errors
/// [`Refusal::NoTable`], or the server's own.
pub(crate) async fn load(session: &mut Session, state: &State) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    let sharded = state.tables.iter().filter(|row| {
        row.kind == TableKind::Sharded && row.state == TableState::Ready && row.entity == "user"
    });
    for row in sharded {
        tables.push(Table::load(&mut session.conn, &session.server, row).await?);
    }
    Ok(tables)
}

fn same_family(source: &Session, target: &Session) -> Result<()> {
    if source.family == target.family {
        return Ok(());
    }
    Err(Refusal::Families { source_server: source.server.clone(), target_server: target.server.clone() }
        .into())
}

async fn packets(source: &mut Session, target: &mut Session) -> Result<()> {
    const QUERY: &str = "SELECT @@global.max_allowed_packet";
    let ours: Option<u64> = source.conn.query_first(QUERY).await.map_err(source.error())?;
    let theirs: Option<u64> = target.conn.query_first(QUERY).await.map_err(target.error())?;
    match (ours, theirs) {
        (Some(source_limit), Some(limit)) if limit < source_limit => {
            Err(Refusal::Packet { target: limit, target_server: target.server.clone(), source_limit }.into())
        }
        _ => Ok(()),
    }
}

fn usable(table: &Table) -> Result<()> {
    let label = table.label();
    if !table.engine.eq_ignore_ascii_case("innodb") {
        return Err(Refusal::Engine { table: label, engine: table.engine.clone() }.into());
    }
    if !table.has_primary_key {
        return Err(Refusal::NoPrimaryKey { table: label }.into());
    }
    if !table.has_key_index {
        return Err(Refusal::NoKeyIndex { table: label, column: table.key_column.clone() }.into());
    }
    Ok(())
}

/// Fails when the table is not defined alike on both sides.
pub(crate) fn same_definition(
    ours: &Table,
    theirs: &Table,
    source: &Session,
    target: &Session,
) -> Result<()> {
    if ours.definition == theirs.definition {
        return Ok(());
    }
    let missing = "(nothing)";
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let (left, right) = (lines(&ours.definition), lines(&theirs.definition));
    let at = (0..).find(|&at| left.get(at) != right.get(at)).unwrap_or(0);
    let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| missing.to_owned());
    Err(Refusal::Definition {
        table: ours.label(),
        source_server: source.server.clone(),
        target_server: target.server.clone(),
        difference: format!("{} / {}", line(&left), line(&right)),
    }
    .into())
}

async fn no_triggers(session: &mut Session, table: &Table) -> Result<()> {
    let trigger: Option<String> = session
        .conn
        .exec_first(
            "SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = ? \
             AND event_object_table = ? AND event_manipulation IN ('INSERT', 'DELETE') LIMIT 1",
            (table.schema.as_str(), table.name.as_str()),
        )
        .await
        .map_err(session.error())?;
    match trigger {
        None => Ok(()),
        Some(trigger) => {
            Err(Refusal::Trigger { table: table.label(), trigger, server: session.server.clone() }.into())
        }
    }
}

/// Whether the table's changes can be followed in the log.
fn followable(table: &Table) -> Result<()> {
    for &at in &table.keyset {
        let column = &table.columns[at];
        if !column.identifies() {
            let (table, column, kind) = (table.label(), column.name.clone(), column.data_type.clone());
            return Err(Refusal::OnlineKey { table, column, kind }.into());
        }
    }
    Ok(())
}

/// Whether the server logs whole rows with their columns' names.
async fn logs_rows(sessions: &Sessions, server: &usher_topology::Server) -> Result<()> {
    let mut session = sessions.on(server).await?;
    for (setting, wanted) in [
        ("binlog_format", "ROW"),
        ("binlog_row_image", "FULL"),
        ("binlog_row_metadata", "FULL"),
        ("log_bin", "1"),
    ] {
        let value: Option<String> =
            session.conn.query_first(format!("SELECT @@global.{setting}")).await.map_err(session.error())?;
        let value = value.unwrap_or_default();
        if !value.eq_ignore_ascii_case(wanted) {
            let setting = format!("{setting} = {wanted}");
            return Err(Refusal::Binlog { server: session.server, setting, value }.into());
        }
    }
    sessions.keep(session);
    Ok(())
}

async fn empty(target: &mut Session, dst: &Shard, table: &Table, key: &Key) -> Result<()> {
    let rows: Option<u64> = target.conn.query_first(table.count(key)).await.map_err(target.error())?;
    match rows {
        Some(rows) if rows > 0 => {
            Err(Refusal::LeftOver { shard: dst.name.clone(), table: table.label(), rows }.into())
        }
        _ => Ok(()),
    }
}

/// Fails if a prepared XA transaction holds rows of the user. No other transaction can, as all have ended that touched
/// the user, and none begins.
///
/// # Errors
/// [`Refusal::Prepared`], or the server's own.
pub(crate) async fn not_prepared(source: &mut Session, state: &State, src: &Shard, key: &Key) -> Result<()> {
    let prepared = prepared_branches(&mut source.conn).await.map_err(source.error())?;
    if prepared.is_empty() {
        return Ok(());
    }
    for table in load(source, state).await? {
        source.conn.query_drop("START TRANSACTION").await.map_err(source.error())?;
        let looked: mysql_async::Result<Option<u64>> =
            source.conn.query_first(format!("{} FOR UPDATE NOWAIT", table.count(key))).await;
        source.conn.query_drop("ROLLBACK").await.map_err(source.error())?;
        match looked {
            Ok(_) => {}
            Err(mysql_async::Error::Server(error)) if LOCKED.contains(&error.code) => {
                let (shard, table) = (src.name.clone(), table.label());
                return Err(Refusal::Prepared { shard, table, prepared }.into());
            }
            Err(error) => return Err(source.error()(error)),
        }
    }
    Ok(())
}

async fn ownership(
    source: &mut Session,
    target: &mut Session,
    src: &Shard,
    dst: &Shard,
    subject: &Subject<'_>,
) -> Result<()> {
    shard_rows::ensure_owned(source, subject.key, subject.own_gen).await?;
    let own = shard_rows::ownership(source, subject.key, subject.id).await?;
    let owned = own.is_some_and(|own| own.state == OwnState::Owned && own.own_gen == subject.own_gen);
    if !owned {
        let found = own.map_or_else(
            || "nothing".to_owned(),
            |own| format!("{}, generation {}", own.state.as_str(), own.own_gen),
        );
        let (shard, expected) = (src.name.clone(), subject.own_gen.0);
        return Err(Refusal::NotOwner { shard, found, expected }.into());
    }
    match shard_rows::ownership(target, subject.key, subject.id).await? {
        None => Ok(()),
        Some(own) => {
            let (shard, state) = (dst.name.clone(), own.state.as_str().to_owned());
            Err(Refusal::Ownership { shard, state }.into())
        }
    }
}

/// Commits something on the writer and waits for it on the standby: replication is proven by working.
async fn follows(sessions: &Sessions, shard: &Shard, standby_ms: u64) -> Result<()> {
    let Some(standby) = shard.standby() else { return Ok(()) };
    let mut session = sessions.on_writer(writer(shard)?).await?;
    let position = shard_rows::touch(&mut session).await?;
    sessions.keep(session);
    let reason = match sessions.on(standby).await {
        Err(error) => error.to_string(),
        Ok(session) => match has_executed(sessions, session, &position, standby_ms).await {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        },
    };
    Err(Refusal::Standby { shard: shard.name.clone(), server: standby.name.clone(), reason }.into())
}

/// Waits until the server behind `session` has executed `position`, and gives the session back.
///
/// # Errors
/// [`MoveError::Behind`], or the server's own.
pub(crate) async fn has_executed(
    sessions: &Sessions,
    mut session: Session,
    position: &str,
    after_ms: u64,
) -> Result<()> {
    let patience = Duration::from_millis(after_ms);
    let reached = reached(&mut session.conn, session.family, position, patience);
    if reached.await.map_err(MoveError::at(&session.server))? {
        sessions.keep(session);
        return Ok(());
    }
    Err(MoveError::Behind { server: session.server, position: position.to_owned(), after_ms })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table() -> Table {
        Table {
            schema: "app".into(),
            name: "t".into(),
            key_column: "user_id".into(),
            key_is_text: false,
            key_folds_case: false,
            columns: Vec::new(),
            keyset: Vec::new(),
            has_primary_key: true,
            has_key_index: true,
            engine: "InnoDB".into(),
            definition: String::new(),
        }
    }

    #[test]
    fn unusable_tables_are_refused_by_name() {
        assert!(usable(&table()).is_ok());
        let cases = [
            (Table { engine: "Aria".into(), ..table() }, "app.t is Aria"),
            (Table { engine: "SYSTEM VERSIONED".into(), ..table() }, "app.t is SYSTEM VERSIONED"),
            (Table { has_primary_key: false, ..table() }, "app.t has no primary key"),
            (Table { has_key_index: false, ..table() }, "begins with its key column user_id"),
        ];
        for (table, expected) in cases {
            let error = usable(&table).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.id(), "move_refused");
        }
    }
}
