//! What can go wrong with a move. Each error has a stable name and says whether anything was changed.

use thiserror::Error;
use usher_stream::StreamError;
use usher_topology::{Key, MoveId};

use crate::{Contradiction, Phase, UnknownPhase};

/// This crate's result.
pub type Result<T, E = MoveError> = std::result::Result<T, E>;

/// Why a move was not begun, or does not go on.
#[derive(Debug, Error)]
pub enum MoveError {
    /// Nothing was changed.
    #[error("user {0} is not in the directory")]
    UnknownUser(Key),
    /// Nothing was changed.
    #[error("there is no shard {0:?}; `usher shard list` shows them")]
    UnknownShard(String),
    /// Nothing was changed.
    #[error("user {key} lives on {shard} already")]
    AlreadyThere {
        /// The user.
        key: Key,
        /// The shard.
        shard: String,
    },
    /// Nothing was changed.
    #[error("user {key} is being moved by move {id} (phase {phase}); wait for it or abort it")]
    AlreadyMoving {
        /// The user.
        key: Key,
        /// The move that has it.
        id: MoveId,
        /// How far that is.
        phase: String,
    },
    /// Nothing was changed.
    #[error("user {key} is pinned: {reason}; `usher user pin --off` lifts that")]
    Pinned {
        /// The user.
        key: Key,
        /// Why.
        reason: String,
    },
    /// Nothing was changed.
    #[error("there is no move {0}")]
    NoSuchMove(String),
    /// Nothing was changed.
    #[error("move {id} is over ({phase})")]
    Over {
        /// The move.
        id: MoveId,
        /// How it ended.
        phase: Phase,
    },
    /// Nothing was changed.
    #[error("move {id} has passed its commit point ({phase}): it can only go on; move the user back instead")]
    Committed {
        /// The move.
        id: MoveId,
        /// How far it is.
        phase: Phase,
    },
    /// Nothing was changed.
    #[error("move {id} has nothing to purge yet (phase {phase})")]
    NotPurgeable {
        /// The move.
        id: MoveId,
        /// How far it is.
        phase: Phase,
    },
    /// The checks before the move. Nothing was changed for the user.
    #[error("the move is refused: {0}")]
    Refused(#[from] Refusal),
    /// Another process runs the move.
    #[error("move {id} is run by {mover}, whose lease runs for another {left_ms} ms")]
    Leased {
        /// The move.
        id: MoveId,
        /// Who runs it.
        mover: String,
        /// How long it may still be silent.
        left_ms: i64,
    },
    /// Another process has taken the move over; this one has stopped.
    #[error("another process has taken move {0} over")]
    LostLease(MoveId),
    /// The rows of both sides are not the same.
    #[error(
        "table {table}: {source_rows} rows on the source, {target_rows} on the target, and their sums {sums}"
    )]
    Different {
        /// The table.
        table: String,
        /// Rows found on the source.
        source_rows: u64,
        /// Rows found on the target.
        target_rows: u64,
        /// `agree` or `differ`.
        sums: &'static str,
    },
    /// The source's binlog can't be followed, or what it says not be applied.
    #[error("{server}: {source}")]
    Stream {
        /// Whose log, or where it was applied.
        server: String,
        /// Why.
        source: usher_stream::StreamError,
    },
    /// The cutover has outlasted its time. The user is let go, and it is tried again later.
    #[error("move {id}: the cutover took longer than {budget_ms} ms and was broken off (limits.cutover_ms)")]
    CutoverLate {
        /// The move.
        id: MoveId,
        /// The time it had.
        budget_ms: u64,
    },
    /// A standby or replica does not follow.
    #[error("{server} has not executed {position} within {after_ms} ms")]
    Behind {
        /// The copy.
        server: String,
        /// What it must have.
        position: String,
        /// How long it was waited for.
        after_ms: u64,
    },
    /// The rows contradict each other. Nothing was changed.
    #[error(
        "move {id} stands still: {contradiction}; nothing was changed, compare the directory with usher.ownership"
    )]
    Stopped {
        /// The move.
        id: MoveId,
        /// Which rows.
        contradiction: Contradiction,
    },
    /// A compare-and-set was lost; the rows are read again.
    #[error("move {0}: somebody else changed the rows first")]
    Overtaken(MoveId),
    /// A shard has not been in state `rw` for long; the user was locked and is let go.
    #[error("move {id}: a shard did not become rw again in time")]
    NotWritable {
        /// The move.
        id: MoveId,
    },
    /// A shard has no writer that takes writes now.
    #[error("{server} is not a writer any more (it is read-only)")]
    NotWriter {
        /// The server.
        server: String,
    },
    /// The directory's or the global master's own.
    #[error(transparent)]
    Directory(#[from] usher_directory::Error),
    /// A server's own.
    #[error("{server}: {source}")]
    Server {
        /// Which server.
        server: String,
        /// What it said.
        source: mysql_async::Error,
    },
    /// Rows that this program did not write.
    #[error(transparent)]
    Phase(#[from] UnknownPhase),
    /// Rows or catalog entries that can't be worked by.
    #[error("{0}")]
    Data(String),
    /// Asked for by a test.
    #[error("fail point {0}")]
    FailPoint(String),
}

/// Which check before a move has failed, and what to do about it.
#[derive(Debug, Error)]
pub enum Refusal {
    /// A shard is not in state `rw`.
    #[error("shard {shard} is {state}; it must be rw")]
    ShardState {
        /// The shard.
        shard: String,
        /// Its state.
        state: String,
    },
    /// The target holds rows of the user.
    #[error(
        "shard {shard} still holds {rows} rows of the user in {table}, left by an earlier move: purge that first (`usher move purge`)"
    )]
    LeftOver {
        /// The target.
        shard: String,
        /// A table with such rows.
        table: String,
        /// How many.
        rows: u64,
    },
    /// The target has an ownership row.
    #[error("shard {shard} has an ownership row of the user in state {state}")]
    Ownership {
        /// The shard.
        shard: String,
        /// The row's state.
        state: String,
    },
    /// A prepared XA transaction has changed the user's rows, and would change them on the source after the move.
    #[error(
        "shard {shard} keeps an XA transaction prepared that holds rows of the user in {table}; it is one of {}: commit \
         it or roll it back first (XA COMMIT, XA ROLLBACK, also through a proxy)",
        prepared.join("; ")
    )]
    Prepared {
        /// The source.
        shard: String,
        /// A table with such rows.
        table: String,
        /// All that are prepared there.
        prepared: Vec<String>,
    },
    /// The source's ownership row and the directory do not agree.
    #[error(
        "shard {shard} does not own the user as the directory says: its row shows {found}, expected owned, generation {expected}"
    )]
    NotOwner {
        /// The source.
        shard: String,
        /// What its row shows.
        found: String,
        /// The directory's generation of ownership.
        expected: u64,
    },
    /// No such table.
    #[error("table {table} is in the catalog but not on {server}")]
    NoTable {
        /// The table.
        table: String,
        /// The server.
        server: String,
    },
    /// The definitions differ.
    #[error("table {table} is not defined alike on {source_server} and {target_server}: {difference}")]
    Definition {
        /// The table.
        table: String,
        /// One server.
        source_server: String,
        /// The other.
        target_server: String,
        /// The first line that differs.
        difference: String,
    },
    /// No primary key.
    #[error("table {table} has no primary key")]
    NoPrimaryKey {
        /// The table.
        table: String,
    },
    /// No index begins with the key column.
    #[error("table {table} has no index that begins with its key column {column}")]
    NoKeyIndex {
        /// The table.
        table: String,
        /// The key column.
        column: String,
    },
    /// Not a transactional table.
    #[error("table {table} is {engine}; only InnoDB tables can be moved")]
    Engine {
        /// The table.
        table: String,
        /// Its engine or type.
        engine: String,
    },
    /// Triggers would run a second time for the copied rows.
    #[error("table {table} has the trigger {trigger} on {server}, which would run again for each copied row")]
    Trigger {
        /// The table.
        table: String,
        /// The trigger.
        trigger: String,
        /// The server.
        server: String,
    },
    /// Changed rows could not be told apart.
    #[error(
        "table {table}: column {column} ({kind}) of its primary key can't be followed in the binlog; move with --locked"
    )]
    OnlineKey {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        kind: String,
    },
    /// The log does not show what cascades do.
    #[error(
        "table {table}: what its foreign key {constraint} cascades can't be followed, as its columns are texts or of a type that can't be compared; move with --locked"
    )]
    OnlineCascade {
        /// The table.
        table: String,
        /// The foreign key.
        constraint: String,
    },
    /// The log lacks what is needed to follow it.
    #[error("{server} must log with {setting} (it is {value}); or move with --locked")]
    Binlog {
        /// The server.
        server: String,
        /// What is needed.
        setting: String,
        /// What there is.
        value: String,
    },
    /// MariaDB on one side and MySQL on the other.
    #[error("{source_server} and {target_server} are of different families (MariaDB and MySQL)")]
    Families {
        /// One server.
        source_server: String,
        /// The other.
        target_server: String,
    },
    /// A row could be too large for the target.
    #[error("max_allowed_packet is {target} on {target_server}, less than {source_limit} on the source")]
    Packet {
        /// The target's limit in bytes.
        target: u64,
        /// The target's server.
        target_server: String,
        /// The source's limit in bytes.
        source_limit: u64,
    },
    /// A standby does not follow its writer.
    #[error("the standby {server} of shard {shard} does not follow its writer: {reason}")]
    Standby {
        /// The shard.
        shard: String,
        /// The standby.
        server: String,
        /// Why.
        reason: String,
    },
}

