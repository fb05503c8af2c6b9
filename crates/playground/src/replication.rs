//! Who follows whom, by GTID: positions compared before a channel starts, channels started and awaited,
//! a member opened for writing.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::Row;
use tokio::time::Instant;

use crate::Server;
use crate::accounts;
use crate::connection::{Connection, text};
use crate::error::{Error, Result};
use crate::state::{Node, Secrets};

/// How long a channel may take to connect, or a server to catch up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a channel's state is looked at while it connects.
const POLL: Duration = Duration::from_millis(20);

/// What a server has executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// MariaDB: the last sequence number of each (domain, server id).
    Mariadb(BTreeMap<(u32, u32), u64>),
    /// MySQL: the executed set as text.
    Mysql(String),
}

/// Reads a server's position.
pub(crate) async fn position(kind: Server, on: &mut Connection) -> Result<Position> {
    match kind {
        Server::Mariadb => {
            let state: String = on.one("SELECT @@global.gtid_binlog_state").await?;
            let bad = || Error::Replication {
                server: on.server().to_owned(),
                detail: format!("odd GTID {state:?}"),
            };
            parse_binlog_state(&state).map(Position::Mariadb).ok_or_else(bad)
        }
        Server::Mysql => {
            let set: String = on.one("SELECT @@global.gtid_executed").await?;
            Ok(Position::Mysql(set.replace(['\n', ' '], "")))
        }
    }
}

fn parse_binlog_state(state: &str) -> Option<BTreeMap<(u32, u32), u64>> {
    let gtids = state.split(',').map(str::trim).filter(|gtid| !gtid.is_empty());
    gtids
        .map(|gtid| {
            let mut numbers = gtid.split('-');
            let domain = numbers.next()?.parse().ok()?;
            let server = numbers.next()?.parse().ok()?;
            Some(((domain, server), numbers.next()?.parse().ok()?))
        })
        .collect()
}

/// Whether all of `part` is in `whole`; `on` is any server, asked to compare MySQL's sets.
pub(crate) async fn contains(on: &mut Connection, whole: &Position, part: &Position) -> Result<bool> {
    match (whole, part) {
        (Position::Mariadb(whole), Position::Mariadb(part)) => {
            Ok(part.iter().all(|(origin, seq)| whole.get(origin).is_some_and(|has| has >= seq)))
        }
        (Position::Mysql(whole), Position::Mysql(part)) => {
            on.one::<bool>(&format!("SELECT GTID_SUBSET('{part}', '{whole}')")).await
        }
        _ => Ok(false),
    }
}

/// The state of a server's one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Never set up.
    None,
    /// Set up; at least one of its two threads does not run. The text is the last error, maybe empty.
    Stopped(String),
    /// Both threads run, but the source has not been reached yet.
    Connecting(String),
    /// Both threads run.
    Runs,
}

/// Reads the state of a server's channel.
pub(crate) async fn channel(kind: Server, on: &mut Connection) -> Result<Channel> {
    let (query, io, sql) = match kind {
        Server::Mariadb => ("SHOW SLAVE STATUS", "Slave_IO_Running", "Slave_SQL_Running"),
        Server::Mysql => ("SHOW REPLICA STATUS", "Replica_IO_Running", "Replica_SQL_Running"),
    };
    let row: Option<Row> = on.row(query).await?;
    let Some(row) = row else { return Ok(Channel::None) };
    let errors = ["Last_IO_Error", "Last_SQL_Error"].map(|c| text(&row, c).unwrap_or_default());
    let error = errors.join(" ").trim().to_owned();
    let state = [io, sql].map(|c| text(&row, c).unwrap_or_default());
    Ok(match [state[0].as_str(), state[1].as_str()] {
        ["Yes", "Yes"] => Channel::Runs,
        ["Connecting" | "Preparing", "Yes"] => Channel::Connecting(error),
        _ => Channel::Stopped(error),
    })
}

/// Makes a server follow `source`, whatever it followed before, and starts its channel.
pub(crate) async fn follow(
    kind: Server,
    on: &mut Connection,
    source: &Node,
    secrets: &Secrets,
) -> Result<()> {
    let (stop, start) = match kind {
        Server::Mariadb => ("STOP SLAVE", "START SLAVE"),
        Server::Mysql => ("STOP REPLICA", "START REPLICA"),
    };
    let mut state = channel(kind, on).await?;
    let port = source_port(kind, on).await?;
    if port != Some(source.port) {
        if port.is_some() {
            on.run(stop).await?;
        }
        on.run(&change_source(kind, source, &secrets.replication)).await?;
        state = Channel::None;
    }
    match state {
        Channel::Runs | Channel::Connecting(_) => Ok(()),
        Channel::None | Channel::Stopped(_) => on.run(start).await,
    }
}

