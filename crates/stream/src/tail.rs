//! The tail itself: event by event into whole transactions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mysql_async::{BinlogStream, Conn, Value};
use mysql_common::binlog::consts::BinlogChecksumAlg;
use mysql_common::binlog::events::{Event, TransactionPayloadEvent};
use usher_topology::GtidPosition;

use crate::event::{Family, Kind, gtid, inflate_rows, query};
use crate::rows::{Deed, Picked, pick, table_id};
use crate::{Change, Columns, Images, Item, Result, Row, StreamError, Transaction, dump, table_map};

/// A table whose rows are followed.
pub struct Followed {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The column that tells whose a row is.
    pub key_column: String,
    /// Whether a row with this value in that column is followed.
    pub wanted: Box<dyn Fn(&Value) -> bool + Send + Sync>,
}

/// Where and how a tail begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// All transactions behind this position are told.
    pub after: GtidPosition,
    /// Under which the server knows this reader; no replica of the server may have the same.
    pub server_id: u32,
    /// How often the server says that it has nothing to tell.
    pub heartbeat_ms: u32,
    /// Bytes of changes held at once: a larger transaction is told in parts.
    pub part_bytes_max: usize,
}

/// Reads a server's binlog. It reads on only when asked, so a slow reader slows the server's sending, nothing grows.
pub struct Tail {
    stream: BinlogStream,
    family: Family,
    silence: Duration,
    part_bytes_max: usize,
    followed: Vec<Followed>,
    /// By the number that the log gives to a table for a while; `None` for one that is not followed.
    maps: HashMap<u64, Option<(usize, Arc<Columns>)>>,
    position: GtidPosition,
    /// The transaction that is being read.
    open: Option<Open>,
    /// Bytes that the events of a compressed transaction still have.
    payload: Option<u64>,
}

struct Open {
    gtid: GtidPosition,
    standalone: Option<bool>,
    changes: Vec<Change>,
    bytes: usize,
    marked: bool,
    committed_at: u32,
}

/// Tables kept in mind at once; the log names a table again in each transaction.
const MAPS_MAX: usize = 10_000;
const LOG_EVENT_SKIP_REPLICATION: u16 = 0x8000;

impl Tail {
    /// Begins to read. The account needs `REPLICATION SLAVE`.
    ///
    /// # Errors
    /// The server's own, as when it has purged what is asked for; [`StreamError::Position`].
    pub async fn open(conn: Conn, start: &Start, followed: Vec<Followed>) -> Result<Self> {
        let (stream, family) = dump::open(conn, start).await?;
        Ok(Self {
            stream,
            family,
            // Two heartbeats may be late.
            silence: Duration::from_millis(u64::from(start.heartbeat_ms) * 3),
            part_bytes_max: start.part_bytes_max,
            followed,
            maps: HashMap::new(),
            position: start.after.clone(),
            open: None,
            payload: None,
        })
    }

    /// Behind the last transaction that was read whole.
    #[must_use]
    pub fn position(&self) -> &GtidPosition {
        &self.position
    }

    /// The next thing that the log tells. Waits for it; not safe to cancel: after that, open a new tail.
    ///
    /// # Errors
    /// Any of [`StreamError`]; the tail has ended then.
    pub async fn next(&mut self) -> Result<Item> {
        loop {
            let silent = || StreamError::Silent(self.silence.as_millis() as u64);
            let event = tokio::time::timeout(self.silence, self.stream.next()).await.map_err(|_| silent())?;
            let event = event.ok_or(StreamError::Ended)??;
            if let Some(item) = self.take(&event)? {
                return Ok(item);
            }
        }
    }