/// What the runner does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Read the rows again and go on; a few times.
    Retry,
    /// Undo the move.
    Undo,
    /// Leave everything as it is.
    Leave,
}

impl MoveError {
    /// The error's stable name.
    #[must_use]
    pub fn id(&self) -> &'static str {
        match self {
            Self::UnknownUser(_) => "unknown_user",
            Self::UnknownShard(_) => "unknown_shard",
            Self::AlreadyThere { .. } => "already_there",
            Self::AlreadyMoving { .. } => "already_moving",
            Self::Pinned { .. } => "pinned",
            Self::NoSuchMove(_) => "no_such_move",
            Self::Over { .. } => "move_over",
            Self::Committed { .. } => "move_committed",
            Self::NotPurgeable { .. } => "not_purgeable",
            Self::Refused(_) => "move_refused",
            Self::Leased { .. } => "move_leased",
            Self::LostLease(_) => "lease_lost",
            Self::Different { .. } => "rows_differ",
            Self::Stream { .. } => "binlog",
            Self::CutoverLate { .. } => "cutover_late",
            Self::Behind { .. } => "copy_behind",
            Self::Stopped { .. } => "move_stopped",
            Self::Overtaken(_) => "overtaken",
            Self::NotWritable { .. } => "shard_not_writable",
            Self::NotWriter { .. } => "not_writer",
            Self::Directory(_) => "directory",
            Self::Server { .. } => "server",
            Self::Phase(_) | Self::Data(_) => "data",
            Self::FailPoint(_) => "fail_point",
        }
    }

    /// With the name of the server that said it.
    pub(crate) fn at(server: &str) -> impl FnOnce(mysql_async::Error) -> Self + use<> {
        let server = server.to_owned();
        move |source| Self::Server { server, source }
    }

    /// With the name of the server whose log it was, or where it was applied.
    pub(crate) fn stream(server: &str, error: StreamError) -> Self {
        match error {
            StreamError::Server(source) => Self::Server { server: server.to_owned(), source },
            source => Self::Stream { server: server.to_owned(), source },
        }
    }

    pub(crate) fn remedy(&self) -> Remedy {
        use usher_directory::Error as D;
        match self {
            Self::Refused(_) | Self::Different { .. } => Remedy::Undo,
            Self::Directory(D::NotDrained { .. } | D::LeftOver { .. } | D::NotRevoked { .. }) => Remedy::Undo,
            Self::Server { source: mysql_async::Error::Server(error), .. } if !is_transient(error.code) => {
                Remedy::Undo
            }
            Self::Stream { source: StreamError::Ended | StreamError::Silent(_), .. } => Remedy::Retry,
            Self::Stream { .. } => Remedy::Undo,
            Self::Directory(_)
            | Self::Server { .. }
            | Self::CutoverLate { .. }
            | Self::Behind { .. }
            | Self::Overtaken(_)
            | Self::NotWriter { .. } => Remedy::Retry,
            _ => Remedy::Leave,
        }
    }
}

/// Lock wait, deadlock, read-only, shutdown, killed, too many connections: another try may find it better.
fn is_transient(code: u16) -> bool {
    matches!(code, 1205 | 1213 | 1290 | 1836 | 1053 | 1927 | 1317 | 1040 | 1158..=1161)
}
