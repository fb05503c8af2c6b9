//! Columns of a followed table, as the log describes them.

use crate::value::Codec;

/// Columns of a table at one point in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) names: Vec<String>,
    pub(crate) codecs: Vec<Codec>,
    /// Place of the column that tells whose a row is.
    pub(crate) key: usize,
}

impl Columns {
    /// `schema.table`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// In the table's order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}
