//! Finds the global master's writer and lends connections to it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use parking_lot::Mutex;
use usher_config::{BackendTls, Endpoint, GlobalMaster, Limits};
use usher_topology::{Server, ShardId, Topology};

use crate::dial::Dial;
use crate::{Error, Result};

/// After a search that found no writer, callers get its error for this long instead of searching again.
const SEARCH_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Once one member has answered a search, the others get this long: a host that is gone must not hold up the rest.
const OTHERS_WAIT: Duration = Duration::from_millis(300);

/// Access to the global master with the control account, and with the same account to any server of the deployment.
///
/// The writer is the member that is not read-only and that the topology row of the global master names, as far as that
/// row can be read; a member that shows an older epoch than has been seen before is never taken for the writer.
#[derive(Debug, Clone)]
pub struct Global(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    members: Vec<Endpoint>,
    hint: Option<String>,
    dial: Dial,
    writer: Mutex<Option<Endpoint>>,
    epoch: AtomicU64,
    search: tokio::sync::Mutex<()>,
    /// Why the last search found none, and when.
    missed: Mutex<Option<(Instant, Error)>>,
}

/// What a member says of itself and of the pair.
#[derive(Debug)]
struct Seen {
    member: Endpoint,
    read_only: bool,
    /// Epoch by this member's own topology row, and whether that row names it the writer.
    row: Option<(u64, bool)>,
}

impl Global {
    /// Knows where to look; connects to nothing yet.
    #[must_use]
    pub fn new(config: &GlobalMaster, tls: &BackendTls, limits: &Limits) -> Self {
        Self(Arc::new(Inner {
            members: config.members.clone(),
            hint: config.writer_hint.clone(),
            dial: Dial::new(config, tls, limits),
            writer: Mutex::default(),
            epoch: AtomicU64::new(0),
            search: tokio::sync::Mutex::default(),
            missed: Mutex::default(),
        }))
    }

    /// A connection to the writer, proven not read-only at this moment. It returns to a pool when dropped, so its
    /// session settings must not be changed; transactions left open are rolled back.
    ///
    /// # Errors
    /// [`Error::GlobalUnavailable`].
    pub async fn conn(&self) -> Result<Conn> {
        let known = self.0.writer.lock().clone();
        if let Some(member) = known {
            match self.writer_conn(&member).await {
                Ok(conn) => return Ok(conn),
                Err(error) => self.suspect(&error),
            }
        }
        let member = self.search().await?;
        self.writer_conn(&member).await.map_err(|error| Error::GlobalUnavailable(error.to_string()))
    }

    /// As [`Global::conn`], but not proven: for single reads that check `read_only` in the same statement.
    pub(crate) async fn unproven_conn(&self) -> Result<Conn> {
        let known = self.0.writer.lock().clone();
        let member = match known {
            Some(member) => member,
            None => self.search().await?,
        };
        self.borrow(&member).await.map_err(|error| {
            self.suspect(&error);
            Error::GlobalUnavailable(error.to_string())
        })
    }

    /// A new connection of the control account to any server of the deployment, not pooled: its session may be
    /// changed, and dropping it closes it.
    ///
    /// # Errors
    /// [`Error::ServerUnavailable`].
    pub async fn server_conn(&self, server: &Server) -> Result<Conn> {
        self.0.dial.connect(&server.name, &server.host, server.port).await
    }

    /// A pooled connection to any server of the deployment for one short exchange that leaves the session as it was.
    ///
    /// # Errors
    /// [`Error::ServerUnavailable`].
    pub async fn borrowed_conn(&self, server: &Server) -> Result<Conn> {
        self.0.dial.borrow(&server.name, &server.host, server.port).await
    }

    /// A new connection to one member of the global master, whatever its role: for a flip of the pair itself.
    ///
    /// # Errors
    /// [`Error::ServerUnavailable`].
    pub async fn member_conn(&self, member: &Endpoint) -> Result<Conn> {
        self.0.dial.connect(&member.name, &member.host, member.port).await
    }

    /// The pair, as configured.
    #[must_use]
    pub fn members(&self) -> &[Endpoint] {
        &self.0.members
    }

    /// The writer, if one is known at present.
    #[must_use]
    pub fn writer(&self) -> Option<Endpoint> {
        self.0.writer.lock().clone()
    }

