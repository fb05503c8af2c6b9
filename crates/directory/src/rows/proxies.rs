//! Rows of `proxies`: what each has acknowledged.

use mysql_async::prelude::Queryable;
use usher_topology::ServerId;

use crate::columns::Columns;
use crate::{Error, Global, Result};

/// One row of `proxies`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRow {
    /// Its id.
    pub proxy_id: String,
    /// Random at each start.
    pub boot_id: u64,
    /// Its own account on every server.
    pub account: String,
    /// Where its HTTP API is.
    pub http_address: Option<String>,
    /// Shut out until it registers anew.
    pub revoked: bool,
    /// The version it works by.
    pub seen_version: u64,
    /// All that it began under an older version has ended.
    pub drained_version: u64,
    /// Time since it last said that it lives.
    pub silent_ms: i64,
    /// Where connections of an earlier life of it may still be open: it has not reached these servers since.
    pub left_over: Vec<ServerId>,
    /// What its connection ids begin with.
    pub number: Option<u8>,
}

pub(crate) const SELECT: &str = "SELECT proxy_id, boot_id, account, http_address, revoked, seen_version, \
    drained_version, TIMESTAMPDIFF(MICROSECOND, alive_at, NOW(3)) DIV 1000, \
    (SELECT GROUP_CONCAT(l.server_id) FROM usher.proxy_left_over l WHERE l.proxy_id = p.proxy_id), \
    (SELECT n.number FROM usher.proxy_numbers n WHERE n.proxy_id = p.proxy_id) \
    FROM usher.proxies p ORDER BY proxy_id";

impl ProxyRow {
    pub(crate) fn read(row: mysql_async::Row) -> Result<Self> {
        let mut columns = Columns::of(row);
        Ok(Self {
            proxy_id: columns.take()?,
            boot_id: columns.take()?,
            account: columns.take()?,
            http_address: columns.take()?,
            revoked: columns.take()?,
            seen_version: columns.take()?,
            drained_version: columns.take()?,
            silent_ms: columns.take()?,
            left_over: servers(columns.take::<Option<String>>()?.as_deref())?,
            number: columns.take()?,
        })
    }
}

fn servers(list: Option<&str>) -> Result<Vec<ServerId>> {
    let ids = list.into_iter().flat_map(|list| list.split(','));
    ids.map(|id| id.parse().map(ServerId).map_err(|_| Error::data("a list of servers cannot be read")))
        .collect()
}

/// All proxies that ever registered, by id.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn proxies(global: &Global) -> Result<Vec<ProxyRow>> {
    let mut conn = global.conn().await?;
    let rows: Vec<mysql_async::Row> = global.bounded("listing proxies", conn.query(SELECT)).await?;
    rows.into_iter().map(ProxyRow::read).collect()
}