    fn take(&mut self, event: &Event) -> Result<Option<Item>> {
        let raw = event.header().event_type_raw();
        self.check(event, raw)?;
        match Kind::of(raw, self.family) {
            Kind::Ignored => Ok(None),
            Kind::Heartbeat => Ok(Some(Item::Heartbeat)),
            Kind::Gtid(family) => self.begin(event, family).map(|()| None),
            Kind::Query { compressed } => self.statement(event, compressed),
            Kind::Xid => Ok(Some(self.commit()?)),
            Kind::XaPrepare => self.prepare(event),
            Kind::TableMap => self.table_map(event).map(|()| None),
            Kind::Rows { deed, extra, compressed: false } => self.rows(event, deed, extra, event.data()),
            Kind::Rows { deed, extra, compressed: true } => {
                let whole = inflate_rows(event.data(), deed)?;
                self.rows(event, deed, extra, &whole)
            }
            Kind::PartialRows => self.partial_rows(event),
            Kind::Payload => self.unpack(event).map(|()| None),
            Kind::Incident => Err(StreamError::Incident),
            Kind::Unknown => Err(StreamError::UnknownEvent(raw)),
        }
    }

    /// The checksum, and within a compressed transaction that none of its events is missing.
    fn check(&mut self, event: &Event, raw: u8) -> Result<()> {
        if let Some(left) = self.payload {
            let size = u64::from(event.header().event_size());
            let left = left.checked_sub(size).ok_or(StreamError::Malformed("a compressed transaction"))?;
            self.payload = (left > 0).then_some(left);
            return Ok(());
        }
        let summed =
            event.footer().get_checksum_alg() == Ok(Some(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32));
        if let Some(sum) = event.checksum()
            && summed
            && u32::from_le_bytes(sum) != event.calc_checksum(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32)
        {
            return Err(StreamError::Checksum(raw));
        }
        Ok(())
    }

    fn unpack(&mut self, event: &Event) -> Result<()> {
        let payload: TransactionPayloadEvent<'_> =
            event.read_event().map_err(|_| StreamError::Malformed("a compressed transaction"))?;
        // The driver unpacks it next, and gives nothing where it can't: then the sizes won't add up.
        self.payload = Some(payload.uncompressed_size()).filter(|size| *size > 0);
        Ok(())
    }

    fn begin(&mut self, event: &Event, family: Family) -> Result<()> {
        if self.open.is_some() {
            return Err(StreamError::Malformed("a transaction within another"));
        }
        let gtid = gtid(event, family)?;
        self.open = Some(Open {
            gtid: gtid.position,
            standalone: gtid.standalone,
            changes: Vec::new(),
            bytes: 0,
            marked: event.header().flags_raw() & LOG_EVENT_SKIP_REPLICATION != 0,
            committed_at: event.header().timestamp(),
        });
        Ok(())
    }

    fn current(&mut self) -> Result<&mut Open> {
        self.open.as_mut().ok_or(StreamError::Malformed("an event outside of a transaction"))
    }

    fn commit(&mut self) -> Result<Item> {
        let open = self.open.take().ok_or(StreamError::Malformed("a commit without a transaction"))?;
        self.position.merge(&open.gtid);
        let position = self.position.clone();
        if open.changes.is_empty() && open.bytes == 0 {
            return Ok(Item::Position(position));
        }
        Ok(Item::Transaction(Transaction {
            changes: open.changes,
            position: Some(position),
            marked: open.marked,
            committed_at: open.committed_at,
        }))
    }

    fn statement(&mut self, event: &Event, compressed: bool) -> Result<Option<Item>> {
        let query = query(event.data(), compressed)?;
        let text = String::from_utf8_lossy(&query.statement).into_owned();
        let verb: String = text
            .trim_start()
            .chars()
            .take_while(char::is_ascii_alphabetic)
            .collect::<String>()
            .to_ascii_uppercase();
        let standalone = self.current()?.standalone;
        match verb.as_str() {
            "BEGIN" => return Ok(None),
            "COMMIT" => return self.commit().map(Some),
            "SAVEPOINT" | "RELEASE" => return Ok(None),
            "ROLLBACK" => return self.rollback(&text),
            "XA" => return self.xa(&text),
            "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" | "CALL" | "SELECT" => {
                return Err(StreamError::Statement(text.chars().take(120).collect()));
            }
            _ => {}
        }
        // Within a transaction only MariaDB's and MySQL's definitions of temporary tables are left.
        if standalone == Some(false) {
            return Ok(None);
        }
        let (Item::Position(position) | Item::Transaction(Transaction { position: Some(position), .. })) =
            self.commit()?
        else {
            return Err(StreamError::Malformed("rows beside a definition"));
        };
        Ok(Some(Item::Definition { statement: text, schema: query.schema, position }))
    }

