//! What the log says of the followed rows.

use std::sync::Arc;

use mysql_async::Value;
use usher_topology::GtidPosition;

use crate::Columns;

/// A row's values, in the order of [`Columns::names`], generated columns included.
pub type Row = Vec<Value>;

/// One row's change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The table's columns, as they were when the row changed.
    pub columns: Arc<Columns>,
    /// Its place among the followed tables that the tail was opened with.
    pub table: usize,
    /// Before and after.
    pub images: Images,
}

/// The row before and after.
#[derive(Debug, Clone, PartialEq)]
pub enum Images {
    /// It came.
    Insert(Row),
    /// It changed, perhaps in its primary key too.
    Update {
        /// As it was.
        before: Row,
        /// As it is.
        after: Row,
    },
    /// It went.
    Delete(Row),
}

/// What a transaction of the source does to the followed rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// In the order of the log.
    pub changes: Vec<Change>,
    /// The position behind this transaction. `None` for a part of a transaction that is too large to be held at once:
    /// more parts follow, and a tail that is opened again begins with the first.
    pub position: Option<GtidPosition>,
    /// The server was told to keep it from certain replicas (MariaDB's `skip_replication`).
    pub marked: bool,
    /// When the source committed it, in seconds since 1970, by its own clock.
    pub committed_at: u32,
}

/// What a tail gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A transaction, or a part of one, that changes followed rows.
    Transaction(Transaction),
    /// All up to here has been read and has no changes of followed rows that were not given before.
    Position(GtidPosition),
    /// A statement that defines something: if it is about a followed table, what follows may have other columns.
    Definition {
        /// The statement, as the source logged it; bytes that are no UTF-8 replaced.
        statement: String,
        /// The default schema it ran under.
        schema: String,
        /// The position behind it.
        position: GtidPosition,
    },
    /// The server has nothing to tell at present.
    Heartbeat,
}
