//! What the topology in the global master says about each pair: who its writer is, and whether it may be opened.

use std::collections::BTreeMap;

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::replication;
use crate::state::{GLOBAL, Node, Pair};

/// `ER_BAD_DB_ERROR` and `ER_NO_SUCH_TABLE`: the schema has not been applied yet.
const NO_SCHEMA: [u16; 2] = [1049, 1146];
/// The state of a pair whose writer takes writes.
const READ_WRITE: &str = "rw";

/// One pair's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) writer: String,
    pub(crate) epoch: u64,
    pub(crate) state: String,
}

/// Shard id, shard, writer, epoch, state.
type Columns = (u16, String, String, u64, String);

const ROWS: &str = "SELECT s.shard_id, s.name, w.name, s.epoch, s.state FROM usher.shards s \
     JOIN usher.servers w ON w.server_id = s.writer_id";

/// The rows by the pairs' names, as one global member has them; none before the schema exists.
pub(crate) async fn rows(on: &mut Connection) -> Result<BTreeMap<String, Row>> {
    let found: Result<Vec<Columns>> = on.rows(ROWS).await;
    let found = match found {
        Err(Error::Sql { source: mysql_async::Error::Server(e), .. }) if NO_SCHEMA.contains(&e.code) => {
            Vec::new()
        }
        other => other?,
    };
    let row = |(id, name, writer, epoch, state): Columns| {
        let name = if id == 0 { GLOBAL.to_owned() } else { name };
        (name, Row { writer, epoch, state })
    };
    Ok(found.into_iter().map(row).collect())
}

/// Asks all global members; for each pair the row of the highest epoch counts.
pub(crate) async fn newest_rows(members: &[Node], password: &str) -> Result<BTreeMap<String, Row>> {
    let mut newest: BTreeMap<String, Row> = BTreeMap::new();
    for member in members {
        let mut conn = Connection::open(member, password).await?;
        for (name, row) in rows(&mut conn).await? {
            if newest.get(&name).is_none_or(|known| known.epoch < row.epoch) {
                newest.insert(name, row);
            }
        }
        conn.close().await;
    }
    Ok(newest)
}

/// Keeps the topology row of a pair from changing, for as long as it lives.
pub(crate) struct Hold {
    global: Connection,
}

impl Hold {
    /// Locks the pair's row on the global writer. `None` if the row forbids to open the pair's writer, since
    /// another one was made the writer meanwhile or a flip is under way. Without any row nothing is forbidden.
    pub(crate) async fn to_open(pair: &Pair, global: &Node, password: &str) -> Result<Option<Self>> {
        let mut conn = Connection::open(global, password).await?;
        if !rows(&mut conn).await?.contains_key(&pair.name) {
            return Ok(Some(Self { global: conn }));
        }
        conn.run("START TRANSACTION").await?;
        // While the global master takes no writes, nobody can change the row, nor may it be locked.
        let lock = if replication::is_read_only(&mut conn).await? { "" } else { "FOR UPDATE" };
        let locking = format!("{ROWS} WHERE {} {lock}", selector(&pair.name));
        let row: Option<Columns> = conn.row(&locking).await?;
        let may_open =
            row.is_some_and(|(_, _, writer, _, state)| writer == pair.writer.name && state == READ_WRITE);
        Ok(may_open.then_some(Self { global: conn }))
    }

    /// Lets go of the row.
    pub(crate) async fn release(mut self) -> Result<()> {
        self.global.run("ROLLBACK").await?;
        self.global.close().await;
        Ok(())
    }
}

fn selector(pair: &str) -> String {
    if pair == GLOBAL { "s.shard_id = 0".to_owned() } else { format!("s.name = '{pair}'") }
}
