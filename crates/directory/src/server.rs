//! What MariaDB and MySQL say differently about the same thing: read-only, positions, channels, semi-sync, sessions.
//! Nothing else in the product branches on the family of a server for its own administration.
//!
//! All of it wants the control account, which writes even where `read_only` is set (MariaDB has no
//! `super_read_only`). So each of its connections that is to write looks once whether its server is
//! [`is_writable`]; a flip ends those that looked before it closed the server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Result, Row};
use usher_topology::GtidPosition;

/// The family of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// MariaDB 10.11 or later.
    MariaDb,
    /// MySQL 8.4 or later.
    MySql,
}

/// The heartbeat, to be run on a writer only by autocommit. It changes nothing on a server that is read-only, not
/// even when run by an account that could: closing a server waits for running statements, so one that still saw it
/// open is part of its final position.
pub const HEARTBEAT: &str =
    "UPDATE usher.heartbeat SET ts = CURRENT_TIMESTAMP(3) WHERE id = 1 AND @@global.read_only = 0";

/// Asks a server for its family.
///
/// # Errors
/// The connection's.
pub async fn family(conn: &mut Conn) -> Result<Family> {
    let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
    let maria = version.is_some_and(|version| version.contains("MariaDB"));
    Ok(if maria { Family::MariaDb } else { Family::MySql })
}

/// Whether the server takes ordinary writes.
///
/// # Errors
/// The connection's.
pub async fn is_writable(conn: &mut Conn) -> Result<bool> {
    let read_only: Option<u8> = conn.query_first("SELECT @@global.read_only").await?;
    Ok(read_only == Some(0))
}

/// Closes a server for writes of every account that obeys (on MySQL for all). Waits for running statements for at
/// most `patience` (whole seconds, at least one); transactions that are open but idle get error 1290 at their commit.
///
/// # Errors
/// The connection's; 1205 when running statements outlasted the patience. The server is then as it was.
pub async fn close(conn: &mut Conn, family: Family, patience: Duration) -> Result<()> {
    conn.query_drop(format!("SET SESSION lock_wait_timeout = {}", patience.as_secs().max(1))).await?;
    conn.query_drop(match family {
        Family::MariaDb => "SET GLOBAL read_only = ON",
        Family::MySql => "SET GLOBAL super_read_only = ON",
    })
    .await
}

/// The XA branches that the server keeps prepared, as their owners have to name them. Whatever becomes of the sessions
/// that prepared them, they hold their rows until somebody commits them or rolls them back.
///
/// # Errors
/// The connection's; 1401 where MySQL wants XA_RECOVER_ADMIN.
pub async fn prepared_branches(conn: &mut Conn) -> Result<Vec<String>> {
    let rows: Vec<(u64, usize, usize, Vec<u8>)> = conn.query("XA RECOVER").await?;
    let quoted =
        |part: &[u8]| match part.iter().all(|byte| matches!(byte, b' '..=b'~') && !b"'\\".contains(byte)) {
            true => format!("'{}'", String::from_utf8_lossy(part)),
            false => format!("X'{}'", part.iter().map(|byte| format!("{byte:02X}")).collect::<String>()),
        };
    let named = rows.into_iter().map(|(format, length, _, data)| {
        let (gtrid, bqual) = data.split_at(length.min(data.len()));
        match (bqual.is_empty(), format) {
            (true, 1) => quoted(gtrid),
            (_, 1) => format!("{},{}", quoted(gtrid), quoted(bqual)),
            _ => format!("{},{},{format}", quoted(gtrid), quoted(bqual)),
        }
    });
    Ok(named.collect())
}

/// Opens a server for writes: first its commits wait for acknowledgements, then it takes them.
///
/// # Errors
/// The connection's.
pub async fn open(conn: &mut Conn, family: Family) -> Result<()> {
    acknowledged(conn, family, true).await?;
    // On MySQL this switches super_read_only off too.
    conn.query_drop("SET GLOBAL read_only = OFF").await
}

/// Whether commits wait for a follower's acknowledgement. A standby must not: it would wait with what it applies.
/// Switching it off lets waiting commits through, so it comes after the other member has all of them. A server
/// without semi-sync is left as it is.
///
/// # Errors
/// The connection's.
pub async fn acknowledged(conn: &mut Conn, family: Family, on: bool) -> Result<()> {
    let name = semi_sync_source(family);
    let present: Option<Row> = conn.query_first(format!("SHOW GLOBAL VARIABLES LIKE '{name}'")).await?;
    if present.is_none() {
        return Ok(());
    }
    conn.query_drop(format!("SET GLOBAL {name} = {}", if on { "ON" } else { "OFF" })).await
}

