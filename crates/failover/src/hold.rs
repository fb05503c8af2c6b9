//! The one session on each member through which a run changes it, and the lock that makes it the only one.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_directory::server::{self, Family};
use usher_directory::{Error as DirectoryError, Global};
use usher_topology::Server;

/// The lock's name on each member.
const LOCK: &str = "usher.flip";
/// How long an ended session may take to let its lock go.
const LET_GO: Duration = Duration::from_secs(2);
/// The longest one short statement may take.
const STATEMENT: Duration = Duration::from_secs(5);

/// One member, held.
pub(crate) struct Held {
    pub(crate) server: Server,
    pub(crate) family: Family,
    pub(crate) conn: Conn,
}

/// Why a member could not be taken.
pub(crate) enum NotHeld {
    /// Somebody runs a flip there.
    Busy,
    /// It does not answer.
    Down(String),
}

impl Held {
    /// Takes the member if nobody has it. With `by_force`, ends the session of whoever has it first.
    pub(crate) async fn take(global: &Global, server: &Server, by_force: bool) -> Result<Self, NotHeld> {
        let mut conn = global.server_conn(server).await.map_err(|error| NotHeld::Down(error.to_string()))?;
        let taken = tokio::time::timeout(STATEMENT, take(&mut conn, by_force)).await;
        match taken {
            Ok(Ok(Some(family))) => Ok(Self { server: server.clone(), family, conn }),
            Ok(Ok(None)) => Err(NotHeld::Busy),
            Ok(Err(error)) => Err(NotHeld::Down(error.to_string())),
            Err(_) => Err(NotHeld::Down(format!("no answer within {} s", STATEMENT.as_secs()))),
        }
    }

    /// Runs an exchange with this member within `patience` and a margin. A session that has not answered in time is of
    /// no use any more: the caller ends the run.
    pub(crate) async fn within<T>(
        &mut self,
        patience: Duration,
        exchange: impl AsyncFnOnce(&mut Conn, Family) -> mysql_async::Result<T>,
    ) -> Result<T, DirectoryError> {
        let unavailable =
            |reason: String| DirectoryError::ServerUnavailable { server: self.server.name.clone(), reason };
        match tokio::time::timeout(patience + STATEMENT, exchange(&mut self.conn, self.family)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(mysql_async::Error::Server(error))) => Err(DirectoryError::Server {
                server: self.server.name.clone(),
                code: error.code,
                message: error.message,
            }),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable(format!("no answer within {} ms", (patience + STATEMENT).as_millis()))),
        }
    }

    /// As [`Held::within`], for what takes no time of its own.
    pub(crate) async fn at_once<T>(
        &mut self,
        exchange: impl AsyncFnOnce(&mut Conn, Family) -> mysql_async::Result<T>,
    ) -> Result<T, DirectoryError> {
        self.within(Duration::ZERO, exchange).await
    }
}

async fn take(conn: &mut Conn, by_force: bool) -> mysql_async::Result<Option<Family>> {
    let family = server::family(conn).await?;
    if lock(conn, Duration::ZERO).await? {
        return Ok(Some(family));
    }
    if !by_force {
        return Ok(None);
    }
    let holder: Option<Option<u64>> = conn.query_first(format!("SELECT IS_USED_LOCK('{LOCK}')")).await?;
    if let Some(Some(holder)) = holder {
        server::kill(conn, holder).await?;
    }
    Ok(lock(conn, LET_GO).await?.then_some(family))
}

async fn lock(conn: &mut Conn, patience: Duration) -> mysql_async::Result<bool> {
    let got: Option<Option<u8>> =
        conn.query_first(format!("SELECT GET_LOCK('{LOCK}', {})", patience.as_secs())).await?;
    Ok(got == Some(Some(1)))
}