/// The port of the server that a channel was last told to follow; all are on this machine.
async fn source_port(kind: Server, on: &mut Connection) -> Result<Option<u16>> {
    let (query, column) = match kind {
        Server::Mariadb => ("SHOW SLAVE STATUS", "Master_Port"),
        Server::Mysql => ("SHOW REPLICA STATUS", "Source_Port"),
    };
    let row: Option<Row> = on.row(query).await?;
    Ok(row.and_then(|row| text(&row, column)?.parse().ok()))
}

fn change_source(kind: Server, source: &Node, password: &str) -> String {
    let (port, user) = (source.port, accounts::REPLICATION);
    match kind {
        Server::Mariadb => format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='{user}', \
             MASTER_PASSWORD='{password}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, \
             MASTER_HEARTBEAT_PERIOD=1"
        ),
        Server::Mysql => format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='{user}', \
             SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=1, \
             SOURCE_RETRY_COUNT=86400, SOURCE_HEARTBEAT_PERIOD=1, GET_SOURCE_PUBLIC_KEY=1"
        ),
    }
}

/// Waits until both threads of a server's channel run.
pub(crate) async fn await_channel(kind: Server, on: &mut Connection) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = channel(kind, on).await?;
        let detail = match state {
            Channel::Runs => return Ok(()),
            Channel::Stopped(error) if !error.is_empty() => error,
            _ if Instant::now() >= deadline => {
                format!("not connected within {} s: {state:?}", PATIENCE.as_secs())
            }
            _ => {
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        return Err(Error::Replication { server: on.server().to_owned(), detail });
    }
}

/// Waits until a server has applied all that `source` has executed by now.
pub(crate) async fn catch_up(kind: Server, on: &mut Connection, source: &mut Connection) -> Result<()> {
    let seconds = PATIENCE.as_secs();
    let (position, waited): (String, i64) = match kind {
        Server::Mariadb => {
            let position: String = source.one("SELECT @@global.gtid_binlog_pos").await?;
            let waited = on.one(&format!("SELECT MASTER_GTID_WAIT('{position}', {seconds})")).await?;
            (position, waited)
        }
        Server::Mysql => {
            let set: String = source.one("SELECT @@global.gtid_executed").await?;
            let waited = on.one(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{set}', {seconds})")).await?;
            (set, waited)
        }
    };
    if waited == 0 {
        return Ok(());
    }
    Err(Error::Replication {
        server: on.server().to_owned(),
        detail: format!("did not reach {position} of {} within {seconds} s", source.server()),
    })
}

/// Makes a member the one that takes writes: first it waits for acknowledgements, then it is writable.
pub(crate) async fn open_writer(kind: Server, on: &mut Connection) -> Result<()> {
    let open = match kind {
        Server::Mariadb => ["SET GLOBAL rpl_semi_sync_master_enabled=ON", "SET GLOBAL read_only=OFF"],
        // Switches off super_read_only too.
        Server::Mysql => ["SET GLOBAL rpl_semi_sync_source_enabled=ON", "SET GLOBAL read_only=OFF"],
    };
    for statement in open {
        on.run(statement).await?;
    }
    Ok(())
}

/// Waits until at least one follower acknowledges what the writer sends.
pub(crate) async fn await_acker(kind: Server, writer: &mut Connection) -> Result<()> {
    let name = match kind {
        Server::Mariadb => "Rpl_semi_sync_master_clients",
        Server::Mysql => "Rpl_semi_sync_source_clients",
    };
    let deadline = Instant::now() + PATIENCE;
    while writer.status(name).await?.is_none_or(|n| n == "0") {
        if Instant::now() >= deadline {
            return Err(Error::Replication {
                server: writer.server().to_owned(),
                detail: format!("no follower acknowledges its writes ({name} is 0)"),
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Whether the server refuses writes.
pub(crate) async fn is_read_only(on: &mut Connection) -> Result<bool> {
    on.one("SELECT @@global.read_only").await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn binlog_states_parse() {
        let state = parse_binlog_state("1-1-5,2-101-7\n,2-102-9").unwrap();
        assert_eq!(state, BTreeMap::from([((1, 1), 5), ((2, 101), 7), ((2, 102), 9)]));
        assert_eq!(parse_binlog_state("").unwrap(), BTreeMap::new());
        assert_eq!(parse_binlog_state("1-1"), None);
    }

    #[test]
    fn no_password_in_shown_statements() {
        let node = Node {
            name: "s1a".into(),
            pair: "s1".into(),
            is_replica: false,
            port: 1,
            server_id: 1,
            domain: 1,
            offset: 1,
        };
        assert!(change_source(Server::Mariadb, &node, "secret").starts_with("CHANGE "));
        assert!(change_source(Server::Mysql, &node, "secret").starts_with("CHANGE "));
    }
}
