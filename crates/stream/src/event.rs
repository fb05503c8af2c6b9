//! Which events there are, by their raw types, and what the small ones say.
//!
//! Sources: <https://mariadb.com/kb/en/replication-protocol/>,
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication.html>.

use std::io::Read;

use mysql_common::binlog::events::{Event, GtidEvent};
use usher_topology::GtidPosition;

use crate::rows::Deed;
use crate::table_map::little;
use crate::value::cut;
use crate::{Result, StreamError};

/// Bytes that an event may have once it is inflated; no server takes a larger row.
const INFLATED_MAX: u64 = 1 << 30;

/// An event, as far as a tail needs to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing that changes rows.
    Ignored,
    Heartbeat,
    Gtid(Family),
    /// A statement, perhaps compressed.
    Query {
        compressed: bool,
    },
    /// Commit.
    Xid,
    XaPrepare,
    TableMap,
    Rows {
        deed: Deed,
        extra: bool,
        compressed: bool,
    },
    /// MySQL's update of parts of JSON documents.
    PartialRows,
    /// MySQL's compressed transaction: its events follow, unpacked.
    Payload,
    Incident,
    Unknown,
}

/// Whose GTIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    MariaDb,
    MySql,
}

impl Kind {
    pub(crate) fn of(raw: u8, family: Family) -> Self {
        let rows = |deed, extra, compressed| Self::Rows { deed, extra, compressed };
        match (raw, family) {
            (2, _) => Self::Query { compressed: false },
            // STOP, ROTATE, and the companions of a logged statement, which itself ends the tail.
            (3 | 4 | 5 | 13 | 14 | 15, _) => Self::Ignored,
            (16, _) => Self::Xid,
            (19, _) => Self::TableMap,
            (23, _) => rows(Deed::Insert, false, false),
            (24, _) => rows(Deed::Update, false, false),
            (25, _) => rows(Deed::Delete, false, false),
            (26, _) => Self::Incident,
            (27, _) => Self::Heartbeat,
            (38, _) => Self::XaPrepare,
            // IGNORABLE, ROWS_QUERY, PREVIOUS_GTIDS, TRANSACTION_CONTEXT, VIEW_CHANGE.
            (28 | 29 | 35 | 36 | 37, Family::MySql) => Self::Ignored,
            (30, Family::MySql) => rows(Deed::Insert, true, false),
            (31, Family::MySql) => rows(Deed::Update, true, false),
            (32, Family::MySql) => rows(Deed::Delete, true, false),
            (33 | 42, Family::MySql) => Self::Gtid(Family::MySql),
            (39, Family::MySql) => Self::PartialRows,
            (40, Family::MySql) => Self::Payload,
            (41, Family::MySql) => Self::Heartbeat,
            // ANNOTATE_ROWS, BINLOG_CHECKPOINT, GTID_LIST, START_ENCRYPTION.
            (160 | 161 | 163 | 164, Family::MariaDb) => Self::Ignored,
            (162, Family::MariaDb) => Self::Gtid(Family::MariaDb),
            (165, Family::MariaDb) => Self::Query { compressed: true },
            (166, Family::MariaDb) => rows(Deed::Insert, false, true),
            (167, Family::MariaDb) => rows(Deed::Update, false, true),
            (168, Family::MariaDb) => rows(Deed::Delete, false, true),
            _ => Self::Unknown,
        }
    }
}

/// A transaction's number, and whether it consists of the one statement that follows.
pub(crate) struct Gtid {
    pub(crate) position: GtidPosition,
    /// `None`: the number does not say (MySQL).
    pub(crate) standalone: Option<bool>,
}

/// Reads either family's GTID event.
pub(crate) fn gtid(event: &Event, family: Family) -> Result<Gtid> {
    const FL_STANDALONE: u8 = 1;
    let malformed = || StreamError::Malformed("a GTID event");
    match family {
        Family::MariaDb => {
            let mut data = event.data();
            let sequence = little(cut(&mut data, 8)?);
            let domain = little(cut(&mut data, 4)?) as u32;
            let flags = cut(&mut data, 1)?[0];
            let server = event.header().server_id();
            Ok(Gtid {
                position: GtidPosition::MariaDb([(domain, (server, sequence))].into()),
                standalone: Some(flags & FL_STANDALONE != 0),
            })
        }
        Family::MySql => {
            let gtid: GtidEvent = event.read_event().map_err(|_| malformed())?;
            let source = match gtid.tag() {
                Some(tag) => format!("{}:{tag}", uuid(gtid.sid())),
                None => uuid(gtid.sid()),
            };
            let intervals = vec![(gtid.gno(), gtid.gno())];
            Ok(Gtid { position: GtidPosition::MySql([(source, intervals)].into()), standalone: None })
        }
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A logged statement.
pub(crate) struct Query {
    pub(crate) schema: String,
    pub(crate) statement: Vec<u8>,
}

/// Reads a query event.
pub(crate) fn query(mut data: &[u8], compressed: bool) -> Result<Query> {
    let head = cut(&mut data, 13)?;
    let (schema, variables) = (usize::from(head[8]), little(&head[11..13]) as usize);
    cut(&mut data, variables)?;
    let schema = String::from_utf8_lossy(cut(&mut data, schema)?).into_owned();
    cut(&mut data, 1)?;
    let statement = if compressed { inflate(data)? } else { data.to_vec() };
    Ok(Query { schema, statement })
}

/// MariaDB's compressed rows event as an ordinary one: all but the rows stands as it is.
pub(crate) fn inflate_rows(data: &[u8], deed: Deed) -> Result<Vec<u8>> {
    let mut rest = data;
    cut(&mut rest, 8)?;
    let columns = crate::table_map::lenenc(&mut rest)?;
    let bitmaps = if deed == Deed::Update { 2 } else { 1 };
    cut(&mut rest, bitmaps * columns.div_ceil(8))?;
    let mut whole = data[..data.len() - rest.len()].to_vec();
    whole.extend(inflate(rest)?);
    Ok(whole)
}

/// MariaDB's wrapping: a byte whose low three bits tell the length of the length, the length, zlib.
fn inflate(mut data: &[u8]) -> Result<Vec<u8>> {
    let malformed = || StreamError::Malformed("a compressed event");
    let head = cut(&mut data, 1)?[0];
    if head >> 4 & 7 != 0 {
        return Err(malformed());
    }
    let length = cut(&mut data, usize::from(head & 7))?;
    let length = length.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let mut inflated = Vec::new();
    let mut reader = flate2::read::ZlibDecoder::new(data).take(INFLATED_MAX);
    reader.read_to_end(&mut inflated).map_err(|_| malformed())?;
    if inflated.len() as u64 == length { Ok(inflated) } else { Err(malformed()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn mariadbs_types_are_not_mysqls() {
        assert_eq!(Kind::of(162, Family::MySql), Kind::Unknown);
        assert_eq!(Kind::of(40, Family::MariaDb), Kind::Unknown);
        assert_eq!(Kind::of(172, Family::MariaDb), Kind::Unknown, "PARTIAL_ROW_DATA of MariaDB 12.3");
    }

    #[test]
    fn compressed_parts_are_inflated_and_lengths_checked() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&[7; 300]).unwrap();
        let zlib = encoder.finish().unwrap();
        let wrapped = [&[0x82, 1, 44], zlib.as_slice()].concat();
        assert_eq!(inflate(&wrapped).unwrap(), vec![7; 300]);
        let wrong = [&[0x82, 1, 45], zlib.as_slice()].concat();
        assert!(inflate(&wrong).is_err());
        assert!(inflate(&wrapped[..10]).is_err());
    }
}
