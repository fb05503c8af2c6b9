//! What differs between MariaDB and MySQL for a move, beyond what `usher_directory::server` has for everybody.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_directory::server::Family;

/// The position that has what the session's last committed transaction wrote.
///
/// # Errors
/// The driver's own.
pub(crate) async fn last_position(conn: &mut Conn, family: Family) -> mysql_async::Result<String> {
    let query = match family {
        Family::MariaDb => "SELECT @@last_gtid",
        // The whole set: more than needed, and on the standby before long all the same.
        Family::MySql => "SELECT @@global.gtid_executed",
    };
    let position: Option<Option<String>> = conn.query_first(query).await?;
    Ok(position.flatten().unwrap_or_default().replace(['\n', ' '], ""))
}

/// A position that the server's own log goes on behind.
///
/// # Errors
/// The driver's own.
pub(crate) async fn logged_position(conn: &mut Conn, family: Family) -> mysql_async::Result<String> {
    let query = match family {
        Family::MariaDb => "SELECT @@global.gtid_binlog_pos",
        Family::MySql => "SELECT @@global.gtid_executed",
    };
    let position: Option<Option<String>> = conn.query_first(query).await?;
    Ok(position.flatten().unwrap_or_default().replace(['\n', ' '], ""))
}

/// Settings of a session that reads and places rows bytewise. The short `wait_timeout` ends the open transaction of a
/// mover that stands still, which the one that takes over may be waiting for.
pub(crate) fn session_settings(family: Family) -> Vec<&'static str> {
    let mut settings = vec![
        "SET NAMES binary",
        "SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', \
         foreign_key_checks = 0, unique_checks = 1, wait_timeout = 20, net_read_timeout = 600, \
         net_write_timeout = 600, innodb_lock_wait_timeout = 10, lock_wait_timeout = 30",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ];
    if family == Family::MariaDb {
        // Skipped by a summary server only: it has these rows from their first shard. Checks were passed long ago.
        settings.push("SET SESSION skip_replication = 1, check_constraint_checks = 0");
    }
    settings
}
