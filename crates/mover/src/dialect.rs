//! What differs between MariaDB and MySQL for a move.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// The two families of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// MariaDB.
    MariaDb,
    /// MySQL.
    MySql,
}

impl Family {
    /// The family of the server behind `conn`.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn of(conn: &mut Conn) -> mysql_async::Result<Self> {
        let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
        let maria = version.is_some_and(|version| version.to_ascii_lowercase().contains("mariadb"));
        Ok(if maria { Self::MariaDb } else { Self::MySql })
    }

    /// The position that has what the session's last committed transaction wrote.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn last_position(self, conn: &mut Conn) -> mysql_async::Result<String> {
        let query = match self {
            Self::MariaDb => "SELECT @@last_gtid",
            // The whole set: more than needed, and on the standby before long all the same.
            Self::MySql => "SELECT REPLACE(@@global.gtid_executed, '\\n', '')",
        };
        let position: Option<Option<String>> = conn.query_first(query).await?;
        Ok(position.flatten().unwrap_or_default())
    }

    /// Waits on a copy until it has executed `position`; false when it has not within `timeout_ms`.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn wait_for(self, conn: &mut Conn, position: &str, timeout_ms: u64) -> mysql_async::Result<bool> {
        if position.is_empty() {
            return Ok(true);
        }
        let seconds = format!("{}.{:03}", timeout_ms / 1000, timeout_ms % 1000);
        let query = match self {
            Self::MariaDb => format!("SELECT MASTER_GTID_WAIT(?, {seconds})"),
            Self::MySql => format!("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, {seconds})"),
        };
        // Both answer 0 when it is there and 1 or -1 when time was over.
        let answer: Option<Option<i64>> = conn.exec_first(query, (position,)).await?;
        Ok(answer.flatten() == Some(0))
    }

    /// Settings of a session that reads and places rows bytewise.
    #[must_use]
    pub(crate) fn session_settings(self) -> Vec<&'static str> {
        let mut settings = vec![
            "SET NAMES binary",
            "SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', \
             foreign_key_checks = 0, unique_checks = 1, wait_timeout = 3600, net_read_timeout = 600, \
             net_write_timeout = 600, innodb_lock_wait_timeout = 10, lock_wait_timeout = 30",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        ];
        if self == Self::MariaDb {
            // Skipped by a summary server only: it has these rows from their first shard. Checks have been passed once.
            settings.push("SET SESSION skip_replication = 1, check_constraint_checks = 0");
        }
        settings
    }
}
