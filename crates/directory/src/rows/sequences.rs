//! Rows of `sequences`, as operators and DDL see them; proxies take their blocks through `Directory`.

use mysql_async::prelude::Queryable;

use crate::{Global, Result};

/// One row of `sequences`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceRow {
    /// `schema.table`.
    pub name: String,
    /// The first id not handed out in a block yet.
    pub next: u64,
}

/// All sequences, by name.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn sequences(global: &Global) -> Result<Vec<SequenceRow>> {
    let mut conn = global.conn().await?;
    let query = "SELECT name, next FROM usher.sequences ORDER BY name";
    let rows: Vec<(String, u64)> = global.bounded("listing sequences", conn.query(query)).await?;
    Ok(rows.into_iter().map(|(name, next)| SequenceRow { name, next }).collect())
}

/// Registers a sequence whose first id is `next`, or raises it to `next`; never lowers it.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn ensure_sequence(global: &Global, name: &str, next: u64) -> Result<()> {
    let mut conn = global.conn().await?;
    let statement = "INSERT INTO usher.sequences (name, next) VALUES (?, ?) \
                     ON DUPLICATE KEY UPDATE next = GREATEST(next, VALUES(next))";
    global.bounded("registering a sequence", conn.exec_drop(statement, (name, next.max(1)))).await
}

/// Raises every sequence by `gap`: after a flip of the global master that may have lost transactions, blocks already
/// handed out may be missing in its rows. A gap of the largest block times the number of proxies is enough.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn jump_sequences(global: &Global, gap: u64) -> Result<()> {
    let mut conn = global.conn().await?;
    let statement = "UPDATE usher.sequences SET next = next + ?";
    global.bounded("raising all sequences", conn.exec_drop(statement, (gap,))).await
}