fn semi_sync_source(family: Family) -> &'static str {
    match family {
        Family::MariaDb => "rpl_semi_sync_master_enabled",
        Family::MySql => "rpl_semi_sync_source_enabled",
    }
}

/// What the server has executed and can hand on, as text: MariaDB's last transaction of each domain, MySQL's set.
///
/// # Errors
/// The connection's.
pub async fn position(conn: &mut Conn, family: Family) -> Result<String> {
    let text: Option<String> = conn
        .query_first(match family {
            Family::MariaDb => "SELECT @@global.gtid_binlog_pos",
            Family::MySql => "SELECT @@global.gtid_executed",
        })
        .await?;
    Ok(text.unwrap_or_default().replace(['\n', ' '], ""))
}

/// Waits until the server has executed `target`, a [`position`] of another. `false` when the patience ran out.
///
/// # Errors
/// The connection's, and [`mysql_async::Error::Other`] for a text that is no position.
pub async fn reached(conn: &mut Conn, family: Family, target: &str, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let wanted = GtidPosition::parse(target).map_err(|bad| mysql_async::Error::Other(Box::new(bad)))?;
    loop {
        let has = position(conn, family).await?;
        if GtidPosition::parse(&has).is_ok_and(|has| has.covers(&wanted)) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // A slice: MariaDB waits by what came through the channel, which never has the server's own transactions.
        let slice = left.min(Duration::from_millis(500)).as_secs_f64();
        let wait = match family {
            Family::MariaDb => format!("SELECT MASTER_GTID_WAIT('{}', {slice:.3})", missing(&has, target)),
            Family::MySql => format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{target}', {slice:.3})"),
        };
        conn.query_drop(wait).await?;
    }
}

/// The domains of `target` that `has` does not reach: a wait for the others could last for ever.
fn missing(has: &str, target: &str) -> String {
    let has = GtidPosition::parse(has).ok();
    let lacks = |item: &&str| match (GtidPosition::parse(item), &has) {
        (Ok(item), Some(has)) => !has.covers(&item),
        _ => true,
    };
    target.split(',').filter(lacks).collect::<Vec<_>>().join(",")
}

/// All that a server ever executed, by where each transaction was first written: what tells whether one server has
/// transactions that another lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executed {
    /// MariaDB: the last sequence number of each domain and server.
    MariaDb(BTreeMap<(u32, u32), u64>),
    /// MySQL: the executed set.
    MySql(GtidPosition),
}

impl Executed {
    /// Whether all of `other` is here too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => {
                theirs.iter().all(|(origin, last)| ours.get(origin).is_some_and(|have| have >= last))
            }
            (Self::MySql(ours), Self::MySql(theirs)) => ours.covers(theirs),
            _ => false,
        }
    }
}

/// Reads what a server has executed.
///
/// # Errors
/// The connection's, and [`mysql_async::Error::Other`] when the server's answer can't be read.
pub async fn executed(conn: &mut Conn, family: Family) -> Result<Executed> {
    let odd = |text: &str| mysql_async::Error::Other(format!("odd GTID state {text:?}").into());
    match family {
        Family::MariaDb => {
            let text: Option<String> = conn.query_first("SELECT @@global.gtid_binlog_state").await?;
            let text = text.unwrap_or_default();
            origins(&text).map(Executed::MariaDb).ok_or_else(|| odd(&text))
        }
        Family::MySql => {
            let text = position(conn, family).await?;
            GtidPosition::parse(&text).map(Executed::MySql).map_err(|_| odd(&text))
        }
    }
}

fn origins(state: &str) -> Option<BTreeMap<(u32, u32), u64>> {
    let items = state.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let mut parts = item.splitn(3, '-');
            let domain = parts.next()?.parse().ok()?;
            let server = parts.next()?.parse().ok()?;
            Some(((domain, server), parts.next()?.parse().ok()?))
        })
        .collect()
}

/// The state of one replication channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Where it reads from.
    pub source_host: String,
    /// Its port.
    pub source_port: u16,
    /// Whether it is connected and receives.
    pub receives: bool,
    /// Whether it applies.
    pub applies: bool,
    /// The last error of either half, maybe empty.
    pub error: String,
}

impl Channel {
    /// Whether both halves run.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.receives && self.applies
    }
}

