//! The row of `schema_change`: one change of sharded tables at a time, and none beside a move.
//!
//! Whoever registers a change or a move raises the version first, in the same transaction: so they come one after the
//! other, and the later one sees the earlier one's row.

use mysql_async::prelude::Queryable;

use super::{bump, transaction};
use crate::{Error, Global, Result};

/// As much of a statement as its row keeps, in characters.
const STATEMENT_MAX: usize = 500;

/// A change under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// Random.
    pub ticket: u64,
    /// The account of the proxy that makes it.
    pub account: String,
    /// That proxy's start; none if it was not registered.
    pub boot_id: Option<u64>,
    /// How the statement begins.
    pub statement: String,
}

/// Registers a change made through the proxy with this account.
///
/// # Errors
/// [`Error::SchemaChange`] when there is another one, [`Error::Conflict`] when a move is under way, and as
/// [`Global::bounded`].
pub async fn begin_schema_change(global: &Global, account: &str, statement: &str) -> Result<SchemaChange> {
    let (ticket, statement): (u64, String) =
        (rand::random(), statement.chars().take(STATEMENT_MAX).collect());
    let (mut by_move, mut boot_id) = (None, None);
    let done = transaction!(global, "registering a schema change", |conn| {
        bump(conn).await?;
        let moving = "SELECT move_id, CONVERT(entity_key USING utf8mb4) FROM usher.moves \
                      WHERE active_key IS NOT NULL LIMIT 1";
        by_move = conn.query_first::<(u64, String), _>(moving).await?;
        if by_move.is_some() {
            return Ok(None);
        }
        let boot = "SELECT boot_id FROM usher.proxies WHERE account = ? AND revoked = 0 LIMIT 1";
        boot_id = conn.exec_first::<u64, _, _>(boot, (account,)).await?;
        conn.exec_drop(
            "INSERT IGNORE INTO usher.schema_change (id, ticket, account, boot_id, statement) VALUES (1, ?, ?, ?, ?)",
            (ticket, account, boot_id, &statement),
        )
        .await?;
        Ok((conn.affected_rows() == 1).then_some(()))
    })?;
    match (done, by_move) {
        (Some(()), _) => Ok(SchemaChange { ticket, account: account.to_owned(), boot_id, statement }),
        (None, Some((id, key))) => {
            Err(Error::Conflict(format!("move {id} of user {key} is under way; wait for it or abort it")))
        }
        (None, None) => Err(Error::SchemaChange { statement: other(global).await? }),
    }
}

async fn other(global: &Global) -> Result<String> {
    Ok(schema_change(global).await?.map_or_else(|| "one that has just ended".to_owned(), |one| one.statement))
}

/// The change under way.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn schema_change(global: &Global) -> Result<Option<SchemaChange>> {
    let mut conn = global.conn().await?;
    let query = "SELECT ticket, account, boot_id, statement FROM usher.schema_change";
    let row = global.bounded("reading the schema change", conn.query_first(query)).await?;
    type Columns = (u64, String, Option<u64>, String);
    Ok(row.map(|(ticket, account, boot_id, statement): Columns| SchemaChange {
        ticket,
        account,
        boot_id,
        statement,
    }))
}

/// Ends a change: on no server is anything of it running any more.
///
/// # Errors
/// As [`Global::bounded`]; may be repeated.
pub async fn end_schema_change(global: &Global, ticket: u64) -> Result<()> {
    let mut conn = global.conn().await?;
    let statement = "DELETE FROM usher.schema_change WHERE ticket = ?";
    global.bounded("ending the schema change", conn.exec_drop(statement, (ticket,))).await
}
