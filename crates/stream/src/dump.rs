//! Asks a server for its binlog from a position on.

use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, GnoInterval, Sid};
use mysql_common::packets::Tag;
use usher_topology::GtidPosition;

use crate::event::Family;
use crate::{Result, Start, StreamError};

/// The stream behind a position.
///
/// # Errors
/// The server's own, as when it has purged what is asked for; [`StreamError::Position`].
pub(crate) async fn open(mut conn: Conn, start: &Start) -> Result<(BinlogStream, Family)> {
    let heartbeat = u64::from(start.heartbeat_ms) * 1_000_000;
    conn.query_drop(format!(
        "SET @master_heartbeat_period = {heartbeat}, @source_heartbeat_period = {heartbeat}, \
         @source_binlog_checksum = @@global.binlog_checksum"
    ))
    .await?;
    let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
    let maria = version.is_some_and(|version| version.contains("MariaDB"));
    let request = BinlogStreamRequest::new(start.server_id);
    match (&start.after, maria) {
        (GtidPosition::MariaDb(_), true) => {
            conn.query_drop(format!(
                "SET @slave_connect_state = '{}', @mariadb_slave_capability = 4, @slave_gtid_strict_mode = 1, \
                 @slave_gtid_ignore_duplicates = 0",
                start.after
            ))
            .await?;
            Ok((conn.get_binlog_stream(request).await?, Family::MariaDb))
        }
        (GtidPosition::MySql(sources), false) => {
            let sids = sources
                .iter()
                .map(|(source, intervals)| sid(source, intervals))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| StreamError::Position(start.after.to_string()))?;
            let request = request.with_gtid().with_gtid_set(sids);
            Ok((conn.get_binlog_stream(request).await?, Family::MySql))
        }
        // MySQL's empty set looks like MariaDB's.
        (GtidPosition::MariaDb(domains), false) if domains.is_empty() => {
            Ok((conn.get_binlog_stream(request.with_gtid()).await?, Family::MySql))
        }
        _ => Err(StreamError::Position(format!("{} is of the other family", start.after))),
    }
}

fn sid(source: &str, intervals: &[(u64, u64)]) -> Option<Sid<'static>> {
    let (uuid, tag) = match source.split_once(':') {
        Some((uuid, tag)) => (uuid, Some(tag)),
        None => (source, None),
    };
    let hex: String = uuid.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 32)?;
    let intervals = intervals.iter().map(|(first, last)| GnoInterval::new(*first, last.saturating_add(1)));
    let sid = Sid::new(number.to_be_bytes()).with_intervals(intervals.collect());
    match tag {
        Some(tag) => Some(sid.with_tag(Tag::new(tag.to_owned()).ok()?)),
        None => Some(sid),
    }
}
