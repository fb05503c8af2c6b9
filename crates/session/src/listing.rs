//! Sessions in a list, here and at the other proxies.

use serde::{Deserialize, Serialize};
use usher_wire::command::{COM_PING, COM_QUERY, COM_STMT_EXECUTE, COM_STMT_PREPARE};

use crate::peers::{KillOrder, Killed, Told, Unreached, Wanted};
use crate::sessions::{Seen, Wait};
use crate::shared::Shared;

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its connection id, unique in the deployment.
    pub id: u32,
    /// The proxy that serves it.
    pub proxy: String,
    /// Whose it is.
    pub account: String,
    /// The client's address and port.
    pub client: String,
    /// Its default schema.
    pub schema: Option<String>,
    /// `Query`, `Execute`, `Sleep` ... as servers say.
    pub command: String,
    /// Milliseconds since that has begun.
    pub time_ms: u64,
    /// What its statement waits for.
    pub waits_for: Option<String>,
    /// What keeps connections with it after its statement.
    #[serde(default)]
    pub holds: Option<String>,
    /// The shard whose server runs its statement.
    pub shard: Option<String>,
    /// That server.
    pub server: Option<String>,
    /// The server's thread.
    pub thread: Option<u32>,
    /// The statement's beginning.
    pub info: Option<String>,
}

impl SessionRow {
    /// Where its statement is, and why connections stay with it, in words.
    #[must_use]
    pub fn state(&self) -> String {
        let place = self.place();
        match &self.holds {
            None => place,
            Some(pins) if place.is_empty() => format!("holds a connection: {pins}"),
            Some(pins) => format!("{place}; holds a connection: {pins}"),
        }
    }

    fn place(&self) -> String {
        match (&self.waits_for, &self.shard, &self.server, self.thread) {
            (Some(what), ..) => what.clone(),
            (None, Some(shard), Some(server), Some(thread)) => {
                format!("on {shard}, server {server}, thread {thread}")
            }
            (None, _, _, Some(thread)) => format!("thread {thread}"),
            _ if self.command == "Sleep" => String::new(),
            _ => "in usher".to_owned(),
        }
    }
}

impl Shared {
    /// The sessions of this proxy, by id.
    #[must_use]
    pub fn sessions_here(&self, wanted: &Wanted) -> Told {
        let seen = self.sessions.seen(wanted.account.as_deref());
        let sessions = seen.iter().map(|seen| self.row_of(seen, wanted.info_chars)).collect();
        Told { proxy: self.proxy_id.clone(), sessions }
    }

    /// The sessions of all proxies, by id, and the proxies that did not tell theirs.
    pub async fn sessions_everywhere(&self, wanted: &Wanted) -> (Vec<SessionRow>, Vec<Unreached>) {
        let (mut rows, unreached) = self.peers.sessions(wanted).await;
        // Last, so that whoever asks sees what is so now.
        rows.extend(self.sessions_here(wanted).sessions);
        rows.sort_by_key(|row| row.id);
        (rows, unreached)
    }

    /// Ends a session, or what it runs, wherever it is.
    pub async fn kill_anywhere(&self, order: &KillOrder) -> Killed {
        match self.kill_here(order).await {
            Killed::Unknown => self.peers.kill(order).await,
            here => here,
        }
    }

    fn row_of(&self, seen: &Seen, info_chars: usize) -> SessionRow {
        let info: String = String::from_utf8_lossy(&seen.text).chars().take(info_chars).collect();
        let waits_for = match seen.handle.waits() {
            Wait::Nothing => None,
            Wait::Flip => Some("held: a move or a flip is under way".to_owned()),
            Wait::Connection => Some("waits for a free connection to a server".to_owned()),
        };
        let runs_at = seen.handle.runs_at();
        let pins = crate::pins::in_words(seen.handle.pins());
        let state = self.directory.state();
        let place = runs_at.and_then(|(id, _)| state.topology.server(id));
        SessionRow {
            id: seen.id,
            proxy: self.proxy_id.clone(),
            account: seen.account.to_string(),
            client: seen.handle.from.to_string(),
            schema: seen.schema.clone(),
            command: command(seen.command).to_owned(),
            time_ms: u64::try_from(seen.for_so_long.as_millis()).unwrap_or(u64::MAX),
            waits_for,
            holds: (!pins.is_empty()).then(|| pins.to_string()),
            shard: place.map(|(shard, _)| shard.name.clone()),
            server: place.map(|(_, server)| server.name.clone()),
            thread: runs_at.map(|(_, thread)| thread),
            info: (!info.is_empty()).then_some(info),
        }
    }
}

fn command(byte: Option<u8>) -> &'static str {
    match byte {
        None => "Sleep",
        Some(COM_QUERY) => "Query",
        Some(COM_STMT_PREPARE) => "Prepare",
        Some(COM_STMT_EXECUTE) => "Execute",
        Some(COM_PING) => "Ping",
        Some(_) => "Command",
    }
}
