//! A proxy's own account on one server: shut out, let in again, its connections ended.
//!
//! Accounts are locked on each server by itself, with `sql_log_bin=0`, and not through replication: a lock then needs
//! no working replication to take effect on the standby, can't overtake or be overtaken by an unlock, and leaves no
//! transaction in a history that a flip or a move watches. A server that was away meanwhile is dealt with when a
//! barrier next concerns it, which every flip to it begins with.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::{Error, Result};

/// A killed connection may first have to roll back.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const GONE_POLL: Duration = Duration::from_millis(10);
/// A login takes a few round trips. One of a process that is paused would else stay for the server's connect_timeout.
const LOGIN_WITHIN: Duration = Duration::from_secs(1);

/// One account on one server.
struct Account {
    /// As ALTER USER wants it, quoted.
    full_name: String,
    locked: bool,
}

async fn accounts(conn: &mut Conn, user: &str) -> mysql_async::Result<(bool, Vec<Account>)> {
    let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
    let mariadb = version.is_some_and(|text| text.contains("MariaDB"));
    let query = if mariadb {
        "SELECT CONVERT(Host USING utf8mb4), COALESCE(JSON_VALUE(Priv, '$.account_locked') IN ('1', 'true'), 0) \
         FROM mysql.global_priv WHERE User = ?"
    } else {
        "SELECT CONVERT(Host USING utf8mb4), account_locked = 'Y' FROM mysql.user WHERE User = ?"
    };
    let rows: Vec<(String, bool)> = conn.exec(query, (user,)).await?;
    let account = |(host, locked): (String, bool)| Account {
        full_name: format!("{}@{}", quoted(user), quoted(&host)),
        locked,
    };
    Ok((mariadb, rows.into_iter().map(account).collect()))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Locks the account and ends its connections. True if anything had to be done; returns only once none is left.
pub(crate) async fn shut_out(conn: &mut Conn, user: &str) -> mysql_async::Result<Result<bool>> {
    let (mariadb, accounts) = accounts(conn, user).await?;
    let mut changed = false;
    if accounts.iter().any(|account| !account.locked) {
        conn.query_drop("SET SESSION sql_log_bin = 0").await?;
        for account in accounts.iter().filter(|account| !account.locked) {
            conn.query_drop(format!("ALTER USER {} ACCOUNT LOCK", account.full_name)).await?;
            changed = true;
        }
    }
    end_connections(conn, user, mariadb).await.map(|ended| ended.map(|killed| changed || killed))
}

/// Unlocks the account; true if it was locked.
pub(crate) async fn let_in(conn: &mut Conn, user: &str) -> mysql_async::Result<bool> {
    let (_, accounts) = accounts(conn, user).await?;
    let locked: Vec<_> = accounts.iter().filter(|account| account.locked).collect();
    if locked.is_empty() {
        return Ok(false);
    }
    conn.query_drop("SET SESSION sql_log_bin = 0").await?;
    for account in &locked {
        conn.query_drop(format!("ALTER USER {} ACCOUNT UNLOCK", account.full_name)).await?;
    }
    Ok(true)
}

/// Ends all of the user's connections and waits until they are gone; true if there were any.
pub(crate) async fn end_all(conn: &mut Conn, user: &str) -> mysql_async::Result<Result<bool>> {
    let (mariadb, _) = accounts(conn, user).await?;
    end_connections(conn, user, mariadb).await
}

async fn end_connections(conn: &mut Conn, user: &str, mariadb: bool) -> mysql_async::Result<Result<bool>> {
    let begun = Instant::now();
    let mut any = false;
    let mut empty_twice = false;
    // A login under way has no name yet, and may have passed the check of the lock just before the lock came. Later
    // ones see the lock.
    let mut logins: Option<HashSet<u64>> = None;
    loop {
        let now = Connections::of(conn, user).await?;
        let early = logins.get_or_insert_with(|| now.logins.clone());
        early.retain(|id| now.logins.contains(id));
        if now.own.is_empty() && early.is_empty() {
            if empty_twice {
                return Ok(Ok(any));
            }
            empty_twice = true;
            continue;
        }
        empty_twice = false;
        let late = early.iter().filter(|_| begun.elapsed() >= LOGIN_WITHIN);
        for id in now.own.iter().chain(late) {
            any = true;
            let kill =
                if mariadb { format!("KILL HARD CONNECTION {id}") } else { format!("KILL CONNECTION {id}") };
            match conn.query_drop(kill).await {
                // Gone already.
                Err(mysql_async::Error::Server(error)) if error.code == 1094 => {}
                other => other?,
            }
        }
        if begun.elapsed() >= GONE_WITHIN {
            let (left, logins) = (now.own.len(), early.len());
            let left = format!("{left} of its connections and {logins} logins under way would not end");
            return Ok(Err(Error::data(left)));
        }
        tokio::time::sleep(GONE_POLL).await;
    }
}

/// Ids of connections to a server.
struct Connections {
    /// Of one user.
    own: Vec<u64>,
    /// Of anyone, not yet logged in.
    logins: HashSet<u64>,
}

impl Connections {
    async fn of(conn: &mut Conn, user: &str) -> mysql_async::Result<Self> {
        // The statement, as the tables of that name are switched off on some servers.
        let rows: Vec<Row> = conn.query("SHOW PROCESSLIST").await?;
        let mut found = Self { own: Vec::new(), logins: HashSet::new() };
        for mut row in rows {
            let (Some(Ok(id)), Some(Ok(name))) = (row.take_opt(0), row.take_opt::<String, _>(1)) else {
                continue;
            };
            match name.as_str() {
                "unauthenticated user" => _ = found.logins.insert(id),
                name if name == user => found.own.push(id),
                _ => {}
            }
        }
        Ok(found)
    }
}
