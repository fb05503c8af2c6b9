//! Rows of `tables`: the catalog of the application's tables.

use mysql_async::prelude::Queryable;
use mysql_async::{Row, params};

use super::{bump, transaction};
use crate::columns::Columns;
use crate::text_enum::text_enum;
use crate::{Error, Global, Result};

text_enum! {
    /// Where a table's rows live.
    TableKind {
        /// On their user's shard.
        Sharded = "sharded",
        /// The same on every shard.
        Reference = "reference",
        /// On the global master.
        Unsharded = "unsharded",
    }
}

text_enum! {
    /// How values of the key column become keys.
    KeyType {
        /// Integers.
        Int = "int",
        /// Text as it is.
        Text = "text",
        /// Text compared without regard to ASCII case and trailing spaces.
        TextCi = "text_ci",
    }
}

text_enum! {
    /// Whether a table may be used.
    TableState {
        /// It may.
        Ready = "ready",
        /// It does not exist on every shard yet.
        Creating = "creating",
    }
}

/// One row of `tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    /// Schema, the same name on every server.
    pub schema: String,
    /// Table.
    pub name: String,
    /// Where its rows live.
    pub kind: TableKind,
    /// What it is sharded by: `user`.
    pub entity: String,
    /// The column that tells whose a row is; sharded tables only.
    pub key_column: Option<String>,
    /// How that column's values become keys.
    pub key_type: Option<KeyType>,
    /// The column whose ids come from the global sequence `schema.table`.
    pub sequence_column: Option<String>,
    /// Names of all columns in order.
    pub columns: Vec<String>,
    /// Whether it may be used.
    pub state: TableState,
}

pub(crate) const SELECT: &str = "SELECT table_schema, table_name, kind, entity, key_column, key_type, \
    sequence_column, CAST(columns AS CHAR), state FROM usher.tables ORDER BY table_schema, table_name";

impl TableRow {
    pub(crate) fn read(row: Row) -> Result<Self> {
        let mut columns = Columns::of(row);
        Ok(Self {
            schema: columns.take()?,
            name: columns.take()?,
            kind: columns.parse(TableKind::parse)?,
            entity: columns.take()?,
            key_column: columns.take()?,
            key_type: columns.take::<Option<String>>()?.as_deref().map(KeyType::parse).transpose()?,
            sequence_column: columns.take()?,
            columns: columns.parse(|text| {
                serde_json::from_str(text).map_err(|error| Error::data(format!("tables.columns: {error}")))
            })?,
            state: columns.parse(TableState::parse)?,
        })
    }

    /// The name of this table's sequence: `schema.table`.
    #[must_use]
    pub fn sequence(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// The catalog, by schema and table.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn list_tables(global: &Global) -> Result<Vec<TableRow>> {
    let mut conn = global.conn().await?;
    let rows: Vec<Row> = global.bounded("listing tables", conn.query(SELECT)).await?;
    rows.into_iter().map(TableRow::read).collect()
}

/// Writes a table's row, new or not, and raises the version, which it returns.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn upsert_table(global: &Global, table: &TableRow) -> Result<u64> {
    let columns = serde_json::to_string(&table.columns).map_err(|error| Error::data(error.to_string()))?;
    let done = transaction!(global, "writing the catalog", |conn| {
        let version = bump(conn).await?;
        conn.exec_drop(
            "REPLACE INTO usher.tables (table_schema, table_name, kind, entity, key_column, key_type, \
             sequence_column, columns, state) VALUES (:schema, :name, :kind, :entity, :key_column, :key_type, \
             :sequence_column, :columns, :state)",
            params! {
                "schema" => &table.schema, "name" => &table.name, "kind" => table.kind.as_str(),
                "entity" => &table.entity, "key_column" => &table.key_column,
                "key_type" => table.key_type.map(KeyType::as_str),
                "sequence_column" => &table.sequence_column, "columns" => &columns,
                "state" => table.state.as_str(),
            },
        )
        .await?;
        Ok(Some(version))
    })?;
    done.ok_or_else(|| Error::data("the catalog was not written"))
}

/// Takes a table out of the catalog and raises the version; `None` if it was not there.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn delete_table(global: &Global, schema: &str, name: &str) -> Result<Option<u64>> {
    transaction!(global, "writing the catalog", |conn| {
        let version = bump(conn).await?;
        conn.exec_drop("DELETE FROM usher.tables WHERE table_schema = ? AND table_name = ?", (schema, name))
            .await?;
        Ok((conn.affected_rows() == 1).then_some(version))
    })
}
