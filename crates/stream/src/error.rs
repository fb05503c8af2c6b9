//! Why a tail ends.

use thiserror::Error;

/// Why the log can't be followed any further, or a change not be applied.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The server's own, or the connection's. Open a new tail at the last position.
    #[error(transparent)]
    Server(#[from] mysql_async::Error),
    /// The server ended the stream, as when it shuts down. Open a new tail at the last position.
    #[error("the server ended its binlog stream")]
    Ended,
    /// Nothing came for longer than the server was asked to stay silent. Open a new tail at the last position.
    #[error("the binlog stream was silent for {0} ms, heartbeats included")]
    Silent(u64),
    /// Bytes that are no event of the kind they claim to be.
    #[error("malformed binlog event: {0}")]
    Malformed(&'static str),
    /// The checksum of an event does not match: damaged on the way or on the server's disk.
    #[error("binlog event of type {0} has a wrong checksum")]
    Checksum(u8),
    /// An event of a type that this program does not know. It might change rows, so it is not skipped.
    #[error("binlog event of unknown type {0}")]
    UnknownEvent(u8),
    /// The server says that events are missing from its log.
    #[error("the server reports an incident: events are missing from its binlog")]
    Incident,
    /// A session logs statements, not rows (`binlog_format`), so what it changes can't be told.
    #[error(
        "the binlog has a statement instead of rows (a session with binlog_format STATEMENT or MIXED?): {0}"
    )]
    Statement(String),
    /// A row image that lacks columns (`binlog_row_image`).
    #[error("table {0}: a row image lacks columns (a session with binlog_row_image other than FULL?)")]
    NotFull(String),
    /// The table map has no column names (`binlog_row_metadata`).
    #[error("table {0}: the binlog lacks column names; set binlog_row_metadata = FULL on the server")]
    NoNames(String),
    /// The table's columns are not those that were expected: it was altered.
    #[error("table {0} is not defined as expected any more")]
    Redefined(String),
    /// A column type that can't be told exactly.
    #[error("table {table}, column {column}: its values can't be read from the binlog exactly ({why})")]
    Column {
        /// `schema.table`.
        table: String,
        /// The column's name, or its place if it has none.
        column: String,
        /// What it is.
        why: &'static str,
    },
    /// A row went from the followed user to another, or the other way.
    #[error("table {0}: a row changed its owner")]
    OwnerChanged(String),
    /// Rows of other tables followed, by a foreign key, which the log need not show.
    #[error(
        "table {0}: a row changed columns that a foreign key with ON UPDATE CASCADE or SET NULL refers to"
    )]
    ReferredKey(String),
    /// A prepared XA transaction holds changes of the followed rows; whether they become real is not known yet.
    #[error("an XA transaction that is prepared and not yet committed changes rows of the user")]
    PreparedXa,
    /// A position that this server can't stream from.
    #[error("not a position to stream from: {0}")]
    Position(String),
}
