//! What a flip does to sessions, semi-sync and replicas around the change of roles.
//!
//! Replicas read from the writer: both members hand on all that they execute, so a replica keeps its data whichever
//! of them it reads from, but one that stays behind the standby stops when that is taken down. So after each flip
//! they are pointed at the new writer, one after the other, while clients already write again.

use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_directory::server::{self, Channel};
use usher_directory::{Global, Result as DirectoryResult};
use usher_topology::{Server, Shard};

use crate::hold::Held;

/// How often ended sessions are looked for.
const LOOK: Duration = Duration::from_millis(10);
/// The longest the repointing of one replica may take.
const REPOINT: Duration = Duration::from_secs(10);

/// Ends every session that could write on a server that has just been closed: those of the control account, which
/// read-only does not stop, and those with a transaction that has changed rows. Waits until they are gone, since
/// one may be past the point where it can be ended. Returns how many; `None`: some are still there.
pub(crate) async fn end_writing_sessions(
    conn: &mut Conn,
    patience: Duration,
) -> mysql_async::Result<Option<u64>> {
    let own: Option<String> = conn.query_first("SELECT SUBSTRING_INDEX(USER(), '@', 1)").await?;
    let own = own.unwrap_or_default();
    let deadline = Instant::now() + patience;
    let mut ended = std::collections::BTreeSet::new();
    loop {
        let sessions = server::processes(conn).await?;
        let writing: Vec<u64> = sessions
            .iter()
            .filter(|session| !session.is_internal && (session.rows_changed > 0 || session.user == own))
            // Opened after the closing, it has seen the server read-only and writes nothing.
            .filter(|session| ended.is_empty() || session.rows_changed > 0 || ended.contains(&session.id))
            .map(|session| session.id)
            .collect();
        if writing.is_empty() {
            return Ok(Some(ended.len() as u64));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        for id in writing {
            if ended.insert(id) {
                server::kill(conn, id).await?;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why the channel from `source` does not run, if it does not.
pub(crate) fn channel_trouble(channels: &[Channel], source: &Server) -> Option<String> {
    let from = channels.iter().find(|c| c.source_port == source.port && c.source_host == source.host);
    match from {
        None => Some(format!("it has no channel from {} ({})", source.name, source.address())),
        Some(channel) if channel.runs() => None,
        Some(channel) if channel.error.is_empty() => Some("its channel does not run".to_owned()),
        Some(channel) => Some(channel.error.clone()),
    }
}

/// The old writer stops waiting for acknowledgements, replicas read from the new one. Returns what did not work.
pub(crate) async fn follow_new_writer(
    global: &Global,
    shard: &Shard,
    writer: &Server,
    old: &mut Option<Held>,
    new: &mut Option<Held>,
) -> Vec<String> {
    let mut trouble = Vec::new();
    if let Some(old) = old {
        let relaxed = old.at_once(async |conn, family| server::acknowledged(conn, family, false).await).await;
        trouble.extend(relaxed.err().map(|error| error.to_string()));
        match old.at_once(async |conn, family| server::channels(conn, family).await).await {
            Ok(channels) => trouble.extend(channel_trouble(&channels, writer).map(|reason| {
                format!("{} does not replicate from {}: {reason}", old.server.name, writer.name)
            })),
            Err(error) => trouble.push(error.to_string()),
        }
    } else {
        trouble.push("the former writer is down; it must come back read-only and follow".to_owned());
    }
    for replica in shard.replicas() {
        let repointed = tokio::time::timeout(REPOINT, repoint(global, replica, writer, new)).await;
        match repointed {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(reason))) => {
                trouble.push(format!("replica {} was left as it is: {reason}", replica.name))
            }
            Ok(Err(error)) => trouble.push(format!("replica {}: {error}", replica.name)),
            Err(_) => {
                trouble.push(format!(
                    "replica {} was not repointed within {} s",
                    replica.name,
                    REPOINT.as_secs()
                ));
            }
        }
    }
    trouble
}

/// Points a replica at the writer. `Some`: why it was left alone.
async fn repoint(
    global: &Global,
    replica: &Server,
    writer: &Server,
    held: &mut Option<Held>,
) -> DirectoryResult<Option<String>> {
    let Some(held) = held else { return Ok(Some(format!("{} is not at hand", writer.name))) };
    let failed = |error: mysql_async::Error| usher_directory::Error::ServerUnavailable {
        server: replica.name.clone(),
        reason: error.to_string(),
    };
    let mut conn = global.server_conn(replica).await?;
    let family = server::family(&mut conn).await.map_err(failed)?;
    let channels = server::channels(&mut conn, family).await.map_err(failed)?;
    match channels.as_slice() {
        [one] if one.source_port == writer.port && one.source_host == writer.host => return Ok(None),
        [_] => {}
        many => return Ok(Some(format!("it has {} channels", many.len()))),
    }
    let has = server::executed(&mut conn, family).await.map_err(failed)?;
    let all = held.at_once(async |conn, family| server::executed(conn, family).await).await?;
    if !all.covers(&has) {
        return Ok(Some(format!("it has transactions that {} lacks", writer.name)));
    }
    server::follow(&mut conn, family, &writer.host, writer.port).await.map_err(failed)?;
    Ok(None)
}