    /// Takes over what a freshly loaded topology says: an older epoch will not be believed any more.
    pub fn learn(&self, topology: &Topology) {
        let Some(shard) = topology.shard(ShardId::GLOBAL) else { return };
        let before = self.0.epoch.fetch_max(shard.epoch.0, Ordering::AcqRel);
        if shard.epoch.0 > before
            && let Some(writer) = shard.writer()
        {
            let named = self.0.members.iter().find(|member| is_same(member, writer)).cloned();
            *self.0.writer.lock() = named;
        }
    }

    /// Members other than the writer: what may still answer, perhaps stale, while the writer does not.
    pub(crate) async fn standby_conn(&self) -> Result<Conn> {
        let mut last = Error::GlobalUnavailable("no member is configured".to_owned());
        for member in &self.0.members {
            match self.borrow(member).await {
                Ok(conn) => return Ok(conn),
                Err(error) => last = Error::GlobalUnavailable(error.to_string()),
            }
        }
        Err(last)
    }

    /// Runs one exchange with the writer within the limit of a look-up, and maps its errors.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::GlobalUnavailable`] when the connection is lost or the server has become
    /// read-only, [`Error::Server`] for other errors of the server.
    pub async fn bounded<T>(
        &self,
        what: &'static str,
        exchange: impl Future<Output = mysql_async::Result<T>>,
    ) -> Result<T> {
        let after_ms = self.0.dial.exchange_ms;
        match tokio::time::timeout(Duration::from_millis(after_ms), exchange).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let error = Error::of_server("the global master", &error);
                let lost = match &error {
                    Error::ServerUnavailable { .. } => true,
                    // Read-only (MariaDB and MySQL), shutting down, killed.
                    Error::Server { code, .. } => matches!(code, 1290 | 1836 | 1053 | 1927),
                    _ => false,
                };
                if !lost {
                    return Err(error);
                }
                self.suspect(&error);
                Err(Error::GlobalUnavailable(format!("{what}: {error}")))
            }
            Err(_) => {
                let error = Error::Timeout { what, after_ms };
                self.suspect(&error);
                Err(error)
            }
        }
    }

    /// Runs one exchange with any other server within the limit of a look-up, and maps its errors.
    ///
    /// # Errors
    /// [`Error::ServerUnavailable`] when it is lost or late, [`Error::Server`] for its own errors.
    pub async fn server_bounded<T>(
        &self,
        server: &str,
        exchange: impl Future<Output = mysql_async::Result<T>>,
    ) -> Result<T> {
        let after_ms = self.0.dial.exchange_ms;
        match tokio::time::timeout(Duration::from_millis(after_ms), exchange).await {
            Ok(result) => result.map_err(|error| Error::of_server(server, &error)),
            Err(_) => Err(Error::ServerUnavailable {
                server: server.to_owned(),
                reason: format!("no answer within {after_ms} ms"),
            }),
        }
    }

    /// Forgets the writer: the next one who needs it searches anew.
    pub(crate) fn suspect(&self, error: &Error) {
        if self.0.writer.lock().take().is_some() {
            tracing::warn!(%error, "the global master's writer does not answer as it should; searching");
        }
    }

    async fn borrow(&self, member: &Endpoint) -> Result<Conn> {
        self.0.dial.borrow(&member.name, &member.host, member.port).await
    }

    async fn writer_conn(&self, member: &Endpoint) -> Result<Conn> {
        let mut conn = self.borrow(member).await?;
        // The control account may write on a read-only server, so nothing else would stop a write to a former writer.
        let asked = conn.query_first("SELECT @@global.read_only");
        let read_only = tokio::time::timeout(Duration::from_millis(self.0.dial.exchange_ms), asked).await;
        let unavailable = |reason: String| Error::ServerUnavailable { server: member.name.clone(), reason };
        match read_only {
            Ok(Ok(Some(value))) if !is_on(&value) => Ok(conn),
            Ok(Ok(_)) => Err(unavailable("it is read-only".to_owned())),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable("no answer in time".to_owned())),
        }
    }

    /// One search at a time. During an outage nobody but the one who searches waits for it.
    async fn search(&self) -> Result<Endpoint> {
        let missed = || self.0.missed.lock().clone();
        let _alone = match (self.0.search.try_lock(), missed()) {
            (Ok(lock), _) => lock,
            (Err(_), Some((_, error))) => return Err(error),
            (Err(_), None) => self.0.search.lock().await,
        };
        if let Some(member) = self.writer() {
            return Ok(member);
        }
        if let Some((at, error)) = missed()
            && at.elapsed() < SEARCH_AGAIN_AFTER
        {
            return Err(error);
        }
        let (seen, mut reasons) = self.look_at_all().await;
        let elected = self.elect(&seen).map_err(|reason| {
            reasons.push(reason);
            Error::GlobalUnavailable(reasons.join("; "))
        });
        match &elected {
            Ok(member) => {
                *self.0.writer.lock() = Some(member.clone());
                *self.0.missed.lock() = None;
            }
            Err(error) => *self.0.missed.lock() = Some((Instant::now(), error.clone())),
        }
        elected
    }

    /// What the members say who answer in time, and why the others did not.
    async fn look_at_all(&self) -> (Vec<Seen>, Vec<String>) {
        let mut looks: FuturesUnordered<_> = self.0.members.iter().map(|member| self.look(member)).collect();
        let (mut seen, mut reasons): (Vec<Seen>, Vec<String>) = (Vec::new(), Vec::new());
        let mut patience = Duration::from_millis(self.0.dial.connect_ms + self.0.dial.exchange_ms);
        while let Ok(Some(look)) = tokio::time::timeout(patience, looks.next()).await {
            match look {
                Ok(look) => {
                    seen.push(look);
                    patience = OTHERS_WAIT;
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        (seen, reasons)
    }

    async fn look(&self, member: &Endpoint) -> Result<Seen> {
        let mut conn = self.borrow(member).await?;
        let ask = async {
            let read_only: Option<mysql_async::Value> = conn.query_first("SELECT @@global.read_only").await?;
            let row = conn
                .query_first::<(u64, String, String, u16), _>(
                    "SELECT s.epoch, v.name, v.host, v.port FROM usher.shards s JOIN usher.servers v ON v.server_id = s.writer_id \
                     WHERE s.shard_id = 0",
                )
                .await;
            let row = match row {
                Ok(row) => row.map(|(epoch, name, host, port)| {
                    let named = name == member.name || (host == member.host && port == member.port);
                    (epoch, named)
                }),
                // No such schema, table or right to it: a deployment before `usher schema apply`.
                Err(mysql_async::Error::Server(error)) if matches!(error.code, 1049 | 1146 | 1142) => None,
                Err(error) => return Err(error),
            };
            Ok(Seen { member: member.clone(), read_only: read_only.as_ref().is_none_or(is_on), row })
        };
        match tokio::time::timeout(Duration::from_millis(self.0.dial.exchange_ms), ask).await {
            Ok(result) => result.map_err(|error| Error::of_server(&member.name, &error)),
            Err(_) => Err(Error::ServerUnavailable {
                server: member.name.clone(),
                reason: "no answer in time".to_owned(),
            }),
        }
    }

    /// The writer among those who answered, or why none.
    fn elect(&self, seen: &[Seen]) -> Result<Endpoint, String> {
        let known = self.0.epoch.load(Ordering::Acquire);
        let newest = seen.iter().filter_map(|s| s.row.map(|row| row.0)).max().unwrap_or(0);
        let writable = || seen.iter().filter(|s| !s.read_only);
        if newest == 0 && known == 0 {
            let hinted = writable().find(|s| Some(&s.member.name) == self.0.hint.as_ref());
            let chosen = hinted.or_else(|| writable().next());
            return chosen.map(|s| s.member.clone()).ok_or_else(|| "no member is writable".to_owned());
        }
        let agrees =
            |s: &&Seen| s.row.is_some_and(|(epoch, named)| epoch == newest && epoch >= known && named);
        match writable().find(agrees) {
            Some(s) => {
                self.0.epoch.fetch_max(newest, Ordering::AcqRel);
                Ok(s.member.clone())
            }
            None => Err(format!(
                "no reachable member is both writable and named by the topology (newest epoch {})",
                newest.max(known)
            )),
        }
    }
}

fn is_same(member: &Endpoint, server: &Server) -> bool {
    member.name == server.name || (member.host == server.host && member.port == server.port)
}

/// A boolean variable in either spelling.
pub(crate) fn is_on(value: &mysql_async::Value) -> bool {
    match value {
        mysql_async::Value::Int(number) => *number != 0,
        mysql_async::Value::UInt(number) => *number != 0,
        mysql_async::Value::Bytes(text) => !(text.eq_ignore_ascii_case(b"OFF") || text == b"0"),
        _ => true,
    }
}
