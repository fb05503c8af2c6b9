//! The global master's rows, read and changed by compare-and-set.
//!
//! Every change that proxies must learn of raises `control.version` in its own transaction and returns the new version:
//! what a barrier then waits for. Where an error says that an outcome is unknown, read the row again.

mod accounts;
mod controllers;
mod directory;
mod flips;
mod history;
pub(crate) mod moves;
mod proxies;
mod schema_change;
mod sequences;
mod shards;
pub(crate) mod tables;

pub use accounts::{
    AccountChange, AccountRow, Hashes, account, accounts, add_account, change_account, drop_account,
};
pub use controllers::{controller_alive, live_controller};
pub use directory::{
    Changed, DirectoryChange, DirectoryRow, cas_directory, directory_row, directory_rows, set_pinned,
    users_per_shard,
};
pub use flips::{FlipRow, commit_flip, flip_row, record_writer, take_flip, withdraw_claim};
pub use history::{HistoryRow, history, record};
pub use moves::{
    MoveMode, MoveRow, MoveUpdate, NewMove, Want, finish_move, insert_move, list_moves, move_row,
    renew_mover_lease, set_want, take_mover_lease, update_move,
};
pub use proxies::{ProxyRow, proxies};
pub use schema_change::{SchemaChange, begin_schema_change, end_schema_change, schema_change};
pub use sequences::{SequenceRow, ensure_sequence, jump_after_loss, sequences};
pub use shards::{cas_shard_state, cas_shard_writer, cas_shard_writer_on, set_weight};
pub use tables::{KeyType, TableKind, TableRow, TableState, delete_table, list_tables, upsert_table};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// Raises the version within the caller's transaction. The row's lock makes versions grow in commit order.
pub(crate) async fn bump(conn: &mut Conn) -> mysql_async::Result<u64> {
    conn.query_drop("UPDATE usher.control SET version = LAST_INSERT_ID(version + 1) WHERE id = 1").await?;
    Ok(conn.last_insert_id().unwrap_or(0))
}

/// Runs `$body`, an expression of `mysql_async::Result<Option<T>>` over the connection `$conn`, in one transaction:
/// `Some` is committed, `None` (the compare-and-set was lost) and errors are rolled back.
macro_rules! transaction {
    ($global:expr, $what:literal, |$conn:ident| $body:expr) => {{
        let mut held = $global.conn().await?;
        $global
            .bounded($what, async {
                let $conn: &mut mysql_async::Conn = &mut held;
                mysql_async::prelude::Queryable::query_drop(&mut *$conn, "START TRANSACTION").await?;
                let outcome: mysql_async::Result<Option<_>> = async { $body }.await;
                let end = if matches!(outcome, Ok(Some(_))) { "COMMIT" } else { "ROLLBACK" };
                let ended = mysql_async::prelude::Queryable::query_drop(&mut *$conn, end).await;
                let outcome = outcome?;
                ended?;
                Ok(outcome)
            })
            .await
    }};
}
pub(crate) use transaction;
