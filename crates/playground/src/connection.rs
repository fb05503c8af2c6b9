//! Connections to the playground's database servers, always as the account with all privileges.

use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder, Row};
use tokio::time::timeout;

use crate::accounts;
use crate::error::{Error, OnServer, Result};
use crate::state::Node;

/// How long a login on this machine may take.
const LOGIN: Duration = Duration::from_secs(3);

/// A login on one server, with errors that name the server.
pub(crate) struct Connection {
    server: String,
    conn: Conn,
}

impl Connection {
    /// Logs in within [`LOGIN`].
    pub(crate) async fn open(node: &Node, password: &str) -> Result<Self> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(node.port)
            .user(Some(accounts::ADMIN))
            .pass(Some(password))
            .prefer_socket(Some(false));
        let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut).into();
        let conn = timeout(LOGIN, Conn::new(options)).await.map_err(late).and_then(|done| done);
        Ok(Self { server: node.name.clone(), conn: conn.on(&node.name, "logging in")? })
    }

    /// Runs a statement.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<()> {
        self.conn.query_drop(sql).await.on(&self.server, shown(sql))
    }

    /// The first row of a query's result.
    pub(crate) async fn row<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Option<T>> {
        self.conn.query_first(sql).await.on(&self.server, shown(sql))
    }

    /// All rows of a query's result.
    pub(crate) async fn rows<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<T>> {
        self.conn.query(sql).await.on(&self.server, shown(sql))
    }

    /// The first row, which the query always has.
    pub(crate) async fn one<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<T> {
        let row = self.row(sql).await?;
        row.ok_or_else(|| Error::Replication {
            server: self.server.clone(),
            detail: format!("no row from {sql}"),
        })
    }

    /// A status counter such as `Rpl_semi_sync_master_clients`; `None` if the server has no such counter.
    pub(crate) async fn status(&mut self, name: &str) -> Result<Option<String>> {
        let row: Option<(String, String)> = self.row(&format!("SHOW GLOBAL STATUS LIKE '{name}'")).await?;
        Ok(row.map(|(_, value)| value))
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Says goodbye, which keeps the server's log free of aborted connections.
    pub(crate) async fn close(self) {
        // The work is done; a server that went away meanwhile shows up in the next check.
        let _ = self.conn.disconnect().await;
    }
}

/// A column of a row as text; `None` if it is missing or NULL.
pub(crate) fn text(row: &Row, column: &str) -> Option<String> {
    row.get_opt::<Option<String>, _>(column)?.ok().flatten()
}

/// A statement as an error may show it: a `CHANGE MASTER` carries a password.
fn shown(sql: &str) -> &str {
    if sql.starts_with("CHANGE ") { "setting the replication source" } else { sql }
}