/// Reads a server's channels.
///
/// # Errors
/// The connection's.
pub async fn channels(conn: &mut Conn, family: Family) -> Result<Vec<Channel>> {
    let (statement, word, source) = match family {
        Family::MariaDb => ("SHOW ALL SLAVES STATUS", "Slave", "Master"),
        Family::MySql => ("SHOW REPLICA STATUS", "Replica", "Source"),
    };
    let rows: Vec<Row> = conn.query(statement).await?;
    let channel = |row: &Row| Channel {
        source_host: text(row, &format!("{source}_Host")),
        source_port: text(row, &format!("{source}_Port")).parse().unwrap_or(0),
        receives: text(row, &format!("{word}_IO_Running")) == "Yes",
        applies: text(row, &format!("{word}_SQL_Running")) == "Yes",
        error: format!("{} {}", text(row, "Last_IO_Error"), text(row, "Last_SQL_Error")).trim().to_owned(),
    };
    Ok(rows.iter().map(channel).collect())
}

/// Lets a copy read from another server from now on, with the account it has used so far. The caller has made sure
/// that the new source has all that the copy has.
///
/// # Errors
/// The connection's. Half-way the channel is stopped; a second call finishes.
pub async fn follow(conn: &mut Conn, family: Family, host: &str, port: u16) -> Result<()> {
    let quoted = host.replace('\\', "\\\\").replace('\'', "''");
    let statements = match family {
        Family::MariaDb => [
            "STOP SLAVE".to_owned(),
            format!("CHANGE MASTER TO MASTER_HOST='{quoted}', MASTER_PORT={port}, MASTER_USE_GTID=slave_pos"),
            "START SLAVE".to_owned(),
        ],
        Family::MySql => [
            "STOP REPLICA".to_owned(),
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{quoted}', SOURCE_PORT={port}, SOURCE_AUTO_POSITION=1"
            ),
            "START REPLICA".to_owned(),
        ],
    };
    for statement in statements {
        conn.query_drop(statement).await?;
    }
    Ok(())
}

/// One session of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number, as `KILL` takes it.
    pub id: u64,
    /// Its account's name.
    pub user: String,
    /// What it does: `Sleep`, `Query` ...
    pub command: String,
    /// Whether it belongs to the server or to replication: it must not be ended.
    pub is_internal: bool,
    /// Rows that its open transaction has changed.
    pub rows_changed: u64,
}

/// Reads a server's sessions, all but the asking one.
///
/// # Errors
/// The connection's.
pub async fn processes(conn: &mut Conn) -> Result<Vec<Process>> {
    let me = u64::from(conn.id());
    let changed: Vec<(u64, u64)> = conn
        .query("SELECT trx_mysql_thread_id, trx_rows_modified FROM information_schema.innodb_trx")
        .await?;
    let changed: BTreeMap<u64, u64> = changed.into_iter().collect();
    let rows: Vec<Row> = conn.query("SHOW PROCESSLIST").await?;
    let process = |row: &Row| {
        let id = text(row, "Id").parse().ok()?;
        let (user, command) = (text(row, "User"), text(row, "Command"));
        let is_internal = matches!(user.as_str(), "system user" | "event_scheduler")
            || matches!(command.as_str(), "Daemon" | "Connect")
            || command.starts_with("Binlog Dump")
            || command.starts_with("Slave");
        Some(Process { id, user, command, is_internal, rows_changed: changed.get(&id).copied().unwrap_or(0) })
    };
    Ok(rows.iter().filter_map(process).filter(|process| process.id != me).collect())
}

/// Ends a session; one that is gone already is fine.
///
/// # Errors
/// The connection's.
pub async fn kill(conn: &mut Conn, process: u64) -> Result<()> {
    const NO_SUCH_THREAD: u16 = 1094;
    match conn.query_drop(format!("KILL CONNECTION {process}")).await {
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_THREAD => Ok(()),
        other => other,
    }
}

fn text(row: &Row, column: &str) -> String {
    let index = row.columns_ref().iter().position(|c| c.name_str() == column);
    let value = index.and_then(|index| row.get_opt::<Option<String>, _>(index));
    value.and_then(std::result::Result::ok).flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn executed_sets_compare_by_origin() {
        let state = |text| Executed::MariaDb(origins(text).unwrap());
        assert!(state("1-11-20,1-12-25").covers(&state("1-11-20")));
        assert!(!state("1-11-20").covers(&state("1-11-19,1-12-25")), "25 was written on 12 and is not here");
        assert_eq!(origins("1-2"), None);
    }

    #[test]
    fn only_missing_domains_are_waited_for() {
        assert_eq!(missing("1-11-20,2-21-5", "1-12-20,2-21-6"), "2-21-6");
        assert_eq!(missing("", "1-12-20,2-21-6"), "1-12-20,2-21-6");
    }
}