    /// The log shows what was undone only where a table without transactions is in it as well.
    fn rollback(&mut self, text: &str) -> Result<Option<Item>> {
        let open = self.current()?;
        if !open.changes.is_empty() || open.bytes > 0 {
            return Err(StreamError::Statement(text.chars().take(120).collect()));
        }
        if text.to_ascii_uppercase().contains(" TO ") { Ok(None) } else { self.commit().map(Some) }
    }

    fn xa(&mut self, text: &str) -> Result<Option<Item>> {
        let second = text.split_whitespace().nth(1).unwrap_or_default().to_ascii_uppercase();
        match second.as_str() {
            "COMMIT" | "ROLLBACK" => self.commit().map(Some),
            _ => Ok(None),
        }
    }

    fn prepare(&mut self, event: &Event) -> Result<Option<Item>> {
        let one_phase = event.data().first() == Some(&1);
        if !one_phase && (!self.current()?.changes.is_empty() || self.current()?.bytes > 0) {
            return Err(StreamError::PreparedXa);
        }
        self.commit().map(Some)
    }

    fn table_map(&mut self, event: &Event) -> Result<()> {
        let (id, schema, table, _) = table_map::head(&mut event.data())?;
        let at = self.followed.iter().position(|one| one.schema == schema && one.table == table);
        if self.maps.len() >= MAPS_MAX {
            self.maps.clear();
        }
        let Some(at) = at else {
            self.maps.insert(id, None);
            return Ok(());
        };
        let map = table_map::read(event.data())?;
        let label = format!("{schema}.{table}");
        if map.names.is_empty() {
            return Err(StreamError::NoNames(label));
        }
        let wanted = &self.followed[at].key_column;
        let key = map.names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
        let key = key.ok_or_else(|| StreamError::Redefined(label))?;
        let columns = Columns { schema, table, names: map.names, codecs: map.codecs, key };
        self.maps.insert(map.id, Some((at, Arc::new(columns))));
        Ok(())
    }

    fn rows(&mut self, event: &Event, deed: Deed, extra: bool, data: &[u8]) -> Result<Option<Item>> {
        // The end of a statement without rows.
        const NO_TABLE: u64 = 0xff_ffff;
        let id = table_id(data)?;
        if id == NO_TABLE {
            return Ok(None);
        }
        let known =
            self.maps.get(&id).ok_or(StreamError::Malformed("rows of a table without a table map"))?;
        let Some((table, columns)) = known else { return Ok(None) };
        let open = self.open.as_mut().ok_or(StreamError::Malformed("rows outside of a transaction"))?;
        let picked = Picked { columns, table: *table, wanted: &*self.followed[*table].wanted };
        pick(&picked, deed, extra, data, |change| {
            open.bytes += bytes_of(&change.images);
            open.changes.push(change);
        })?;
        open.marked |= event.header().flags_raw() & LOG_EVENT_SKIP_REPLICATION != 0;
        if open.bytes < self.part_bytes_max || open.changes.is_empty() {
            return Ok(None);
        }
        // What remains above zero tells that a part has been given.
        open.bytes = 1;
        Ok(Some(Item::Transaction(Transaction {
            changes: std::mem::take(&mut open.changes),
            position: None,
            marked: open.marked,
            committed_at: open.committed_at,
        })))
    }

    fn partial_rows(&mut self, event: &Event) -> Result<Option<Item>> {
        match self.maps.get(&table_id(event.data())?) {
            Some(None) => Ok(None),
            Some(Some((_, columns))) => Err(StreamError::NotFull(columns.label())),
            None => Err(StreamError::Malformed("rows of a table without a table map")),
        }
    }
}

fn bytes_of(images: &Images) -> usize {
    let size = |row: &Row| -> usize {
        row.iter()
            .map(|value| match value {
                Value::Bytes(bytes) => size_of::<Value>() + bytes.len(),
                _ => size_of::<Value>(),
            })
            .sum()
    };
    match images {
        Images::Insert(row) | Images::Delete(row) => size(row),
        Images::Update { before, after } => size(before) + size(after),
    }
}
