//! Rows of `history`: who changed what.

use mysql_async::prelude::Queryable;

use crate::columns::Columns;
use crate::{Global, Result};

/// One row of `history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// When, in milliseconds since 1970 by the global master's clock.
    pub at_ms: u64,
    /// Who.
    pub who: String,
    /// Kind of change, one word.
    pub what: String,
    /// What was changed.
    pub subject: String,
    /// The rest.
    pub detail: String,
}

/// Adds a row. Texts over their columns' lengths (128, 64, 255 characters and 64 KB) are cut.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn record(global: &Global, who: &str, what: &str, subject: &str, detail: &str) -> Result<()> {
    let mut conn = global.conn().await?;
    let statement = "INSERT INTO usher.history (who, what, subject, detail) \
                     VALUES (LEFT(?, 128), LEFT(?, 64), LEFT(?, 255), LEFT(?, 16000))";
    global.bounded("writing history", conn.exec_drop(statement, (who, what, subject, detail))).await
}

/// The newest rows, at most `limit`, of one subject or of all.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn history(global: &Global, subject: Option<&str>, limit: u32) -> Result<Vec<HistoryRow>> {
    let mut conn = global.conn().await?;
    let filter = if subject.is_some() { "WHERE subject = ?" } else { "WHERE ? IS NULL" };
    let query = format!(
        "SELECT CAST(UNIX_TIMESTAMP(at) * 1000 AS UNSIGNED), who, what, subject, detail FROM usher.history \
         {filter} ORDER BY history_id DESC LIMIT {limit}"
    );
    let rows: Vec<mysql_async::Row> = global.bounded("reading history", conn.exec(query, (subject,))).await?;
    rows.into_iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok(HistoryRow {
                at_ms: columns.take()?,
                who: columns.take()?,
                what: columns.take()?,
                subject: columns.take()?,
                detail: columns.take()?,
            })
        })
        .collect()
}
