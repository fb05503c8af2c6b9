//! Connections of one mover to the servers of the shards, kept while they work.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use parking_lot::Mutex;
use usher_directory::Global;
use usher_directory::server::{self, Family};
use usher_topology::{Server, ServerId};

use crate::dialect::session_settings;
use crate::{MoveError, Result};

/// A connection with the settings of a bytewise copy.
pub(crate) struct Session {
    pub(crate) conn: Conn,
    pub(crate) family: Family,
    /// The server's name, for messages.
    pub(crate) server: String,
    id: ServerId,
    /// When it was last known to be good.
    kept: Instant,
}

impl Session {
    /// Puts the server's name to the driver's error.
    pub(crate) fn error(&self) -> impl FnOnce(mysql_async::Error) -> MoveError + use<> {
        MoveError::at(&self.server)
    }
}

/// Lends connections and takes back those that are still good: a caller that fails just drops its session.
pub(crate) struct Sessions {
    global: Global,
    idle: Mutex<HashMap<ServerId, Vec<Session>>>,
}

/// Connections kept to one server.
const IDLE_MAX: usize = 2;
/// Whoever takes one back within this time finds out by its own statement whether it still is good: at a cutover every
/// round trip is a part of the user's pause.
const FRESH: Duration = Duration::from_millis(500);

impl Sessions {
    pub(crate) fn new(global: Global) -> Self {
        Self { global, idle: Mutex::default() }
    }

    /// A session on that server, whatever its role.
    pub(crate) async fn on(&self, server: &Server) -> Result<Session> {
        let kept = self.idle.lock().get_mut(&server.id).and_then(Vec::pop);
        if let Some(mut session) = kept
            && (session.kept.elapsed() < FRESH
                || self.global.server_bounded(&session.server, session.conn.ping()).await.is_ok())
        {
            return Ok(session);
        }
        let mut conn = self.global.server_conn(server).await?;
        let family = server::family(&mut conn).await.map_err(MoveError::at(&server.name))?;
        for setting in session_settings(family) {
            conn.query_drop(setting).await.map_err(MoveError::at(&server.name))?;
        }
        Ok(Session { conn, family, server: server.name.clone(), id: server.id, kept: Instant::now() })
    }

    /// A session on a shard's writer, proven to take writes at this moment.
    pub(crate) async fn on_writer(&self, server: &Server) -> Result<Session> {
        let mut session = self.on(server).await?;
        let writable = server::is_writable(&mut session.conn).await.map_err(session.error())?;
        if writable { Ok(session) } else { Err(MoveError::NotWriter { server: server.name.clone() }) }
    }

    /// Keeps a session whose last exchange went well.
    pub(crate) fn keep(&self, mut session: Session) {
        session.kept = Instant::now();
        let mut idle = self.idle.lock();
        let kept = idle.entry(session.id).or_default();
        if kept.len() < IDLE_MAX {
            kept.push(session);
        }
    }
}
