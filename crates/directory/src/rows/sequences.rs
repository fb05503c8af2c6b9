//! Rows of `sequences`, as operators and DDL see them; proxies take their blocks through `Directory`.

use mysql_async::prelude::Queryable;

use super::transaction;
use crate::{Error, Global, Result};

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

/// Raises every sequence by `id_gap` and the version by `version_gap`, which it returns: after a flip of the global
/// master that may have lost transactions, blocks of ids may have been handed out, and versions acknowledged, that its
/// rows do not show. The largest block times the number of proxies is gap enough for ids; for versions any number
/// beyond what may be lost, as they cost nothing.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn jump_after_loss(global: &Global, id_gap: u64, version_gap: u64) -> Result<u64> {
    let done = transaction!(global, "jumping over what may be lost", |conn| {
        conn.exec_drop(
            "UPDATE usher.control SET version = LAST_INSERT_ID(version + ?) WHERE id = 1",
            (version_gap,),
        )
        .await?;
        let version = conn.last_insert_id();
        conn.exec_drop("UPDATE usher.sequences SET next = next + ?", (id_gap,)).await?;
        Ok(version)
    })?;
    done.ok_or_else(|| Error::data("usher.control has no row"))
}
